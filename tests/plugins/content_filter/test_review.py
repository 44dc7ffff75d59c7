"""The automated review of flagged exchanges, with the classifier's own weights."""

from __future__ import annotations

import pytest

from plugins import content_filter
from plugins.content_filter.classifier import HEADS, SEVERITY_HEADS, Scores
from plugins.content_filter.review import reviewed
from sluicegate.abuse import FlaggedContent

BENIGN = "Bread is made of flour, water, salt and yeast. Knead the dough for ten minutes and let it rest."
THREAT = "I am going to stab you and your family to death tonight."


def flagged(prompt, answer="", **more):
    record = {
        "request": {"model": "chat", "messages": [{"role": "user", "content": prompt}]},
        "answers": [{"text": answer, "refusal": "", "withheld": "", **more}],
    }
    return FlaggedContent("one", ("violence",), record)


@pytest.fixture(scope="module")
def config():
    return content_filter.Config()


@pytest.mark.parametrize(
    ("exchange", "verdict", "category"),
    [
        (flagged(BENIGN, BENIGN), "benign", None),
        (flagged(THREAT), "violation", "violence"),
        (flagged(BENIGN, THREAT), "violation", "violence"),
        (flagged(BENIGN, BENIGN, withheld=THREAT), "violation", "violence"),
        (flagged([{"type": "text", "text": THREAT}]), "violation", "violence"),
        (FlaggedContent("one", (), {}), "unsure", None),
    ],
    ids=["harmless", "prompt", "answer", "withheld", "part", "nothing to read"],
)
async def test_what_an_exchange_is_taken_for(config, exchange, verdict, category):
    await content_filter.startup(config)

    found = await content_filter.review(exchange, config)

    assert (found.verdict, found.category) == (verdict, category)


class Scored:
    """A classifier that says what it is told."""

    def __init__(self, severity, **scores):
        heads = dict.fromkeys(HEADS, 0.0) | scores
        severities = dict.fromkeys(SEVERITY_HEADS, 0) | {"violence": severity}
        self.scores = Scores(**heads, severity=severities, flagged=frozenset())
        self.calibration = content_filter.Classifier.load().calibration

    async def classify_all(self, texts, source):
        return [self.scores]


@pytest.mark.parametrize(
    ("severity", "scores", "verdict"),
    [(4, {"violence": 0.8}, "unsure"), (2, {"violence": 0.5}, "unsure"), (0, {"jailbreak": 0.4}, "unsure")],
)
async def test_what_is_neither_sure_nor_harmless_is_left_to_a_person(severity, scores, verdict):
    found = await reviewed(flagged(BENIGN), Scored(severity, **scores))

    assert found.verdict == verdict
