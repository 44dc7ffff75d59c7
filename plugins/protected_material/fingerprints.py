"""Winnowing: few fingerprints of a long work, by which any quotation that is long enough is recognised.

Of the hashes of all runs of ``noise`` tokens, the least of every ``guarantee - noise + 1`` neighbours is a fingerprint. So
whatever shares ``guarantee`` tokens in a row with the work shares a fingerprint, nothing that shares fewer than ``noise``
does, and about one run in ``(guarantee - noise + 2) / 2`` is kept.

Source: S. Schleimer, D. S. Wilkerson, A. Aiken, *Winnowing: Local Algorithms for Document Fingerprinting*, SIGMOD 2003.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Of one kind of work, in tokens.

    Attributes:
        noise: Nothing shorter is ever reported.
        guarantee: Everything shared that is as long is reported.
        link: Runs of this length say whether a stream may still be in a quotation.
    """

    noise: int
    guarantee: int
    link: int


def run_hash(tokens: Iterable[int]) -> int:
    """Return the hash of a run of tokens."""
    value = 0
    for token in tokens:
        value = (value * _BASE + token) & _MASK
    return value


def run_hashes(tokens: Sequence[int], length: int) -> Hashes:
    """Return the hash of each run of ``length`` tokens, as :func:`run_hash` has it."""
    array = np.array(tokens, dtype=np.uint64)
    count = max(0, len(array) - length + 1)
    values = np.zeros(count, dtype=np.uint64)
    for offset in range(length if count else 0):
        values = values * np.uint64(_BASE) + array[offset : offset + count]
    return values


def winnow(tokens: Sequence[int], thresholds: Thresholds) -> Hashes:
    """Return the fingerprints of a work, each once; none of a work shorter than ``noise``."""
    runs = run_hashes(tokens, thresholds.noise)
    if not len(runs):
        return runs
    width = min(len(runs), thresholds.guarantee - thresholds.noise + 1)
    return np.unique(np.lib.stride_tricks.sliding_window_view(runs, width).min(axis=1))
