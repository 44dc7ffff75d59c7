"""What the app asks of its training process."""

from __future__ import annotations

from dataclasses import dataclass

MOST_BATCH = 8
"""Examples in a step; more would take longer than a step of a job may."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is to do.

    Attributes:
        weights: The base model's file.
        method: ``supervised`` or ``dpo``.
        epochs, batch, multiplier, beta: None is ``auto``.
        longest: Tokens of an example.
        most: Tokens of all examples.
        seconds: For this step.
        step, tokens: Where an earlier process stopped.
        is_pausing: Stop after the first step, with a checkpoint.
    """

    weights: str
    method: str
    epochs: int | None
    batch: int | None
    multiplier: float | None
    beta: float | None
    seed: int
    longest: int
    most: int
    seconds: float
    step: int
    tokens: int
    is_pausing: bool
