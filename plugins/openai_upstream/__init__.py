"""Serve models of Azure OpenAI, of OpenAI or of any server with the same protocol.

An upstream learns of a request what the filters left of it, and no more: never the caller's headers, key, account or
``metadata``, its end user only where ``send_user`` says so, and chats carry ``store: false``. Of an answer, text, tool calls,
refusals, log-probabilities and verdicts are passed on. Any other field that may carry text, such as a server's
``reasoning_content``, is not: no filter has seen it.

Answers are streamed from the upstream when the caller streams, and only then (``docs/decisions/0002-upstream-client.md``).
Fine-tuning sends a job's files to the upstream and runs there (:mod:`.training`); what is kept here of the model is its name.
Errors are mapped in :mod:`.failures`. Nothing here logs or raises text of an upstream, because it may quote the prompt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from datetime import datetime

from sluicegate import Chunk, EmbeddingRequest, Embeddings, Model, PluginConfig, hookimpl
from sluicegate.requests import GenerationRequest
from sluicegate.training import TrainingFiles, TrainingJob, TrainingStep, Weights

from .config import Config

__all__ = ["Config"]


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
def register_models(config: Config) -> Iterable[Model]:
    return list(config.models())


@hookimpl
async def inference(
    request: GenerationRequest, model: Model, weights: Weights | None, config: Config
) -> AsyncIterator[Chunk]:
    from . import generation

    served, connection = config.route(model.id)
    if weights is not None:
        served = served.model_copy(update={"name": (await config.tuned_names.get(weights)).name})
    answer = generation.streamed if request.stream else generation.whole
    async with aclosing(answer(request, served, connection)) as chunks:
        async for chunk in chunks:
            yield chunk


@hookimpl
async def embed(request: EmbeddingRequest, model: Model, config: Config) -> Embeddings:
    from . import embeddings

    return await embeddings.embed(request, *config.route(model.id))


@hookimpl
async def fine_tune(job: TrainingJob, files: TrainingFiles, deadline: datetime, config: Config) -> TrainingStep:
    from . import training

    model, remote = config.trainer(job.base)
    return await training.step(job, files, deadline, model, remote)


@hookimpl
async def forget_training(job: TrainingJob, config: Config) -> tuple[str, ...]:
    from . import training

    return await training.forget(job, config.trainer(job.base)[1])


@hookimpl
async def forget_model(name: str, model: Model, config: Config) -> tuple[str, ...]:
    _, remote = config.trainer(model.id)
    await remote.delete_model(name)
    return (f"model {name} at {remote.upstream.host}",)


@hookimpl
async def shutdown(config: Config) -> None:
    await config.close()
