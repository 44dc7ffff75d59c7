"""Vet an answer window by window while it is streamed: for post-filters that read text and do not change it.

A filter brings a detector, which reads a piece of text and returns verdicts; the rest is done here. For example::

    @hookimpl
    async def post_filter(chunks, request, policy):
        async def detect(text):
            verdict = policy.judge("profanity", Source.COMPLETION, detected="darn" in text)
            return verdict.results if verdict else {}

        async with vet(chunks, detect, request, policy) as vetted:
            async for chunk in vetted:
                yield chunk

All that reaches the caller is vetted: text, refusal, and of each tool call its name and arguments, JSON's escapes undone.
Verdicts depend on the text alone, never on how the model cuts it or how fast it is.

By default what is not vetted is held. Each window ends where the model's text has come far enough, and what is sent stays
``overlap`` characters behind it, so that a passage of that length is seen whole before its first character goes. Where the
policy is asynchronous, a streamed answer flows at once and verdicts follow in chunks that say which characters they are
about; what flows stays within ``LAG`` characters of what is vetted.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from sluicegate.errors import FilterUnavailable, Refused
from sluicegate.plugins import is_failure
from sluicegate.policies import NOT_FILTERED, Policy
from sluicegate.requests import CompletionRequest, GenerationRequest
from sluicegate.streams import flows, split, with_text
from sluicegate.types import Chunk, FilterOffsets, FilterResults, worst_of

Detector: TypeAlias = Callable[[str], Awaitable[FilterResults]]
"""Reads a window and returns the policy's verdicts, ``filtered`` where one of them ends the answer.

It may raise :class:`~sluicegate.errors.FilterUnavailable`. It is called for one window of a choice at a time.
"""

LAG = 1000
"""In asynchronous mode, how many characters past those that are vetted may have been sent."""
AHEAD = 64
"""Chunks that are read on while a window is being vetted."""
_SLACK = 24
"""How far back of its place a cut moves to fall between two words."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How a text is cut for a detector, in characters.

    Nothing is sent before ``first + overlap`` characters have come, or the answer has ended. A window is at most
    ``largest + overlap + 48`` characters long, and ``largest`` new ones cost one call of the detector.

    Attributes:
        overlap: How long a passage is sure to be seen whole by some window, before any of it is sent.
        first: New characters in the first window; each later one has twice as many as the one before, up to ``largest``.
    """

    overlap: int = 128
    first: int = 64
    largest: int = 256

    def __post_init__(self) -> None:
        if self.overlap < 0 or not 2 * _SLACK < self.first <= self.largest:
            raise ValueError(f"windows need an overlap of at least 0 and {2 * _SLACK} < first <= largest")


@asynccontextmanager
async def vet(
    chunks: AsyncIterator[Chunk],
    detect: Detector,
    request: GenerationRequest,
    policy: Policy,
    windows: Windows = Windows(),
) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Give a choice's chunks once they are vetted, with the verdicts of the window that let them go.

    While a window is being vetted the model is read on, up to ``AHEAD`` chunks. A detector that is unavailable ends the
    answer with an error, unless the policy fails open: then the text goes on, annotated as not filtered.

    Raises:
        Refused: A window was refused. What windows before it let go has been given; the rest is withheld.
        FilterUnavailable: The detector is, and the policy fails closed.
    """
    async with _reading(chunks) as ahead, aclosing(_vetted(ahead, detect, request, policy, windows)) as vetted:
        yield vetted


async def _vetted(
    ahead: _Ahead, detect: Detector, request: GenerationRequest, policy: Policy, windows: Windows
) -> AsyncGenerator[Chunk]:
    is_flowing = flows(request, policy)
    line = _Flowing(windows, request) if is_flowing else _Held(windows)
    detecting: asyncio.Task[FilterResults] | None = None
    failure: BaseException | None = None
    ended = False
    try:
        while not ended or line.due:
            if line.due and detecting is None:
                detecting = asyncio.create_task(_verdicts(detect, line.due[0].text, policy))
                if is_flowing:
                    detecting.add_done_callback(ahead.wake)
            if detecting and (ended or not is_flowing or line.waiting or detecting.done()):
                results, detecting = await detecting, None
                given = line.vetted(results)
            elif (item := await ahead.next()) == _WOKEN:
                continue
            elif isinstance(item, Chunk):
                given = line.take(item)
            else:
                # What came before a failure is vetted and goes out before it.
                ended, failure = True, item
                if item:
                    line.end()
                continue
            for chunk in given:
                yield chunk
    finally:
        if detecting:
            detecting.cancel()
            await asyncio.gather(detecting, return_exceptions=True)
    if failure:
        raise failure


