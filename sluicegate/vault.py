"""Encrypted storage: one namespace per account and plugin, every blob with an end.

The layout says when everything goes, without asking any plugin::

    key service  ret-YYYYMMDD                                          wraps the day's data keys
    container    ret-YYYYMMDD    {account}/{plugin}/{kid}/{seq:08d}    batches of records
    container    keyring         {day}/{account}/{plugin}/{kid}        wrapped data keys

Destroying the day's key makes every copy of the day unreadable, backups included; dropping its container removes the
ciphertext in one call. A data key belongs to one account, plugin, day and process, so processes share no counter and
need no coordination. Days are UTC, by this process's clock when a batch is sealed.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sluicegate.envelope import SECRET_BYTES, DataKey, Place, read_ring_entry, ring_entry
from sluicegate.errors import BlobNotFound, KeyNotFound, KeyUnavailable, PurgeIncomplete, SealBroken, ServiceError
from sluicegate.group_commit import GroupCommit
from sluicegate.services import BlobStore, KeyService, check_names
from sluicegate.types import Expired, Purged, utc_now

CEILING_DAYS = 30
"""Nothing is kept longer, whatever the settings say."""
MARGIN = timedelta(hours=1)
"""A day is due this much before its time, so that an hourly timer meets it; a day that ended this long ago has no writer."""
KEYRING = "keyring"
IN_FLIGHT = 4
MAX_BATCH_BYTES = 4 << 20
MAX_RECORD_BYTES = 256 << 20
_STORES = 10_000
_DELETES = 16
_THREAD_BYTES = 256 << 10
_RECORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=@+-]{0,199}")
_BATCH = re.compile(r"([0-9a-f]{24})/([0-9]{8})")
_DAY = re.compile(r"[0-9]{8}")


@dataclass(frozen=True, slots=True)
class Record:
    """One kept record; ``day`` is the UTC day it was written, ``YYYYMMDD``."""

    id: str
    day: str
    data: bytes


class Store:
    """One plugin's records in one account, sealed under the key of the day they are written."""

    def __init__(
        self,
        blobs: BlobStore,
        keys: KeyService,
        clock: Callable[[], datetime],
        account: str,
        plugin: str,
        in_flight: int,
    ) -> None:
        self._blobs = blobs
        self._keys = keys
        self._account = account
        self._plugin = plugin
        self._prefix = f"{account}/{plugin}/"
        self._writer = _Writer(blobs, keys, clock, account, plugin)
        self._lane = GroupCommit(self._writer.write, in_flight=in_flight, max_bytes=MAX_BATCH_BYTES)

    async def keep(self, record: str, data: bytes) -> None:
        """Seal and write a record; durable when this returns.

        Args:
            record: Its id, stored in the clear, so opaque: ``[A-Za-z0-9][A-Za-z0-9._=@+-]{0,199}``.
            data: At most 256 MiB.

        Raises:
            ServiceError: Storage or keys failed; the record may or may not have been written.
        """
        if not _RECORD.fullmatch(record):
            raise ValueError("a record's id has 1 to 200 letters, digits and ._=@+- and begins with a letter or digit")
        if len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"a record has at most {MAX_RECORD_BYTES} bytes")
        # The index takes space as well, so that empty records fill a batch too.
        await self._lane.add((record, data), len(data) + len(record) + 64)

    async def records(self, day: str | None = None) -> AsyncIterator[Record]:
        """Yield the records of one day or of all, oldest day first, decrypted; within a day in no promised order.

        What is purged meanwhile, or whose key is destroyed, is left out.

        Raises:
            SealBroken: A batch was changed, or is not where it was written.
        """
        if day is not None:
            _start(day)
        for each in await _stored_days(self._blobs) if day is None else [day]:
            data_keys: dict[str, DataKey] = {}
            async for blob in self._blobs.list(_container(each), self._prefix):
                try:
                    opened = await self._open(each, blob.name, data_keys)
                except (BlobNotFound, KeyNotFound):
                    continue
                for record, data in opened:
                    yield Record(record, each, data)

    async def purge(self, scope: Expired, *, days: int = CEILING_DAYS) -> Purged:
        """Delete every day's records whose oldest is about to be ``days`` old at ``scope.now``.

        A day is due an hour before that, and never before it has ended. Wrapped keys go first, so an interrupted purge
        leaves nothing readable behind what it reached. A batch that another process is writing as the day ends may
        arrive after this; the next purge finds it.

        Args:
            days: 1 to 30.
        """
        if not 1 <= days <= CEILING_DAYS:
            raise ValueError(f"days must be 1 to {CEILING_DAYS}, not {days}")
        gone: list[Purged] = []
        for day in await _stored_days(self._blobs):
            if due(day, days) <= scope.now:
                self.forget(day)
                ring = await _delete_all(self._blobs, KEYRING, f"{day}/{self._prefix}")
                batches = await _delete_all(self._blobs, _container(day), self._prefix)
                if ring.blobs or batches.blobs:
                    gone += (Purged((day,)), ring, batches)
        return combined(gone)

    def forget(self, day: str) -> None:
        """Drop this process's data key of a day."""
        self._writer.forget(day)

    async def _open(self, day: str, name: str, data_keys: dict[str, DataKey]) -> list[tuple[str, bytes]]:
        match = _BATCH.fullmatch(name.removeprefix(self._prefix))
        if match is None:
            raise SealBroken(f"{_container(day)} holds something that is not a batch")
        kid, seq = match[1], int(match[2])
        if kid not in data_keys:
            # Read anew each time: keys that outlived their wrapped form would make shredding a promise for later.
            entry = await self._blobs.get(KEYRING, f"{day}/{self._prefix}{kid}")
            secret = await self._keys.unwrap(read_ring_entry(entry.data))
            if len(secret) != SECRET_BYTES:
                raise SealBroken("a wrapped key has the wrong length")
            data_keys.clear()
            data_keys[kid] = DataKey(secret, Place(self._account, self._plugin, day, kid))
        return data_keys[kid].open(seq, (await self._blobs.get(_container(day), name)).data)


