"""One plugin's records in one account: what plugins are given to keep, read and delete in.

Places and ends are those of :mod:`sluicegate.storage.vault`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime

from sluicegate.errors import BlobNotFound, PurgeIncomplete, SealBroken
from sluicegate.retention.day_removal import DayOfStore
from sluicegate.retention.deletion import Deletion, DeletionLog, batches, count_hidden, count_shown, read_head, remove
from sluicegate.retention.removals import TIMER, Ledger
from sluicegate.services import BlobStore, KeyService
from sluicegate.storage.batch_writer import Writer
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.day_layout import (
    CEILING_DAYS,
    MARGIN,
    PENDING,
    Gone,
    Namespace,
    Tally,
    combined,
    container,
    day_of,
    due,
    keyring,
    purged,
    stored_days,
)
from sluicegate.storage.group_commit import GroupCommit
from sluicegate.storage.reading import Reader, Record
from sluicegate.types import Expired, OfAccount, OfRecord, OfUser, Purged, Scope

__all__ = ["CEILING_DAYS", "MAX_BATCH_BYTES", "MAX_RECORD_BYTES", "Record", "Store"]

MAX_BATCH_BYTES = 4 << 20
MAX_RECORD_BYTES = 256 << 20
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

    async def by_day(self) -> dict[str, tuple[int, int]]:
        """Return how many records may be read, and how many bytes they take, by day; no key is needed.

        Raises:
            SealBroken: A batch's header cannot be read.
        """
        found: dict[str, tuple[int, int]] = {}
        for day in await stored_days(self._blobs):
            log = DeletionLog(self._blobs, self._names, day)
            await log.refresh()
            records, size = await count_shown(self._blobs, self._names, log)
            if records:
                found[day] = records, size
        return found

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
