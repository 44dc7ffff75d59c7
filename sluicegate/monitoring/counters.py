"""Hourly counts of signals in the storage of a region, and their end.

::

    container    signals            {account}/{YYYYMMDDHH}      what was counted in that hour of UTC, by all processes
    container    signals-forgotten  {account}/{user}            whose rows are gone up to a time; or ``everybody``

Counts hold no content, but rows of end users are personal data: they go with what is retained of that end user or of the account, and
every hour goes after the account's days, :data:`~sluicegate.storage.day_layout.CEILING_DAYS` at the most. Totals by deployment are about nobody
and stay until then, so that nobody wipes out an account's history by deleting its content.

A deletion is recorded first. What another process still has in memory at that moment may arrive later: no reader shows it, and the next
purge removes it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sluicegate.errors import BlobChanged, BlobNotFound
from sluicegate.monitoring.counting import Hour
from sluicegate.services import BlobStore
from sluicegate.storage.day_layout import CEILING_DAYS, MARGIN, Gone, Tally
from sluicegate.storage.documents import Documents
from sluicegate.types import OfAccount, OfUser

CONTAINER = "signals"
FORGOTTEN = "signals-forgotten"
EVERYBODY = "everybody"
LATE = timedelta(hours=2)
"""So long after the beginning of an hour no process writes to it any more."""
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Counted:
    """An hour of an account as it is stored.

    Attributes:
        start: Aware, UTC.
        bytes: Of its blob.
    """

    start: datetime
    hour: Hour
    bytes: int


class Counters:
    """The counts of a region; one object per process.

    Args:
        clock: Returns the present, aware.
    """

    def __init__(self, blobs: BlobStore, clock: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._clock = clock
        self._hours = Documents(blobs, CONTAINER, "")
        self._forgotten = Documents(blobs, FORGOTTEN, "")

    async def add(self, account: str, start: datetime, part: Hour) -> Hour:
        """Add what one process counted in a part of an hour, and return the whole hour; durable when this returns.

        Raises:
            ServiceError: Storage failed; nothing was added, or everything.
        """

        hour = Hour()

        def update(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
            nonlocal hour
            hour = Hour() if found is None else Hour.from_document(found)
            hour.merge(part)
            return hour.document

        await self._hours.change(f"{account}/{start:%Y%m%d%H}", update)
        return hour

    async def read(self, account: str, since: datetime, until: datetime) -> list[tuple[datetime, Hour]]:
        """Return the hours of an account in which anything was counted, in order, without what is deleted.

        Args:
            since, until: Aware; hours that begin from ``since`` on and before ``until``.
        """
        counted = [each async for each in self.hours(account, since)]
        return [(each.start, each.hour) for each in counted if each.start < until]

    async def hours(
        self, account: str, since: datetime, known: Mapping[tuple[datetime, int], Hour] | None = None
    ) -> AsyncIterator[Counted]:
        """Yield the hours of an account from ``since`` on, in order, without what is deleted.

        Args:
            known: Hours that need not be read again, by when they began and their size.
        """
        is_gone = await self._deletions(account)
        listed = [each async for each in self._listed(account) if each[0] >= since]
        for batch in (listed[at : at + _AT_ONCE] for at in range(0, len(listed), _AT_ONCE)):
            found = await asyncio.gather(*(self._hour(account, each, known or {}) for each in batch))
            for (start, size), hour in zip(batch, found, strict=True):
                if hour is not None:
                    yield Counted(start, hour.without(partial(is_gone, start)), size)

    # --- deletion ----------------------------------------------------------------------------------------------------

    async def count(self, account: str, scope: OfUser | OfAccount, tally: Tally) -> None:
        """Note what :meth:`forget` would take, each hour with something as a record; nothing is changed."""
        is_meant = _meant(scope)
        async for start, hour in self._stored(account):
            if left := hour.entries - hour.without(is_meant).entries:
                tally.note(Gone(CONTAINER, f"{account}/{start:%Y%m%d%H}", 0, left, "counts"))

    async def forget(self, account: str, scope: OfUser | OfAccount) -> int:
        """Delete the rows and references of an end user, or of everybody; return how many are left, which is none.

        Raises:
            ServiceError: Storage failed; run again, it goes on, and so does the purge.
        """
        name = scope.user if isinstance(scope, OfUser) else EVERYBODY
        marked = {"until": self._clock().isoformat()}
        await self._forgotten.change(f"{account}/{name}", lambda _: marked)
        await self._strip(account, _meant(scope))
        tally = Tally(counts_records=True)
        await self.count(account, scope, tally)
        return tally.found().records or 0

    async def delete(self, account: str) -> None:
        """Delete everything of an account that is gone."""
        for kind in (self._hours, self._forgotten):
            for name in await kind.names(f"{account}/"):
                await kind.delete(name)

    async def purge(self, days_of: Callable[[str], int], now: datetime) -> int:
        """Delete the hours that are older than their account allows, and what came late for deletions.

        Args:
            days_of: Returns after how many days an account's hours go; no hour stays longer than the ceiling.

        Returns:
            How many hours went.
        """
        await self._finish_deletions(now)
        due = []
        async for blob in self._blobs.list(CONTAINER):
            account, _, hour = blob.name.partition("/")
            if _start(hour) + timedelta(days=min(days_of(account), CEILING_DAYS)) - MARGIN <= now:
                due.append(blob.name)
        return sum([await self._hours.delete(name) for name in due])

    async def _finish_deletions(self, now: datetime) -> None:
        for mark in await self._forgotten.every():
            until = datetime.fromisoformat(mark.content["until"])
            account, _, user = mark.name.partition("/")
            await self._strip(account, _meant(OfAccount() if user == EVERYBODY else OfUser(user)), until)
            if until + LATE < now:
                # One that was renewed meanwhile stays for the next run.
                with suppress(BlobChanged):
                    await self._forgotten.delete(mark.name, etag=mark.etag)

    async def _deletions(self, account: str) -> Callable[[datetime, str | None], bool]:
        """Return what tells whether a deletion covers an end user's row of an hour."""
        marks = await self._forgotten.all(await self._forgotten.names(f"{account}/"))
        until = {mark.name.partition("/")[2]: datetime.fromisoformat(mark.content["until"]) for mark in marks}
        never = datetime.min.replace(tzinfo=UTC)
        everybody = until.get(EVERYBODY, never)
        return lambda start, user: start <= max(everybody, until.get(user or EVERYBODY, never))

    async def _strip(self, account: str, is_meant: Callable[[str | None], bool], until: datetime | None = None) -> None:
        async for start, hour in self._stored(account):
            if (until is not None and start > until) or hour.without(is_meant).entries == hour.entries:
                continue
            name = f"{account}/{start:%Y%m%d%H}"
            while (found := await self._hours.get(name)) is not None:
                stripped = Hour.from_document(found.content).without(is_meant)
                with suppress(BlobChanged):
                    await self._hours.put(name, stripped.document, etag=found.etag)
                    break

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _stored(self, account: str) -> AsyncIterator[tuple[datetime, Hour]]:
        async for start, size in self._listed(account):
            hour = await self._hour(account, (start, size), {})
            if hour is not None:
                yield start, hour

    async def _listed(self, account: str) -> AsyncIterator[tuple[datetime, int]]:
        async for blob in self._blobs.list(CONTAINER, f"{account}/"):
            yield _start(blob.name.partition("/")[2]), blob.size

    async def _hour(
        self, account: str, listed: tuple[datetime, int], known: Mapping[tuple[datetime, int], Hour]
    ) -> Hour | None:
        if listed in known:
            return known[listed]
        try:
            blob = await self._blobs.get(CONTAINER, f"{account}/{listed[0]:%Y%m%d%H}")
        except BlobNotFound:
            return None
        return Hour.from_document(json.loads(blob.data))


def _start(hour: str) -> datetime:
    return datetime.strptime(hour, "%Y%m%d%H").replace(tzinfo=UTC)


def _meant(scope: OfUser | OfAccount) -> Callable[[str | None], bool]:
    return lambda user: isinstance(scope, OfAccount) or user == scope.user
