"""Let an answer's text go as soon as it cannot be the beginning of a stop string any more.

The runtime could look for stop strings itself, but loses the text it holds back when the answer ends at ``max_tokens``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plugins.embedded_model.engine import Piece
from plugins.embedded_model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Unit:
    """The text of one step of the model, and the runtime's log-probabilities for it, which go together or not at all."""

    text: str
    logprobs: tuple[Mapping[str, Any], ...] = ()


def unit_of(piece: Piece, tokenizer: Tokenizer) -> Unit:
    """Return a piece's text and numbers, those of the token that ends the answer left out."""
    ends = tokenizer.special.values()
    return Unit(piece.text, tuple(entry for entry in piece.logprobs if entry["id"] not in ends))


class Release:
    """One choice's text on its way out.

    Attributes:
        matched: The stop string that was found; nothing goes after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = [stop for stop in stops if stop]
        self._held: list[Unit] = []

    def feed(self, unit: Unit) -> list[Unit]:
        """Take the next unit and return those that may go."""
        self._held.append(unit)
        text = "".join(unit.text for unit in self._held)
        found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            # The one that was complete first, so that the cuts of the text make no difference.
            end, _, self.matched = min(found)
            return self._cut(end - len(self.matched))
        return self._whole(len(text) - self._possible_start(text))

    def rest(self) -> list[Unit]:
        """Return what was held back, when the answer ends in another way."""
        rest, self._held = self._held, []
        return rest

    def _possible_start(self, text: str) -> int:
        longest = min(len(text), max((len(stop) for stop in self._stops), default=0))
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

    def _whole(self, end: int) -> list[Unit]:
        going: list[Unit] = []
        while self._held and len(self._held[0].text) <= end:
            going.append(self._held.pop(0))
            end -= len(going[-1].text)
        return going

    def _cut(self, end: int) -> list[Unit]:
        going = self._whole(end)
        left = end - sum(len(unit.text) for unit in going)
        if left:
            going.append(Unit(self._held[0].text[:left]))
        self._held = []
        return going
