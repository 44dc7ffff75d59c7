"""How long a file's examples are and what they are written in, as numbers without text; 12 bytes an example."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

import numpy as np

from sluicegate.training_data.languages import guess
from sluicegate.training_data.rows import Example

FIRST, FURTHER = 1000, 250
"""A language is guessed of so many answers; then of every 4th, and after each further so many a quarter as often."""
MOST = 1_000_000
"""Examples of which lengths are kept: the first ones. Totals are of all."""


class Statistics:
    """Collects them, example by example."""

    def __init__(self) -> None:
        self._tokens, self._characters, self._messages = array("I"), array("I"), array("I")
        self._languages: Counter[str] = Counter()
        self._step = 1
        self._examples = self._total = 0

    def add(self, example: Example, tokens: int) -> None:
        """Take one example."""
        if example.learned and self._examples % self._step == 0:
            self._languages[guess(example.learned)] += 1
            if (further := self._languages.total() - FIRST) >= 0 and further % FURTHER == 0:
                self._step *= 4
        self._examples += 1
        self._total += tokens
        if len(self._tokens) < MOST:
            self._tokens.append(tokens)
            self._characters.append(len(example.prompt) + len(example.answer))
            self._messages.append(example.messages)

    def document(self) -> dict[str, Any]:
        """Return totals and quantiles, and how many of the sampled answers are in which language."""
        return {
            "tokens": {"total": self._total, **_spread(self._tokens)},
            "characters": _spread(self._characters),
            "messages": _spread(self._messages),
            "answer_languages": dict(self._languages.most_common()),
        }


def _spread(numbers: array[int]) -> dict[str, float]:
    if not numbers:
        return {}
    found = np.frombuffer(numbers, np.uint32)
    low, median, high, top = np.percentile(found, [0, 50, 95, 100], method="lower").tolist()
    return {"min": low, "mean": round(float(found.mean()), 1), "median": median, "p95": high, "max": top}
