"""What the processes of one deployment tell each other of the capacity they used, without a call per request.

Every :data:`SHARE_S` seconds each process that used a tenth of some limit or more writes all its counts into one blob,
``limits/{process}``, and reads those of the others. So together N processes let through at most what N - 1 of them can let
through between two readings more than is allowed: of a limit by the minute (N - 1) x 1/60, of one by ten seconds
(N - 1) x 1/10, beside what stays below a tenth in each.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from sluicegate.errors import BlobNotFound, ServiceError
from sluicegate.services import BlobStore
from sluicegate.tenancy.rates import MINUTE_S, Usage

CONTAINER = "limits"
SHARE_S = 1.0
STALE_S = 10 * MINUTE_S
"""How old counts are when whoever finds them removes them."""
log = logging.getLogger(__name__)


class Sharing:
    """One process's part of the counts.

    Args:
        own: This process's usage by deployment; read when it is written down.
    """

    def __init__(self, blobs: BlobStore, own: Mapping[str, Usage], clock: Callable[[], float] = time.time) -> None:
        self._blobs = blobs
        self._own = own
        self._clock = clock
        self._process = secrets.token_hex(8)
        self._others: dict[str, Usage] = {}
        self._task: asyncio.Task[None] | None = None
        self._wanted_until = 0.0

    def others(self, key: str) -> Usage:
        """Return what other processes are known to have used of a deployment."""
        return self._others.get(key) or Usage()

    def want(self) -> None:
        """Share for the next minute, because some limit is being used."""
        self._wanted_until = self._clock() + MINUTE_S
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._share())

    async def close(self) -> None:
        """Stop sharing, and take back what was written."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            with suppress(ServiceError):
                await self._blobs.delete(CONTAINER, self._process)

    async def exchange(self) -> None:
        """Write this process's counts and read those of the others."""
        now = self._clock()
        counts = {key: [each.window, each.requests, each.minute, each.tokens] for key, each in self._own.items()}
        document = json.dumps({"at": now, "counts": counts}, separators=(",", ":")).encode()
        await self._blobs.put(CONTAINER, self._process, document)
        names = [blob.name async for blob in self._blobs.list(CONTAINER) if blob.name != self._process]
        found = await asyncio.gather(*(self._read(name, now) for name in names))
        self._others = _summed(found)

    async def _share(self) -> None:
        while self._clock() < self._wanted_until:
            try:
                await self.exchange()
            except ServiceError as error:
                # Each process goes on by what it knows: a limit is no reason to refuse everybody.
                log.warning("limits are not shared between processes now (%s)", type(error).__name__)
            await asyncio.sleep(SHARE_S)

    async def _read(self, name: str, now: float) -> Mapping[str, list[int]]:
        try:
            document = json.loads((await self._blobs.get(CONTAINER, name)).data)
        except BlobNotFound:
            return {}
        if document["at"] < now - STALE_S:
            with suppress(ServiceError):
                await self._blobs.delete(CONTAINER, name)
            return {}
        counts: Mapping[str, list[int]] = document["counts"]
        return counts


def _summed(counts: Iterable[Mapping[str, list[int]]]) -> dict[str, Usage]:
    total: dict[str, Usage] = {}
    for each in counts:
        for key, (window, requests, minute, tokens) in each.items():
            usage = total.setdefault(key, Usage())
            # A process whose clock is ahead, or that stopped counting, counts in its own window only.
            if window > usage.window:
                usage.window, usage.requests = window, 0
            if minute > usage.minute:
                usage.minute, usage.tokens = minute, 0
            usage.requests += requests if window == usage.window else 0
            usage.tokens += tokens if minute == usage.minute else 0
    return total
