"""How fast an account's content leaves as JSON lines, decrypted, and how much memory that takes."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import tracemalloc
from dataclasses import dataclass

from benchmarks.retention.places import opened
from sluicegate.retention.export import export
from sluicegate.services import BlobInfo, BlobStore
from sluicegate.storage.day_layout import each
from sluicegate.storage.vault import Vault
from sluicegate.testing import MemoryKeys

RECORD = json.dumps({"text": "All that is kept of one exchange. " * 120}).encode()
BATCH = 64


@dataclass(frozen=True)
class Rate:
    """Medians of the rounds.

    Attributes:
        bare: MB a second of reading the same blobs, 16 at once, and nothing else; it takes turns with the export.
        cpu: ms of this process's CPU time per MB.
        peak: The most memory an export held, in MiB; measured in a further round, because measuring it takes time.
    """

    rate: float
    bare: float
    cpu: float
    peak: float


async def rate(url: str, mebibytes: int, rounds: int) -> Rate:
    """Return how fast so much content is exported."""
    async with opened(url) as blobs:
        vault = Vault(blobs, MemoryKeys())
        store = vault.store("contoso", "keeper")
        for batch in range(mebibytes * 2**20 // (BATCH * len(RECORD))):
            await asyncio.gather(*(store.keep(f"{batch}-{number}", RECORD) for number in range(BATCH)))
        rates, bare, cpus = [], [], []
        for _ in range(rounds):
            begun, cpu = time.perf_counter(), time.process_time()
            size = await _exported(vault) / 1e6
            rates.append(size / (time.perf_counter() - begun))
            cpus.append(1000 * (time.process_time() - cpu) / size)
            begun = time.perf_counter()
            size = await _read(blobs) / 1e6
            bare.append(size / (time.perf_counter() - begun))
        tracemalloc.start()
        try:
            await _exported(vault)
            peak = tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()
    return Rate(statistics.median(rates), statistics.median(bare), statistics.median(cpus), peak)


async def _exported(vault: Vault) -> int:
    return sum([len(lines) async for lines in export(vault, "contoso")])


async def _read(blobs: BlobStore) -> int:
    [day] = await blobs.containers("ret-")

    async def size(blob: BlobInfo) -> int:
        return len((await blobs.get(day, blob.name)).data)

    return sum([size async for size in each(blobs.list(day), size)])
