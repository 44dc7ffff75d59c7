"""Bytes in pieces of any size to lines of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

MOST_BYTES = 4 * 1024 * 1024
"""Of one line; of a longer one nothing is kept."""


class Lines:
    """Cuts a stream at each newline; at most one line and one chunk are held.

    Args:
        most: Bytes of the longest line that is handed on.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._begun: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """Yield each line that ends in ``chunk``, without its newline; None for one that is too long."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield self._end(piece)
        self._hold(rest)

    def end(self) -> Iterator[bytes | None]:
        """Yield the last line, unless the stream ended with a newline."""
        if self._size:
            yield self._end(b"")

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._most:
            self._begun.clear()
        elif piece:
            self._begun.append(piece)

    def _end(self, piece: bytes) -> bytes | None:
        if not self._size:
            return piece if len(piece) <= self._most else None
        self._hold(piece)
        line = b"".join(self._begun) if self._size <= self._most else None
        self._begun.clear()
        self._size = 0
        return line
