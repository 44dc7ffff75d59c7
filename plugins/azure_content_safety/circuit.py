"""A service that failed again and again is left alone for a while, so that nobody waits for it in vain."""

from __future__ import annotations

import time
from collections.abc import Callable

from sluicegate import FilterUnavailable

FAILURES = 5
"""Questions in a row that fail before the service is left alone."""
PAUSE_S = 5.0


class Circuit:
    """Counts failures. After a pause questions go through again, and the first that fails begins the next pause.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0

    def check(self) -> None:
        """Let a question through.

        Raises:
            FilterUnavailable: The service is left alone now.
        """
        left = self._until - self._clock()
        if left > 0:
            raise FilterUnavailable("The content filter cannot be reached now.", retry_after_s=left)

    def succeeded(self) -> None:
        """Note that a question was answered."""
        self._failures = 0

    def failed(self, retry_after_s: float | None = None) -> None:
        """Note that one was not.

        Args:
            retry_after_s: When the service wants to be asked again.
        """
        self._failures += 1
        if self._failures >= FAILURES:
            self._until = self._clock() + max(PAUSE_S, retry_after_s or 0)
