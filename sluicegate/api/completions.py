"""Completions on the wire: as chat, in the older shape of text, with log-probabilities in parallel lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from sluicegate.api.encoding import encode
from sluicegate.api.generation import DONE, Envelope, Frames, collected
from sluicegate.api.sse import Events
from sluicegate.requests import CompletionRequest
from sluicegate.types import Chunk, Usage

_KIND = "text_completion"


def events(chunks: AsyncIterator[Chunk], request: CompletionRequest, envelope: Envelope) -> Events:
    """Return the answer as server-sent events, ending with ``[DONE]``; for ``sse.EventStream``.

    Verdicts on the prompts are those of ``request.prompt_filter_results``. The events own ``chunks``: closing them closes
    it, started or not. ``[DONE]`` is sent when ``chunks`` has ended, so whatever its finalisers raise takes its place.
    """
    return Events(_frames(chunks, request, envelope), chunks)


async def collect(chunks: AsyncIterator[Chunk], request: CompletionRequest, envelope: Envelope) -> bytes:
    """Return the answer as one JSON body; ``chunks`` is closed, and whatever it raises is passed on."""
    return await collected(_KIND, chunks, request, envelope, _Choice)


async def _frames(chunks: AsyncIterator[Chunk], request: CompletionRequest, envelope: Envelope) -> AsyncIterator[bytes]:
    frames = Frames(_KIND, b'"text":""', request, envelope)
    lengths = [0] * request.choices
    usage: Usage | None = None
    if prompt := frames.prompt():
        yield prompt
    async for chunk in chunks:
        usage = chunk.usage or usage
        text = b'"text":' + encode(chunk.text) if chunk.text else None
        for frame in frames.of(chunk, text, _placed(chunk, lengths[chunk.index]), chunk.finish_reason):
            yield frame
        lengths[chunk.index] += len(chunk.text)
    if usage and request.include_usage:
        yield frames.usage(usage)
    yield DONE


@dataclass(slots=True)
class _Choice:
    text: str = ""
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None

    def add(self, chunk: Chunk) -> None:
        for name, values in (_placed(chunk, len(self.text)) or {}).items():
            self.logprobs.setdefault(name, []).extend(values)
        self.text += chunk.text
        self.finish_reason = chunk.finish_reason or self.finish_reason

    def fields(self, index: int) -> dict[str, Any]:
        logprobs = self.logprobs or None
        return {"text": self.text, "index": index, "logprobs": logprobs, "finish_reason": self.finish_reason}


def _placed(chunk: Chunk, offset: int) -> dict[str, list[Any]] | None:
    """Return the log-probabilities of a chunk that starts ``offset`` characters into its choice.

    ``text_offset`` counts from the start of the choice's text, whatever the model counted from: filters may have changed
    the text before this chunk.
    """
    if not chunk.logprobs:
        return None
    tokens = chunk.logprobs.get("tokens") or []
    given = chunk.logprobs.get("text_offset") or []
    if tokens and len(given) == len(tokens):
        offsets = [offset + place - given[0] for place in given]
    else:
        offsets = [offset + sum(map(len, tokens[:number])) for number in range(len(tokens))]
    lists = {name: list(values) for name, values in chunk.logprobs.items() if values is not None}
    return lists | {"text_offset": offsets}
