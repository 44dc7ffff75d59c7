"""Find and replace entities in one channel of an answer while it streams, or in a whole text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from plugins._reading import Reading

from .entities import Entity, Finding, PhoneNumbers
from .segments import MEMORY, search


class Scan:
    """Watches one channel for :func:`sluicegate.streams.hold_back`.

    Args:
        entities: In the order in which they claim text.
        on_found: Told of each finding, in order, and where in the channel it begins; returns whether it is to be replaced.
        is_json: The channel is JSON, and stays it; None if that is to be seen from how it begins.

    Attributes:
        sent: Replaces what is to be replaced.
        redacted: Replaces everything that was found.
    """

    def __init__(
        self,
        entities: Sequence[Entity | PhoneNumbers],
        on_found: Callable[[Finding, int], bool],
        *,
        is_json: bool | None,
    ) -> None:
        self.sent = Replacing()
        self.redacted = Replacing()
        self._entities = entities
        self._on_found = on_found
        self._reading = Reading(is_json=is_json)
        self._undecided = 0

    def feed(self, text: str, final: bool) -> int:
        """As :meth:`sluicegate.streams.Scanner.feed`."""
        reading = self._reading
        reading.read(text, final)
        found, undecided = search(reading.text, self._undecided, final, self._entities)
        for finding in found:
            start, end = reading.place(finding.start), reading.place(finding.end)
            # A number in JSON is replaced by a number, so that what is JSON stays it.
            replacement = "0" if reading.is_bare(finding.start) else f"[{finding.entity}]"
            if self._on_found(finding, start):
                self.sent.add(start, end, replacement)
            self.redacted.add(start, end, replacement)
        allowed = reading.place(undecided)
        gone = max(0, undecided - MEMORY)
        reading.forget(gone)
        self._undecided = undecided - gone
        return allowed


class Replacing:
    """Replaces parts of a channel in its pieces, in order, once they are let go."""

    def __init__(self) -> None:
        self._edits: deque[tuple[int, int, str]] = deque()
        self._position = 0

    def add(self, start: int, end: int, replacement: str) -> None:
        """Replace what is between two places of the channel; behind what was to be replaced before."""
        self._edits.append((start, end, replacement))

    def release(self, piece: str) -> str:
        """Return the next piece with its replacements; one that spans pieces stands in the first."""
        first, last = self._position, self._position + len(piece)
        self._position = last
        kept: list[str] = []
        place = first
        while self._edits and self._edits[0][0] < last:
            start, end, replacement = self._edits[0]
            if start >= first:
                kept += (piece[place - first : start - first], replacement)
            place = min(end, last)
            if end > last:
                break
            self._edits.popleft()
        kept.append(piece[place - first :])
        return "".join(kept)