async def _verdicts(detect: Detector, text: str, policy: Policy) -> FilterResults:
    if not text or text.isspace():
        return {}
    try:
        return await detect(text)
    except FilterUnavailable:
        if not policy.fail_open:
            raise
        return NOT_FILTERED


# --- windows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Window:
    """A piece of one channel; places are on the line of all that the choice says.

    Attributes:
        text: What the detector reads; empty where an earlier window has shown it all.
        released: Up to where nothing is held any more once this window is vetted.
    """

    text: str
    start: int
    end: int
    released: int


@dataclass(frozen=True, slots=True)
class _Placed:
    """A chunk on the line.

    Attributes:
        end: Where it ends.
        pieces: For each of its pieces where it begins, and the half of an escape before it that it goes on with.
    """

    chunk: Chunk
    end: int
    pieces: tuple[tuple[int, str], ...]

    def first(self, place: int) -> Iterator[Chunk]:
        """Yield what comes before a place: the pieces as chunks of their own, the last one cut; a name is not cut."""
        places = iter(self.pieces)
        for part in split(self.chunk):
            for piece in _pieces(part):
                start, half = next(places)
                count = _length(piece, half, place - start)
                if count < len(piece.text):
                    if count and not piece.is_name:
                        yield with_text(part, piece.text[:count])
                    return
            yield part


class _Cutter:
    """Cuts the content of a choice into windows, channel by channel; the content is one line of characters.

    A channel that another one interrupts is vetted up to there, and goes on with its last ``overlap`` characters in view.
    An escape in a tool call's arguments is the one character on the line that it stands for.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._channel = ""
        self._half = ""
        self._tails: dict[str, str] = {}
        self._end = 0
        self._open("")

    def place(self, chunk: Chunk, due: deque[_Window]) -> _Placed:
        """Put a chunk at the end of the line, and the windows that this completes at the end of ``due``."""
        pieces = []
        for piece in _pieces(chunk):
            if piece.channel != self._channel:
                self.finish(due)
                self._channel = piece.channel
                self._open(self._tails.pop(piece.channel, ""))
            pieces.append((self._end, self._half))
            text = piece.text
            if piece.has_escapes and (self._half or "\\" in text):
                text, self._half = _unescaped(self._half + text)
            self._add(text)
            while self._base + len(self._text) >= self._due:
                due.append(self._next())
        if chunk.finish_reason is not None:
            self.finish(due)
        return _Placed(chunk, self._end + bool(self._half), tuple(pieces))

    def finish(self, due: deque[_Window]) -> None:
        """End the current channel here, and put the window that shows the rest of it at the end of ``due``."""
        self._add(self._half)
        self._half = ""
        if self._released < self._end:
            unseen = self._base + len(self._text) > self._seen
            due.append(self._window(self._text if unseen else "", self._end))
        if self._channel:
            self._tails[self._channel] = self._text[-self._windows.overlap :] if self._windows.overlap else ""
        self._channel = ""
        self._open("")

    def _add(self, text: str) -> None:
        self._text += text
        self._end += len(text)

    def _open(self, context: str) -> None:
        """Begin a channel, or go on with it after ``context``; its places count from here, those of the context below 0."""
        self._text = context
        self._base = -len(context)
        self._origin = self._released = self._end
        self._seen = 0
        self._new = self._windows.first
        self._due = self._windows.overlap + self._new

    def _next(self) -> _Window:
        self._seen = self._between_words(self._due)
        text = self._text[: self._seen - self._base]
        kept = self._between_words(self._seen - self._windows.overlap)
        window = self._window(text, self._origin + kept)
        self._text = self._text[kept - self._base :]
        self._base = kept
        self._new = min(2 * self._new, self._windows.largest)
        self._due += self._new
        return window

    def _window(self, text: str, released: int) -> _Window:
        self._released = released
        start = self._origin + self._base
        return _Window(_paired(text), start, start + len(text), released)

    def _between_words(self, place: int) -> int:
        """Return the place after the last white space that is not far before ``place``; where there is none, ``place``."""
        index = place - self._base
        for back in range(min(_SLACK, index)):
            if self._text[index - back - 1].isspace():
                return place - back
        return place


class _Piece(NamedTuple):
    """A piece of one channel."""

    channel: str
    text: str
    is_name: bool = False
    has_escapes: bool = False


def _pieces(chunk: Chunk) -> Iterator[_Piece]:
    """Yield each piece of a chunk; a tool call's name is a line above its arguments."""
    if chunk.text:
        yield _Piece("text", chunk.text)
    if chunk.refusal:
        yield _Piece("refusal", chunk.refusal)
    for call in chunk.tool_calls:
        if call.name:
            yield _Piece(f"tool_calls[{call.index}]", call.name + "\n", is_name=True)
        if call.arguments:
            yield _Piece(f"tool_calls[{call.index}]", call.arguments, has_escapes=True)


