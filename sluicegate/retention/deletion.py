"""Deletions: what readers no longer show at once, and what takes it out of storage.

A deletion is a small blob in the container of each day it covers, so it goes with the day. It is written first, and readers
look for new ones after they have read a batch and before they show anything of it. The deletions of an account, plugin
and day are numbered. A batch says how many of them its writer knew of: an end user's or an account's deletion covers
the batches that do not know it, whenever they arrive, and no later ones. A record's deletion covers it for good.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, PurgeIncomplete, SealBroken
from sluicegate.services import BlobInfo, BlobStore
from sluicegate.storage.day_layout import Gone, Namespace, Tally, container, each, keyring
from sluicegate.storage.envelope import Entry, Header, header_size, read_header, without
from sluicegate.types import Purged

_HEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Deletion:
    """One deletion on one day.

    Attributes:
        of: The record's id, or the user's mark; empty for an account.
        kids: The data keys that an account's deletion found; everything under them goes.
    """

    kind: Literal["record", "user", "account"]
    of: str = ""
    kids: tuple[str, ...] = ()


class DeletionLog:
    """The deletions of one account, plugin and day, as far as they have been read.

    Attributes:
        last: The number of the newest one, 0 for none: how many there are.
        account: The number of the newest one of the whole account.
        kids: The data keys that accounts' deletions found.
    """

    def __init__(self, blobs: BlobStore, names: Namespace, day: str) -> None:
        self._blobs = blobs
        self._names = names
        self.day = day
        self.last = 0
        self.account = 0
        self.kids: set[str] = set()
        self._records: set[str] = set()
        self._users: dict[str, int] = {}

    async def refresh(self) -> None:
        """Read what was added since.

        Raises:
            SealBroken: There is one that cannot be read, so nobody knows what it hides.
        """
        prefix = self._names.deletions
        new = self._blobs.list(container(self.day), prefix, after=f"{prefix}{self.last:08d}")
        async for number, deletion in each(new, self._read):
            self._note(number, deletion)

    async def append(self, deletion: Deletion) -> None:
        """Add a deletion; durable, and seen by every reader, when this returns."""
        document = {"v": 1, "kind": deletion.kind, "of": deletion.of, "kids": deletion.kids}
        content = json.dumps(document, sort_keys=True).encode()
        while True:
            await self.refresh()
            name = f"{self._names.deletions}{self.last + 1:08d}"
            try:
                await self._blobs.put(container(self.day), name, content, create=True)
            except BlobExists:
                continue
            return

    def has(self, deletion: Deletion) -> bool:
        """Return whether such a deletion of a record or a user is there."""
        return deletion.of in (self._records if deletion.kind == "record" else self._users)

    def hides(self, known: int, entry: Entry) -> bool:
        """Return whether a record is deleted, of a batch whose writer knew of ``known`` deletions."""
        return entry.record in self._records or known < max(self.account, self._users.get(entry.user, 0))

    async def _read(self, blob: BlobInfo) -> tuple[int, Deletion]:
        content = (await self._blobs.get(container(self.day), blob.name)).data
        try:
            fields = json.loads(content)
            if fields["v"] != 1 or fields["kind"] not in ("record", "user", "account"):
                raise ValueError
            number = int(blob.name.removeprefix(self._names.deletions))
            return number, Deletion(fields["kind"], str(fields["of"]), tuple(map(str, fields["kids"])))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SealBroken(f"{container(self.day)} holds a deletion that cannot be read") from None

    def _note(self, number: int, deletion: Deletion) -> None:
        self.last = number
        match deletion.kind:
            case "record":
                self._records.add(deletion.of)
            case "user":
                self._users[deletion.of] = number
            case "account":
                self.account = number
                self.kids.update(deletion.kids)


async def remove(blobs: BlobStore, names: Namespace, log: DeletionLog) -> Purged:
    """Take everything out of storage that the log hides: wrapped keys first, then batches and what is in them.

    Stopped anywhere and run again, it goes on; nothing that is gone comes back, because batches are only ever replaced
    by smaller ones while nobody else has changed them.

    Raises:
        PurgeIncomplete: A batch cannot be read, so it may hold what should be gone. Everything else is done.
    """
    tally = Tally()
    unreadable = 0
    for kid in sorted(log.kids):
        for gone in await _delete(blobs, keyring(log.day), BlobInfo(names.ring(kid), 0)):
            tally.note(gone)
    stored = batches(blobs, names, log.day)
    async for removed in each(stored, lambda blob: _remove_from(blobs, names, log, blob)):
        unreadable += removed is None
        for gone in removed or ():
            tally.note(gone)
    if unreadable:
        raise PurgeIncomplete([f"{log.day}: {unreadable} batches of {names.prefix} that cannot be read"])
    return tally.purged()


async def count_hidden(blobs: BlobStore, names: Namespace, log: DeletionLog) -> int:
    """Return how much there is that the log hides: wrapped keys, batches, records; a batch that cannot be read counts."""

    async def hidden_in(blob: BlobInfo) -> int:
        key_and_number = names.kid_and_seq(blob.name)
        if key_and_number and key_and_number[0] in log.kids:
            return 1
        try:
            return len(_hidden(log, await read_head(blobs, log.day, blob)))
        except BlobNotFound:
            return 0
        except SealBroken:
            return 1

    ring = blobs.list(keyring(log.day), names.prefix)
    count = sum([blob.name.removeprefix(names.prefix) in log.kids async for blob in ring])
    async for hidden in each(batches(blobs, names, log.day), hidden_in):
        count += hidden
    return count


async def count_shown(blobs: BlobStore, names: Namespace, log: DeletionLog) -> tuple[int, int]:
    """Return how many records of the log's day may be read, and how many bytes they take; no key is needed.

    Raises:
        SealBroken: A batch's header cannot be read.
    """

    async def shown_in(blob: BlobInfo) -> tuple[int, int]:
        key_and_number = names.kid_and_seq(blob.name)
        if key_and_number and key_and_number[0] in log.kids:
            return 0, 0
        try:
            header = await read_head(blobs, log.day, blob)
        except BlobNotFound:
            return 0, 0
        shown = [entry.length for entry in header.index if not log.hides(header.deletions, entry)]
        return len(shown), sum(shown)

    counts = [counted async for counted in each(batches(blobs, names, log.day), shown_in)]
    return sum(records for records, _ in counts), sum(size for _, size in counts)


async def batches(blobs: BlobStore, names: Namespace, day: str, *, after: str = "") -> AsyncIterator[BlobInfo]:
    """Yield what a day holds of one account and plugin, but for its deletions, in name order."""
    async for blob in blobs.list(container(day), names.prefix, after=after):
        if not blob.name.startswith(names.deletions):
            yield blob


async def read_head(blobs: BlobStore, day: str, blob: BlobInfo) -> Header:
    """Return a batch's header, mostly without reading the rest; ``BlobNotFound`` when the batch has gone meanwhile."""
    beginning = (await blobs.get(container(day), blob.name, length=_HEAD_BYTES)).data
    try:
        if header_size(beginning) <= len(beginning):
            return read_header(beginning, blob.size)
    except SealBroken:
        pass  # Rewritten since it was listed, perhaps.
    return read_header((await blobs.get(container(day), blob.name)).data)


