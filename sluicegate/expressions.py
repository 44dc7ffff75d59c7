"""Regular expressions for RE2: time is linear in the text whatever the expression, and memory is bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import re2

from sluicegate.errors import SluicegateError

ONE_BYTES = 1 << 20
"""Memory of one expression, compiled."""
ALL_BYTES = 32 << 20
"""Memory of the expressions of one list together."""


class BadExpression(SluicegateError):
    """An expression that cannot be used; the message says why, in RE2's words."""


def compile_one(pattern: str) -> Any:
    """Compile one expression; the result has RE2's ``search``.

    Raises:
        BadExpression: It is malformed, too large, or matches the empty text, and so every text.
    """
    if r"\Q" in pattern:
        # A quotation that is not ended would go on into the next expression of a list.
        raise BadExpression(r"quotations with \Q are not supported: escape each character")
    compiled = _compiled(pattern, ONE_BYTES)
    if compiled.search(""):
        raise BadExpression("it matches the empty text, and so every text")
    return compiled


def compile_all(patterns: Iterable[str]) -> Any:
    """Compile expressions that are fine one by one into one that matches what any of them does.

    Raises:
        BadExpression: They are too large together.
    """
    return _compiled("|".join(f"(?:{pattern})" for pattern in patterns), ALL_BYTES)


def _compiled(pattern: str, max_bytes: int) -> Any:
    options = re2.Options()
    options.max_mem = max_bytes
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise BadExpression(error.args[0].decode(errors="replace")) from None
    except UnicodeEncodeError:
        raise BadExpression("it holds half of a character, a lone surrogate") from None
