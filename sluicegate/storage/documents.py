"""JSON documents in the blob store, each guarded by its ETag, and a cache for those that are read on every request."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound
from sluicegate.services import BlobStore

CACHE_S = 30.0
CACHE_ENTRIES = 10_000
_READS_AT_ONCE = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was read or written; ``name`` is without the prefix of its kind."""

    name: str
    content: Mapping[str, Any]
    etag: str


class Documents:
    """The documents of one kind: the blobs of a container whose names begin with ``prefix``."""

    def __init__(self, blobs: BlobStore, container: str, prefix: str) -> None:
        self._blobs = blobs
        self._container = container
        self._prefix = prefix

    async def get(self, name: str) -> Document | None:
        """Return a document, or None when there is none of that name."""
        try:
            blob = await self._blobs.get(self._container, self._prefix + name)
        except BlobNotFound:
            return None
        return Document(name, json.loads(blob.data), blob.etag)

    async def put(self, name: str, content: Mapping[str, Any], *, etag: str | None) -> Document:
        """Write a document.

        Args:
            etag: Of the document that is replaced; None when there is none yet.

        Raises:
            BlobExists: There is one already.
            BlobChanged: It is not the one that was read, or is gone.
        """
        data = json.dumps(content, separators=(",", ":")).encode()
        written = await self._blobs.put(self._container, self._prefix + name, data, create=etag is None, if_match=etag)
        return Document(name, content, written)

    async def change(
        self, name: str, update: Callable[[Mapping[str, Any] | None], Mapping[str, Any]], *, etag: str | None = None
    ) -> Document:
        """Replace a document by what ``update`` makes of it, or of None; done again when somebody else is faster.

        Raises:
            BlobChanged: It is not the one of ``etag``.
        """
        while True:
            found = await self.get(name)
            content = update(None if found is None else found.content)
            known = None if found is None else found.etag
            if etag is not None and known != etag:
                raise BlobChanged(name)
            try:
                return await self.put(name, content, etag=known)
            except (BlobChanged, BlobExists):
                continue

    async def delete(self, name: str, *, etag: str | None = None) -> bool:
        """Delete a document; False when there was none.

        Raises:
            BlobChanged: It is not the one of ``etag``.
        """
        try:
            await self._blobs.delete(self._container, self._prefix + name, if_match=etag)
        except BlobNotFound:
            return False
        return True

    async def names(self, prefix: str = "", *, after: str = "", limit: int | None = None) -> list[str]:
        """Return names that begin with ``prefix``, in order, those greater than ``after``, at most ``limit``."""
        found: list[str] = []
        start = len(self._prefix)
        listing = self._blobs.list(self._container, self._prefix + prefix, after=after and self._prefix + after)
        async for blob in listing:
            found.append(blob.name[start:])
            if len(found) == limit:
                break
        return found

    async def page(self, prefix: str = "", *, after: str = "", limit: int) -> tuple[list[Document], bool]:
        """Return at most ``limit`` documents of :meth:`names`, and whether more follow; ones that go meanwhile are left out."""
        names = await self.names(prefix, after=after, limit=limit + 1)
        return await self.all(names[:limit]), len(names) > limit

    async def every(self) -> list[Document]:
        """Return all documents, in the order of their names."""
        return await self.all(await self.names())

    async def all(self, names: list[str]) -> list[Document]:
        """Return the documents of these names, in order, without those that do not exist."""
        found: list[Document] = []
        waiting = iter(names)
        while batch := list(islice(waiting, _READS_AT_ONCE)):
            read = await asyncio.gather(*map(self.get, batch))
            found += [document for document in read if document is not None]
        return found


class Cache(Generic[T]):
    """A bounded cache whose entries, absent ones too, live for :data:`CACHE_S`."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[float, T]] = OrderedDict()

    async def get(self, key: str, read: Callable[[], Awaitable[T]]) -> T:
        """Return the entry, read if it is not there or too old."""
        entry = self._entries.get(key)
        if entry is not None and time.monotonic() - entry[0] < CACHE_S:
            return entry[1]
        value = await read()
        self._entries[key] = (time.monotonic(), value)
        self._entries.move_to_end(key)
        if len(self._entries) > CACHE_ENTRIES:
            self._entries.popitem(last=False)
        return value

    def forget(self, key: str) -> None:
        """Read the entry anew next time."""
        self._entries.pop(key, None)
