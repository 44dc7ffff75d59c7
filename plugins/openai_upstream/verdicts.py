"""An upstream's filter verdicts, as far as they are passed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluicegate import FilterOffsets, FilterResults

VERDICT_FIELDS = frozenset(
    {"filtered", "detected", "severity", "details", "citation", "sub_categories", "code", "message"}
)
"""What is passed on of a verdict; ``redacted_text`` is not, as it repeats the answer and no filter has seen it there."""


def verdicts(results: Any) -> FilterResults:
    """Return an upstream's verdicts by category; a list, as one old form of blocklist results is, becomes an object."""
    if not results:
        return {}
    # Nearly all verdicts hold known fields only; this runs for every chunk.
    return {
        category: verdict if isinstance(verdict, dict) and verdict.keys() <= VERDICT_FIELDS else _known(verdict)
        for category, verdict in results.items()
    }


def offsets(given: Any) -> FilterOffsets | None:
    """Return which part of the answer an upstream's asynchronous verdicts are about; None where it does not say."""
    if not given:
        return None
    places = [given["check_offset"], given["start_offset"], given["end_offset"]]
    if not all(isinstance(place, int) for place in places):
        raise TypeError("offsets")
    return FilterOffsets(*places)


def _known(verdict: Any) -> Mapping[str, Any]:
    if isinstance(verdict, list):
        return {"filtered": any(item.get("filtered") for item in verdict), "details": verdict}
    if not isinstance(verdict, dict):
        return {}
    return {name: value for name, value in verdict.items() if name in VERDICT_FIELDS}
