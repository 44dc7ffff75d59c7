"""One line's bytes to an object, or to what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

BOM = b"\xef\xbb\xbf"
_COLUMN = re.compile(r" at line 1 column (\d+)$")
_CODES: Mapping[str, str] = {
    "EOF": "json_incomplete",
    "trailing characters": "json_trailing",
    "control character": "json_control_character",
    "unexpected end of hex escape": "json_surrogate",
    "lone leading surrogate": "json_surrogate",
    "recursion limit": "json_too_deep",
    "number out of range": "json_number",
}
"""How the parser's messages begin -> the code; any other is json_invalid."""


class Malformed(ValueError):
    """A line holds no object.

    Args:
        code: A key of ``CODES``.
        column: The byte where reading stopped, from 1.
    """

    def __init__(self, code: str, column: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.column = column


def decode(line: bytes, *, is_first: bool) -> dict[str, Any]:
    """Return the line's object. Of a key that is there twice the last value counts, here as in training.

    Raises:
        Malformed: It holds none.
    """
    if b"\0" in line:
        raise Malformed("nul_byte", line.index(b"\0") + 1)
    try:
        # No cache: it would keep what a file calls its fields beyond the call.
        found = from_json(line, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        # Raised below: the parser's own exception is not to be its context.
        problem = _problem(line, str(error), is_first=is_first)
    else:
        if isinstance(found, dict):
            return found
        problem = Malformed("json_array" if is_first and isinstance(found, list) else "not_an_object")
    raise problem


def _problem(line: bytes, message: str, *, is_first: bool) -> Malformed:
    if BOM in line:
        return Malformed("bom_misplaced", line.index(BOM) + 1)
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Malformed("utf8_invalid", error.start + 1)
    if is_first and line.lstrip()[:1] == b"[":
        return Malformed("json_array", 1)
    column = _COLUMN.search(message)
    code = next((code for start, code in _CODES.items() if message.startswith(start)), "json_invalid")
    return Malformed(code, int(column[1]) if column else None)
