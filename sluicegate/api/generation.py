"""What the answers of chat and of completions share: metadata, frames, usage and verdicts.

A frame is one server-sent event. What is the same in every frame of an answer is encoded once, because a frame is written
for every few characters.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sluicegate.api.encoding import encode
from sluicegate.api.sse import closing
from sluicegate.requests import GenerationRequest
from sluicegate.types import Chunk, FilterOffsets, FilterResults, Usage, worst_of

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every frame of an answer repeats.

    Attributes:
        id: ``chatcmpl-…`` or ``cmpl-…``.
        created: Unix seconds.
        model: The model's name as reported to the caller.
        annotations: Whether verdicts are shown; ``versions.check(…).annotations``.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str | None = None
    annotations: bool = True

    def fields(self, kind: str) -> dict[str, Any]:
        """Return the first fields of every JSON object of the answer; ``kind`` is its ``object``."""
        fields = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        if self.system_fingerprint is not None:
            fields["system_fingerprint"] = self.system_fingerprint
        return fields


class Resumed:
    """An answer whose first chunk was already taken; closing it closes the answer, which a generator not begun would not.

    The first chunk decides the HTTP status, so it is taken before the answer is rendered.
    """

    def __init__(self, first: Chunk, rest: AsyncIterator[Chunk]) -> None:
        self._first: Chunk | None = first
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        if self._first is None:
            return await anext(self._rest)
        first, self._first = self._first, None
        return first

    async def aclose(self) -> None:
        """Close the answer."""
        async with closing(self._rest):
            pass


class Frames:
    """Writes the frames of one streamed answer.

    Args:
        kind: ``chat.completion.chunk`` or ``text_completion``.
        nothing: The first member of a choice that says nothing, such as ``"text":""``.
    """

    def __init__(self, kind: str, nothing: bytes, request: GenerationRequest, envelope: Envelope) -> None:
        options = request.stream_options
        self._request = request
        self._nothing = nothing
        self._annotations = envelope.annotations
        # The size of an encrypted frame tells the length of its text, so OpenAI pads frames unless asked not to.
        self._padded = options is None or options.include_obfuscation is not False
        self._head = b"data: " + encode(envelope.fields(kind))[:-1] + b',"choices":['
        self._end = b',"usage":null}\n\n' if request.include_usage else b"}\n\n"
        self._heads: dict[int, bytes] = {}

    def prompt(self) -> bytes | None:
        """Return the frame with the verdicts on the prompt, which has no choices; None where there is no verdict."""
        results = prompt_filter_results(self._request)
        if not results or not self._annotations:
            return None
        return self._head + b'],"prompt_filter_results":' + encode(results) + self._end

    def choice(
        self,
        index: int,
        content: bytes,
        *,
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
        results: FilterResults | None = None,
        offsets: FilterOffsets | None = None,
    ) -> bytes:
        """Return a frame of one choice; ``content`` is its first member, such as ``"text":"a"``."""
        parts = [self._heads.get(index) or self._head_of(index), content, b',"logprobs":']
        parts.append(encode(logprobs) if logprobs else b"null")
        parts.append(b',"finish_reason":' + encode(finish_reason) if finish_reason else b',"finish_reason":null')
        if self._annotations:
            parts += (b',"content_filter_results":', encode(results) if results else b"{}")
            if offsets:
                parts.append(b',"content_filter_offsets":' + encode(asdict(offsets)))
        parts.append(b"}]")
        if self._padded and not finish_reason:
            parts.append(b',"obfuscation":"%b"' % _padding(len(content) - len(self._nothing)))
        parts.append(self._end)
        return b"".join(parts)

    def of(
        self, chunk: Chunk, content: bytes | None, logprobs: Mapping[str, Any] | None, finish_reason: str | None
    ) -> list[bytes]:
        """Return a chunk's frames: what it says, and the end of its choice when it is the last."""
        results, offsets = chunk.content_filter_results, chunk.content_filter_offsets
        written = []
        if content or (not finish_reason and (logprobs or results)):
            written.append(
                self.choice(chunk.index, content or self._nothing, logprobs=logprobs, results=results, offsets=offsets)
            )
            logprobs = None
            # The end repeats a verdict only where the verdict is the reason.
            results = results if finish_reason == "content_filter" else {}
        if finish_reason:
            end = self.choice(
                chunk.index,
                self._nothing,
                logprobs=logprobs,
                finish_reason=finish_reason,
                results=results,
                offsets=offsets,
            )
            written.append(end)
        return written

    def usage(self, usage: Usage) -> bytes:
        """Return the frame that counts the tokens of the whole answer."""
        return self._head + b'],"usage":' + encode(usage_fields(usage)) + b"}\n\n"

    def _head_of(self, index: int) -> bytes:
        return self._heads.setdefault(index, self._head + b'{"index":%d,' % index)


class Choice(Protocol):
    """One choice of an answer that is being collected."""

    def add(self, chunk: Chunk) -> None:
        """Take in the choice's next chunk."""

    def fields(self, index: int) -> dict[str, Any]:
        """Return the choice in wire form, without verdicts."""


async def collected(
    kind: str,
    chunks: AsyncIterator[Chunk],
    request: GenerationRequest,
    envelope: Envelope,
    new_choice: Callable[[], Choice],
) -> bytes:
    """Return the whole answer as one JSON body; ``chunks`` is closed, and whatever it raises is passed on."""
    choices = [new_choice() for _ in range(request.choices)]
    verdicts: list[FilterResults] = [{} for _ in choices]
    usage: Usage | None = None
    async with closing(chunks):
        async for chunk in chunks:
            usage = chunk.usage or usage
            choices[chunk.index].add(chunk)
            verdicts[chunk.index] = worst_of(verdicts[chunk.index], chunk.content_filter_results)
    body = envelope.fields(kind)
    body["choices"] = [choice.fields(index) for index, choice in enumerate(choices)]
    if envelope.annotations:
        for fields, results in zip(body["choices"], verdicts, strict=True):
            fields["content_filter_results"] = results
        if results_of_prompts := prompt_filter_results(request):
            body["prompt_filter_results"] = results_of_prompts
    if usage:
        body["usage"] = usage_fields(usage)
    return encode(body)


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return ``usage`` in wire form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def prompt_filter_results(request: GenerationRequest) -> list[dict[str, Any]]:
    """Return the verdicts on the prompts in wire form."""
    return [
        {"prompt_index": index, "content_filter_results": results}
        for index, results in sorted(request.prompt_filter_results.items())
    ]


def _padding(length: int) -> bytes:
    """Return random characters that, with ``length`` others, are a multiple of 32; most tokens are shorter than that."""
    return os.urandom(16).hex().encode()[: 32 - length % 32]
