"""The classifier after the model: read an answer in windows, and each window also sentence by sentence.

One harmful sentence among harmless ones makes a window look harmless, so sentences are read by themselves too. There are
many of them, and each is a chance of a false alarm: what a sentence shows by itself counts one level less than what its
window shows. For the same reason hate and sexual content count as medium only from a higher score on than in a prompt, which is
read once.
``docs/content-filtering.md`` has what that finds and costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from plugins.content_filter.classifier import SEVERITY_HEADS, Classifier, Scores
from sluicegate import FilterResults, Policy, Source
from sluicegate.vetting import Detector, Windows

WINDOWS = Windows(overlap=128, first=64, largest=256)
LEAST, MOST, AGAIN = 24, 240, 96
"""Characters: of what is read as a sentence, unless the window ends before, and of a long one that is read twice."""
_END = re.compile(r"(?<=[.!?])\s+|\n+")
_LEVEL = 2
_SURE = {"hate": 0.5, "sexual": 0.45}
"""What a window or a sentence scores at least to count as more than low."""


def detector(classifier: Classifier, policy: Policy) -> Detector | None:
    """Return what reads a window by a policy; None where the policy looks for nothing that the classifier finds."""
    categories = [category for category in SEVERITY_HEADS if policy.is_on(category, Source.COMPLETION)]

    async def detect(text: str) -> FilterResults:
        found = levels(await classifier.classify_all([text, *sentences(text)], "completion"))
        verdicts = (policy.judge(each, Source.COMPLETION, severity=found[each]) for each in categories)
        return {verdict.category: verdict.result for verdict in verdicts if verdict}

    return detect if categories else None


def sentences(text: str) -> Iterator[str]:
    """Yield a window's sentences; short ones together with the next, long ones in parts. None where there is only one."""
    sentence = ""
    for part in _END.split(text):
        sentence += (" " if sentence else "") + part
        while len(sentence) > MOST:
            yield sentence[:MOST]
            sentence = sentence[MOST - AGAIN :]
        if len(sentence) >= LEAST:
            if len(sentence) < len(text):
                yield sentence
            sentence = ""
    if sentence and len(sentence) < len(text):
        yield sentence


def levels(scores: Sequence[Scores]) -> dict[str, int]:
    """Return the severity of each category, from the scores of a window and of its sentences."""
    whole, *parts = scores
    return {
        category: max(_severity(whole, category), *(_severity(part, category) - _LEVEL for part in parts), 0)
        for category in SEVERITY_HEADS
    }


def _severity(scores: Scores, category: str) -> int:
    head = scores[category]
    severity = head.severity or 0
    return severity if head.score >= _SURE.get(category, 0.0) else min(severity, _LEVEL)
