"""One process's writing of one account's and plugin's records: data keys, batches, and heed of deletions."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sluicegate.errors import ServiceError
from sluicegate.retention.deletion import DeletionLog
from sluicegate.services import BlobStore, KeyService
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.day_layout import CEILING_DAYS, Namespace, container, day_of, due, key_name, keyring
from sluicegate.storage.envelope import SECRET_BYTES, DataKey, Place

HEED = timedelta(seconds=30)
"""How old a writer's knowledge of deletions may be; what a user or an account writes within that after their deletion,
in another process, may be deleted with the rest."""
AHEAD = timedelta(hours=1)
"""So long before a day begins a writer at work makes its data key, so that the day begins while the key service is away."""
AGAIN = timedelta(minutes=1)
"""So long after that failed it is tried again."""
_THREAD_BYTES = 256 << 10


class Writer:
    """Seals and writes batches, under one data key a day.

    Today's data key is at hand after the first batch, and tomorrow's after a batch in the last hour of the day; neither
    needs the key service again, so a writer at work does not notice that it is away.
    """

    def __init__(
        self,
        blobs: BlobStore,
        keys: KeyService,
        data_keys: DataKeys,
        may_keep: Callable[[str], Awaitable[bool]],
        clock: Callable[[], datetime],
        names: Namespace,
    ) -> None:
        self._blobs = blobs
        self._keys = keys
        self._data_keys = data_keys
        self._may_keep = may_keep
        self._clock = clock
        self._names = names
        self._data_key: DataKey | None = None
        self._next: DataKey | None = None
        self._making_next: asyncio.Task[None] | None = None
        self._next_begun: datetime | None = None
        self._log: DeletionLog | None = None
        self._heeded: datetime | None = None
        self._withheld = False
        self._seq = 0
        self._making = asyncio.Lock()

    async def write(self, records: Sequence[tuple[str, bytes, str | None]]) -> None:
        """Write one batch, durably; a record is its id, its data and its end user's keyed hash.

        Of an account whose content may not be kept, nothing is written.
        """
        data_key, deletions = await self._prepared()
        if data_key is None:
            return
        self._look_ahead()
        # A data key that is at hand needs no vault; its owner may have revoked the key above it since.
        await self._data_keys.check(self._names.account)
        place = data_key.place
        self._seq += 1
        seq = self._seq
        sealable = [(record, data, self._names.mark(user, place.day)) for record, data, user in records]
        if sum(len(data) for _, data, _ in sealable) > _THREAD_BYTES:
            batch = await asyncio.to_thread(data_key.seal, seq, sealable, deletions)
        else:
            batch = data_key.seal(seq, sealable, deletions)
        await self._blobs.put(container(place.day), self._names.batch(place.kid, seq), batch, create=True)

    def forget(self, day: str) -> None:
        """Drop the data key of a day, and what is known of its deletions."""
        if self._data_key is not None and self._data_key.place.day == day:
            self._data_key = None
        if self._next is not None and self._next.place.day == day:
            self._next = None
        if self._log is not None and self._log.day == day:
            self._log = None

    def look_again(self) -> None:
        """Look for deletions before the next batch is sealed."""
        self._heeded = None

    async def _prepared(self) -> tuple[DataKey | None, int]:
        """Return today's data key, None if nothing may be kept, and how many of today's deletions are known."""
        async with self._making:
            while True:
                day = day_of(self._clock())
                log = await self._heed(day)
                if self._withheld:
                    return None, log.last
                if self._data_key is None or self._data_key.place.day != day:
                    self._data_key = self._taken(day) or await self._make(day)
                if self._data_key is not None and day_of(self._clock()) == day:
                    return self._data_key, log.last

    async def _heed(self, day: str) -> DeletionLog:
        now = self._clock()
        log = self._log
        if log is not None and log.day == day and self._heeded and timedelta() <= now - self._heeded < HEED:
            return log
        if log is None or log.day != day:
            log = DeletionLog(self._blobs, self._names, day)
        before = log.account
        await log.refresh()
        # After the deletions, so that who knows of one that followed an approval knows of the approval too.
        self._withheld = not await self._may_keep(self._names.account)
        if log.account > before:
            # That deletion took the data key's wrapped form, so nobody could read what is sealed under it from now on.
            self._data_key = self._next = None
        self._log = log
        self._heeded = now
        return log

    def _taken(self, day: str) -> DataKey | None:
        """Return the data key that was made ahead for a day, if there is one."""
        made, self._next = self._next, None
        return made if made is not None and made.place.day == day else None

    def _look_ahead(self) -> None:
        """Have the next day's data key made when that day is near; no batch waits for it, or fails with it."""
        now = self._clock()
        day = day_of(now + AHEAD)
        if day == day_of(now) or (self._next is not None and self._next.place.day == day):
            return
        is_early = self._next_begun is not None and timedelta() <= now - self._next_begun < AGAIN
        if not is_early and (self._making_next is None or self._making_next.done()):
            self._next_begun = now
            self._making_next = asyncio.create_task(self._make_next(day))

    async def _make_next(self, day: str) -> None:
        with suppress(ServiceError):  # The day itself will tell, if its first batch fares no better.
            made = await self._make(day)
            # Once the day has begun, its deletions may have been read, and one of them may have taken this key.
            if day_of(self._clock()) < day:
                self._next = made

    async def _make(self, day: str) -> DataKey | None:
        """Return a new data key whose wrapped form is durable, or None when the day is neither today nor about to begin."""
        place = Place(self._names.account, self._names.plugin, day, secrets.token_hex(12))
        secret = os.urandom(SECRET_BYTES)
        entry = await self._data_keys.wrap(self._names.account, key_name(day), secret)
        if due(day, CEILING_DAYS) <= self._clock():
            # Suspended for weeks while wrapping: the day's key was purged, and wrapping has made it again.
            await self._keys.destroy(key_name(day))
        now = self._clock()
        if day not in (day_of(now), day_of(now + AHEAD)):
            return None
        await self._blobs.put(keyring(day), self._names.ring(place.kid), entry, create=True)
        return DataKey(secret, place)
