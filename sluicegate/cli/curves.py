"""The learning curves of a fine-tuning job, from ``results.csv`` or from the metrics among its events."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Points: TypeAlias = Sequence[tuple[int, float]]
"""Steps, from 1, in order, with a value each."""
SMOOTH_FROM = 30
"""From how many steps on single batches hide the trend."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over the steps.

    Attributes:
        train: Of each step's batch.
        valid: Of a batch of the validation file.
        full_valid: Of the whole validation file, at the ends of epochs.
        ends: The axis, from the lower to the upper end.
    """

    title: str
    train: Points
    valid: Points
    full_valid: Points
    ends: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curves:
    """What a job measured.

    Attributes:
        steps: How many there are.
        epoch_ends: After which step each epoch ended, as far as it did.
        total: How many steps there will be, if that is known.
    """

    loss: Panel
    accuracy: Panel
    steps: int
    epoch_ends: tuple[int, ...]
    total: int | None = None


def read_results(content: bytes) -> list[Mapping[str, Any]]:
    """Return the rows of a ``results.csv``."""
    return list(csv.DictReader(content.decode("utf-8-sig", "replace").splitlines()))


def curves(rows: Iterable[Mapping[str, Any]], epochs: int | None = None) -> Curves | None:
    """Return the curves of rows or of metrics events; None when there is nothing to draw.

    Args:
        epochs: How many the job has; where there is no validation file, their ends follow from it once all is known.
    """
    by_step = {int(step): row for row in rows if (step := _number(row, "step")) is not None and step >= 1}
    found = dict(sorted(by_step.items()))
    if not found:
        return None

    def points(*names: str) -> Points:
        values = ((step, _number(row, *names)) for step, row in found.items())
        return [(step, value) for step, value in values if value is not None]

    losses = points("train_loss"), points("valid_loss"), points("full_valid_loss")
    accuracies = (
        points("train_mean_token_accuracy"),
        points("valid_mean_token_accuracy", "validation_mean_token_accuracy"),
        points("full_valid_mean_token_accuracy"),
    )
    steps = max(found)
    total = _number(found[steps], "total_steps")
    top = max((value for series in losses for _, value in series), default=1.0)
    bottom = min((value for series in accuracies for _, value in series), default=0.0)
    return Curves(
        Panel("loss", *losses, ends=(0.0, ticks(0.0, top)[-1])),
        Panel("token accuracy", *accuracies, ends=(math.floor(bottom * 5) / 5 if bottom < 1 else 0.8, 1.0)),
        steps,
        tuple(step for step, _ in losses[2] or accuracies[2]) or _even_ends(steps, int(total or steps), epochs),
        None if total is None else int(total),
    )


def running_mean(points: Points, over: int = 9) -> Points:
    """Return the trend of a noisy curve: at each step the mean of those around it, fewer at the ends."""
    half = over // 2
    smooth = []
    for place, (step, _) in enumerate(points):
        reach = min(half, place, len(points) - 1 - place)
        window = [value for _, value in points[place - reach : place + reach + 1]]
        smooth.append((step, sum(window) / len(window)))
    return smooth


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from ``low`` or a little less to ``high`` or a little more, about as many as wanted."""
    high = high if high > low else low + 1
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(begin, end + 1)]


def step_ticks(last: int, about: int) -> list[int]:
    """Return round steps from 1 to ``last``, about as many as wanted."""
    return sorted({max(int(tick), 1) for tick in ticks(0, last, about) if tick == int(tick) and tick <= last})


def _even_ends(steps: int, total: int, epochs: int | None) -> tuple[int, ...]:
    if not epochs or total % epochs:
        return ()
    return tuple(range(total // epochs, steps + 1, total // epochs))


def _number(row: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        try:
            number = float(row[name])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(number):
            return number
    return None
