"""Group commit: what arrives while writes are in flight goes out together in the next one.

There is no timer. An idle lane writes at once; under load, batches form by themselves from what queued behind the writes
in flight, so the cost of a write is shared exactly when it matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class GroupCommit(Generic[T]):
    """One lane of batched writes.

    Args:
        write: Writes one batch, durably, or raises; never called with an empty batch.
        in_flight: How many writes run at once: more means less waiting and smaller batches.
        max_bytes: A batch is closed before it grows beyond this; a larger item goes alone.
    """

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]], *, in_flight: int, max_bytes: int) -> None:
        self._write = write
        self._slots = asyncio.Semaphore(in_flight)
        self._max_bytes = max_bytes
        self._forming: _Batch[T] | None = None
        self._commits: set[asyncio.Task[None]] = set()

    async def add(self, item: T, size: int) -> None:
        """Write an item of ``size`` bytes; returns when its batch is written, or raises what its write raised.

        Cancelling the wait takes nothing back: the item is written with its batch.
        """
        batch = self._forming
        if batch is None or batch.size + size > self._max_bytes:
            batch = self._forming = _Batch()
            batch.commit = asyncio.create_task(self._commit(batch))
            self._commits.add(batch.commit)
            batch.commit.add_done_callback(self._commits.discard)
        batch.items.append(item)
        batch.size += size
        await asyncio.shield(batch.commit)

    async def _commit(self, batch: _Batch[T]) -> None:
        async with self._slots:
            if self._forming is batch:
                self._forming = None
            await self._write(batch.items)


class _Batch(Generic[T]):
    commit: asyncio.Task[None]

    def __init__(self) -> None:
        self.items: list[T] = []
        self.size = 0
