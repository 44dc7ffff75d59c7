"""One process's writing of one account's and plugin's records: data keys, batches, and heed of deletions."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from sluicegate.data_keys import DataKeys
from sluicegate.day_layout import CEILING_DAYS, Namespace, container, day_of, due, key_name, keyring
from sluicegate.deletion import DeletionLog
from sluicegate.envelope import SECRET_BYTES, DataKey, Place
from sluicegate.services import BlobStore, KeyService

HEED = timedelta(seconds=30)
"""How old a writer's knowledge of deletions may be; what a user or an account writes within that after their deletion,
in another process, may be deleted with the rest."""
_THREAD_BYTES = 256 << 10


class Writer:
    """Seals and writes batches, under one data key a day."""

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
                    self._data_key = await self._make(day)
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
            self._data_key = None
        self._log = log
        self._heeded = now
        return log

    async def _make(self, day: str) -> DataKey | None:
        """Return a new data key whose wrapped form is durable, or None when the day is no longer today."""
        place = Place(self._names.account, self._names.plugin, day, secrets.token_hex(12))
        secret = os.urandom(SECRET_BYTES)
        entry = await self._data_keys.wrap(self._names.account, key_name(day), secret)
        if due(day, CEILING_DAYS) <= self._clock():
            # Suspended for weeks while wrapping: the day's key was purged, and wrapping has made it again.
            await self._keys.destroy(key_name(day))
        if day_of(self._clock()) != day:
            return None
        await self._blobs.put(keyring(day), self._names.ring(place.kid), entry, create=True)
        return DataKey(secret, place)
