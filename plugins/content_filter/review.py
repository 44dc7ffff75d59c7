"""The automated review: each text of a flagged exchange by itself, and stricter than the filter on what passes for harmless."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plugins.content_filter.classifier import SEVERITY_HEADS, Classifier, Scores, Source
from plugins.content_filter.pieces import LARGE_PIECE, pieces
from sluicegate.abuse import FlaggedContent, ReviewVerdict

_SURE, _HARMLESS = 6, 0.5
"""From which severity a harm is certain; and below which share of a head's threshold there is nothing to see."""
_ATTACKS = ("jailbreak", "indirect_attack")
_MOST = 64
"""Texts that are read; a longer conversation is not judged by its beginning."""


async def reviewed(flagged: FlaggedContent, classifier: Classifier) -> ReviewVerdict:
    """Return what all texts of an exchange come to.

    Only ``benign`` where every head is well below its threshold in every text, which the filter, that saw them in windows, did not
    find; only a ``violation`` where a harm is of the highest severity.
    """
    texts = [(piece, source) for text, source in _texts(flagged.record) for piece in pieces(text, LARGE_PIECE)]
    if not texts or len(texts) > _MOST:
        return ReviewVerdict("unsure")
    found = [(await classifier.classify_all([text], source))[0] for text, source in texts]
    severe = [(scores[head].score, head) for scores in found for head in SEVERITY_HEADS if _is_sure(scores, head)]
    if severe:
        score, head = max(severe)
        return ReviewVerdict("violation", head, score)
    limits = classifier.calibration.thresholds
    nearest = max(scores[head].score / limits[head] for scores in found for head in (*SEVERITY_HEADS, *_ATTACKS))
    if nearest < _HARMLESS:
        return ReviewVerdict("benign", confidence=round(1 - nearest, 3))
    return ReviewVerdict("unsure")


def _is_sure(scores: Scores, head: str) -> bool:
    return (scores[head].severity or 0) >= _SURE


def _texts(record: Mapping[str, Any]) -> Iterator[tuple[str, Source]]:
    """Yield the texts of a retained exchange: what was asked, what was answered, and what was withheld of that."""
    for text in _strings(record.get("request")):
        yield text, "prompt"
    for answer in record.get("answers") or ():
        for name in ("text", "refusal", "withheld"):
            if answer.get(name):
                yield answer[name], "completion"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in ("role", "type", "model", "id", "tool_call_id"):
                yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
