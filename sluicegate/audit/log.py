"""The audit log: who did what to whose data, when and why, without any of the content.

Entries (:mod:`sluicegate.audit.entries`) that are appended together are written together. A *page* of them is a blob in
the container ``audit`` under the number of its first entry, ``{seq:012d}``. Pages are only ever created, and the next
page's name follows from the one before, so of two writers one gets the number and the other reads on and follows: the
log cannot fork. The entries are the leaves of a Merkle tree (:mod:`sluicegate.audit.tree`), whose signed roots
(:mod:`sluicegate.audit.checkpoints`) hold every entry in its place. Once a day a checkpoint is published: logged, and kept in
the container ``audit-checkpoints`` under ``{YYYYMMDD}``.

Not promised: who can write to the storage can cut off or rewrite the newest entries, back to the newest checkpoint that
somebody else holds; who can also sign can write another history. Both show against a checkpoint published elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from sluicegate.audit.checkpoints import Checkpoint, LogKey, read_checkpoint
from sluicegate.audit.entries import (
    PAGE_ENTRIES,
    Entry,
    Event,
    LogBroken,
    canonical,
    entry_of,
    page_bytes,
    read_page,
    timestamp,
)
from sluicegate.audit.merkle import Tree
from sluicegate.audit.tree import StoredTree
from sluicegate.errors import BlobExists, BlobNotFound, SealBroken, ServiceError, StorageUnavailable
from sluicegate.services import BlobStore, KeyService
from sluicegate.storage.group_commit import GroupCommit
from sluicegate.types import utc_now

CONTAINER = "audit"
PUBLISHED = "audit-checkpoints"
SAVE_PAGES = 64
"""After this many pages the tree is saved, so a process that starts, or falls behind, reads at most about as many."""
READ_AHEAD = 16
_BLOCK = 1000
log = logging.getLogger(__name__)


class Audit:
    """The log; one object per process, used from one event loop, beside any number of other processes.

    Args:
        origin: The log's name, for ever: 1 to 200 visible ASCII characters.
        clock: Returns the present, aware.

    Attributes:
        key: What signs the log.
    """

    def __init__(
        self, blobs: BlobStore, keys: KeyService, *, origin: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.key = LogKey(keys, origin)
        self._blobs = blobs
        self._clock = clock
        self._tree = StoredTree(blobs, self.key)
        self._busy = asyncio.Lock()
        self._is_loaded = False
        self._unsaved = 0
        self._published = ""
        # One write at a time: the next page's number and first link depend on it. Each entry counts as 1.
        self._lane = GroupCommit(self._write, in_flight=1, max_bytes=PAGE_ENTRIES)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def append(self, event: Event) -> Entry:
        """Append an event; durable when this returns. Events appended at once share a page, and so its cost.

        Raises:
            ServiceError: Storage failed and could not say whether the entry was written; appending the same event again
                to this object does not write it twice as long as nothing else was appended in between.
            LogBroken: The log's end is not what was written; nothing was appended.
        """
        draft = _Draft(event)
        await self._lane.add(draft, 1)
        return draft.entry

    async def checkpoint(self) -> Checkpoint:
        """Return a signed checkpoint over all entries there are now; signs only when there are new ones.

        Raises:
            KeyUnavailable: The key service cannot sign.
            LogBroken: The log is not what was written, or not what was signed.
        """
        async with self._busy:
            await self._catch_up()
            snapshot = self._tree.snapshot()
            self._unsaved = 0
        return await self._tree.save(snapshot)

    async def publish(self) -> Checkpoint:
        """Publish the day's checkpoint: log it in one line, at level INFO, and keep it for ``verify``.

        Run it as often as you like: a process logs one a day, and the first of the day is kept.

        Returns:
            The newest checkpoint; its ``text`` and ``document`` are for any further place of publication.
        """
        day = self._clock().astimezone(UTC).strftime("%Y%m%d")
        checkpoint = await self.checkpoint()
        if day != self._published:
            document = canonical(checkpoint.document)
            # Logged first, and whatever is stored: a checkpoint that somebody else put there must not silence it.
            log.info("audit checkpoint %s", document.decode())
            with suppress(BlobExists):
                await self._blobs.put(PUBLISHED, day, document, create=True)
            self._published = day
        return checkpoint

    # --- reading -----------------------------------------------------------------------------------------------------

    async def size(self) -> int:
        """Return how many entries there are now."""
        async with self._busy:
            await self._catch_up()
            return self._tree.size

    async def entries(self, start: int = 0) -> AsyncIterator[Entry]:
        """Yield the entries from number ``start`` on, oldest first.

        Raises:
            LogBroken: An entry is not the one the tree holds there.
        """
        size = await self.size()
        while start < size:
            try:
                page = await self._page(start, start)
            except BlobNotFound:
                page = await self._page((await self._starts(start))[-1], start)
            for entry in page:
                if entry.seq >= start:
                    yield entry
            start = page[-1].seq + 1

    async def newest(self, before: int | None = None) -> AsyncIterator[Entry]:
        """Yield the entries, newest first, below number ``before`` where it is given; ``LogBroken`` as for ``entries``."""
        size = await self.size()
        stop = size if before is None else min(before, size)
        while stop > 0:
            for start in reversed(await self._starts(stop - 1)):
                for entry in reversed(await self._page(start, stop - 1)):
                    if entry.seq < stop:
                        yield entry
                stop = start

    async def inclusion(self, seq: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that an entry is in the log of ``size`` entries; ``ValueError`` when it is not."""
        return await self._tree.inclusion(seq, size)

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the log of ``new`` entries continues that of ``old``; ``ValueError`` for other sizes."""
        if new > self._tree.size:
            await self.size()
        return await self._tree.consistency(old, new)

    async def verify(self) -> int:
        """Read every entry, check each link, number and hash and every checkpoint, and return how many entries there are.

        Checked against: the stored tree, the checkpoints published so far, and what this object has seen of the log.

        Raises:
            LogBroken: ``seq`` is the first bad entry. Where only a signed root tells, it is the first that no good
                checkpoint covers.
        """
        signed = {self._tree.size: self._tree.snapshot().root}
        stored = StoredTree(self._blobs, self.key)
        await stored.adopt()
        signed[stored.size] = stored.snapshot().root
        async for checkpoint in self._checkpoints():
            if signed.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
                raise LogBroken(0, f"two roots were signed at size {checkpoint.size}")
        size = await _walk(self._blobs, stored, signed)
        if size < max(signed):
            raise LogBroken(size, f"missing, though there were {max(signed)} entries")
        return size

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _write(self, drafts: Sequence[_Draft]) -> None:
        events = {draft.event.id: draft.event for draft in drafts}
        landed: dict[str, Entry] = {}
        async with self._busy:
            await self._load()
            while missing := [event for event in events.values() if event.id not in landed]:
                page = self._numbered(missing)
                try:
                    await self._blobs.put(CONTAINER, _name(page[0].seq), page_bytes(page), create=True)
                except (BlobExists, StorageUnavailable):
                    # The page that is there may be another writer's, or this one whose acknowledgement was lost.
                    landed |= await self._catch_up(events)
                    if self._tree.size == page[0].seq:
                        raise
                else:
                    self._take(page)
                    landed.update((entry.event.id, entry) for entry in page)
            for draft in drafts:
                draft.entry = landed[draft.event.id]
            await self._save_from_time_to_time()

    def _numbered(self, events: Iterable[Event]) -> list[Entry]:
        time = timestamp(self._clock())
        seq, prev = self._tree.size, self._tree.last
        page: list[Entry] = []
        for event in events:
            page.append(entry_of(seq, time, event, prev))
            seq, prev = seq + 1, page[-1].leaf
        return page

    async def _load(self) -> None:
        if not self._is_loaded:
            await self._tree.adopt()
            self._is_loaded = True

    async def _catch_up(self, events: Container[str] = ()) -> dict[str, Entry]:
        """Take the pages that others have written, and return the entries of these events among them, by event."""
        await self._load()
        found: dict[str, Entry] = {}
        pages = 0
        while True:
            try:
                blob = await self._blobs.get(CONTAINER, _name(self._tree.size))
            except BlobNotFound:
                return found
            page = read_page(blob.data, self._tree.size, self._tree.last)
            self._take(page)
            found.update((entry.event.id, entry) for entry in page if entry.event.id in events)
            pages += 1
            if pages % SAVE_PAGES == 0:
                await self._tree.adopt()

    def _take(self, page: Iterable[Entry]) -> None:
        for entry in page:
            self._tree.append(entry.leaf)
        self._unsaved += 1

    async def _save_from_time_to_time(self) -> None:
        if self._unsaved >= SAVE_PAGES:
            self._unsaved = 0
            try:
                await self._tree.save(self._tree.snapshot())
            except SealBroken:
                raise
            except ServiceError as error:
                # The entries are durable; only the next process will take longer to start.
                log.warning("the audit log's head was not saved (%s)", type(error).__name__)

    async def _checkpoints(self) -> AsyncIterator[Checkpoint]:
        """Yield the checkpoints published so far."""
        async for blob in self._blobs.list(PUBLISHED):
            try:
                checkpoint = read_checkpoint(json.loads((await self._blobs.get(PUBLISHED, blob.name)).data))
            except (ValueError, RecursionError):
                raise SealBroken(f"{PUBLISHED}/{blob.name} cannot be read") from None
            # One whose key is gone proves nothing any more, yet its root must still be the log's.
            await self.key.check(checkpoint)
            yield checkpoint

    async def _page(self, start: int, seq: int) -> list[Entry]:
        """Return the page that begins with ``start``, in which entry ``seq`` must be."""
        page = read_page((await self._blobs.get(CONTAINER, _name(start))).data, start, None)
        for entry in page:
            if entry.seq >= self._tree.size or entry.leaf != await self._tree.leaf(entry.seq):
                raise LogBroken(entry.seq, "changed")
        if page[-1].seq < seq:
            raise LogBroken(page[-1].seq + 1, "missing")
        return page

    async def _starts(self, seq: int) -> list[int]:
        """Return the starts of some pages up to the one that holds an entry, in order."""
        for block in (seq // _BLOCK, seq // _BLOCK - 1):
            if block >= 0:
                names = [blob.name async for blob in self._blobs.list(CONTAINER, f"{block:09d}")]
                if starts := [int(name) for name in names if name.isdecimal() and int(name) <= seq]:
                    return starts
        raise LogBroken(seq, "missing")


async def _walk(blobs: BlobStore, stored: StoredTree, signed: Mapping[int, bytes]) -> int:
    """Check every page; return how many entries there are."""
    tree, good = Tree(), 0
    async for name, data in _read_ahead(blobs):
        if name != _name(tree.size):
            start = int(name) if re.fullmatch("[0-9]{12}", name) else tree.size
            raise LogBroken(min(start, tree.size), "missing" if start > tree.size else f"foreign blob {name!r}")
        for entry in read_page(data, tree.size, tree.last):
            if entry.seq < stored.size and entry.leaf != await stored.leaf(entry.seq):
                raise LogBroken(entry.seq, "changed")
            tree.append(entry.leaf)
            tree.full.clear()
            if tree.size in signed:
                if signed[tree.size] != tree.root():
                    raise LogBroken(good, f"the entries from here to {tree.size - 1} are not those that were signed")
                good = tree.size
    return tree.size


async def _read_ahead(blobs: BlobStore) -> AsyncIterator[tuple[str, bytes]]:
    """Yield every blob of the log in name order, reading some at once."""
    names: list[str] = []

    async def read() -> list[tuple[str, bytes]]:
        found = await asyncio.gather(*(blobs.get(CONTAINER, name) for name in names))
        return [(name, blob.data) for name, blob in zip(names, found, strict=True)]

    async for info in blobs.list(CONTAINER):
        names.append(info.name)
        if len(names) == READ_AHEAD:
            for page in await read():
                yield page
            names = []
    for page in await read():
        yield page


class _Draft:
    """An event on its way; ``entry`` is there once it is written."""

    entry: Entry

    def __init__(self, event: Event) -> None:
        self.event = event


def _name(seq: int) -> str:
    return f"{seq:012d}"
