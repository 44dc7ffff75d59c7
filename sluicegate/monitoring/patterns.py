"""Patterns: which accounts and end users of a region have a score that is to be looked into."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta

from sluicegate.config import Abuse
from sluicegate.errors import MonitoringIncomplete, SluicegateError
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
        self._last = ""

    async def found(self, accounts: Iterable[str]) -> AsyncIterator[Pattern]:
        """Yield what has reached its threshold, account by account; an account before its end users.

        A run that is stopped goes on where it was, so that accounts at the end have their turn.

        Raises:
            MonitoringIncomplete: Some accounts' counts cannot be read; the others are done.
        """
        names = sorted(accounts)
        self._known = {name: self._known[name] for name in names if name in self._known}
        failed: Counter[str] = Counter()
        for account in sorted(names, key=lambda name: (name <= self._last, name)):
            try:
                patterns = await self.of(account)
            except SluicegateError as error:
                failed[type(error).__name__] += 1
                continue
            for pattern in patterns:
                yield pattern
            self._last = account
        if failed:
            raise MonitoringIncomplete(f"counts of {count} accounts ({kind})" for kind, count in failed.items())

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
        # Hundreds of end users over a week take a good part of a second, in which requests must go on.
        for user, score in (await asyncio.to_thread(scores, hours, since, now)).items():
            threshold = self._thresholds.account_threshold if user is None else self._thresholds.user_threshold
            if score.value >= threshold:
                patterns.append(Pattern(account, user, (since, now), score, _flagged(hours, user)))
        return patterns


def _flagged(hours: list[tuple[datetime, Hour]], user: str | None) -> tuple[FlaggedExchange, ...]:
    found = [each for _, hour in hours for each in hour.flagged if user is None or each.user == user]
    return tuple(sorted(found, key=lambda each: each.at, reverse=True))
