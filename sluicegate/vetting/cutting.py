"""Cut what a choice says into windows that overlap, and find the places again where what is vetted ends."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sluicegate.streams import split, with_text
from sluicegate.types import Chunk

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


@dataclass(frozen=True, slots=True)
class Window:
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
class Placed:
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


class Cutter:
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

    def place(self, chunk: Chunk, due: deque[Window]) -> Placed:
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
        return Placed(chunk, self._end + bool(self._half), tuple(pieces))

    def finish(self, due: deque[Window]) -> None:
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

    def _next(self) -> Window:
        self._seen = self._between_words(self._due)
        text = self._text[: self._seen - self._base]
        kept = self._between_words(self._seen - self._windows.overlap)
        window = self._window(text, self._origin + kept)
        self._text = self._text[kept - self._base :]
        self._base = kept
        self._new = min(2 * self._new, self._windows.largest)
        self._due += self._new
        return window

    def _window(self, text: str, released: int) -> Window:
        self._released = released
        start = self._origin + self._base
        return Window(_paired(text), start, start + len(text), released)

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
