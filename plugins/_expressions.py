"""Find regular expressions in text, whole or streamed.

An expression is matched as written, case included, in a text as it stands and as JSON's readers read it. In a stream, text is
searched in overlapping windows at fixed places, so the result does not depend on how it was cut: a match of at most
:data:`HELD` characters is found before any of it is sent; of a longer one, what is more than that may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from plugins._escapes import unescaped
from sluicegate import FilterResults
from sluicegate.expressions import compile_all
from sluicegate.streams import StopAt

HELD = 256
"""Characters that are held back."""
STEP = 32
"""Characters from one window's end to the next."""


class Expressions:
    """Expressions of one list, compiled into one for RE2; each is valid by itself."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._any = compile_all(patterns)

    def first(self, text: str, start: int, end: int) -> int | None:
        """Return where the first match between two places of a text begins; what is around them is seen by anchors."""
        match = self._any.search(_whole_characters(text), start, end)
        return None if match is None else int(match.start())

    def matches(self, text: str) -> bool:
        """Return whether a whole text has a match, read as it stands or as JSON's readers read it."""
        variants = {text, unescaped(text)} if "\\" in text else {text}
        return any(self.first(variant, 0, len(variant)) is not None for variant in variants)


class ExpressionScan:
    """Stops a channel at its first match.

    Args:
        results: Makes the verdicts of the stop.
    """

    def __init__(self, expressions: Expressions, results: Callable[[], FilterResults]) -> None:
        self._expressions = expressions
        self._results = results
        self._text = ""  # what windows still need, and the character before it
        self._base = 0  # where that begins in the channel
        self._end = STEP  # of the next window
        self._allowed = 0

    def feed(self, text: str, final: bool) -> int:
        self._text += text
        received = self._base + len(self._text)
        # The character after a window tells whether a word, or the text, ends there.
        while received > self._end:
            self._search(self._end)
            self._allowed = max(0, self._end - HELD)
            self._end += STEP
        if final:
            self._search(received)
            self._allowed = received
        gone = max(0, self._end - STEP - HELD - 1 - self._base)
        self._text, self._base = self._text[gone:], self._base + gone
        return self._allowed

    def _search(self, end: int) -> None:
        begin = max(0, self._end - STEP - HELD)
        start, stop = begin - self._base, end - self._base
        before = min(start, 1)
        context = self._text[start - before : stop + 1]
        found = self._expressions.first(context, before, before + stop - start)
        if found is not None:
            raise StopAt(max(self._allowed, begin + found - before), self._results())
        if "\\" in context:
            read = unescaped(context)
            after = len(context) - before - (stop - start)
            if self._expressions.first(read, before, len(read) - after) is not None:
                raise StopAt(max(self._allowed, begin), self._results())


def _whole_characters(text: str) -> str:
    """Return a text in which no surrogate stands alone, of the same length."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text
