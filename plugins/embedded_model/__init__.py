"""Language models that run inside the app: SmolLM2-135M for chat and completions, all-MiniLM-L6-v2 for embeddings.

Nothing leaves the machine, and nothing else needs to be installed or reached. The chat model is a small one: it answers simple
questions, follows a JSON schema, and makes tool calls when told to; ``chat_weights`` points at a better one.

Prompts stay in this process's memory until their slot is used again, and reach no other caller: see ``slots``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PrivateAttr

from sluicegate import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    InvalidRequest,
    Model,
    ModelUnavailable,
    PluginConfig,
    hookimpl,
)
from sluicegate.errors import StartupError, TrainingFailed
from sluicegate.training import TrainingFiles, TrainingJob, TrainingStep, Weights

if TYPE_CHECKING:
    from plugins.embedded_model.adapters import Engines
    from plugins.embedded_model.embeddings import Embedder
    from plugins.embedded_model.engine import Engine

log = logging.getLogger(__name__)
_CHAT_FEATURES = frozenset(
    {
        "seed", "logit_bias", "logprobs", "penalties", "tools", "json_object", "json_schema", "echo", "best_of",
        "token_input",
    }
)  # fmt: skip


class Config(PluginConfig):
    serve: tuple[Literal["chat", "embedding"], ...] = ("chat", "embedding")
    """Which of the two models to load."""
    chat_model: str = "smollm2-135m-instruct"
    """The chat model's id."""
    chat_weights: Path | None = None
    """Any GGUF file of a model that speaks ChatML; without it SmolLM2-135M-Instruct is fetched."""
    embedding_model: str = "all-minilm-l6-v2"
    """The embedding model's id."""
    embedding_weights: Path | None = None
    """A folder with all-MiniLM-L6-v2's model.safetensors and vocab.txt; without it they are fetched."""
    fetch: bool = True
    """Whether missing weights may be fetched when the worker starts."""
    context_length: int = Field(4096, ge=256, le=131_072)
    """Tokens of prompt and answer together. Memory: 46 MB for every 2048 tokens and slot."""
    slots: int = Field(2, ge=1, le=64)
    """Requests that run at once; the others wait in line."""
    max_waiting: int = Field(64, ge=0)
    """Requests that wait at most; one more gets a 503."""
    threads: int | None = Field(None, ge=1)
    """Threads that decode; by default one less than there are cores, at least one."""
    max_tokens: int = Field(1024, ge=1)
    """Longest chat answer to a request that names no limit."""
    temperature: float = Field(0.2, ge=0, le=2)
    """For requests that name none. Small models need a low one."""
    top_p: float = Field(0.9, gt=0, le=1)
    """For requests that name none."""

    longest_example: int = Field(1024, ge=64, le=4096)
    """Tokens of a training example; what is beyond is cut off. Training takes up to 1 GB of memory for 1,024 of them."""
    most_training_tokens: int = Field(1_000_000, ge=1000)
    """Of a training file in all; about three hours an epoch on one core."""

    most_adapters: int = Field(4, ge=1, le=64)
    """Fine-tuned models that are in memory at once, 5 MB each; asking for another one takes a second."""

    _engines: Engines | None = PrivateAttr(default=None)
    _embedder: Embedder | None = PrivateAttr(default=None)


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
def register_models(config: Config) -> list[Model]:
    models = {
        "chat": Model(
            config.chat_model,
            frozenset({"chat.completions", "completions"}),
            _CHAT_FEATURES,
            context_length=config.context_length,
            created=1_730_332_800,
            retention="nothing on disk; a slot's last conversation stays in memory until the slot is used again",
            retains=False,
        ),
        "embedding": Model(
            config.embedding_model,
            frozenset({"embeddings"}),
            frozenset({"dimensions", "token_input"}),
            context_length=512,
            created=1_630_281_600,
            dimensions=384,
        ),
    }
    return [models[kind] for kind in dict.fromkeys(config.serve)]


@hookimpl
async def startup(config: Config) -> None:
    try:
        await _load(config)
    except StartupError as error:
        # It names files and settings only, and the operator must see it.
        log.error("%s", error)
        raise


@hookimpl
async def shutdown(config: Config) -> None:
    engines, config._engines = config._engines, None
    embedder, config._embedder = config._embedder, None
    if engines is not None:
        await engines.close()
    if embedder is not None:
        await embedder.close()


@hookimpl
def detokenize(tokens: Sequence[int], model: Model, config: Config) -> str:
    tokenizer = (_embedder(config) if model.id == config.embedding_model else _engine(config)).tokenizer
    if unknown := [token for token in tokens if token >= tokenizer.size]:
        raise InvalidRequest(f"Invalid token: {unknown[0]} is not in this model's vocabulary.")
    return tokenizer.decode(tokens)


@hookimpl
def count_tokens(text: str, config: Config) -> int:
    return len(_engine(config).tokenizer.encode(text))


@hookimpl
async def inference(
    request: ChatRequest | CompletionRequest, weights: Weights | None, config: Config
) -> AsyncIterator[Chunk]:
    from plugins.embedded_model.chat import answer
    from plugins.embedded_model.completions import complete
    from plugins.embedded_model.sampling import Defaults

    defaults = Defaults(config.temperature, config.top_p, config.max_tokens)
    async with _loaded(config).voice(weights) as voice:
        if isinstance(request, ChatRequest):
            source = answer(request, voice, defaults)
        else:
            source = complete(request, voice, defaults)
        async with aclosing(source) as chunks:
            async for chunk in chunks:
                yield chunk


@hookimpl
async def embed(request: EmbeddingRequest, config: Config) -> Embeddings:
    return await _embedder(config).embed(request)


async def _load(config: Config) -> None:
    from plugins.embedded_model import weights

    if "chat" in config.serve and config._engines is None:
        from plugins.embedded_model.adapters import Engines
        from plugins.embedded_model.loading import load

        start = partial(
            load,
            await _chat_weights(config),
            slots=config.slots,
            context_length=config.context_length,
            max_waiting=config.max_waiting,
            threads=config.threads,
        )
        config._engines = Engines(await start(), lambda adapters: start(adapters=adapters), config.most_adapters)
    if "embedding" in config.serve and config._embedder is None:
        from plugins.embedded_model.embeddings import Embedder

        local = config.embedding_weights
        if local is None:
            local = await asyncio.to_thread(weights.ensure, weights.EMBEDDING, fetch=config.fetch)
        config._embedder = await Embedder.open(local)


def _loaded(config: Config) -> Engines:
    if config._engines is None:
        raise ModelUnavailable("The chat model is not loaded.", retry_after_s=2)
    return config._engines


def _engine(config: Config) -> Engine:
    return _loaded(config).engine


def _embedder(config: Config) -> Embedder:
    if config._embedder is None:
        raise ModelUnavailable("The embedding model is not loaded.", retry_after_s=2)
    return config._embedder


@hookimpl
async def fine_tune(job: TrainingJob, files: TrainingFiles, deadline: datetime, config: Config) -> TrainingStep:
    from plugins.embedded_model.training.process import step

    if job.base != config.chat_model:
        raise TrainingFailed("Only the chat model can be fine-tuned.", code="invalidModel")
    path = await _chat_weights(config)
    return await step(job, files, deadline, path, longest=config.longest_example, most=config.most_training_tokens)


async def _chat_weights(config: Config) -> Path:
    from plugins.embedded_model import weights

    if config.chat_weights is not None:
        return config.chat_weights
    folder = await asyncio.to_thread(weights.ensure, weights.CHAT, fetch=config.fetch)
    return folder / weights.CHAT.files[0].name
