"""Reading what is kept: found, opened, and checked against deletions before anybody sees it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from sluicegate.errors import BlobNotFound, KeyNotFound, SealBroken
from sluicegate.retention.deletion import DeletionLog, batches, read_head
from sluicegate.services import BlobInfo, BlobStore
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.day_layout import Namespace, container, each, keyring, start, stored_days
from sluicegate.storage.envelope import DataKey, Entry, Place

_AT_ONCE = 16
_AT_ONCE_BYTES = 4 << 20
_CURSOR = re.compile(r"([0-9]{8})/([0-9a-f]{24})/([0-9]{8})/([0-9]{1,10})")


@dataclass(frozen=True, slots=True)
class Record:
    """One kept record.

    Attributes:
        day: The UTC day it was written, ``YYYYMMDD``.
        cursor: Its place among all of its account and plugin; opaque.
    """

    id: str
    day: str
    data: bytes
    cursor: str = field(default="", compare=False)


class Reader:
    """Reads one account's and plugin's records."""

    def __init__(self, blobs: BlobStore, data_keys: DataKeys, names: Namespace) -> None:
        self._blobs = blobs
        self._data_keys = data_keys
        self._names = names

    async def records(self, day: str | None, user: str | None, after: str | None) -> AsyncIterator[Record]:
        """Yield records; see ``Store.records``."""
        if day is not None:
            start(day)
        passed = _place(after)
        for found in await stored_days(self._blobs) if day is None else [day]:
            if found < passed[0]:
                continue
            mark = self._names.mark(user, found)
            opening = _Opening(self._blobs, self._data_keys, self._names, found)
            # The cursor's own batch may hold more, so the listing begins just before it.
            before = self._names.batch(passed[1], passed[2] - 1) if found == passed[0] else ""
            async for group in _groups(self._batches(found, mark, before)):
                for entry, record in await opening.records(group):
                    if (not mark or entry.user == mark) and _place(record.cursor) > passed:
                        yield record

    async def get(self, record: str, day: str | None) -> Record | None:
        """Return a record; see ``Store.get``."""
        if day is not None:
            start(day)
        for found in reversed(await stored_days(self._blobs)) if day is None else [day]:
            opening = _Opening(self._blobs, self._data_keys, self._names, found)

            async def holding(blob: BlobInfo, day: str = found) -> str | None:
                return blob.name if await self._holds(day, blob, record=record) else None

            async for name in each(batches(self._blobs, self._names, found), holding):
                for entry, opened in await opening.records([name]) if name else []:
                    if entry.record == record:
                        return opened
        return None

    async def _batches(self, day: str, mark: str, after: str) -> AsyncIterator[BlobInfo]:
        """Yield the batches of a day, only those that hold records of an end user if there is a mark."""

        async def wanted(blob: BlobInfo) -> BlobInfo | None:
            return blob if not mark or await self._holds(day, blob, user=mark) else None

        async for blob in each(batches(self._blobs, self._names, day, after=after), wanted):
            if blob is not None:
                yield blob

    async def _holds(self, day: str, blob: BlobInfo, *, record: str = "", user: str = "") -> bool:
        try:
            index = (await read_head(self._blobs, day, blob)).index
        except BlobNotFound:
            return False
        return any(entry.record == record or (user and entry.user == user) for entry in index)


class _Opening:
    """Opens the batches of one day, in the order of their names."""

    def __init__(self, blobs: BlobStore, data_keys: DataKeys, names: Namespace, day: str) -> None:
        self._blobs = blobs
        self._data_keys = data_keys
        self._names = names
        self._day = day
        self._log = DeletionLog(blobs, names, day)
        self._data_key: DataKey | None = None

    async def records(self, names: Sequence[str]) -> list[tuple[Entry, Record]]:
        """Return what may be seen of some batches; nothing of one that has gone, or whose key has."""
        read = await asyncio.gather(*map(self._read, names))
        try:
            # After the batches were read: a deletion that was there when the caller asked is never missed.
            await self._log.refresh()
        except BlobNotFound:
            return []
        return [shown for batch in read if batch is not None for shown in await self._opened(*batch)]

    async def _read(self, name: str) -> tuple[str, int, bytes] | None:
        """Return a batch with its key's identifier and its number."""
        key_and_number = self._names.kid_and_seq(name)
        if key_and_number is None:
            raise SealBroken(f"{container(self._day)} holds something that is not a batch")
        try:
            return (*key_and_number, (await self._blobs.get(container(self._day), name)).data)
        except BlobNotFound:
            return None

    async def _opened(self, kid: str, seq: int, batch: bytes) -> list[tuple[Entry, Record]]:
        # A long reading goes on under one data key; its owner may revoke the key above it meanwhile.
        await self._data_keys.check(self._names.account)
        try:
            header, opened = (await self._key(kid)).open(seq, batch)
        except (BlobNotFound, KeyNotFound):
            return []
        return [
            (entry, Record(entry.record, self._day, data, f"{self._day}/{kid}/{seq:08d}/{entry.position}"))
            for entry, data in zip(header.index, opened, strict=True)
            if not self._log.hides(header.deletions, entry)
        ]

    async def _key(self, kid: str) -> DataKey:
        if self._data_key is None or self._data_key.place.kid != kid:
            # Read anew each time: keys that outlived their wrapped form would make shredding a promise for later.
            entry = await self._blobs.get(keyring(self._day), self._names.ring(kid))
            secret = await self._data_keys.open(self._names.account, entry.data)
            self._data_key = DataKey(secret, Place(self._names.account, self._names.plugin, self._day, kid))
        return self._data_key


async def _groups(blobs: AsyncIterator[BlobInfo]) -> AsyncIterator[list[str]]:
    """Yield the names of batches that are read at once: as many bytes as one batch may have, or a single larger one."""
    group: list[str] = []
    size = 0
    async for blob in blobs:
        if group and (len(group) == _AT_ONCE or size + blob.size > _AT_ONCE_BYTES):
            yield group
            group, size = [], 0
        group.append(blob.name)
        size += blob.size
    if group:
        yield group


def _place(cursor: str | None) -> tuple[str, str, int, int]:
    if cursor is None:
        return ("", "", 1, -1)
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise ValueError("not a cursor that a record came with")
    return (match[1], match[2], int(match[3]), int(match[4]))
