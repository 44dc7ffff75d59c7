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
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from sluicegate.errors import BlobChanged, BlobExists, CountsUnreadable
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
_AT_ONCE = 4
"""Hours that are read together; each takes some milliseconds to parse, in which requests wait."""


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
            CountsUnreadable: Somebody else wrote what is there.
        """

        while True:
            found = await self._get(account, start)
            hour, etag = (Hour(), None) if found is None else found
            hour.merge(part)
            with suppress(BlobChanged, BlobExists):
                await self._hours.put(_name(account, start), hour.document, etag=etag)
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
                    yield Counted(start, hour.without(partial(is_gone, start)) if is_gone else hour, size)

    # --- deletion ----------------------------------------------------------------------------------------------------

    async def count(self, account: str, scope: OfUser | OfAccount, tally: Tally) -> None:
        """Note what :meth:`forget` would take, each hour with something as a record; nothing is changed."""
        is_meant = _meant(scope)
        async for start, hour in self._stored(account):
            if left := hour.entries - hour.without(is_meant).entries:
                tally.note(Gone(CONTAINER, _name(account, start), 0, left, "counts"))

    async def forget(self, account: str, scope: OfUser | OfAccount) -> int:
        """Delete the rows and references of an end user, or of everybody; return how many are left, which is none.

        Raises:
            ServiceError, CountsUnreadable: Something is left; run again, it goes on, and so does the purge.
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

        Raises:
            ServiceError, CountsUnreadable: Something is left; everything else is done where storage lets it.
        """
        due = []
        async for blob in self._blobs.list(CONTAINER):
            account, _, hour = blob.name.partition("/")
            if _start(hour) + timedelta(days=min(days_of(account), CEILING_DAYS)) - MARGIN <= now:
                due.append(blob.name)
        gone = sum([await self._hours.delete(name) for name in due])
        await self._finish_deletions(now)
        return gone

    async def _finish_deletions(self, now: datetime) -> None:
        unreadable: CountsUnreadable | None = None
        for mark in await self._forgotten.every():
            until = datetime.fromisoformat(mark.content["until"])
            account, _, user = mark.name.partition("/")
            try:
                await self._strip(account, _meant(OfAccount() if user == EVERYBODY else OfUser(user)), until)
            except CountsUnreadable as error:
                unreadable = error
                continue
            if until + LATE < now:
                # One that was renewed meanwhile stays for the next run.
                with suppress(BlobChanged):
                    await self._forgotten.delete(mark.name, etag=mark.etag)
        if unreadable is not None:
            raise unreadable

    async def _deletions(self, account: str) -> Callable[[datetime, str | None], bool] | None:
        """Return what tells whether a deletion covers an end user's row of an hour; None when there is no deletion."""
        marks = await self._forgotten.all(await self._forgotten.names(f"{account}/"))
        if not marks:
            return None
        until = {mark.name.partition("/")[2]: datetime.fromisoformat(mark.content["until"]) for mark in marks}
        never = datetime.min.replace(tzinfo=UTC)
        everybody = until.get(EVERYBODY, never)
        return lambda start, user: start <= max(everybody, until.get(user or EVERYBODY, never))

    async def _strip(self, account: str, is_meant: Callable[[str | None], bool], until: datetime | None = None) -> None:
        async for start, hour in self._stored(account):
            if (until is not None and start > until) or hour.without(is_meant).entries == hour.entries:
                continue
            while (found := await self._get(account, start)) is not None:
                stored, etag = found
                with suppress(BlobChanged):
                    await self._hours.put(_name(account, start), stored.without(is_meant).document, etag=etag)
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
        found = await self._get(account, listed[0])
        return None if found is None else found[0]

    async def _get(self, account: str, start: datetime) -> tuple[Hour, str] | None:
        """Return an hour and its ETag."""
        try:
            found = await self._hours.get(_name(account, start))
            return None if found is None else (Hour.from_document(found.content), found.etag)
        except (ValueError, TypeError, LookupError):
            raise CountsUnreadable(f"the counts of {_name(account, start)}") from None


def _name(account: str, start: datetime) -> str:
    return f"{account}/{start:%Y%m%d%H}"


def _start(hour: str) -> datetime:
    return datetime.strptime(hour, "%Y%m%d%H").replace(tzinfo=UTC)


def _meant(scope: OfUser | OfAccount) -> Callable[[str | None], bool]:
    return lambda user: isinstance(scope, OfAccount) or user == scope.user