async def _remove_from(blobs: BlobStore, names: Namespace, log: DeletionLog, blob: BlobInfo) -> list[Gone] | None:
    """Return what went, or None when the batch cannot be read."""
    key_and_number = names.kid_and_seq(blob.name)
    try:
        if key_and_number and key_and_number[0] in log.kids:
            return await _delete(blobs, container(log.day), blob)
        while _hidden(log, await read_head(blobs, log.day, blob)):
            with suppress(BlobChanged):  # by another deletion; what it left is looked at again
                return await _rewrite(blobs, log, blob.name)
    except BlobNotFound:
        return []
    except SealBroken:
        return None
    return []


async def _rewrite(blobs: BlobStore, log: DeletionLog, name: str) -> list[Gone]:
    where = container(log.day)
    batch = await blobs.get(where, name)
    hidden = _hidden(log, read_header(batch.data))
    rest = without(batch.data, {entry.position for entry in hidden})
    if rest is None:
        await blobs.delete(where, name, if_match=batch.etag)
        return [Gone(where, name, len(batch.data), len(hidden))]
    await blobs.put(where, name, rest, if_match=batch.etag)
    return [Gone(where, name, entry.length, 1, entry.record) for entry in hidden]


def _hidden(log: DeletionLog, header: Header) -> list[Entry]:
    return [entry for entry in header.index if log.hides(header.deletions, entry)]


async def _delete(blobs: BlobStore, container: str, blob: BlobInfo) -> list[Gone]:
    with suppress(BlobNotFound):
        await blobs.delete(container, blob.name)
        return [Gone(container, blob.name, blob.size)]
    return []
