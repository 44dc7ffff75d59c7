"""Very long texts, piece by piece, so that neither memory nor the event loop feels their length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plugins.content_filter.classifier import HEADS, SEVERITY_HEADS, Scores

PIECE, OVERLAP = 200_000, 600
"""Characters of a request that are read in one go; a thread that normalises more would keep the event loop waiting."""
LARGE_PIECE = 2_000_000
"""Likewise where nobody waits: fewer pieces take less time, and one takes about 130 bytes a character."""


def pieces(text: str, most: int = PIECE) -> Iterator[str]:
    """Yield overlapping parts of at most ``most`` characters; the text itself, however short, when it is no longer."""
    for start in range(0, max(1, len(text) - OVERLAP), most - OVERLAP):
        yield text[start : start + most]


def worst(found: Iterable[Scores]) -> Scores:
    """Return the scores of a text from those of its pieces, at least one: of each head the highest."""
    every = list(found)
    return Scores(
        **{head: max(each[head].score for each in every) for head in HEADS},
        severity={head: max(each.severity[head] for each in every) for head in SEVERITY_HEADS},
        flagged=frozenset().union(*(each.flagged for each in every)),
    )