_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|(u[0-9a-f]{0,3}\Z|\Z)|(.))", re.DOTALL | re.IGNORECASE)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def _unescaped(text: str) -> tuple[str, str]:
    """Return a piece of JSON text as its reader will see it, and the half of an escape that it ends with."""
    half = ""

    def character(found: re.Match[str]) -> str:
        nonlocal half
        unit, unfinished, char = found.groups()
        if unfinished is not None:
            half = found[0]
            return ""
        return chr(int(unit, 16)) if unit else _ESCAPED.get(char, char)

    return _ESCAPE.sub(character, text), half


def _paired(text: str) -> str:
    """Return a text whose surrogates, which come from escapes, make the characters that they stand for."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _length(piece: _Piece, half: str, count: int) -> int:
    """Return how much of a piece makes its first ``count`` characters on the line, the one begun by ``half`` included."""
    if not piece.has_escapes:
        return min(max(0, count), len(piece.text))
    text, place = half + piece.text, 0
    for _ in range(count):
        escape = _ESCAPE.match(text, place)
        if place == len(text) or (escape and escape[2] is not None):
            break
        place = escape.end() if escape else place + 1
    return max(0, place - len(half))


# --- what is held and what goes --------------------------------------------------------------------------------------


class _Held:
    """Default mode: a chunk goes when all of it is vetted."""

    def __init__(self, windows: Windows) -> None:
        self.due: deque[_Window] = deque()
        self.waiting: deque[_Placed] = deque()
        self._cutter = _Cutter(windows)
        self._vetted = 0
        self._results: FilterResults = {}
        self._shown = True

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take the model's next chunk; yield what may go."""
        self.waiting.append(self._cutter.place(chunk, self.due))
        return self._ready()

    def end(self) -> None:
        """Take note that no more will come, though the answer is not finished."""
        self._cutter.finish(self.due)

    def vetted(self, results: FilterResults) -> Iterator[Chunk]:
        """Take the verdicts on the first window that is due; yield what may go.

        Raises:
            Refused: After the last that may go.
        """
        window = self.due.popleft()
        if _refuses(results):
            if self.waiting:
                yield from map(self._annotated, self.waiting[0].first(self._vetted))
            raise Refused(results)
        self._vetted = window.released
        if results:
            self._results = results if self._shown else worst_of(self._results, results)
            self._shown = False
        yield from self._ready()

    def _ready(self) -> Iterator[Chunk]:
        while self.waiting and self.waiting[0].end <= self._vetted:
            placed = self.waiting.popleft()
            yield self._annotated(placed.chunk) if placed.pieces else placed.chunk

    def _annotated(self, chunk: Chunk) -> Chunk:
        self._shown = True
        if not self._results:
            return chunk
        return replace(chunk, content_filter_results=worst_of(chunk.content_filter_results, self._results))


