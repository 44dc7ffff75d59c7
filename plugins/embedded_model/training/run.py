"""Train step by step, from wherever an earlier process stopped, until the time is up or all epochs are over.

What comes next follows from the seed and the number of steps taken alone: the order of examples is drawn anew for each
epoch from both. So a job that is stopped and goes on ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from plugins.embedded_model.training.adapter import Adam, Adapter
from plugins.embedded_model.training.methods import Measured, Method

T = TypeVar("T")

RATES = {"supervised": 2e-3, "dpo": 5e-4}
"""What a learning rate multiplier of 1 stands for, with two examples in a step."""
WARM_UP = 5
"""Steps over which the learning rate rises; from then on it falls in a line to nothing."""
VALIDATE_EVERY = 5
"""Steps between two batches of the validation file."""
VALIDATION_TOKENS = 32_768
"""What is read of the validation file at the end of an epoch; of a longer one its first examples."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a job trains, without any ``auto``."""

    epochs: int
    batch: int
    multiplier: float
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """What a step measured; see ``sluicegate.training.Metrics``."""

    step: int
    train: Measured
    valid: Measured | None = None
    full: Measured | None = None

    @property
    def values(self) -> dict[str, Any]:
        """Return it under the names of ``Metrics``."""
        found: dict[str, Any] = {"step": self.step}
        for prefix, measured in (("train", self.train), ("valid", self.valid), ("full_valid", self.full)):
            if measured:
                found[f"{prefix}_loss"] = measured.loss / measured.number
                found[f"{prefix}_mean_token_accuracy"] = measured.correct / measured.number
        return found


class Run(Generic[T]):
    """A job's training.

    Args:
        rate: Of the method, see ``RATES``.

    Attributes:
        step: Steps taken, over all processes.
        tokens: Tokens trained on, likewise.
    """

    def __init__(
        self,
        method: Method[T],
        adapter: Adapter,
        plan: Plan,
        rate: float,
        training: Sequence[T],
        validation: Sequence[T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._method = method
        self._adapter = adapter
        self._plan = plan
        self._rate = rate * plan.multiplier * math.sqrt(plan.batch / 2)
        self._training = training
        self._validation = _first(validation, method)
        self._clock = clock
        self.optimiser = Adam(adapter)
        self.step = 0
        self.tokens = 0

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(len(self._training) / self._plan.batch)

    @property
    def steps(self) -> int:
        """How many there are in all."""
        return self._plan.epochs * self.steps_an_epoch

    @property
    def tokens_of_all(self) -> int:
        """How many tokens the training file has."""
        return self._method.tokens(self._training)

    @property
    def is_over(self) -> bool:
        return self.step >= self.steps

    def rows(self, seconds: float) -> Iterator[Row]:
        """Take steps while the next one can be expected to end in time, at least one; yield what each measured."""
        begun, longest = self._clock(), 0.0
        while not self.is_over:
            started = self._clock()
            yield self._one()
            now = self._clock()
            longest = max(longest, now - started)
            if now - begun + 1.5 * longest > seconds:
                return

    def state(self) -> bytes:
        """Return the numbers that the next process goes on from."""
        return b"".join(part.tobytes() for part in self._parts())

    def resume(self, state: bytes, step: int, tokens: int) -> None:
        """Go on from what an earlier process returned.

        Raises:
            ValueError: It is not of this model.
        """
        numbers = np.frombuffer(state, self._adapter.flat.dtype)
        for part, found in zip(self._parts(), numbers.reshape(3, -1), strict=True):
            part[:] = found
        self.step = self.optimiser.count = step
        self.tokens = tokens

    def _parts(self) -> tuple[Any, Any, Any]:
        return self._adapter.flat, self.optimiser.mean, self.optimiser.square

    def _one(self) -> Row:
        batch = self._batch(self._training, self.step, self._plan.batch)
        trained = self._method.learn(batch)
        progress = min(1.0, (self.step + 1) / WARM_UP) * (1 - self.step / self.steps)
        self.optimiser.step(self._rate * progress)
        self.tokens += self._method.tokens(batch)
        self.step += 1
        if not self._validation:
            return Row(self.step, trained)
        if self.step % self.steps_an_epoch == 0:
            size = self._plan.batch
            parts = [self._validation[at : at + size] for at in range(0, len(self._validation), size)]
            measured = [self._method.measure(part) for part in parts]
            full = measured[0]
            for one in measured[1:]:
                full = full.plus(one)
            return Row(self.step, trained, measured[self.step % len(measured)], full)
        if self.step % VALIDATE_EVERY == 1:
            batch = self._batch(self._validation, self.step // VALIDATE_EVERY, self._plan.batch)
            return Row(self.step, trained, self._method.measure(batch))
        return Row(self.step, trained)

    def _batch(self, examples: Sequence[T], number: int, size: int) -> list[T]:
        """Return the batch of a number, in the order that its epoch has."""
        size = min(size, len(examples))
        epoch, place = divmod(number, math.ceil(len(examples) / size))
        order = np.random.default_rng([self._plan.seed % 2**32, epoch]).permutation(len(examples))
        return [examples[index] for index in order[place * size : (place + 1) * size]]


def _first(examples: Sequence[T], method: Method[T]) -> list[T]:
    """Return the examples at the beginning that are at most ``VALIDATION_TOKENS`` long together, at least one."""
    found: list[T] = []
    left = VALIDATION_TOKENS
    for one in examples:
        left -= method.tokens([one])
        if left < 0 and found:
            break
        found.append(one)
    return found
