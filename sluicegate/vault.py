"""Encrypted storage: one namespace per account and plugin, every blob with an end.

:mod:`sluicegate.day_layout` says where everything is; the layout says when it goes, without asking any plugin. Destroying
the day's key makes every copy of the day unreadable, backups included; dropping its container removes the ciphertext in
one call. A data key belongs to one account, plugin, day and process, so processes share no counter and need no
coordination. Days are UTC, by this process's clock when a batch is sealed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from sluicegate.batch_writer import Writer
from sluicegate.data_keys import DataKeys
from sluicegate.day_layout import (
    CEILING_DAYS,
    IS_DELETION,
    MARGIN,
    PENDING,
    Gone,
    Namespace,
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
from sluicegate.day_removal import DayOfStore, WholeDay
from sluicegate.deletion import Deletion, DeletionLog, batches, count_hidden, read_head, remove
from sluicegate.errors import BlobChanged, BlobNotFound, PurgeIncomplete, SealBroken, ServiceError, SluicegateError
from sluicegate.group_commit import GroupCommit
from sluicegate.reading import Reader, Record
from sluicegate.removals import TIMER, Ledger, Unrecorded
from sluicegate.services import BlobStore, KeyService, check_names
from sluicegate.types import Expired, OfAccount, OfRecord, OfUser, Purged, Scope, utc_now

__all__ = [
    "CEILING_DAYS",
    "MAX_BATCH_BYTES",
    "MAX_RECORD_BYTES",
    "Record",
    "Store",
    "Vault",
    "combined",
    "due",
]

DAYS_AHEAD = 2
IN_FLIGHT = 4
MAX_BATCH_BYTES = 4 << 20
MAX_RECORD_BYTES = 256 << 20
_STORES = 10_000
_RECORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=@+-]{0,199}")
_USER = re.compile(r"[0-9a-f]{64}")


class Store:
    """One plugin's records in one account, sealed under the key of the day they are written."""

    def __init__(
        self,
        blobs: BlobStore,
        keys: KeyService,
        data_keys: DataKeys,
        may_keep: Callable[[str], Awaitable[bool]],
        clock: Callable[[], datetime],
        account: str,
        plugin: str,
        in_flight: int,
        ledger: Ledger,
    ) -> None:
        self._blobs = blobs
        self._clock = clock
        self._ledger = ledger
        self._names = Namespace(account, plugin)
        self._reader = Reader(blobs, data_keys, self._names)
        self._writer = Writer(blobs, keys, data_keys, may_keep, clock, self._names)
        self._lane = GroupCommit(self._writer.write, in_flight=in_flight, max_bytes=MAX_BATCH_BYTES)

    async def keep(self, record: str, data: bytes, *, user: str | None = None) -> None:
        """Seal and write a record; durable when this returns.

        Of an account whose content may not be kept, nothing is written, and this returns.

        Args:
            record: Its id, stored in the clear, so opaque: ``[A-Za-z0-9][A-Za-z0-9._=@+-]{0,199}``.
            data: At most 256 MiB.
            user: Keyed hash of the end user it is about, as ``Exchange.user`` has it; it is found and deleted with
                theirs.

        Raises:
            AccountKeyUnavailable: The account's own encryption key cannot be used; nothing was written.
            ServiceError: Storage or keys failed; the record may or may not have been written.
        """
        _check_record(record)
        _check_user(user)
        if len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"a record has at most {MAX_RECORD_BYTES} bytes")
        # The index takes space as well, so that empty records fill a batch too.
        await self._lane.add((record, data, user), len(data) + len(record) + 100)

    async def get(self, record: str, *, day: str | None = None) -> Record | None:
        """Return a record, decrypted, or None when there is none that may be read.

        Args:
            day: Where to look; otherwise every day is searched, newest first, by the headers of its batches.

        Raises:
            SealBroken: A batch that was searched was changed, or is not where it was written.
        """
        _check_record(record)
        return await self._reader.get(record, day)

    async def records(
        self, day: str | None = None, *, user: str | None = None, limit: int | None = None, after: str | None = None
    ) -> AsyncIterator[Record]:
        """Yield the records of one day or of all, oldest day first, decrypted.

        Within a day they come in an order of no meaning that never changes, so a page goes on where another ended.
        Pages repeat nothing, and leave out nothing that was kept before the first one was read; what is kept later may
        come before the cursor. What is deleted or purged meanwhile, or whose key is destroyed, is left out. A deletion
        counts at once, in every process: what is read at once, at most 16 batches or 4 MiB of records or a single larger one,
        is checked after it was read.

        Args:
            user: Keyed hash of an end user, for their records only; other batches are not opened.
            limit: At most so many.
            after: Only what follows the record with this ``cursor``.

        Raises:
            SealBroken: A batch was changed, or is not where it was written.
            ValueError: ``after`` is not a cursor.
        """
        _check_user(user)
        if limit is not None and limit <= 0:
            return
        count = 0
        async for record in self._reader.records(day, user, after):
            yield record
            count += 1
            if count == limit:
                return

    async def purge(self, scope: Scope, *, days: int = CEILING_DAYS) -> Purged:
        """Delete what ``scope`` names; run again, it finds nothing to do.

        ``Expired`` takes every day's records whose oldest is about to be ``days`` old at ``scope.now``, or as old as the
        account allows if that is less. A day is due an hour before that, and never before it has ended. Wrapped keys go
        first, so an interrupted purge leaves nothing readable behind what it reached. A batch that another process is
        writing as the day ends may arrive after this; the next purge finds it. Each day gets a receipt.

        ``OfRecord``, ``OfUser`` and ``OfAccount`` take what was kept before, and what is being written now. As soon as
        that is recorded, before anything is removed, no reader shows it. It is out of storage when this returns, but for
        batches that arrive from other processes later: those are never shown, and
        ``Vault.finish_deletions`` removes them. What such a user or account keeps from then on stays, except that
        another process may need 30 seconds to know of the deletion: what it keeps until then may go as well.
        A record's deletion is for good. Whoever asked for it gets the receipt, for all plugins.

        Args:
            days: 1 to 30.

        Raises:
            PurgeIncomplete: Something cannot be read, or be removed; nothing of it is shown. The rest is done.
        """
        if not 1 <= days <= CEILING_DAYS:
            raise ValueError(f"days must be 1 to {CEILING_DAYS}, not {days}")
        if isinstance(scope, Expired):
            if not 1 <= scope.days <= CEILING_DAYS:
                raise ValueError(f"an account's days must be 1 to {CEILING_DAYS}, not {scope.days}")
            return await self._expire(scope.now, min(days, scope.days))
        return await self._delete(scope)

    async def finish_deletions(self, day: str) -> Purged:
        """Remove what deletions of a day hide and what came too late for them."""
        log = DeletionLog(self._blobs, self._names, day)
        await log.refresh()
        return await remove(self._blobs, self._names, log) if log.last else Purged()

    async def finish_all_deletions(self) -> None:
        """Remove what deletions of any day hide and what came too late for them."""
        for day in await stored_days(self._blobs):
            await self.finish_deletions(day)

    def forget(self, day: str) -> None:
        """Drop this process's data key of a day."""
        self._writer.forget(day)

    def removal(self, day: str) -> DayOfStore:
        """Return the removal of a day, for whoever finishes one that was interrupted."""
        return DayOfStore(self._blobs, self._names, day, lambda: self.forget(day))

    async def count(self, scope: OfRecord | OfUser | OfAccount, tally: Tally) -> None:
        """Note what is there of a scope, day by day; blobs for an account, records for a record or an end user.

        Raises:
            ValueError: No record has such an id, or no end user such a hash.
        """
        _check_scope(scope)
        for day in await stored_days(self._blobs):
            if isinstance(scope, OfAccount):
                async for blob in self._blobs.list(keyring(day), self._names.prefix):
                    tally.note(Gone(keyring(day), blob.name, blob.size))
            mark = self._names.mark(scope.user, day) if isinstance(scope, OfUser) else ""
            async for blob in batches(self._blobs, self._names, day):
                if isinstance(scope, OfAccount):
                    tally.note(Gone(container(day), blob.name, blob.size))
                    continue
                with suppress(BlobNotFound, SealBroken):  # What cannot be read is told by the deletion itself.
                    for entry in (await read_head(self._blobs, day, blob)).index:
                        if entry.record == scope.id if isinstance(scope, OfRecord) else entry.user == mark:
                            tally.note(Gone(container(day), blob.name, entry.length, 1, entry.record))

    async def count_hidden(self) -> int:
        """Return how many blobs and records there are that deletions hide, or that might hide something."""
        hidden = 0
        for day in await stored_days(self._blobs):
            log = DeletionLog(self._blobs, self._names, day)
            await log.refresh()
            if log.last:
                hidden += await count_hidden(self._blobs, self._names, log)
        return hidden

    async def _expire(self, now: datetime, days: int) -> Purged:
        gone: list[Purged] = []
        for day in await stored_days(self._blobs):
            if due(day, days) <= now:
                removal = self.removal(day)
                found = await removal.found()
                if found.blobs:
                    await self._ledger.certify(removal, found, actor=TIMER)
                    gone.append(purged(found, (day,)))
        return combined(gone)

    async def _delete(self, scope: OfRecord | OfUser | OfAccount) -> Purged:
        _check_scope(scope)
        now = self._clock()
        # Where somebody may be writing, by clocks that differ from this one.
        open_days = {day_of(now - MARGIN), day_of(now), day_of(now + MARGIN)}
        days = [day for day in sorted({*await stored_days(self._blobs), *open_days}) if now < due(day, CEILING_DAYS)]
        try:
            covered = [day for day in days if await self._record_deletion(day, scope, is_open=day in open_days)]
        finally:
            self._writer.look_again()
        gone: list[Purged] = []
        left: list[str] = []
        for day in covered:
            try:
                gone.append(await self.finish_deletions(day))
            except PurgeIncomplete as error:
                left += error.left
        if left:
            raise PurgeIncomplete(left)
        return combined(gone)

    async def _record_deletion(self, day: str, scope: OfRecord | OfUser | OfAccount, *, is_open: bool) -> bool:
        """Return whether there is anything that the deletion covers, or might be soon."""
        empty = True
        async for _ in batches(self._blobs, self._names, day):
            empty = False
            break
        if empty and not is_open:
            return False
        log = DeletionLog(self._blobs, self._names, day)
        await log.refresh()
        # Listed before the deletion is there, so that no key of somebody who knows of it is among them.
        deletion = await self._deletion(scope, day)
        known = log.has(deletion)
        if deletion.kind == "user":
            known = known and not is_open
        if deletion.kind == "account":
            known = log.account == log.last > 0 and empty and log.kids.issuperset(deletion.kids)
        if not known:
            await self._blobs.put(PENDING, f"{day}/{self._names.account}/{self._names.plugin}", b"")
            await log.append(deletion)
        return True

    async def _deletion(self, scope: OfRecord | OfUser | OfAccount, day: str) -> Deletion:
        match scope:
            case OfRecord():
                return Deletion("record", scope.id)
            case OfUser():
                return Deletion("user", self._names.mark(scope.user, day))
            case OfAccount():
                prefix = self._names.prefix
                kids = [blob.name.removeprefix(prefix) async for blob in self._blobs.list(keyring(day), prefix)]
                return Deletion("account", kids=tuple(kids))


class Vault:
    """Everything that is kept, and its end; one object per process, used from one event loop.

    Args:
        clock: Returns the present, aware.
        in_flight: Writes at once per account and plugin; see ``GroupCommit``.
        ledger: Who gives receipts for days that go.
        data_keys: Where accounts have keys of their own.
        may_keep: Returns whether content of an account may be kept, as is decided now; asked at each commit that knows of it
            for longer than :data:`sluicegate.batch_writer.HEED`.
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
    ) -> None:
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
    """Return whether a day's writers had ended by then; of what is no day, that says its name."""
    return not is_day(day) or has_ended(day, moment)


async def _always(account: str) -> bool:
    return True


def _check_scope(scope: OfRecord | OfUser | OfAccount) -> None:
    if isinstance(scope, OfRecord):
        _check_record(scope.id)
    if isinstance(scope, OfUser):
        _check_user(scope.user)


def _check_record(record: str) -> None:
    if not _RECORD.fullmatch(record):
        raise ValueError("a record's id has 1 to 200 letters, digits and ._=@+- and begins with a letter or digit")


def _check_user(user: str | None) -> None:
    if user is not None and not _USER.fullmatch(user):
        raise ValueError("an end user is known by the account's keyed hash: 64 lower-case hexadecimal digits")
