"""Scores and severities for a text: the linear stage on all of it, the encoder on what the linear stage is not sure about.

A text is normalised and cut into overlapping segments; the linear stage reads each. Segments where any head comes near its
threshold are cut into windows of tokens for the encoder's lower half, and windows still near one go through the upper half.
So a harmless text costs a fraction of a millisecond, and however long a text is, at most ``MOST_WINDOWS`` windows are
encoded: those of the segments that the linear stage finds riskiest.

How to call it::

    classifier = Classifier.load()                                   # once a process: half a second, 90 MB
    scores = await classifier.classify_all(texts, "prompt")          # in an event loop: one ``Scores`` a text, in order
    scores = classifier.classify(window, "completion")               # anywhere else; blocks for its milliseconds
    scores["hate"]                                                   # Head(score=0.93, severity=6, detected=True)

A classifier keeps nothing between calls and may be called from several threads. For a stream, call it with the newest few
hundred characters again and again: the cost follows the text that is passed, and nothing is remembered of it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plugins.content_filter.encoder import Encoder
from plugins.content_filter.linear import Linear
from plugins.content_filter.normalise import normalise
from plugins.content_filter.wordpiece import WordPiece

Source = Literal["prompt", "completion", "document"]
Severity = Literal[0, 2, 4, 6]
Floats = NDArray[np.float32]

HEADS = ("harm", "hate", "harassment", "sexual", "violence", "self_harm", "jailbreak", "indirect_attack")
SEVERITY_HEADS = ("hate", "sexual", "violence", "self_harm")
SEGMENT, SEGMENT_STRIDE = 560, 440
"""Characters; no longer, because one bad sentence among many harmless ones would not show in the linear stage."""
WINDOW, WINDOW_STRIDE = 128, 96
"""Tokens; most segments are one window."""
MOST_WINDOWS = 48
_ATTACKS = np.array([head in {"jailbreak", "indirect_attack"} for head in HEADS])
WEIGHTS = Path(__file__).with_name("weights")


class Head(NamedTuple):
    """What one head says of a text.

    Attributes:
        score: A calibrated probability, 0 to 1.
        severity: 0, 2, 4 or 6; None for the heads that have no levels.
        detected: Whether ``score`` reaches the shipped threshold, which for a head with levels is where 4 begins.
    """

    score: float
    severity: Severity | None
    detected: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """Calibrated probabilities, 0 to 1, and what follows from them.

    Attributes:
        harm: Of any kind; the broadest head, and not the largest of the others.
        severity: 0, 2, 4 or 6 for hate, sexual, violence and self_harm.
        flagged: The heads above their shipped thresholds.
    """

    hate: float
    sexual: float
    violence: float
    self_harm: float
    jailbreak: float
    indirect_attack: float
    harm: float
    harassment: float
    severity: dict[str, Severity]
    flagged: frozenset[str]

    def __getitem__(self, head: str) -> Head:
        """Return what the head of that name, one of ``HEADS``, says."""
        return Head(getattr(self, head), self.severity.get(head), head in self.flagged)


class Calibration:
    """What ``training/content_filter/calibrate.py`` fitted: how stages blend, where they stop, thresholds and cut-points."""

    def __init__(self, path: Path) -> None:
        fitted = json.loads(path.read_text(encoding="utf-8"))
        self._blends = {
            stage: (np.array(blend["weights"], np.float32), np.array(blend["bias"], np.float32))
            for stage, blend in fitted["blends"].items()
        }
        self.thresholds: dict[str, float] = fitted["thresholds"]
        self._limits = _log_odds(np.array([self.thresholds[head] for head in HEADS], np.float32))
        self._gates: dict[str, float] = fitted["gates"]
        self.cuts: dict[str, list[float]] = fitted["severity"]

    def probability(self, stage: str, logits: Sequence[Floats]) -> Floats:
        """Return the probability per head, from the logits that a stage has so far."""
        weights, bias = self._blends[stage]
        blended = (np.stack(logits) * weights[: len(logits)]).sum(0) + bias
        return np.asarray(1 / (1 + np.exp(-blended)), np.float32)

    def risk(self, stage: str, scores: Floats, source: Source) -> float:
        """Return how near a piece is to being flagged, in log-odds; below 0 the stages after ``stage`` are spared."""
        near = _log_odds(scores) - self._limits
        return float(near.max() if source == "document" else near[:-1].max()) - self._gates[stage]

    def severity(self, head: str, score: float) -> Severity:
        """Return the level whose cut-point ``score`` reaches."""
        levels: tuple[Severity, ...] = (0, 2, 4, 6)
        return levels[sum(score >= cut for cut in self.cuts[head])]


class Classifier:
    """Both stages and their calibration. ``classify`` blocks for its milliseconds, ``classify_all`` does not."""

    def __init__(self, tokeniser: WordPiece, linear: Linear, encoder: Encoder, calibration: Calibration) -> None:
        self._tokeniser = tokeniser
        self._linear = linear
        self._encoder = encoder
        self.calibration = calibration
        # One core is the event loop's: with a thread for each, its lag doubles and nothing is read sooner.
        self._threads = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="classify")

    @classmethod
    def load(cls, folder: Path = WEIGHTS) -> Classifier:
        """Read the weights; takes about half a second and 90 MB."""
        vocabulary = (folder / "vocabulary.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
        with np.load(folder / "linear.npz") as weights:
            linear = Linear(weights)
        return cls(WordPiece(vocabulary), linear, Encoder(folder), Calibration(folder / "calibration.json"))

    def classify(self, text: str, source: Source = "prompt") -> Scores:
        """Return the scores of a text of any length.

        Args:
            source: Where the text comes from. Only a document is flagged as an indirect attack; mind that score for
                documents alone.
        """
        normalised = normalise(text, self._tokeniser.words)
        pieces = list(self._pieces(normalised, source)) or [np.zeros(len(HEADS), np.float32)]
        return self._scores(_whole(np.stack(pieces)), source)

    async def classify_all(self, texts: Sequence[str], source: Source = "prompt") -> list[Scores]:
        """Return the scores of each text, in their order, without blocking the event loop.

        Texts are read one by one on the classifier's own threads, so that a long list neither takes the loop's default
        threads nor holds up the texts of other requests.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(self._threads, self.classify, text, source) for text in texts)
        )

    def linear_only(self, text: str) -> Floats:
        """Return the linear stage's probabilities per head, the worst of all segments; for measuring what it costs."""
        normalised = normalise(text, self._tokeniser.words)
        found = [self.calibration.probability("linear", [self._linear.logits(part)]) for part in segments(normalised)]
        return np.asarray(np.max(found, axis=0), np.float32) if found else np.zeros(len(HEADS), np.float32)

    def tokens(self, text: str) -> int:
        """Return how many tokens the encoder would see."""
        return len(self._tokeniser.encode(normalise(text, self._tokeniser.words)))

    def _pieces(self, text: str, source: Source) -> Iterator[Floats]:
        """Yield the probabilities per head of each segment that is sure, and of each window of the others."""
        calibration = self.calibration
        read = [(segment, self._linear.logits(segment)) for segment in segments(text)]
        first = [calibration.probability("linear", [logits]) for _, logits in read]
        risk = [calibration.risk("linear", scores, source) for scores in first]
        budget = MOST_WINDOWS
        for place in sorted(range(len(read)), key=lambda place: -risk[place]):
            segment, logits = read[place]
            if risk[place] < 0 or budget == 0:
                yield first[place]
                continue
            for window in islice(windows(self._tokeniser.encode(segment)), budget):
                budget -= 1
                yield self._encoded(window, logits, source)

    def _encoded(self, window: Sequence[int], linear: Floats, source: Source) -> Floats:
        calibration = self.calibration
        halfway = self._encoder.lower([self._tokeniser.start, *window, self._tokeniser.end])
        scores = calibration.probability("early", [linear, halfway.logits])
        if calibration.risk("early", scores, source) < 0:
            return scores
        return calibration.probability("late", [linear, halfway.logits, self._encoder.upper(halfway)])

    def _scores(self, whole: Floats, source: Source) -> Scores:
        found = {head: round(float(score), 5) for head, score in zip(HEADS, whole, strict=True)}
        severity = {head: self.calibration.severity(head, found[head]) for head in SEVERITY_HEADS}
        heads = HEADS if source == "document" else HEADS[:-1]
        flagged = frozenset(head for head in heads if found[head] >= self.calibration.thresholds[head])
        return Scores(**found, severity=severity, flagged=flagged)


def segments(text: str) -> Iterator[str]:
    """Yield a normalised text in overlapping parts of at most ``SEGMENT`` characters that begin at a word."""
    start = 0
    while text:
        yield text[start : start + SEGMENT]
        if start + SEGMENT >= len(text):
            return
        start += SEGMENT_STRIDE
        start = text.find(" ", start, start + 64) + 1 or start


def windows(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield overlapping parts of at most ``WINDOW`` tokens."""
    start = 0
    while True:
        yield ids[start : start + WINDOW]
        if start + WINDOW >= len(ids):
            return
        start += WINDOW_STRIDE


def _log_odds(probability: Floats) -> Floats:
    bounded = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(bounded / (1 - bounded)), np.float32)


def _whole(pieces: Floats) -> Floats:
    """Return a text's scores: an attack is what its worst piece is; elsewhere the four worst pieces speak too.

    Only four, so that harm does not drown in a long harmless text.
    """
    worst = np.sort(pieces, axis=0)[::-1]
    return np.asarray(np.where(_ATTACKS, worst[0], (worst[0] + worst[:4].mean(0)) / 2), np.float32)