class _Writer:
    """Seals and writes batches, under one data key a day."""

    def __init__(
        self, blobs: BlobStore, keys: KeyService, clock: Callable[[], datetime], account: str, plugin: str
    ) -> None:
        self._blobs = blobs
        self._keys = keys
        self._clock = clock
        self._account = account
        self._plugin = plugin
        self._data_key: DataKey | None = None
        self._seq = 0
        self._making = asyncio.Lock()

    async def write(self, records: Sequence[tuple[str, bytes]]) -> None:
        data_key = await self._todays_key()
        place = data_key.place
        self._seq += 1
        seq = self._seq
        if sum(len(data) for _, data in records) > _THREAD_BYTES:
            batch = await asyncio.to_thread(data_key.seal, seq, records)
        else:
            batch = data_key.seal(seq, records)
        name = f"{place.account}/{place.plugin}/{place.kid}/{seq:08d}"
        await self._blobs.put(_container(place.day), name, batch, create=True)

    def forget(self, day: str) -> None:
        if self._data_key is not None and self._data_key.place.day == day:
            self._data_key = None

    async def _todays_key(self) -> DataKey:
        async with self._making:
            while self._data_key is None or self._data_key.place.day != day_of(self._clock()):
                self._data_key = await self._make(day_of(self._clock()))
            return self._data_key

    async def _make(self, day: str) -> DataKey | None:
        """Return a new data key whose wrapped form is durable, or None when the day is no longer today."""
        place = Place(self._account, self._plugin, day, secrets.token_hex(12))
        secret = os.urandom(SECRET_BYTES)
        wrapped = await self._keys.wrap(_key_name(day), secret)
        if due(day, CEILING_DAYS) <= self._clock():
            # Suspended for weeks while wrapping: the day's key was purged, and wrapping has made it again.
            await self._keys.destroy(_key_name(day))
        if day_of(self._clock()) != day:
            return None
        await self._blobs.put(
            KEYRING, f"{day}/{place.account}/{place.plugin}/{place.kid}", ring_entry(wrapped), create=True
        )
        return DataKey(secret, place)


