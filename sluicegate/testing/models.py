"""A model that answers as it is told to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TypeAlias

from sluicegate.hookspecs import hookimpl
from sluicegate.requests import FEATURES, EmbeddingRequest, GenerationRequest
from sluicegate.types import Chunk, Embeddings, Model, Usage

Line: TypeAlias = str | Chunk | Exception | asyncio.Event
"""A piece of every choice's text, a chunk as it is, what is raised, or what is waited for."""


class FakeModel:
    """A plugin that serves one model with a scripted answer.

    Args:
        script: What every request gets, in this order.
        finish_reason: Ends each choice that the script has not ended; None ends none.
        usage: Sent with the last chunk.
        id: The model's id.
        features: All there are unless given.

    Attributes:
        requests: What the model was asked, in order.
        opened: How many answers were begun.
        closed: How many of them have ended, however they did.
        sent: How many chunks were taken from it.
    """

    def __init__(
        self,
        *script: Line,
        finish_reason: str | None = "stop",
        usage: Usage | None = None,
        id: str = "fake",
        features: Iterable[str] = FEATURES,
    ) -> None:
        self.model = Model(
            id, frozenset({"chat.completions", "completions", "embeddings"}), features=frozenset(features), dimensions=2
        )
        self.requests: list[GenerationRequest | EmbeddingRequest] = []
        self.opened = self.closed = self.sent = 0
        self._script = script
        self._finish_reason = finish_reason
        self._usage = usage

    @hookimpl
    def register_models(self) -> Iterable[Model]:
        return [self.model]

    @hookimpl
    async def inference(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        self.opened += 1
        try:
            async for chunk in self._answer(range(request.choices)):
                self.sent += 1
                yield chunk
        finally:
            self.closed += 1

    @hookimpl
    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        self.requests.append(request)
        self.opened += 1
        try:
            async for _ in self._answer(()):
                pass
        finally:
            self.closed += 1
        return Embeddings(tuple(struct.pack("<2f", 1.0, 0.0) for _ in request.inputs), self._usage or Usage(1))

    @hookimpl
    def detokenize(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    async def _answer(self, choices: Sequence[int]) -> AsyncIterator[Chunk]:
        unfinished = set(choices)
        for line in self._script:
            if isinstance(line, Exception):
                raise line
            if isinstance(line, asyncio.Event):
                await line.wait()
            elif isinstance(line, Chunk):
                yield line
                unfinished -= {line.index} if line.finish_reason else set()
            else:
                for index in choices:
                    yield Chunk(line, index=index)
        for index in sorted(unfinished) if self._finish_reason else ():
            yield Chunk(index=index, finish_reason=self._finish_reason)
        if self._usage and choices:
            yield Chunk(usage=self._usage)
