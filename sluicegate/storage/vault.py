"""Encrypted storage: one namespace per account and plugin, every blob with an end.

:mod:`sluicegate.storage.day_layout` says where everything is; the layout says when it goes, without asking any plugin. Destroying
the day's key makes every copy of the day unreadable, backups included; dropping its container removes the ciphertext in
one call. A data key belongs to one account, plugin, day and process, so processes share no counter and need no
coordination. Days are UTC, by this process's clock when a batch is sealed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol

from sluicegate.errors import BlobChanged, BlobNotFound, PurgeIncomplete, ServiceError, SluicegateError
from sluicegate.retention.day_removal import WholeDay
from sluicegate.retention.removals import TIMER, Ledger, Unrecorded
from sluicegate.services import BlobStore, KeyService, check_names
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.day_layout import (
    CEILING_DAYS,
    IS_DELETION,
    PENDING,
    Tally,
    ceiling,
    combined,
    container,
    day_of,
    days_in,
    due,
    has_ended,
    is_day,
    key_name,
    keyring,
    purged,
    stored_days,
)
from sluicegate.store import Store
from sluicegate.types import OfAccount, OfUser, Purged, utc_now


class Beside(Protocol):
    """The part of :class:`sluicegate.monitoring.counters.Counters` that deletions need."""

    async def count(self, account: str, scope: OfUser | OfAccount, tally: Tally) -> None: ...

    async def forget(self, account: str, scope: OfUser | OfAccount) -> int: ...


DAYS_AHEAD = 2
IN_FLIGHT = 4
_STORES = 10_000


class Vault:
    """Everything that is kept, and its end; one object per process, used from one event loop.

    Args:
        clock: Returns the present, aware.
        in_flight: Writes at once per account and plugin; see ``GroupCommit``.
        ledger: Who gives receipts for days that go.
        data_keys: Where accounts have keys of their own.
        may_keep: Returns whether content of an account may be kept, as is decided now; asked at each commit that knows of it
            for longer than :data:`sluicegate.storage.batch_writer.HEED`.
        beside: What is kept beside it of accounts and end users, without content, and goes with deletions.

    Attributes:
        beside: As given.
    """

    def __init__(
        self,
        blobs: BlobStore,
        keys: KeyService,
        *,
        clock: Callable[[], datetime] = utc_now,
        in_flight: int = IN_FLIGHT,
        ledger: Ledger | None = None,
        data_keys: DataKeys | None = None,
        may_keep: Callable[[str], Awaitable[bool]] | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.beside = beside
        self._blobs = blobs
        self._keys = keys
        self._data_keys = data_keys or DataKeys(keys, clock=clock)
        self._may_keep = may_keep or _always
        self._clock = clock
        self._in_flight = in_flight
        self._ledger = ledger or Unrecorded()
        self._stores: OrderedDict[tuple[str, str], Store] = OrderedDict()

    def store(self, account: str, plugin: str) -> Store:
        """Return one plugin's namespace in one account."""
        found = self._stores.get((account, plugin))
        if found is None:
            check_names(PENDING, f"{account}/{plugin}")
            if "/" in account + plugin:
                raise ValueError("an account's and a plugin's name are one segment each")
            found = Store(
                self._blobs,
                self._keys,
                self._data_keys,
                self._may_keep,
                self._clock,
                account,
                plugin,
                self._in_flight,
                self._ledger,
            )
            self._stores[account, plugin] = found
            if len(self._stores) > _STORES:
                # Whoever still holds it goes on; a newer one has data keys of its own.
                self._stores.popitem(last=False)
        self._stores.move_to_end((account, plugin))
        return found

    async def make_keys(self, now: datetime) -> None:
        """Make the keys of today and of the next :data:`DAYS_AHEAD` days, so that days begin while the key service is away.

        Raises:
            ServiceError: The key service failed; those that were made stay.
        """
        for ahead in range(DAYS_AHEAD + 1):
            await self._keys.create(key_name(day_of(now + timedelta(days=ahead))))

    async def purge_overdue(self, now: datetime) -> Purged:
        """Destroy every day that is about to be 30 days old, whatever plugins say; run again, it finds nothing to do.

        Raises:
            PurgeIncomplete: Something of such a day is left, or not proven gone; the other days are done.
        """
        return await self._destroy(await self._days_that(lambda day: due(day, CEILING_DAYS) <= now))

    async def purge_empty(self, now: datetime) -> Purged:
        """Destroy the keys and containers of past days of which no record is left.

        Raises:
            PurgeIncomplete: As for ``purge_overdue``.
        """
        ended = await self._days_that(lambda day: has_ended(day, now))
        return await self._destroy([day for day in ended if await self._holds_nothing(day)])

    async def finish_deletions(self, now: datetime) -> Purged:
        """Remove what came too late for deletions by record, user and account, and what interrupted ones left.

        Raises:
            PurgeIncomplete: Something of it is left, which no reader shows; the rest is done.
        """
        gone: list[Purged] = []
        left: list[str] = []
        for pending in [blob.name async for blob in self._blobs.list(PENDING)]:
            day, _, rest = pending.partition("/")
            account, _, plugin = rest.partition("/")
            try:
                etag = (await self._blobs.get(PENDING, pending)).etag
                gone.append(await self.store(account, plugin).finish_deletions(day))
                if has_ended(day, now):
                    await self._blobs.delete(PENDING, pending, if_match=etag)
            except (BlobNotFound, BlobChanged):
                continue
            except PurgeIncomplete as error:
                left += error.left
            except (ServiceError, ValueError) as error:
                left.append(f"deletions of {pending}: {type(error).__name__}")
        if left:
            raise PurgeIncomplete(left)
        return combined(gone)

    async def unfinished(self, before: datetime) -> int:
        """Return how many deletions by record, user or account should have been finished by then, and are not."""
        return len([blob async for blob in self._blobs.list(PENDING) if _ended(blob.name.partition("/")[0], before)])

    async def plugins(self, account: str) -> tuple[str, ...]:
        """Return which plugins keep anything of an account, by the storage layout alone, sorted."""
        found: set[str] = set()
        for day in await stored_days(self._blobs):
            prefix = f"{account}/"
            async for blob in self._blobs.list(keyring(day), prefix):
                found.add(blob.name.removeprefix(prefix).partition("/")[0])
        # A deletion that was interrupted may have left ciphertext without any key.
        async for blob in self._blobs.list(PENDING):
            of, _, plugin = blob.name.partition("/")[2].partition("/")
            if of == account:
                found.add(plugin)
        return tuple(sorted(found))

    async def overdue(self, now: datetime) -> tuple[str, ...]:
        """Return the days that have reached 30 days and are not gone, oldest first."""
        return tuple(await self._days_that(lambda day: ceiling(day) <= now))

    def removal(self, day: str) -> WholeDay:
        """Return the removal of a day of all accounts, for whoever finishes one that was interrupted."""
        return WholeDay(self._blobs, self._keys, day, lambda: self._forget(day))

    async def is_due(self, day: str, now: datetime) -> bool:
        """Return whether a day may go: it has reached the ceiling, or it has ended and nothing is left of it."""
        return due(day, CEILING_DAYS) <= now or (has_ended(day, now) and await self._holds_nothing(day))

    async def destroy_recoverable(self, now: datetime) -> None:
        """Try again to destroy the keys of past days that could only be deleted.

        Their receipts say until when they can be recovered; where nothing better is possible, nothing is said again.
        """
        for day in await self._recoverable(days_in(await self._keys.names("ret-"))):
            if has_ended(day, now):
                await self._keys.destroy(key_name(day))

    def _forget(self, day: str) -> None:
        self._data_keys.forget()
        for store in self._stores.values():
            store.forget(day)

    async def _days_that(self, have_passed: Callable[[str], bool]) -> list[str]:
        """Return the days of which anything is left, oldest first."""
        stored = {*await stored_days(self._blobs), *days_in(await self._blobs.containers("keyring-"))}
        passed = {day for day in stored if have_passed(day)}
        keys = {day for day in days_in(await self._keys.names("ret-")) if have_passed(day)} - passed
        return sorted(passed | keys - await self._recoverable(keys))

    async def _recoverable(self, days: Iterable[str]) -> set[str]:
        """Return the days whose keys are deleted, though the key service can still bring them back."""
        return {day for day in days if await self._keys.recoverable_until(key_name(day)) is not None}

    async def _destroy(self, days: Iterable[str]) -> Purged:
        gone: list[Purged] = []
        left: list[str] = []
        for day in days:
            try:
                removal = self.removal(day)
                found = await removal.found()
                await self._ledger.certify(removal, found, actor=TIMER)
                gone.append(purged(found, (day,)))
            except PurgeIncomplete as error:
                left += error.left
            except SluicegateError as error:
                left.append(f"{day}: {type(error).__name__}")
        if left:
            raise PurgeIncomplete(left)
        return combined(gone)

    async def _holds_nothing(self, day: str) -> bool:
        """Deletions have nothing to hide where there is nothing else."""
        async for blob in self._blobs.list(container(day)):
            if not IS_DELETION.fullmatch(blob.name):
                return False
        return True


def _ended(day: str, moment: datetime) -> bool:
    """Return whether nobody wrote to a day any more by then; what is no day is nothing to wait for."""
    return not is_day(day) or has_ended(day, moment)


async def _always(account: str) -> bool:
    return True
