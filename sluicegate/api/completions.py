"""Completions on the wire: as chat, in the older shape of text, with log-probabilities in parallel lists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sluicegate.api.generation import DONE, Envelope, Frames, encode, prompt_filter_results, usage_fields
from sluicegate.api.sse import Events, closing
from sluicegate.requests import CompletionRequest
from sluicegate.types import Chunk, Usage

_KIND = "text_completion"
_NO_TEXT = b'"text":""'


def events(chunks: AsyncIterator[Chunk], request: CompletionRequest, envelope: Envelope) -> Events:
    """Return the answer as server-sent events, ending with ``[DONE]``; for ``sse.EventStream``.

    Verdicts on the prompts are those of ``request.prompt_filter_results``. The events own ``chunks``: closing them closes
    it, started or not. ``[DONE]`` is sent when ``chunks`` has ended, so whatever its finalisers raise takes its place.
    """
    return Events(_frames(chunks, request, envelope), chunks)


async def _frames(chunks: AsyncIterator[Chunk], request: CompletionRequest, envelope: Envelope) -> AsyncIterator[bytes]:
    frames = Frames(_KIND, request, envelope)
    lengths = [0] * request.choices
    usage: Usage | None = None
    if prompt := frames.prompt():
        yield prompt
    async for chunk in chunks:
        usage = chunk.usage or usage
        for frame in _text_and_end(chunk, frames, lengths[chunk.index]):
            yield frame
        lengths[chunk.index] += len(chunk.text)
    if usage and request.include_usage:
        yield frames.usage(usage)
    yield DONE


def _text_and_end(chunk: Chunk, frames: Frames, offset: int) -> list[bytes]:
    """Return the chunk's frames: its text, if any, and its choice's end, if it is the last."""
    written = []
    results = chunk.content_filter_results
    if chunk.text or (results and not chunk.finish_reason):
        logprobs = _placed(chunk.logprobs, offset) if chunk.logprobs else None
        text = b'"text":' + encode(chunk.text)
        written.append(frames.choice(chunk.index, text, logprobs=logprobs, results=results))
    if chunk.finish_reason:
        # The end repeats only a verdict that explains it.
        explains = chunk.finish_reason == "content_filter" or not chunk.text
        written.append(
            frames.choice(
                chunk.index, _NO_TEXT, finish_reason=chunk.finish_reason, results=results if explains else None
            )
        )
    return written


async def collect(chunks: AsyncIterator[Chunk], request: CompletionRequest, envelope: Envelope) -> bytes:
    """Return the answer as one JSON body; ``chunks`` is closed, and whatever it raises is passed on."""
    choices = [_Choice() for _ in range(request.choices)]
    usage: Usage | None = None
    async with closing(chunks):
        async for chunk in chunks:
            usage = chunk.usage or usage
            choices[chunk.index].add(chunk)
    body = envelope.fields(_KIND)
    body["choices"] = [choice.fields(index, envelope) for index, choice in enumerate(choices)]
    if envelope.annotations and (results := prompt_filter_results(request)):
        body["prompt_filter_results"] = results
    if usage:
        body["usage"] = usage_fields(usage)
    return encode(body)


@dataclass(slots=True)
class _Choice:
    """One choice, being collected."""

    text: str = ""
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None
    results: dict[str, Any] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> None:
        for name, values in (_placed(chunk.logprobs, len(self.text)) if chunk.logprobs else {}).items():
            self.logprobs.setdefault(name, []).extend(values)
        self.text += chunk.text
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.results.update(chunk.content_filter_results)

    def fields(self, index: int, envelope: Envelope) -> dict[str, Any]:
        fields = {
            "text": self.text,
            "index": index,
            "logprobs": self.logprobs or None,
            "finish_reason": self.finish_reason,
        }
        return fields | {"content_filter_results": self.results} if envelope.annotations else fields


def _placed(logprobs: Mapping[str, Any], offset: int) -> dict[str, Any]:
    """Return the log-probabilities of a chunk that starts ``offset`` characters into its choice.

    ``text_offset`` counts from the start of the choice's text, whatever the model counted from: filters may have changed
    the text before this chunk.
    """
    tokens = logprobs.get("tokens") or []
    given = logprobs.get("text_offset") or []
    if len(given) == len(tokens):
        offsets = [offset + place - given[0] for place in given]
    else:
        offsets = [offset + sum(map(len, tokens[:number])) for number in range(len(tokens))]
    lists = {name: list(values) for name, values in logprobs.items() if values is not None}
    return lists | {"text_offset": offsets}