class _Flowing:
    """Asynchronous mode: a chunk goes at once, unless too little before it is vetted; only the end waits for all verdicts.

    Several filters in a row agree on ``check_offset``: each says the least that is vetted by itself and those before it.
    That there is one before it, it knows by a chunk with empty offsets that each sends first.
    """

    def __init__(self, windows: Windows, request: GenerationRequest) -> None:
        self.due: deque[_Window] = deque()
        self.waiting: deque[tuple[Chunk, int]] = deque()
        self._cutter = _Cutter(windows)
        self._request = request
        self._index = 0
        self._prompt: int | None = None
        self._vetted = 0
        self._checked = 0
        self._before: int | None = None

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take the model's next chunk; yield what may go."""
        if self._prompt is None:
            self._index = chunk.index
            self._prompt = self._checked = _prompt_length(self._request, chunk.index)
            yield self._told({}, self._prompt, self._prompt)
        if offsets := chunk.content_filter_offsets:
            self._before = offsets.check_offset
            if not chunk.content_filter_results:
                return
            chunk = self._told(chunk.content_filter_results, offsets.start_offset, offsets.end_offset)
        end = self._cutter.place(chunk, self.due).end
        last = None
        if chunk.finish_reason:
            # With the verdicts of filters before this one, on the whole answer.
            last = Chunk(
                index=chunk.index,
                finish_reason=chunk.finish_reason,
                content_filter_results=chunk.content_filter_results,
            )
            chunk = replace(chunk, finish_reason=None, content_filter_results={})
        if not last or chunk != Chunk(index=chunk.index):
            self.waiting.append((chunk, end - LAG))
        if last:
            self.waiting.append((last, end))
        yield from self._ready()

    def end(self) -> None:
        """Take note that no more will come, though the answer is not finished."""
        self._cutter.finish(self.due)

    def vetted(self, results: FilterResults) -> Iterator[Chunk]:
        """Take the verdicts on the first window that is due; yield them, and what may go.

        Raises:
            Refused: With what refuses only, and the window's place.
        """
        window = self.due.popleft()
        start, end = (self._prompt or 0) + window.start, (self._prompt or 0) + window.end
        if refusing := _refuses(results):
            raise Refused(refusing, offsets=FilterOffsets(self._checked, start, end))
        self._vetted = window.end
        if results:
            yield self._told(results, start, end)
        yield from self._ready()

    def _ready(self) -> Iterator[Chunk]:
        while self.waiting and self.waiting[0][1] <= self._vetted:
            yield self.waiting.popleft()[0]

    def _told(self, results: FilterResults, start: int, end: int) -> Chunk:
        checked = (self._prompt or 0) + self._vetted
        least = checked if self._before is None else min(checked, self._before)
        self._checked = max(self._checked, least)
        offsets = FilterOffsets(self._checked, start, end)
        return Chunk(index=self._index, content_filter_results=results, content_filter_offsets=offsets)


def _refuses(results: FilterResults) -> FilterResults:
    """Return the verdicts that end the answer."""
    return {category: result for category, result in results.items() if result.get("filtered")}


def _prompt_length(request: GenerationRequest, index: int) -> int:
    """Return how many characters of prompt precede a choice."""
    if isinstance(request, CompletionRequest):
        prompts = request.prompts
        return len(prompts[index * len(prompts) // request.choices])
    return sum(len(text.value) for text in request.texts() if text.where.startswith("messages"))


# --- reading on ------------------------------------------------------------------------------------------------------

_WOKEN: Literal["woken"] = "woken"
_Item: TypeAlias = Chunk | BaseException | Literal["woken"] | None
"""A chunk, what the stream failed with, a nudge, or None at the stream's good end."""


class _Ahead:
    """Chunks that a task of its own reads, so that the model's text is taken while a window is being vetted."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[_Item] = asyncio.Queue()
        self._room = asyncio.Semaphore(AHEAD)

    async def read(self, chunks: AsyncIterator[Chunk]) -> None:
        """Read all chunks, never more than ``AHEAD`` beyond those that were asked for."""
        end: BaseException | None = None
        try:
            async for chunk in chunks:
                self._items.put_nowait(chunk)
                await self._room.acquire()
        except (Exception, asyncio.CancelledError) as error:
            if not is_failure(error):
                raise
            # Raised again where the chunks are asked for.
            end = error
        self._items.put_nowait(end)

    async def next(self) -> _Item:
        """Return what comes next."""
        item = await self._items.get()
        if isinstance(item, Chunk):
            self._room.release()
        return item

    def wake(self, _: object) -> None:
        """Let whoever waits for the next chunk look around."""
        self._items.put_nowait(_WOKEN)


@asynccontextmanager
async def _reading(chunks: AsyncIterator[Chunk]) -> AsyncIterator[_Ahead]:
    ahead = _Ahead()
    task = asyncio.create_task(ahead.read(chunks))
    try:
        yield ahead
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
