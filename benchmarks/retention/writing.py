"""What it costs to keep a record before its answer may complete, with and without group commit."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from itertools import count
from unittest.mock import patch

from benchmarks.retention.places import opened
from sluicegate.services import BlobStore
from sluicegate.storage.vault import IN_FLIGHT, Vault
from sluicegate.store import MAX_BATCH_BYTES, Store
from sluicegate.testing import MemoryKeys

RECORD = os.urandom(4 << 10)
_serial = count()


async def throughput(url: str, writers: int, rounds: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Return records a second and CPU µs a record of this process by how records are batched.

    Batches of one are the same code with batches that hold one record, with as many writes at once as the default and with one
    for each writer.
    """
    async with opened(url) as blobs:
        variants = {
            "group commit": _store(blobs),
            "batches of one, 4 at once": _store(blobs, batches=False),
            f"batches of one, {writers} at once": _store(blobs, batches=False, in_flight=writers),
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for store in variants.values():
            await _rate(store, writers, 0.2)
        for _ in range(rounds):
            for name, store in variants.items():
                measured[name].append(await _rate(store, writers, seconds))
    return {
        name: (statistics.median(rate for rate, _ in each), statistics.median(cpu for _, cpu in each))
        for name, each in measured.items()
    }


async def alone(url: str, rounds: int, calls: int) -> tuple[float, float, float]:
    """Return the p50, in ms, of keeping a record and of a bare PUT of as many bytes by one writer, and their ratio.

    The two take turns call by call, so that whatever else the machine does meets both. The figures are medians of rounds.
    """
    async with opened(url) as blobs:
        store = _store(blobs)
        await store.keep("first", RECORD)
        [day] = await blobs.containers("ret-")
        [size] = [blob.size async for blob in blobs.list(day)]
        bare = RECORD + bytes(size - len(RECORD))
        await blobs.put("bare", "first", bare)
        found = []
        for _ in range(rounds):
            kept, put = [], []
            for _ in range(calls):
                name = str(next(_serial))
                kept.append(await _timed(lambda name=name: store.keep(name, RECORD)))
                put.append(
                    await _timed(lambda name=name: blobs.put("bare", f"account/plugin/key/{name}", bare, create=True))
                )
            found.append((statistics.median(kept), statistics.median(put)))
    ratio = statistics.median(kept / put for kept, put in found)
    return statistics.median(kept for kept, _ in found), statistics.median(put for _, put in found), ratio


def _store(blobs: BlobStore, *, batches: bool = True, in_flight: int = IN_FLIGHT) -> Store:
    with patch("sluicegate.store.MAX_BATCH_BYTES", MAX_BATCH_BYTES if batches else 1):
        return Vault(blobs, MemoryKeys(), in_flight=in_flight).store(f"account{next(_serial)}", "keeper")


async def _rate(store: Store, writers: int, seconds: float) -> tuple[float, float]:
    written = 0
    begun, cpu = time.perf_counter(), time.process_time()

    async def writer() -> None:
        nonlocal written
        while time.perf_counter() - begun < seconds:
            await store.keep(str(next(_serial)), RECORD)
            written += 1

    await asyncio.gather(*(writer() for _ in range(writers)))
    return written / (time.perf_counter() - begun), 1e6 * (time.process_time() - cpu) / written


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await call()
    return 1000 * (time.perf_counter() - begun)
