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
from sluicegate.monitoring.types import FlaggedExchange, Pattern, Score

MOST_USERS = 100
"""End users of an account that are looked into at a time, those with the highest scores."""


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

        A run that is stopped goes on after the account it was at, so that no account takes the others' turn.

        Raises:
            MonitoringIncomplete: Some accounts' counts cannot be read; the others are done.
        """
        names = sorted(accounts)
        self._known = {name: self._known[name] for name in names if name in self._known}
        failed: Counter[str] = Counter()
        for account in sorted(names, key=lambda name: (name <= self._last, name)):
            self._last = account
            try:
                patterns = await self.of(account)
            except SluicegateError as error:
                failed[type(error).__name__] += 1
                continue
            for pattern in patterns:
                yield pattern
        if failed:
            raise MonitoringIncomplete(f"counts of {count} accounts ({kind})" for kind, count in failed.items())

    async def of(self, account: str) -> list[Pattern]:
        """Return what has reached its threshold in one account: the account first, then its end users by their scores."""
        now = self._clock()
        since = now - timedelta(days=self._thresholds.window_days)
        counted = [each async for each in self._counters.hours(account, since, self._known.pop(account, None))]
        over = {(each.start, each.bytes): each.hour for each in counted if each.start + LATE < now}
        if over:
            self._known[account] = over
        hours = [(each.start, each.hour) for each in counted]
        # Hundreds of end users over a week take a good part of a second, in which requests must go on.
        return await asyncio.to_thread(self._reached, account, hours, since, now)

    def _reached(
        self, account: str, hours: list[tuple[datetime, Hour]], since: datetime, now: datetime
    ) -> list[Pattern]:
        found = scores(hours, since, now)
        whole = found.pop(None)
        reached: list[tuple[str | None, Score]] = [
            (user, score) for user, score in found.items() if score.value >= self._thresholds.user_threshold
        ]
        reached = sorted(reached, key=lambda each: each[1].value, reverse=True)[:MOST_USERS]
        if whole.value >= self._thresholds.account_threshold:
            reached.insert(0, (None, whole))
        flagged: dict[str | None, list[FlaggedExchange]] = {user: [] for user, _ in reached}
        every = sorted((each for _, hour in hours for each in hour.flagged), key=lambda each: each.at, reverse=True)
        for each in every:
            if each.user in flagged:
                flagged[each.user].append(each)
        flagged[None] = every
        return [Pattern(account, user, (since, now), score, tuple(flagged[user])) for user, score in reached]
