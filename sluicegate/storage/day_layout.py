"""Where things are kept, so that their place alone says when they go.

::

    key service  ret-YYYYMMDD                                               wraps the day's data keys
    container    keyring-YYYYMMDD  {account}/{plugin}/{kid}                 wrapped data keys
    container    ret-YYYYMMDD      {account}/{plugin}/{kid}/{seq:08d}       batches of records
                                   {account}/{plugin}/deletions/{n:08d}     deletions that readers of the day heed
    container    deletions         {day}/{account}/{plugin}                 days with deletions that are not finished

A day goes with its key and two containers, whatever is in them. Days are UTC.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sluicegate.errors import BlobNotFound
from sluicegate.retention.removals import Found
from sluicegate.services import BlobStore
from sluicegate.storage.envelope import user_mark
from sluicegate.types import Purged

CEILING_DAYS = 30
"""Nothing is kept longer, whatever the settings say."""
MARGIN = timedelta(hours=1)
"""A day is due this much before its time, so that an hourly timer meets it; a day that ended this long ago has no writer."""
PENDING = "deletions"
IS_DELETION = re.compile(r"[^/]+/[^/]+/deletions/[0-9]{8}")
_AT_ONCE = 16
_BATCH = re.compile(r"([0-9a-f]{24})/([0-9]{8})")
_DAY = re.compile(r"[0-9]{8}")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Namespace:
    """The names that belong to one plugin in one account."""

    account: str
    plugin: str

    @property
    def prefix(self) -> str:
        """What the names of its blobs begin with in a day's container."""
        return f"{self.account}/{self.plugin}/"

    @property
    def deletions(self) -> str:
        """What the names of its deletions begin with in a day's container."""
        return f"{self.prefix}deletions/"

    def ring(self, kid: str) -> str:
        """Return a wrapped key's name in its day's keyring."""
        return f"{self.prefix}{kid}"

    def batch(self, kid: str, seq: int) -> str:
        """Return a batch's name in its day's container."""
        return f"{self.prefix}{kid}/{seq:08d}"

    def mark(self, user: str | None, day: str) -> str:
        """Return what stands for an end user on a day, or an empty text for none; ``user`` is their keyed hash."""
        return "" if user is None else user_mark(user, self.account, self.plugin, day)

    def kid_and_seq(self, name: str) -> tuple[str, int] | None:
        """Return which batch has this name, or None when it is not a batch's."""
        match = _BATCH.fullmatch(name.removeprefix(self.prefix))
        return (match[1], int(match[2])) if match else None


def container(day: str) -> str:
    """Return the name of a day's container."""
    return f"ret-{day}"


def keyring(day: str) -> str:
    """Return the name of the container of a day's wrapped data keys, which is one so that they go in one call."""
    return f"keyring-{day}"


def key_name(day: str) -> str:
    """Return the name of a day's key in the key service."""
    return f"ret-{day}"


def start(day: str) -> datetime:
    """Return when a day begins; ``ValueError`` when it is not written ``YYYYMMDD``."""
    if not _DAY.fullmatch(day):
        raise ValueError("a day is written YYYYMMDD")
    return datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)


def is_day(text: str) -> bool:
    """Return whether there is such a day."""
    with suppress(ValueError):
        return bool(start(text))
    return False


def due(day: str, days: int) -> datetime:
    """Return when a day's records are due: an hour before the oldest is ``days`` old, never before the day has ended."""
    return start(day) + max(timedelta(days=days) - MARGIN, timedelta(days=1))


def ceiling(day: str) -> datetime:
    """Return when nothing of a day may be left."""
    return start(day) + timedelta(days=CEILING_DAYS)


def has_ended(day: str, now: datetime) -> bool:
    """Return whether a day ended so long ago that nobody writes to it any more."""
    return start(day) + timedelta(days=1) + MARGIN <= now


def day_of(moment: datetime) -> str:
    """Return the UTC day of an aware time, ``YYYYMMDD``."""
    if moment.tzinfo is None:
        raise ValueError("a time must be aware")
    return moment.astimezone(UTC).strftime("%Y%m%d")


