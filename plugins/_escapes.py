"""JSON's escapes, undone as its readers do, in text that comes piece by piece."""

from __future__ import annotations

import re

_CHARACTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPE = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|\\u([0-9a-f]{4})|\\(.)", re.DOTALL | re.IGNORECASE)
_HALF = re.compile(
    r"\\(?:u(?:[0-9a-f]{0,3}|d[89ab][0-9a-f]{2}(?:\\(?:u(?:d(?:[c-f][0-9a-f]?)?)?)?)?)?)?\Z", re.IGNORECASE
)


def unescaped(text: str) -> str:
    """Return a text as JSON's readers read it; where an escape is not one of JSON's, its character stays."""
    return _ESCAPE.sub(_character, text)


def read_escape(text: str, place: int, final: bool) -> tuple[str, int] | None:
    """Return the character that an escape at a backslash stands for, and the escape's length.

    Args:
        final: Nothing follows the text.

    Returns:
        None where the escape, or the pair of them that makes one character, may go on after the text.
    """
    if not final and _HALF.match(text, place):
        return None
    if escape := _ESCAPE.match(text, place):
        return _character(escape), len(escape[0])
    return text[place], 1


def _character(escape: re.Match[str]) -> str:
    high, low, unit, char = escape.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    return chr(int(unit, 16)) if unit else _CHARACTERS.get(char, char)
