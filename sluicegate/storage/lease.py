"""Leases: of all processes, at most one does something at a time.

A lease is a blob in the container ``leases`` that says who holds it and until when; it is taken, renewed and given back by
compare-and-swap. Whoever dies holding it is waited for until then, so clocks should agree within seconds. It keeps work
from being done twice at once, not from being done wrong: what is leased must be sound even when two do it, since a
process that was suspended learns too late that its time is over.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, ServiceError, SluicegateError
from sluicegate.services import BlobStore
from sluicegate.types import utc_now

CONTAINER = "leases"
TERM = timedelta(minutes=2)
"""How long a lease lasts from when it was taken or renewed."""
RENEWALS = 4
"""How often it is renewed in that time."""

T = TypeVar("T")


class LeaseHeld(SluicegateError):
    """Another process holds the lease."""


class LeaseLost(SluicegateError):
    """The operator sees it: the lease could not be renewed in time, so the work was stopped."""


class Lease:
    """One lease by its name; one object per process.

    Args:
        clock: Returns the present, aware.
        pause: Waits some seconds.
    """

    def __init__(
        self,
        blobs: BlobStore,
        name: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._blobs = blobs
        self._name = name
        self._clock = clock
        self._pause = pause

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do some work under the lease, and return what it returns.

        Raises:
            LeaseHeld: Another process is at it; nothing was done.
            LeaseLost: It took the lease over, or storage failed for too long; the work was cancelled.
        """
        holder = _Holder(self._blobs, self._name, self._clock)
        await holder.take()
        working, renewing = asyncio.create_task(work()), asyncio.create_task(self._keep(holder))
        try:
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise LeaseLost(f"the lease {self._name!r} was lost to another process, or could not be renewed")
            return await working
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.wait((working, renewing))
            await holder.give_back()

    async def _keep(self, holder: _Holder) -> None:
        """Renew the lease for as long as that is possible."""
        while True:
            await self._pause(TERM.total_seconds() / RENEWALS)
            try:
                await holder.renew()
            except (BlobChanged, BlobNotFound):
                return
            except ServiceError:
                if holder.until <= self._clock():
                    return


class _Holder:
    """Whoever takes the lease now."""

    def __init__(self, blobs: BlobStore, name: str, clock: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._name = name
        self._clock = clock
        self._id = secrets.token_hex(16)
        self._etag = ""
        self.until = clock()

    async def take(self) -> None:
        try:
            found = await self._blobs.get(CONTAINER, self._name)
        except BlobNotFound:
            condition: dict[str, Any] = {"create": True}
        else:
            # An end that nobody can have written yet must not stop the work until then.
            if self._clock() < _until(found.data) <= self._clock() + TERM:
                raise LeaseHeld(f"another process holds the lease {self._name!r}")
            condition = {"if_match": found.etag}
        try:
            await self._write(condition)
        except (BlobExists, BlobChanged):
            raise LeaseHeld(f"another process holds the lease {self._name!r}") from None

    async def renew(self) -> None:
        await self._write({"if_match": self._etag})

    async def give_back(self) -> None:
        with suppress(ServiceError):
            await self._blobs.delete(CONTAINER, self._name, if_match=self._etag)

    async def _write(self, condition: dict[str, Any]) -> None:
        until = self._clock() + TERM
        document = json.dumps({"holder": self._id, "until": until.isoformat()}).encode()
        self._etag = await self._blobs.put(CONTAINER, self._name, document, **condition)
        self.until = until


def _until(data: bytes) -> datetime:
    """Return when a lease ends; one that cannot be read has ended, so that rubbish does not stop a purge for ever."""
    try:
        return datetime.fromisoformat(json.loads(data)["until"]).astimezone(UTC)
    except (ValueError, TypeError, KeyError, RecursionError):
        return datetime.min.replace(tzinfo=UTC)
