"""BERT's WordPiece tokeniser, for text that :mod:`normalise` has already put in lower case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

# Letters and digits, or one character of anything else; Han characters stand alone, as in BERT's basic tokeniser.
_WORD = re.compile(r"[^\W_\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+|[^\s]")
_MAX_WORD = 100


class WordPiece:
    """Turns text into token ids.

    Args:
        vocabulary: The tokens; a token's id is its position.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {token: position for position, token in enumerate(vocabulary)}
        self.pad, self.unknown, self.start, self.end = (self._ids[f"[{name}]"] for name in ("PAD", "UNK", "CLS", "SEP"))
        self.words = frozenset(token for token in vocabulary if token.isalpha())
        self._pieces = lru_cache(16384)(self._split)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, without start and end marks."""
        ids: list[int] = []
        for word in _WORD.findall(text):
            ids += self._pieces(word) if len(word) <= _MAX_WORD else (self.unknown,)
        return ids

    def _split(self, word: str) -> tuple[int, ...]:
        pieces: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            for end in range(len(word), start, -1):
                piece = self._ids.get(mark + word[start:end])
                if piece is not None:
                    break
            else:
                return (self.unknown,)
            pieces.append(piece)
            start = end
        return tuple(pieces)
