"""Ranking and decision metrics, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def average_precision(labels: Flags, scores: Floats) -> float:
    """Return the area under the precision-recall curve as average precision; ties count as one step."""
    hits, ends = _steps(labels, scores)
    precision = hits / (ends + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / max(1, labels.sum()))


def roc_area(labels: Flags, scores: Floats) -> float:
    """Return the probability that a positive outranks a negative."""
    ranks = _ranks(scores)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def recall_at(labels: Flags, scores: Floats, false_positive_rate: float) -> float:
    """Return the share of positives above the score that this share of negatives exceeds."""
    negatives = np.sort(scores[~labels])
    if not len(negatives) or not labels.any():
        return float("nan")
    allowed = int(false_positive_rate * len(negatives))
    return float((scores[labels] > negatives[len(negatives) - 1 - allowed]).mean())


def f1(labels: Flags, flagged: Flags) -> float:
    """Return the harmonic mean of precision and recall."""
    return float(2 * (labels & flagged).sum() / max(1, labels.sum() + flagged.sum()))


def false_positive_rate(labels: Flags, flagged: Flags) -> float:
    """Return the share of negatives that are flagged."""
    return float(flagged[~labels].mean()) if (~labels).any() else float("nan")


def recall(labels: Flags, flagged: Flags) -> float:
    """Return the share of positives that are flagged."""
    return float(flagged[labels].mean()) if labels.any() else float("nan")


def spearman(first: Floats, second: Floats) -> float:
    """Return the rank correlation, ties sharing their mean rank."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _steps(labels: Flags, scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return np.cumsum(labels[order])[ends], ends


def _ranks(values: Floats) -> Floats:
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64) if len(distinct) else np.zeros(0)
