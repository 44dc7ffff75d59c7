"""What it takes to destroy a day: calls that delete, time and memory."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections import Counter
from datetime import timedelta
from typing import Any

from benchmarks.retention.places import opened
from sluicegate.services import BlobStore
from sluicegate.storage.vault import Vault
from sluicegate.testing import FrozenClock, MemoryKeys

BATCH = 10
RECORD = bytes(200)


class Counted:
    """A service that counts the calls of some of its methods."""

    def __init__(self, inner: Any, counts: Counter[str], *methods: str) -> None:
        self._inner = inner
        self._counts = counts
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        if name in self._methods:
            self._counts[name] += 1
        return getattr(self._inner, name)


async def purge(url: str, records: int, accounts: int) -> tuple[dict[str, int], float, float]:
    """Return how often a day's purge called what deletes, how long it took in s, and the most memory it held in MiB."""
    calls: Counter[str] = Counter()
    clock = FrozenClock()
    async with opened(url) as blobs:
        keys = MemoryKeys()
        await _fill(Vault(blobs, keys, clock=clock), records, accounts)
        counted: BlobStore = Counted(blobs, calls, "delete", "drop")
        vault = Vault(counted, Counted(keys, calls, "destroy"), clock=clock)
        now = clock.advance(timedelta(days=30))
        tracemalloc.start()
        begun = time.perf_counter()
        try:
            gone = await vault.purge_overdue(now)
            took = time.perf_counter() - begun
            peak = tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()
        assert gone.blobs >= records / BATCH
        assert await blobs.containers("ret-") == ()
    return {name: calls[name] for name in ("destroy", "delete", "drop")}, took, peak


async def _fill(vault: Vault, records: int, accounts: int) -> None:
    """Keep records in batches of one size, spread over accounts."""

    async def fill(account: int) -> None:
        store = vault.store(f"account{account}", "keeper")
        for batch in range(records // BATCH // accounts):
            await asyncio.gather(*(store.keep(f"{batch}-{number}", RECORD) for number in range(BATCH)))

    await asyncio.gather(*map(fill, range(accounts)))