def days_in(names: Iterable[str]) -> list[str]:
    """Return the days of containers or keys; a stray name must not keep the others from being purged."""
    return [day for name in names if is_day(day := name.rpartition("-")[2])]


async def stored_days(blobs: BlobStore) -> list[str]:
    """Return the days that have a container, oldest first."""
    return days_in(await blobs.containers("ret-"))


async def each(items: AsyncIterator[T], work: Callable[[T], Awaitable[R]]) -> AsyncIterator[R]:
    """Yield the results of some work on each item, in order, a few at once and never all in memory.

    What fails raises only after the others that run with it have ended.
    """
    group: list[T] = []
    async for item in items:
        group.append(item)
        if len(group) == _AT_ONCE:
            for result in await _all(group, work):
                yield result
            group = []
    for result in await _all(group, work):
        yield result


async def _all(items: list[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    results = await asyncio.gather(*map(work, items), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def count(blobs: BlobStore, container: str, prefix: str = "") -> int:
    """Return how many such blobs there are."""
    return sum([1 async for _ in blobs.list(container, prefix)])


async def delete_all(blobs: BlobStore, container: str, prefix: str, *, last: str | None = None) -> Purged:
    """Delete the blobs of a prefix, those that begin with ``last`` after the others; several at once."""
    tally = Tally()
    found = [blob async for blob in blobs.list(container, prefix)]
    for is_last in (False, True):
        names = [blob.name for blob in found if (last is not None and blob.name.startswith(last)) is is_last]
        slots = asyncio.Semaphore(_AT_ONCE)

        async def delete(name: str, slots: asyncio.Semaphore = slots) -> None:
            async with slots:
                with suppress(BlobNotFound):
                    await blobs.delete(container, name)

        await _all(names, delete)
    for blob in found:
        tally.note(Gone(container, blob.name, blob.size))
    return tally.purged()


@dataclass(frozen=True, slots=True)
class Gone:
    """Something that was deleted: a blob with ``records`` of its records, or one ``record`` of a blob that stays."""

    container: str
    name: str
    bytes: int
    records: int = 0
    record: str = ""


class Tally:
    """Counts what is deleted, or about to be, in flat memory.

    The hash of its names is the SHA-256 over ``{container}/{name}``, and for a record of a blob that stays a space and its
    id, each followed by a line feed, in the order in which it is told of them.

    Args:
        counts_records: Records are known one by one, not just whole blobs of them.
    """

    def __init__(self, *, counts_records: bool = False) -> None:
        self._counts_records = counts_records
        self._names = hashlib.sha256()
        self._blobs = self._bytes = self._records = 0

    def note(self, gone: Gone) -> None:
        """Count one more."""
        self._names.update(f"{gone.container}/{gone.name}{gone.record and ' '}{gone.record}\n".encode())
        self._blobs += not gone.record
        self._bytes += gone.bytes
        self._records += gone.records

    def purged(self, days: tuple[str, ...] = ()) -> Purged:
        """Return what was noted."""
        evidence = self._names.hexdigest() if self._blobs or self._records else ""
        return Purged(days, self._blobs, self._bytes, self._records, evidence)

    def found(self) -> Found:
        """Return what was noted, as a receipt has it."""
        return Found(self._blobs, self._bytes, self._names.hexdigest(), self._records if self._counts_records else None)


def purged(found: Found, days: tuple[str, ...]) -> Purged:
    """Return a removal of whole days as plugins report it."""
    return Purged(days, found.blobs, found.bytes, 0, found.names_sha256 if found.blobs else "")


def combined(purged: Iterable[Purged]) -> Purged:
    """Return several purges as one; the evidence is then SHA-256 over theirs, a line each, in this order."""
    every = list(purged)
    days = sorted({day for each in every for day in each.days})
    evidence = [each.evidence for each in every if each.evidence]
    if len(evidence) > 1:
        evidence = [hashlib.sha256("".join(f"{line}\n" for line in evidence).encode()).hexdigest()]
    return Purged(
        tuple(days),
        sum(each.blobs for each in every),
        sum(each.bytes for each in every),
        sum(each.records for each in every),
        "".join(evidence),
    )
