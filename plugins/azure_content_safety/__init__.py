"""Filter prompts and answers by an Azure AI Content Safety resource, to which their text is sent.

It finds harm (``hate``, ``sexual``, ``violence``, ``self_harm`` with their severities), attacks (``jailbreak`` and
``indirect_attack``), protected material in answers (text, and code with its citation), terms of blocklists that are kept
in the service, and, where ``groundedness`` is on, what a streamed answer claims that its documents do not. What becomes of
it the deployment's policy decides.

Text leaves the process: to ``endpoint`` and nowhere else, over TLS, without the caller's name, account, key or headers.
Nothing of it is logged here. What the service itself does with it is in ``docs/content-filtering.md``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from sluicegate import Chunk, PluginConfig, Policy, hookimpl
from sluicegate.requests import GenerationRequest, Request

from .answers import filtered as filtered_answer
from .config import Config
from .prompts import filtered as filtered_request

__all__ = ["Config"]


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def startup(config: Config) -> None:
    config.connect()


@hookimpl
async def pre_filter(request: Request, policy: Policy, config: Config) -> Request:
    return await filtered_request(request, policy, config)


@hookimpl
async def post_filter(
    chunks: AsyncIterator[Chunk], request: GenerationRequest, policy: Policy, config: Config
) -> AsyncIterator[Chunk]:
    async with aclosing(filtered_answer(chunks, request, policy, config)) as answer:
        async for chunk in answer:
            yield chunk


@hookimpl
async def shutdown(config: Config) -> None:
    await config.close()
