"""Large files, streamed into sealed segments and back with bounded memory, whatever their size.

:mod:`sluicegate.storage.file_layout` says where everything is. A file's head, with its wrapped data key, is written last and goes
first: until it is there nobody can read any of the file, and once it is gone nobody can any more. What is retained ends with
its day; a file lives until somebody deletes it, under a key that lives as long as there are files.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from sluicegate.errors import (
    AccountKeyUnavailable,
    BlobChanged,
    BlobExists,
    BlobNotFound,
    PurgeIncomplete,
    SealBroken,
    ServiceError,
    StorageUnavailable,
)
from sluicegate.services import BlobStore, KeyService
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.day_layout import Gone, Tally, combined, day_of, delete_all, has_ended, is_day
from sluicegate.storage.envelope import SECRET_BYTES, read_ring_entry
from sluicegate.storage.file_layout import CHANGES, HEADS, KEY_NAME, SEGMENTS, Folder
from sluicegate.storage.file_reading import OpenFile, open_file, unlock
from sluicegate.storage.segments import FileKey, FilePlace, Head, Shape, new_prefix, read_head, written_head
from sluicegate.types import Purged, utc_now

SEGMENT_BYTES = 4 << 20
IN_FLIGHT = 4
LONGEST = timedelta(days=1)
"""How long writing a file may take; what began before that and has not ended never will."""


class FileStore:
    """One account's files of one kind, such as uploads for fine-tuning or a model's weights."""

    def __init__(
        self,
        blobs: BlobStore,
        data_keys: DataKeys,
        clock: Callable[[], datetime],
        folder: Folder,
        discarding: set[asyncio.Task[None]],
    ) -> None:
        self._blobs = blobs
        self._data_keys = data_keys
        self._clock = clock
        self._folder = folder
        self._discarding = discarding

    async def write(self, file: str, data: AsyncIterable[bytes]) -> int:
        """Seal and write a file while its bytes arrive, and return how many they were; durable when this returns.

        ``data`` is taken no faster than it can be written: about ten segments of 4 MiB are in memory, whatever the size. When
        ``data`` raises, or the caller is cancelled, nothing stays of the file.

        Args:
            file: Its id, stored in the clear, so opaque; one segment of a blob's name.

        Raises:
            BlobExists: There is a file of that id.
            ServiceError: Storage or keys failed; the file may or may not have been written, but never a part of it.
        """
        name = self._folder.head(file)
        if await self.has(file):
            raise BlobExists(f"{HEADS}/{name}")
        place = self._folder.place(file, secrets.token_hex(12))
        begun = self._clock()
        change = await self._begin(place, begun)
        writes: set[asyncio.Task[None]] = set()
        try:
            secret = os.urandom(SECRET_BYTES)
            wrapped = await self._data_keys.wrap(self._folder.account, KEY_NAME, secret)
            key, prefix = FileKey(secret, place), new_prefix()
            shape = Shape(prefix, SEGMENT_BYTES, await self._write_segments(key, prefix, data, writes))
            head = Head(place, shape, key.seal_of(shape), wrapped)
            await self._blobs.put(HEADS, name, written_head(head), create=True)
            if self._clock() - begun > LONGEST:
                raise StorageUnavailable("a file took more than a day to write")
        except BaseException:
            await self._discard(place, change, writes)
            raise
        await self._end(change)
        return shape.size

    async def open(self, file: str) -> OpenFile:
        """Return a file for reading.

        Raises:
            BlobNotFound: There is no such file.
            KeyNotFound: Its wrapping key was destroyed: it is unreadable for good.
            SealBroken: Its head was changed, or belongs to another file.
        """
        return await open_file(self._blobs, self._data_keys, self._clock, self._folder, file)

    async def has(self, file: str) -> bool:
        """Return whether there is such a file; no key is needed."""
        with suppress(BlobNotFound):
            await self._blobs.get(HEADS, self._folder.head(file), length=0)
            return True
        return False

    async def stored(self, file: str) -> AsyncIterator[Gone]:
        """Yield the blobs of a file, or of what an interrupted upload or deletion has left of it; no key is needed."""
        head = self._folder.head(file)
        async for blob in self._blobs.list(HEADS, head):
            if blob.name == head:
                yield Gone(HEADS, blob.name, blob.size)
        async for blob in self._blobs.list(SEGMENTS, self._folder.segments(file)):
            yield Gone(SEGMENTS, blob.name, blob.size)

    async def names(self) -> AsyncIterator[str]:
        """Yield the ids of the files, in the order of their characters."""
        async for blob in self._blobs.list(HEADS, self._folder.prefix):
            yield blob.name.removeprefix(self._folder.prefix)

    async def starting(self, prefix: str) -> list[str]:
        """Return the ids that begin with ``prefix``, sorted, of files and of what was left of some; no key is needed."""
        found = set()
        for container in (HEADS, SEGMENTS):
            async for blob in self._blobs.list(container, self._folder.prefix + prefix):
                found.add(blob.name.removeprefix(self._folder.prefix).partition("/")[0])
        return sorted(found)

    async def delete(self, file: str) -> Purged:
        """Delete a file: its wrapped key, from when on nobody can open it, then its segments.

        Raises:
            BlobNotFound: There is no such file. What an interrupted deletion left is unreadable, and goes with
                ``Files.finish_changes``.
        """
        blob = await self._blobs.get(HEADS, self._folder.head(file))
        try:
            kids = [read_head(blob.data).place.kid]
        except SealBroken:
            kids = await self._stored_kids(file)
        now = self._clock()
        changes = [await self._begin(self._folder.place(file, kid), now) for kid in kids]
        await self._blobs.delete(HEADS, self._folder.head(file))
        head = Tally()
        head.note(Gone(HEADS, self._folder.head(file), len(blob.data)))
        gone = [await delete_all(self._blobs, SEGMENTS, self._folder.segments(file, kid)) for kid in kids]
        for change in changes:
            await self._end(change)
        return combined([head.purged(), *gone])

    async def erase(self, file: str) -> None:
        """Delete a file, or what an interrupted deletion has left of it; for ids that nobody writes to any more."""
        with suppress(BlobNotFound):
            await self.delete(file)
        await delete_all(self._blobs, SEGMENTS, self._folder.segments(file))

    async def finish(self, file: str, kid: str) -> Purged:
        """Remove the segments under a data key that a change left behind, unless the file is made of them."""
        if await self._is_current(file, kid):
            return Purged()
        return await delete_all(self._blobs, SEGMENTS, self._folder.segments(file, kid))

    async def rewrap(self, file: str, key_id: str, newest: str | None) -> bool:
        """Wrap a file's data key under the present versions of the keys above it; False if they are what wraps it.

        Args:
            key_id: The present version of the deployment's key.
            newest: That of the account's own, as ``DataKeys.newest`` has it.
        """
        blob = await self._blobs.get(HEADS, self._folder.head(file))
        head = read_head(blob.data)
        key = await self._data_keys.rewrapped(self._folder.account, head.key, newest) or head.key
        if read_ring_entry(key).wrapped.key_id != key_id:
            key = await self._data_keys.renewed(key, KEY_NAME)
        if key == head.key:
            return False
        # What does not open as it is must not be made to look like something that was looked at.
        await unlock(self._data_keys, self._folder, file, head)
        await self._blobs.put(HEADS, self._folder.head(file), written_head(replace(head, key=key)), if_match=blob.etag)
        return True

    async def _write_segments(
        self, key: FileKey, prefix: bytes, data: AsyncIterable[bytes], writes: set[asyncio.Task[None]]
    ) -> int:
        """Write all segments, a few at once, and return the size of the file; ``writes`` are those in flight."""
        number = size = 0
        async for piece, is_last in _pieces(data):
            if len(writes) == IN_FLIGHT:
                await _some_of(writes)
            writes.add(asyncio.create_task(self._write_segment(key, prefix, number, piece, is_last)))
            number += 1
            size += len(piece)
        while writes:
            await _some_of(writes)
        return size

    async def _write_segment(self, key: FileKey, prefix: bytes, number: int, piece: bytes, is_last: bool) -> None:
        segment = await asyncio.to_thread(key.seal, prefix, number, piece, is_last=is_last)
        name = self._folder.segment(key.place.file, key.place.kid, number)
        await self._blobs.put(SEGMENTS, name, segment, create=True)

    async def _discard(self, place: FilePlace, change: str, writes: set[asyncio.Task[None]]) -> None:
        """Remove what was written of a file, its head first; what cannot be removed now is left to ``finish_changes``."""

        async def discard() -> None:
            # Not cancelled, because a request that was sent may still be carried out.
            await asyncio.gather(*writes, return_exceptions=True)
            with suppress(ServiceError):
                if await self._is_current(place.file, place.kid):
                    await self._blobs.delete(HEADS, self._folder.head(place.file))
                await delete_all(self._blobs, SEGMENTS, self._folder.segments(place.file, place.kid))
                await self._end(change)

        # Shielded: who goes away in the middle of an upload must not leave it behind.
        task = asyncio.create_task(discard())
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)
        await asyncio.shield(task)

    async def _is_current(self, file: str, kid: str) -> bool:
        """Return whether a file is there and was sealed under this data key."""
        try:
            return read_head((await self._blobs.get(HEADS, self._folder.head(file))).data).place.kid == kid
        except BlobNotFound:
            return False

    async def _stored_kids(self, file: str) -> list[str]:
        prefix = self._folder.segments(file)
        names = [blob.name.removeprefix(prefix) async for blob in self._blobs.list(SEGMENTS, prefix)]
        return sorted({name.partition("/")[0] for name in names})

    async def _begin(self, place: FilePlace, now: datetime) -> str:
        change = self._folder.change(day_of(now), place.file, place.kid)
        await self._blobs.put(CHANGES, change, b"")
        return change

    async def _end(self, change: str) -> None:
        with suppress(BlobNotFound):
            await self._blobs.delete(CHANGES, change)


class Files:
    """The large files of all accounts; one object per process, used from one event loop.

    Args:
        clock: Returns the present, aware.
        data_keys: Where accounts have keys of their own.
    """

    def __init__(
        self,
        blobs: BlobStore,
        keys: KeyService,
        *,
        clock: Callable[[], datetime] = utc_now,
        data_keys: DataKeys | None = None,
    ) -> None:
        self._blobs = blobs
        self._keys = keys
        self._data_keys = data_keys or DataKeys(keys, clock=clock)
        self._clock = clock
        self._discarding: set[asyncio.Task[None]] = set()

    def store(self, account: str, kind: str) -> FileStore:
        """Return one account's files of one kind."""
        return FileStore(self._blobs, self._data_keys, self._clock, Folder(account, kind), self._discarding)

    async def drain(self) -> None:
        """Wait until what was not finished is removed; for the embedded host and tests."""
        await asyncio.gather(*self._discarding)

    async def finish_changes(self, now: datetime) -> Purged:
        """Remove what uploads and deletions left behind that were interrupted more than a day ago; nobody can read it.

        Raises:
            PurgeIncomplete: Something of it is left; the rest is done.
        """
        gone: list[Purged] = []
        left: list[str] = []
        for change in [blob.name async for blob in self._blobs.list(CHANGES)]:
            day, *names = change.split("/")
            if not is_day(day) or len(names) != 4 or not has_ended(day, now - LONGEST):
                continue
            account, kind, file, kid = names
            try:
                gone.append(await self.store(account, kind).finish(file, kid))
                await self._blobs.delete(CHANGES, change)
            except BlobNotFound:
                continue
            except ServiceError as error:
                left.append(f"changes of {change}: {type(error).__name__}")
        if left:
            raise PurgeIncomplete(left)
        return combined(gone)

    async def rewrap(self) -> int:
        """Wrap every data key under the present versions of the keys above it; return how many were under older ones.

        Files of accounts whose own key cannot be used are left as they are.

        Raises:
            ServiceError: Storage or keys failed, or a head cannot be read; run again, it goes on.
        """
        present = (await self._keys.wrap(KEY_NAME, os.urandom(SECRET_BYTES))).key_id
        newest: dict[str, str | None] = {}
        count = 0
        async for blob in self._blobs.list(HEADS):
            account, kind, file = blob.name.split("/")
            # Deleted or rewrapped meanwhile by somebody else, or nothing that anybody can do now.
            with suppress(BlobNotFound, BlobChanged, AccountKeyUnavailable):
                if account not in newest:
                    newest = {account: await self._data_keys.newest(account)}
                count += await self.store(account, kind).rewrap(file, present, newest[account])
        return count


async def _some_of(writes: set[asyncio.Task[None]]) -> None:
    """Wait until some of the writes have ended, and take them out; raise what one of them raised."""
    done, _ = await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
    for write in done:
        writes.discard(write)
        write.result()


async def _pieces(data: AsyncIterable[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Cut what arrives into segments' worth, and tell which one is the last."""
    rest = bytearray()
    async for chunk in data:
        rest += chunk
        while len(rest) > SEGMENT_BYTES:
            yield bytes(memoryview(rest)[:SEGMENT_BYTES]), False
            del rest[:SEGMENT_BYTES]
    yield bytes(rest), True
