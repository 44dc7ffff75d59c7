"""How far a long command is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

REDRAW_S, LINE_S = 0.1, 10.0
"""The least time between two drawings of the bar, and between two lines."""
WIDTH = 30


class Progress:
    """Counts rows of an input; says so on ``out``, at most every ``REDRAW_S`` or ``LINE_S``.

    Args:
        total: Bytes of the whole input, or None when that is not known.
        draws: Whether to draw a bar, which takes a terminal.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, total: int | None, out: TextIO, *, draws: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rows = 0
        self._total = total
        self._out = out
        self._clock = clock
        self._draws = draws
        self._started = self._said = clock()

    def advance(self, read: int, rows: int = 1) -> None:
        """Count rows.

        Args:
            read: How many bytes of the input were read so far.
            rows: How many more there are.
        """
        self.rows += rows
        now = self._clock()
        if now - self._said < (REDRAW_S if self._draws else LINE_S):
            return
        self._said = now
        self._say(self._state(read, now - self._started))

    def clear(self) -> None:
        """Take the bar away, so that something else can be said."""
        if self._draws:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def summary(self) -> str:
        """Return how many rows there were, and how long each took from one to the next."""
        mean = f", {(self._clock() - self._started) * 1000 / self.rows:.2f} ms each" if self.rows else ""
        return f"{self.rows:,} rows{mean}"

    def _state(self, read: int, seconds: float) -> str:
        rate = f"{self.rows:,} rows, {self.rows / seconds:,.0f}/s"
        if not self._total:
            return rate
        share = min(read / self._total, 1.0)
        left = f"{seconds / share - seconds:,.0f} s left" if share else ""
        if not self._draws:
            return f"{share:.0%}, {rate}, {left}"
        return f"[{'#' * int(share * WIDTH):{WIDTH}}] {share:4.0%}  {rate}, {left}"

    def _say(self, state: str) -> None:
        self._out.write(f"\r{state}\x1b[K" if self._draws else f"{state}\n")
        self._out.flush()
