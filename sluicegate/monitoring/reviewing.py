"""The automated review: a plugin reads a sample of a new case's exchanges before any person does.

It reads what is retained, at the time, and nothing is kept but its verdicts. Where all are harmless the case ends; otherwise, and where
there is nothing left to read, a person decides. Content of an account that is let off storage is not there to be read.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from sluicegate.abuse import FlaggedContent, ReviewVerdict
from sluicegate.errors import MonitoringIncomplete, SluicegateError
from sluicegate.monitoring.cases import Case, Cases, Status
from sluicegate.monitoring.types import FlaggedExchange
from sluicegate.storage.day_layout import day_of
from sluicegate.store import Record, Store

SAMPLE = 8
"""Exchanges of a case that are read, the newest."""


class Review:
    """Looks at the new cases of a region.

    Args:
        store_of: Returns where an account's exchanges are retained; None where none are, or may not be read.
        ask: Has a plugin look at an exchange.
    """

    def __init__(
        self,
        cases: Cases,
        store_of: Callable[[str], Awaitable[Store | None]],
        ask: Callable[[FlaggedContent], Awaitable[ReviewVerdict]],
    ) -> None:
        self._cases = cases
        self._store_of = store_of
        self._ask = ask

    async def advance(self) -> None:
        """Look at each case that waits for it; for the timer.

        Raises:
            MonitoringIncomplete: Some could not be looked at; the next run tries again.
        """
        left: list[str] = []
        for case in await self._cases.every():
            if case.status is not Status.AUTOMATED_REVIEW:
                continue
            try:
                await self._cases.judge(case, await self._verdicts(case))
            except SluicegateError as error:
                left.append(f"case {case.id} ({type(error).__name__})")
        if left:
            raise MonitoringIncomplete(left)

    async def _verdicts(self, case: Case) -> dict[str, ReviewVerdict]:
        store = await self._store_of(case.account)
        if store is None:
            return {}
        verdicts: dict[str, ReviewVerdict] = {}
        for flagged in case.flagged:
            record = await read_flagged(store, flagged)
            if record is not None:
                content = FlaggedContent(flagged.id, flagged.categories, json.loads(record.data))
                verdicts[flagged.id] = await self._ask(content)
            if len(verdicts) == SAMPLE:
                break
        return verdicts


async def read_flagged(store: Store, flagged: FlaggedExchange) -> Record | None:
    """Return what is retained of a flagged exchange, or None when nothing is any more."""
    # It was kept as it ended; only where that was about midnight is it under another day.
    return await store.get(flagged.id, day=day_of(flagged.at)) or await store.get(flagged.id)
