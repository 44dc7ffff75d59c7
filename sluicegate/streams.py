"""Helpers for post-filters, which see an answer in pieces of any size.

Each works on one choice. What a filter does must not depend on how the model cuts its text;
``sluicegate.testing.check_chunking`` proves that it does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Protocol

from sluicegate.errors import Refused
from sluicegate.types import Chunk, FilterResults, ToolCall


async def collect(chunks: AsyncIterator[Chunk]) -> Chunk:
    """Return a whole choice as one chunk: texts and arguments joined, the last finish reason, merged verdicts."""
    whole = Chunk()
    calls: dict[int, ToolCall] = {}
    async for chunk in chunks:
        for call in chunk.tool_calls:
            calls[call.index] = join_call(calls.get(call.index), call)
        whole = replace(
            whole,
            index=chunk.index,
            text=whole.text + chunk.text,
            refusal=whole.refusal + chunk.refusal,
            finish_reason=chunk.finish_reason or whole.finish_reason,
            content_filter_results={**whole.content_filter_results, **chunk.content_filter_results},
        )
    return replace(whole, tool_calls=tuple(calls[index] for index in sorted(calls)))


def join_call(call: ToolCall | None, piece: ToolCall) -> ToolCall:
    """Return a tool call with one more piece of it."""
    if call is None:
        return piece
    return ToolCall(call.index, call.id or piece.id, call.name or piece.name, call.arguments + piece.arguments)


async def by_word(chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """Re-cut the text of a stream so that no run of non-space characters is split; delays it by at most one word.

    Log-probabilities describe the model's own cuts, so a chunk whose text was re-cut loses them. Tool calls and refusals
    pass as they are.
    """
    held = ""
    index = 0
    async for chunk in chunks:
        index = chunk.index
        text = held + chunk.text
        count = len(text) if chunk.finish_reason is not None else _after_last_space(text)
        held, sent = text[count:], text[:count]
        if sent == chunk.text:
            yield chunk
        elif sent or chunk.tool_calls or chunk.refusal or chunk.finish_reason or chunk.content_filter_results:
            yield replace(chunk, text=sent, logprobs=None)
    if held:
        yield Chunk(held, index=index)


def _after_last_space(text: str) -> int:
    for position in range(len(text) - 1, -1, -1):
        if text[position].isspace():
            return position + 1
    return 0


class StopAt(Exception):
    """Raised by a :class:`Scanner`: the channel must end after ``count`` characters, with these verdicts."""

    def __init__(self, count: int, results: FilterResults) -> None:
        super().__init__(count)
        self.count = count
        self.results = results


class Scanner(Protocol):
    """Watches one channel of a choice: its text, its refusal, or one tool call's name or arguments."""

    def feed(self, text: str, final: bool) -> int:
        """Take the next piece and return how many characters of the channel so far may go, whatever comes next.

        Args:
            final: Nothing follows; everything that may go must go now.

        Raises:
            StopAt: The answer must end here.
        """
        ...


async def hold_back(chunks: AsyncIterator[Chunk], scanner: Callable[[str], Scanner]) -> AsyncIterator[Chunk]:
    """Pass chunks on as they are, each as soon as every scanner lets all of it go.

    When a scanner stops the answer, what precedes the stop is sent, whatever the cuts were, and
    :class:`~sluicegate.Refused` is raised with the scanner's verdicts.

    Args:
        scanner: Makes the scanner of a channel: ``text``, ``refusal``, ``tool_calls[0].name``, ``tool_calls[0].arguments``.
    """
    channels: dict[str, _Channel] = {}
    waiting: deque[Chunk] = deque()
    async for chunk in chunks:
        waiting.append(chunk)
        try:
            for name, piece in _pieces(chunk):
                channel = channels.get(name) or channels.setdefault(name, _Channel(scanner(name)))
                channel.feed(piece, name.endswith(".name"))
            if chunk.finish_reason is not None:
                for channel in channels.values():
                    channel.feed("", True)
        except StopAt as stop:
            for ready in _ready(waiting, channels):
                yield ready
            if waiting and (rest := _partial(waiting[0], channels)):
                yield rest
            raise Refused(stop.results) from None
        for ready in _ready(waiting, channels):
            yield ready
    for chunk in waiting:
        # No finish_reason came: the core fails the answer, so nothing that was held may go.
        yield replace(chunk, text="", refusal="", tool_calls=(), logprobs=None)


class _Channel:
    """How far a channel was received, may go, and went; in characters."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self.allowed = 0
        self.sent = 0

    def feed(self, text: str, final: bool) -> None:
        try:
            self.allowed = self._scanner.feed(text, final)
        except StopAt as stop:
            self.allowed = stop.count
            raise


def _pieces(chunk: Chunk) -> Iterator[tuple[str, str]]:
    if chunk.text:
        yield "text", chunk.text
    if chunk.refusal:
        yield "refusal", chunk.refusal
    for call in chunk.tool_calls:
        if call.name:
            yield f"tool_calls[{call.index}].name", call.name
        if call.arguments:
            yield f"tool_calls[{call.index}].arguments", call.arguments


def _ready(waiting: deque[Chunk], channels: dict[str, _Channel]) -> Iterator[Chunk]:
    while waiting:
        pieces = list(_pieces(waiting[0]))
        if any(channels[name].sent + len(piece) > channels[name].allowed for name, piece in pieces):
            return
        for name, piece in pieces:
            channels[name].sent += len(piece)
        yield waiting.popleft()


def _partial(chunk: Chunk, channels: dict[str, _Channel]) -> Chunk | None:
    """Return the part of a chunk's text that may go, if there is any; of a tool call nothing goes in part."""
    channel = channels.get("text")
    text = chunk.text[: channel.allowed - channel.sent] if channel else ""
    return Chunk(text, index=chunk.index) if text else None
