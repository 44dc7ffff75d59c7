"""Helpers for post-filters, which see an answer in pieces of any size.

Each works on one choice. What a filter does must not depend on how the model cuts its text;
``sluicegate.testing.check_chunking`` proves that it does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sluicegate.errors import Refused
from sluicegate.policies import Policy
from sluicegate.requests import GenerationRequest
from sluicegate.types import Chunk, FilterResults, ToolCall, worst_of


async def collect(chunks: AsyncIterator[Chunk]) -> Chunk:
    """Return a whole choice as one chunk: texts and arguments joined, the last finish reason, the worst verdicts."""
    return join([chunk async for chunk in chunks])


def join(pieces: Sequence[Chunk]) -> Chunk:
    """Return the pieces of one choice as one chunk, as :func:`collect` does."""
    calls: dict[int, list[ToolCall]] = {}
    for call in (call for piece in pieces for call in piece.tool_calls):
        calls.setdefault(call.index, []).append(call)
    results: FilterResults = {}
    last: FilterResults = {}
    for piece in pieces:
        # Pieces that were vetted together mostly carry the very same object.
        if piece.content_filter_results is not last:
            last = piece.content_filter_results
            results = worst_of(results, last)
    return Chunk(
        text="".join(piece.text for piece in pieces),
        index=pieces[-1].index if pieces else 0,
        tool_calls=tuple(_join_call(calls[index]) for index in sorted(calls)),
        refusal="".join(piece.refusal for piece in pieces),
        finish_reason=next((piece.finish_reason for piece in reversed(pieces) if piece.finish_reason), None),
        content_filter_results=results,
    )


def _join_call(pieces: Sequence[ToolCall]) -> ToolCall:
    return ToolCall(
        pieces[0].index,
        next((piece.id for piece in pieces if piece.id), None),
        next((piece.name for piece in pieces if piece.name), None),
        "".join(piece.arguments for piece in pieces),
    )


async def by_word(chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """Re-cut the text of a stream so that no run of non-space characters is split; delays it by at most one word.

    Log-probabilities describe the model's own cuts, so a chunk whose text was re-cut loses them. Tool calls and refusals
    pass as they are.
    """
    held: list[str] = []
    index = 0
    async for chunk in chunks:
        index = chunk.index
        count = len(chunk.text) if chunk.finish_reason is not None else _after_last_space(chunk.text)
        sent = ""
        if count or chunk.finish_reason is not None:
            sent = "".join(held) + chunk.text[:count]
            held.clear()
        held.append(chunk.text[count:])
        if sent == chunk.text:
            yield chunk
        elif sent or chunk.tool_calls or chunk.refusal or chunk.finish_reason or chunk.content_filter_results:
            yield replace(chunk, text=sent, logprobs=None)
    if any(held):
        yield Chunk("".join(held), index=index)


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
    :class:`~sluicegate.Refused` is raised with the scanner's verdicts. What is held when the stream ends without a
    ``finish_reason`` is never sent.

    Args:
        scanner: Makes the scanner of a channel: ``text``, ``refusal``, ``tool_calls[0].name``, ``tool_calls[0].arguments``.
    """
    channels: dict[str, _Channel] = {}
    waiting: deque[_Waiting] = deque()
    async for chunk in chunks:
        received = []
        for name, piece in _pieces(chunk):
            if name not in channels:
                channels[name] = _Channel(scanner(name))
            received.append((channels[name], piece))
        waiting.append(_Waiting(chunk, [(channel, channel.receive(piece)) for channel, piece in received]))
        try:
            for channel, piece in received:
                channel.feed(piece, False)
            if chunk.finish_reason is not None:
                for channel in channels.values():
                    channel.feed("", True)
        except StopAt as stop:
            for ready in _ready(waiting):
                yield replace(ready, finish_reason=None) if ready.finish_reason else ready
            for part in _parts(waiting[0]) if waiting else ():
                yield part
            raise Refused(stop.results) from None
        for ready in _ready(waiting):
            yield ready


def flows(request: GenerationRequest, policy: Policy) -> bool:
    """Return whether an answer is sent before it is vetted: one that is streamed, where the policy is asynchronous."""
    return policy.is_asynchronous and bool(request.stream)


class Unheld:
    """A scanner that holds nothing back, for answers that flow: what it stops at may have been sent."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._received = 0

    def feed(self, text: str, final: bool) -> int:
        """As :meth:`Scanner.feed`."""
        self._received += len(text)
        self._scanner.feed(text, final)
        return self._received


class _Channel:
    """How much of a channel was received, and how much of that may go; in characters."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._received = 0
        self.allowed = 0

    def receive(self, text: str) -> int:
        """Return where ``text``, the next piece, ends."""
        self._received += len(text)
        return self._received

    def feed(self, text: str, final: bool) -> None:
        try:
            self.allowed = self._scanner.feed(text, final)
        except StopAt as stop:
            self.allowed = stop.count
            raise


@dataclass(slots=True)
class _Waiting:
    """A chunk, and where each of its pieces ends in its channel."""

    chunk: Chunk
    ends: list[tuple[_Channel, int]]


def _ready(waiting: deque[_Waiting]) -> Iterator[Chunk]:
    while waiting and all(end <= channel.allowed for channel, end in waiting[0].ends):
        yield waiting.popleft().chunk


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


def _parts(held: _Waiting) -> Iterator[Chunk]:
    """Yield what may go of a chunk that may not go whole: its pieces, up to and into the first that is held."""
    ends = iter(held.ends)
    for part in split(held.chunk):
        for name, text in _pieces(part):
            channel, end = next(ends)
            if end > channel.allowed:
                count = channel.allowed - (end - len(text))
                if count > 0 and not name.endswith(".name"):
                    yield with_text(part, text[:count])
                return
        yield part


def split(chunk: Chunk) -> Iterator[Chunk]:
    """Yield a chunk's text, its refusal, and each tool call's name and arguments as chunks of their own, in this order."""
    if chunk.text:
        yield Chunk(chunk.text, index=chunk.index)
    if chunk.refusal:
        yield Chunk(refusal=chunk.refusal, index=chunk.index)
    for call in chunk.tool_calls:
        if call.id or call.name:
            yield Chunk(tool_calls=(replace(call, arguments=""),), index=chunk.index)
        if call.arguments:
            yield Chunk(tool_calls=(replace(call, id=None, name=None),), index=chunk.index)


def with_text(piece: Chunk, text: str) -> Chunk:
    """Return one of the chunks of :func:`split` with another text in place of its own."""
    if piece.tool_calls:
        return replace(piece, tool_calls=(replace(piece.tool_calls[0], arguments=text),))
    return replace(piece, refusal=text) if piece.refusal else replace(piece, text=text)
