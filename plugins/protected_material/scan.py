"""Look for quotations of indexed works in one channel of an answer while it streams."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from plugins._reading import Reading

from .fingerprints import run_hash
from .index import Citation, Works
from .tokens import Kind, tokens

MAX_HELD = 1024
"""How many characters are held at most; what is older is sent, even of a quotation that is mostly white space."""


@dataclass(frozen=True, slots=True)
class Quotation:
    """What was found in a channel.

    Attributes:
        citation: Whose it is.
        start: Up to where the channel may be sent, in characters.
        end: Where enough of it was read to know.
    """

    citation: Citation
    start: int
    end: int


class Scan:
    """Watches one channel for quotations of one kind of work, until it has found one.

    Text is held from where a quotation may have begun: while each run of ``link`` tokens occurs somewhere in the index, but no
    more than ``guarantee`` tokens, because by then a quotation is found.

    Args:
        holds: Whether anything is held at all.
        is_json: As in :class:`plugins._reading.Reading`.

    Attributes:
        quotation: The first, once there is one.
    """

    def __init__(self, kind: Kind, works: Works, *, holds: bool, is_json: bool | None) -> None:
        thresholds = works.thresholds
        self.kind = kind
        self.holds = holds
        self.quotation: Quotation | None = None
        self._works = works
        self._reading = Reading(is_json=is_json)
        self._received = 0
        self._allowed = 0
        self._link: deque[int] = deque(maxlen=thresholds.link)
        self._run: deque[int] = deque(maxlen=thresholds.noise)
        self._starts: deque[int] = deque(maxlen=thresholds.guarantee)
        self._linked = 0  # how many tokens up to here are linked

    def feed(self, text: str, final: bool) -> int:
        """Take the next piece and return how many characters of the channel so far may go."""
        self._received += len(text)
        if self.quotation is None:
            self._read(text, final)
        return self._allowed if self.holds and not final else self._received

    def _read(self, text: str, final: bool) -> None:
        reading = self._reading
        reading.read(text, final)
        done = 0
        for token in tokens(reading.text, self.kind, final=final):
            done, end = token.end, reading.place(token.end)
            if token.hash is not None and (citation := self._cited(token.hash, reading.place(token.start))):
                self.quotation = Quotation(citation, self._allowed, end)
                return
            held = min(len(self._starts), max(self._linked, self._works.thresholds.link - 1))
            start = self._starts[-held] if held else end
            self._allowed = max(self._allowed, start, end - MAX_HELD)
        reading.forget(done)

    def _cited(self, token: int, start: int) -> Citation | None:
        """Return whose work the run of tokens is that ends with this one, or None."""
        thresholds = self._works.thresholds
        self._link.append(token)
        self._run.append(token)
        self._starts.append(start)
        if len(self._link) < thresholds.link or not self._works.has_link(run_hash(self._link)):
            self._linked = 0
            return None
        self._linked = self._linked + 1 if self._linked else thresholds.link
        return self._works.cited(run_hash(self._run)) if self._linked >= thresholds.noise else None
