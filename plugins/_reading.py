"""Read a channel as its readers would, piece by piece: full-width digits, odd dashes and invisible characters, JSON's escapes.

What was read keeps the place of each character in the channel, so that what is found can be replaced where it stands.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from plugins._escapes import read_escape
from sluicegate.requests import ChatRequest, GenerationRequest


def is_json(channel: str, request: GenerationRequest) -> bool | None:
    """Return whether a channel of an answer is JSON; None where that shows in how it begins.

    Arguments of a function are JSON, those of a custom tool need not be.

    Args:
        channel: As :func:`sluicegate.streams.hold_back` names it.
    """
    if channel != "text":
        return None if channel.endswith(".arguments") else False
    if not isinstance(request, ChatRequest) or request.response_format is None:
        return False
    return request.response_format.type != "text"


class Reading:
    """What has been read of a channel and not been forgotten.

    Args:
        is_json: The channel is JSON; strings are read without their escapes. None if that is so when it begins like an
            object or a list.

    Attributes:
        text: As its readers see it.
        places: Where each character of ``text`` begins in the channel.
        position: Where the channel goes on.
    """

    def __init__(self, *, is_json: bool | None) -> None:
        self.text = ""
        self.places: list[int] = []
        self.position = 0
        self._is_json = is_json
        self._in_string = False
        self._bare: list[bool] = []
        self._unread = ""

    def read(self, piece: str, final: bool) -> None:
        """Read the next piece."""
        piece = self._unread + piece
        self._unread = ""
        if self._is_json is None and (beginning := piece.lstrip()[:1]):
            self._is_json = beginning in ("{", "[")
            self._bare = [True] * len(self.text)
        if self._is_json or not piece.isascii():
            self._read_slowly(piece, final)
            return
        self.text += piece
        self.places += range(self.position, self.position + len(piece))
        self.position += len(piece)

    def place(self, index: int) -> int:
        """Return where in the channel the character at ``index`` begins, or would."""
        return self.places[index] if index < len(self.places) else self.position

    def is_bare(self, index: int) -> bool:
        """Return whether a character belongs to JSON outside its strings, such as a number."""
        return bool(self._is_json) and self._bare[index]

    def forget(self, count: int) -> None:
        """Forget the first characters."""
        self.text = self.text[count:]
        del self.places[:count], self._bare[:count]

    def _read_slowly(self, piece: str, final: bool) -> None:
        read: list[str] = []
        for char, width in self._characters(piece, final):
            bare = not self._in_string
            if char == '"' and width == 1 and self._is_json:
                self._in_string = bare
            for each in char if char.isascii() else _folded(char):
                read.append(each)
                self.places.append(self.position)
                if self._is_json:
                    self._bare.append(bare)
            self.position += width
        self.text += "".join(read)

    def _characters(self, piece: str, final: bool) -> Iterator[tuple[str, int]]:
        """Yield each character and how many stand for it."""
        index = 0
        while index < len(piece):
            char, width = piece[index], 1
            if char == "\\" and self._in_string:
                escape = read_escape(piece, index, final)
                if escape is None:
                    self._unread = piece[index:]
                    return
                char, width = escape
            yield char, width
            index += width


@lru_cache(4096)
def _folded(char: str) -> str:
    """Return the ASCII character that one stands for, nothing for an invisible one, or the character itself."""
    if (digit := unicodedata.decimal(char, None)) is not None:
        return str(digit)
    category = unicodedata.category(char)
    if category in ("Pd", "Zs") or char == "\u2212":
        return " " if category == "Zs" else "-"
    if category == "Cf" or "\ufe00" <= char <= "\ufe0f":
        return ""
    folded = unicodedata.normalize("NFKC", char)
    return folded if len(folded) == 1 and folded.isascii() else char
