"""Cut text and code into tokens that survive a change of case, spacing, punctuation or accents.

Text: words without case, accents, apostrophes and invisible characters; an ideograph is a word. Code: names and numbers as they are,
and every other visible character by itself. White space never counts, and in text no punctuation does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b

import regex

LONGEST = 64
"""A longer token is cut."""
GAP = 256
"""After how many characters without a token a stream is told so."""


class Kind(StrEnum):
    """What a work consists of."""

    TEXT = "text"
    CODE = "code"


_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_FORMS = {
    Kind.TEXT: rf"(?P<token>[{_UNSPACED}]|[[\p{{L}}\p{{N}}]--[{_UNSPACED}]][[\p{{L}}\p{{N}}\p{{M}}\p{{Cf}}'\u2019\u02bc]--[{_UNSPACED}]]{{0,{LONGEST}}}+)|[^\p{{L}}\p{{N}}]{{1,{GAP}}}+",
    Kind.CODE: rf"(?P<token>\w{{1,{LONGEST}}}+|[^\w\s\p{{Cf}}])|[\s\p{{Cf}}]{{1,{GAP}}}+",
}
_PATTERNS = {kind: regex.compile(form, regex.V1) for kind, form in _FORMS.items()}
_FORMS_IN_ASCII = {
    Kind.TEXT: rf"(?P<token>[A-Za-z0-9][A-Za-z0-9']{{0,{LONGEST}}})|[^A-Za-z0-9]{{1,{GAP}}}",
    Kind.CODE: rf"(?P<token>\w{{1,{LONGEST}}}|[^\w\s])|\s{{1,{GAP}}}",
}
_PATTERNS_IN_ASCII = {kind: re.compile(form) for kind, form in _FORMS_IN_ASCII.items()}
"""The same for text in ASCII, several times as fast."""
_DROPPED = regex.compile(r"[\p{M}\p{Cf}'\u2019\u02bc]")


@dataclass(frozen=True, slots=True)
class Token:
    """A token, or a stretch without one.

    Attributes:
        hash: 64 bits; None for a stretch of :data:`GAP` characters without a token.
        start: Where it begins in the text.
        end: Exclusive.
    """

    hash: int | None
    start: int
    end: int


def tokens(text: str, kind: Kind, start: int = 0, *, final: bool = True) -> Iterator[Token]:
    """Yield what is complete, from ``start`` on.

    Args:
        final: The text ends here; otherwise what touches its end may go on and is not yielded.
    """
    patterns = _PATTERNS_IN_ASCII if text.isascii() else _PATTERNS
    for match in patterns[kind].finditer(text, start):
        first, last = match.span()
        token = match["token"]
        if token is None:
            if last - first == GAP:
                yield Token(None, first, last)
        elif final or last < len(text):
            yield Token(_hash(token if kind is Kind.CODE else _folded(token)), first, last)


@lru_cache(16_384)
def _hash(token: str) -> int:
    return int.from_bytes(blake2b(token.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


@lru_cache(16_384)
def _folded(word: str) -> str:
    return str(_DROPPED.sub("", unicodedata.normalize("NFKD", word).casefold()))
