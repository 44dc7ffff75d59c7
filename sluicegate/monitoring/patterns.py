"""Patterns: which accounts and end users of a region have a score that is to be looked into."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta

from sluicegate.config import Abuse
from sluicegate.monitoring.counters import LATE, Counters
from sluicegate.monitoring.counting import Hour
from sluicegate.monitoring.scoring import scores
from sluicegate.monitoring.types import FlaggedExchange, Pattern


class Patterns:
    """Scores the accounts of a region; one object per process.

    Hours that are over are remembered, so that a run reads little more than what is new.

    Args:
        clock: Returns the present, aware.
    """

    def __init__(self, counters: Counters, thresholds: Abuse, clock: Callable[[], datetime]) -> None:
        self._counters = counters
        self._thresholds = thresholds
        self._clock = clock
        self._known: dict[str, dict[tuple[datetime, int], Hour]] = {}

    async def found(self, accounts: Iterable[str]) -> AsyncIterator[Pattern]:
        """Yield what has reached its threshold, account by account; an account before its end users.

        Raises:
            ServiceError: Storage failed.
        """
        names = tuple(accounts)
        self._known = {name: self._known[name] for name in names if name in self._known}
        for account in names:
            for pattern in await self.of(account):
                yield pattern

    async def of(self, account: str) -> list[Pattern]:
        """Return what has reached its threshold in one account."""
        now = self._clock()
        since = now - timedelta(days=self._thresholds.window_days)
        counted = [each async for each in self._counters.hours(account, since, self._known.pop(account, None))]
        over = {(each.start, each.bytes): each.hour for each in counted if each.start + LATE < now}
        if over:
            self._known[account] = over
        hours = [(each.start, each.hour) for each in counted]
        patterns = []
        for user, score in scores(hours, since, now).items():
            threshold = self._thresholds.account_threshold if user is None else self._thresholds.user_threshold
            if score.value >= threshold:
                patterns.append(Pattern(account, user, (since, now), score, _flagged(hours, user)))
        return patterns


def _flagged(hours: list[tuple[datetime, Hour]], user: str | None) -> tuple[FlaggedExchange, ...]:
    found = [each for _, hour in hours for each in hour.flagged if user is None or each.user == user]
    return tuple(sorted(found, key=lambda each: each.at, reverse=True))
