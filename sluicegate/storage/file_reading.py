"""Reading a large file: the segments that are asked for, one at a time, each proven before anybody sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

from sluicegate.errors import BlobNotFound, SealBroken
from sluicegate.services import BlobStore
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.file_layout import HEADS, SEGMENTS, Folder
from sluicegate.storage.segments import FileKey, Head, read_head

KEY_AGE = timedelta(minutes=5)
"""How long a file is read without asking for its key again."""


class OpenFile:
    """A file for reading; :func:`open_file` returns one.

    Attributes:
        size: In bytes; proven.
    """

    def __init__(
        self,
        blobs: BlobStore,
        data_keys: DataKeys,
        clock: Callable[[], datetime],
        folder: Folder,
        head: Head,
        key: FileKey,
    ) -> None:
        self.size = head.shape.size
        self._blobs = blobs
        self._data_keys = data_keys
        self._clock = clock
        self._folder = folder
        self._head = head
        self._key = key
        self._unlocked_at = clock()

    async def read(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield a range of the file, all of it unless told otherwise, in pieces of at most 4 MiB.

        Only the segments of the range are read, one after the other, and a few are in memory. A range that begins beyond the end is empty.
        What was yielded before an error is sound. A deletion, or the loss of the wrapping key, ends the reading within
        :data:`KEY_AGE`.

        Raises:
            AccountKeyUnavailable: The account's own encryption key cannot be used.
            BlobNotFound: The file was deleted.
            KeyNotFound: Its wrapping key was destroyed.
            SealBroken: A segment was changed, moved or taken away.
        """
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("a range has no negative numbers")
        end = self.size if length is None else min(offset + length, self.size)
        while offset < end:
            number, skipped = divmod(offset, self._head.shape.segment_bytes)
            piece = await self._piece(number)
            yield piece[skipped : skipped + end - offset]
            offset += len(piece) - skipped

    async def _piece(self, number: int) -> bytes:
        place, shape = self._head.place, self._head.shape
        await self._data_keys.check(place.account)
        if not timedelta() <= self._clock() - self._unlocked_at < KEY_AGE:
            await self._look_again()
        name = self._folder.segment(place.file, place.kid, number)
        try:
            # One byte more than there should be tells whether there are more, without reading them all.
            blob = await self._blobs.get(SEGMENTS, name, length=shape.sealed_bytes(number) + 1)
        except BlobNotFound:
            await self._look_again()
            raise SealBroken("a segment is missing") from None
        return await asyncio.to_thread(self._key.open, shape, number, blob.data)

    async def _look_again(self) -> None:
        now = self._clock()
        head, _ = await _unlocked(self._blobs, self._data_keys, self._folder, self._head.place.file)
        if (head.place, head.shape) != (self._head.place, self._head.shape):
            raise BlobNotFound(f"{HEADS}/{self._folder.head(head.place.file)}")
        self._unlocked_at = now


async def open_file(
    blobs: BlobStore, data_keys: DataKeys, clock: Callable[[], datetime], folder: Folder, file: str
) -> OpenFile:
    """Return a file for reading; see ``FileStore.open``."""
    head, key = await _unlocked(blobs, data_keys, folder, file)
    return OpenFile(blobs, data_keys, clock, folder, head, key)


async def unlock(data_keys: DataKeys, folder: Folder, file: str, head: Head) -> tuple[bytes, FileKey]:
    """Return a file's secret and its data key, which the head was checked with.

    Raises:
        AccountKeyUnavailable: The account's own encryption key cannot be used.
        KeyNotFound: Its wrapping key was destroyed.
        SealBroken: The head was changed, or belongs to another file than this one.
    """
    secret = await data_keys.open(folder.account, head.key)
    # By its name in storage, whatever it says of itself.
    key = FileKey(secret, folder.place(file, head.place.kid))
    head.check(key)
    return secret, key


async def _unlocked(blobs: BlobStore, data_keys: DataKeys, folder: Folder, file: str) -> tuple[Head, FileKey]:
    head = read_head((await blobs.get(HEADS, folder.head(file))).data)
    _, key = await unlock(data_keys, folder, file, head)
    return head, key
