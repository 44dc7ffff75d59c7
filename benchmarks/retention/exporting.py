"""How fast an account's content leaves as JSON lines, decrypted, and how much memory that takes."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import tracemalloc

from benchmarks.retention.places import opened
from sluicegate.export import export
from sluicegate.testing import MemoryKeys
from sluicegate.vault import Vault

RECORD = json.dumps({"text": "All that is kept of one exchange. " * 120}).encode()
BATCH = 64


async def rate(url: str, mebibytes: int, rounds: int) -> tuple[float, float]:
    """Return MB a second, the median of rounds, and the most memory an export held in MiB.

    Memory is measured in a further round, because measuring it takes time.
    """
    async with opened(url) as blobs:
        vault = Vault(blobs, MemoryKeys())
        store = vault.store("contoso", "keeper")
        for batch in range(mebibytes * 2**20 // (BATCH * len(RECORD))):
            await asyncio.gather(*(store.keep(f"{batch}-{number}", RECORD) for number in range(BATCH)))
        rates = []
        for _ in range(rounds):
            begun = time.perf_counter()
            size = await _size(vault)
            rates.append(size / 1e6 / (time.perf_counter() - begun))
        tracemalloc.start()
        try:
            await _size(vault)
            peak = tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()
    return statistics.median(rates), peak


async def _size(vault: Vault) -> int:
    return sum([len(lines) async for lines in export(vault, "contoso")])