class Vault:
    """Everything that is kept, and its end; one object per process, used from one event loop.

    Args:
        clock: Returns the present, aware.
        in_flight: Writes at once per account and plugin; see ``GroupCommit``.
    """

    def __init__(
        self,
        blobs: BlobStore,
        keys: KeyService,
        *,
        clock: Callable[[], datetime] = utc_now,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self._blobs = blobs
        self._keys = keys
        self._clock = clock
        self._in_flight = in_flight
        self._stores: OrderedDict[tuple[str, str], Store] = OrderedDict()

    def store(self, account: str, plugin: str) -> Store:
        """Return one plugin's namespace in one account."""
        found = self._stores.get((account, plugin))
        if found is None:
            check_names(KEYRING, f"{account}/{plugin}")
            if "/" in account + plugin:
                raise ValueError("an account's and a plugin's name are one segment each")
            found = Store(self._blobs, self._keys, self._clock, account, plugin, self._in_flight)
            self._stores[account, plugin] = found
            if len(self._stores) > _STORES:
                # Whoever still holds it goes on; a newer one has data keys of its own.
                self._stores.popitem(last=False)
        self._stores.move_to_end((account, plugin))
        return found

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
        ended = await self._days_that(lambda day: _start(day) + timedelta(days=1) + MARGIN <= now)
        return await self._destroy([day for day in ended if await _is_empty(self._blobs, _container(day))])

    async def overdue(self, now: datetime) -> tuple[str, ...]:
        """Return the days that have reached 30 days and are not gone, oldest first."""
        return tuple(await self._days_that(lambda day: _start(day) + timedelta(days=CEILING_DAYS) <= now))

    async def _days_that(self, have_passed: Callable[[str], bool]) -> list[str]:
        """Return the days of which anything is left, oldest first; ``have_passed`` holds for every day before one it holds for."""
        days = {*await _stored_days(self._blobs), *_days(await self._keys.names("ret-"))}
        passed = {day for day in days if have_passed(day)}
        async for blob in self._blobs.list(KEYRING):
            day = blob.name.partition("/")[0]
            if _is_day(day):
                if not have_passed(day):
                    break
                passed.add(day)
        return sorted(passed)

    async def _destroy(self, days: Iterable[str]) -> Purged:
        gone: list[Purged] = []
        left: list[str] = []
        for day in days:
            for store in self._stores.values():
                store.forget(day)
            try:
                gone.append(await self._destroy_day(day))
            except PurgeIncomplete as error:
                left += error.left
            except ServiceError as error:
                left.append(f"{day}: {type(error).__name__}")
        if left:
            raise PurgeIncomplete(left)
        return combined(gone)

    async def _destroy_day(self, day: str) -> Purged:
        """Key first: from then on every copy is unreadable, even if the rest is interrupted."""
        try:
            key_is_gone = await self._keys.destroy(_key_name(day))
        except KeyUnavailable:
            key_is_gone = False
        ring = await _delete_all(self._blobs, KEYRING, f"{day}/")
        sizes = [blob.size async for blob in self._blobs.list(_container(day))]
        await self._blobs.drop(_container(day))
        left = {
            "its key": not key_is_gone or _key_name(day) in await self._keys.names(_key_name(day)),
            "wrapped keys": not await _is_empty(self._blobs, KEYRING, f"{day}/"),
            "ciphertext": _container(day) in await self._blobs.containers(_container(day)),
        }
        if any(left.values()):
            raise PurgeIncomplete(f"{day}: {what}" for what, is_left in left.items() if is_left)
        return Purged((day,), ring.blobs + len(sizes), ring.bytes + sum(sizes))


def due(day: str, days: int) -> datetime:
    """Return when a day's records are due: an hour before the oldest is ``days`` old, never before the day has ended."""
    return _start(day) + max(timedelta(days=days) - MARGIN, timedelta(days=1))


def day_of(moment: datetime) -> str:
    """Return the UTC day of an aware time, ``YYYYMMDD``."""
    if moment.tzinfo is None:
        raise ValueError("a time must be aware")
    return moment.astimezone(UTC).strftime("%Y%m%d")


def combined(purged: Iterable[Purged]) -> Purged:
    """Return several purges as one."""
    every = list(purged)
    days = sorted({day for each in every for day in each.days})
    return Purged(tuple(days), sum(each.blobs for each in every), sum(each.bytes for each in every))


def _start(day: str) -> datetime:
    if not _DAY.fullmatch(day):
        raise ValueError("a day is written YYYYMMDD")
    return datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)


def _is_day(text: str) -> bool:
    with suppress(ValueError):
        return bool(_start(text))
    return False


def _container(day: str) -> str:
    return f"ret-{day}"


def _key_name(day: str) -> str:
    return f"ret-{day}"


def _days(names: Iterable[str]) -> list[str]:
    # A stray name must not keep the others from being purged.
    return [day for name in names if _is_day(day := name.removeprefix("ret-"))]


async def _stored_days(blobs: BlobStore) -> list[str]:
    return _days(await blobs.containers("ret-"))


async def _is_empty(blobs: BlobStore, container: str, prefix: str = "") -> bool:
    async for _ in blobs.list(container, prefix):
        return False
    return True


async def _delete_all(blobs: BlobStore, container: str, prefix: str) -> Purged:
    found = [blob async for blob in blobs.list(container, prefix)]
    slots = asyncio.Semaphore(_DELETES)

    async def delete(name: str) -> None:
        async with slots:
            with suppress(BlobNotFound):
                await blobs.delete(container, name)

    results = await asyncio.gather(*(delete(blob.name) for blob in found), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return Purged((), len(found), sum(blob.size for blob in found))
