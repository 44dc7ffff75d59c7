"""The first stage: a linear model over hashed word and character n-grams, in well under a millisecond a text.

The features are words, pairs of neighbouring words, and 3 to 5 characters within a word and the spaces around it. Each is
hashed to a row of one table; a text's score per head is the sum of its rows over the square root of their count. Hashes of
all spans come from one pass: with H the prefix sums of ``char * P**position``, the hash of a span is the difference of
two prefix sums, times ``P**-start``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 1400
"""Characters that are hashed at once; callers cut longer texts into segments."""

_P = 0x9E3779B97F4A7C15
_P_INVERSE = pow(_P, -1, 1 << 64)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_PAIR = np.uint64(0xA0761D6478BD642F)
_SALTS = np.array([0x8BB84B93962EACC9, 0x2D358DCCAA6C78A5, 0x589965CC75374CC3, 0x1D8E4E27C47D124F], np.uint64)


def _powers(base: int) -> NDArray[np.uint64]:
    found = [1]
    for _ in range(LONGEST + 8):
        found.append(found[-1] * base % (1 << 64))
    return np.array(found, np.uint64)


_POWERS, _INVERSE_POWERS = _powers(_P), _powers(_P_INVERSE)
_IS_WORD = np.ones(0x3000, np.bool_)
_IS_WORD[:0x80] = [chr(code).isalnum() for code in range(0x80)]
_IS_WORD[0x2000:0x2070] = False


def features(text: str, bits: int) -> NDArray[np.int64]:
    """Return the distinct table rows, of ``2**bits``, that a normalised text touches; at most ``LONGEST`` characters count."""
    codes = np.frombuffer(f" {text[:LONGEST]} ".encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    prefix = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * _POWERS[: len(codes)], out=prefix[1:])
    hashes = np.concatenate(_within_words(codes, prefix) + _words(codes, prefix))
    hashes ^= hashes >> np.uint64(29)
    rows = np.sort(((hashes * _MIX) >> np.uint64(64 - bits)).astype(np.uint32))
    return np.asarray(rows[np.diff(rows, prepend=rows[:1] + np.uint32(1)) != 0], np.int64)


def _within_words(codes: NDArray[np.uint64], prefix: NDArray[np.uint64]) -> list[NDArray[np.uint64]]:
    inside = codes != 32
    found = []
    joined = np.ones(len(codes), np.bool_)
    for order, length in enumerate((3, 4, 5)):
        count = max(0, len(codes) - length + 1)
        # A span may begin or end with a space, but not hold one in between.
        joined = inside[1 : count + 1] if order == 0 else joined[:count] & inside[length - 2 : length - 2 + count]
        hashes = (prefix[length : length + count] - prefix[:count]) * _INVERSE_POWERS[:count] ^ _SALTS[order]
        found.append(hashes[joined])
    return found


def _words(codes: NDArray[np.uint64], prefix: NDArray[np.uint64]) -> list[NDArray[np.uint64]]:
    inside = _IS_WORD[np.minimum(codes, np.uint64(0x2FFF)).astype(np.int64)]
    edges = np.flatnonzero(np.diff(inside.astype(np.int8))) + 1
    starts, ends = edges[::2], edges[1::2]
    words = (prefix[ends] - prefix[starts]) * _INVERSE_POWERS[starts] ^ _SALTS[3]
    return [words, words[:-1] * _PAIR + words[1:]]


class Linear:
    """The trained table.

    Args:
        weights: ``table`` int8 of shape (2**bits, heads), ``scale`` and ``bias`` float32 per head.
    """

    def __init__(self, weights: Any) -> None:
        self._table: NDArray[np.int8] = weights["table"]
        self._scale: NDArray[np.float32] = weights["scale"]
        self._bias: NDArray[np.float32] = weights["bias"]
        self._bits = len(self._table).bit_length() - 1

    def logits(self, text: str) -> NDArray[np.float32]:
        """Return the logit per head of one normalised text."""
        rows = features(text, self._bits)
        if not len(rows):
            return self._bias
        total = self._table[rows].sum(0, dtype=np.int32) * self._scale / np.float32(len(rows)) ** np.float32(0.5)
        return np.asarray(total + self._bias, np.float32)
