"""What is learnt from a batch: an answer's own words, or one answer rather than another.

Both methods give the loss in nats, and add its gradient to the adapter's. A batch goes through the model in parts, so that
memory does not follow its size.

Source: Rafailov et al. 2023 (direct preference optimisation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from plugins.embedded_model.training.adapter import Adapter
from plugins.embedded_model.training.examples import Pair
from plugins.embedded_model.training.llama import Example, Llama

_AT_ONCE = 1024
"""Tokens that go through the model together, unless one example has more."""
T = TypeVar("T", contravariant=True)


class Measured(NamedTuple):
    """What a batch gave: sums over ``number`` of tokens, or pairs."""

    loss: float
    correct: int
    number: int

    def plus(self, other: Measured) -> Measured:
        return Measured(self.loss + other.loss, self.correct + other.correct, self.number + other.number)


class Method(Protocol[T]):
    """How a batch is learnt from."""

    def measure(self, batch: Sequence[T]) -> Measured:
        """Return the loss of a batch."""
        ...

    def learn(self, batch: Sequence[T]) -> Measured:
        """Do the same, and add the gradient of the mean loss to the adapter's."""
        ...

    def tokens(self, batch: Sequence[T]) -> int:
        """Return how many tokens a batch has."""
        ...


class Supervised:
    """Learn the scored tokens: the mean cross-entropy over all of a batch."""

    def __init__(self, model: Llama, adapter: Adapter) -> None:
        self._model = model
        self._adapter = adapter

    def measure(self, batch: Sequence[Example]) -> Measured:
        total = Measured(0.0, 0, 0)
        for part in _parts(batch):
            score = self._model.score(part, self._adapter)
            total = total.plus(
                Measured(-float(score.log_probabilities.sum()), int(score.correct.sum()), len(score.log_probabilities))
            )
        return total

    def learn(self, batch: Sequence[Example]) -> Measured:
        count = sum(int(one.scored[1:].sum()) for one in batch)
        total = Measured(0.0, 0, 0)
        for part in _parts(batch):
            scored = sum(int(one.scored[1:].sum()) for one in part)
            score = self._model.learn(part, np.full(scored, -1 / count), self._adapter)
            total = total.plus(Measured(-float(score.log_probabilities.sum()), int(score.correct.sum()), scored))
        return total

    def tokens(self, batch: Sequence[Example]) -> int:
        return sum(map(tokens_of, batch))


class Preferences:
    """Learn to prefer: the mean of ``-log sigmoid(beta * margin)``, where the margin is how much more likely the preferred
    answer became, beside the other one, than it was for the model that training began with.

    Args:
        before: The adapter as training began.
    """

    def __init__(self, model: Llama, adapter: Adapter, before: Adapter, beta: float) -> None:
        self._model = model
        self._adapter = adapter
        self._before = before
        self._beta = beta
        self._known: dict[int, tuple[float, float]] = {}

    def measure(self, batch: Sequence[Pair]) -> Measured:
        return self._measured([self._margin(pair) for pair in batch])

    def learn(self, batch: Sequence[Pair]) -> Measured:
        margins = [self._margin(pair) for pair in batch]
        for pair, margin in zip(batch, margins, strict=True):
            # The derivative of the loss by the preferred answer's logarithm.
            slope = -self._beta / (1 + np.exp(self._beta * margin)) / len(batch)
            for one, sign in ((pair.preferred, 1), (pair.other, -1)):
                self._model.learn([one], np.full(int(one.scored[1:].sum()), sign * slope), self._adapter)
        return self._measured(margins)

    def tokens(self, batch: Sequence[Pair]) -> int:
        return sum(map(tokens_of, batch))

    def _margin(self, pair: Pair) -> float:
        if id(pair) not in self._known:
            self._known[id(pair)] = self._likelihoods(pair, self._before)
        before, now = self._known[id(pair)], self._likelihoods(pair, self._adapter)
        return (now[0] - before[0]) - (now[1] - before[1])

    def _likelihoods(self, pair: Pair, adapter: Adapter) -> tuple[float, float]:
        preferred, other = (
            float(self._model.score([one], adapter).log_probabilities.sum()) for one in (pair.preferred, pair.other)
        )
        return preferred, other

    def _measured(self, margins: Sequence[float]) -> Measured:
        losses = np.logaddexp(0, -self._beta * np.array(margins))
        return Measured(float(losses.sum()), sum(margin > 0 for margin in margins), len(margins))


def tokens_of(example: Example | Pair) -> int:
    """Return how many tokens an example has, both answers of a pair counted."""
    if isinstance(example, Pair):
        return len(example.preferred.ids) + len(example.other.ids)
    return len(example.ids)


def _parts(batch: Sequence[Example]) -> Iterator[list[Example]]:
    part: list[Example] = []
    for one in batch:
        if part and sum(len(each.ids) for each in part) + len(one.ids) > _AT_ONCE:
            yield part
            part = []
        part.append(one)
    yield part
