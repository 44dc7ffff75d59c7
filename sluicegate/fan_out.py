"""Run a chain of filters per choice of an answer, and merge what they let pass.

A model sends the chunks of its choices interleaved; a filter sees one choice. With one choice, the usual case, nothing
runs beside the caller. With more, each chain is a task between two bounded queues, so a slow caller still slows the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeAlias

from sluicegate.plugins import is_failure
from sluicegate.types import Chunk

Chain: TypeAlias = Callable[[int, AsyncIterator[Chunk]], AsyncGenerator[Chunk]]
_Item: TypeAlias = Chunk | BaseException | None
"""A chunk, what ended the stream badly, or None for its good end."""
_AHEAD = 4


async def per_choice(source: AsyncIterator[Chunk], choices: int, chain: Chain) -> AsyncGenerator[Chunk]:
    """Yield what the chains let pass, as it comes; the first failure of any ends the whole.

    Args:
        source: Chunks of all choices, their index below ``choices``. Not read any more once every chain has ended.
        chain: Gets the choice's index and its chunks.
    """
    if choices == 1:
        async with aclosing(chain(0, source)) as only:
            async for chunk in only:
                yield chunk
        return
    merged: asyncio.Queue[_Item] = asyncio.Queue(choices)
    lines = [_Line() for _ in range(choices)]
    tasks = [asyncio.create_task(_deal(source, lines))]
    tasks += [asyncio.create_task(_run(chain(index, line.chunks()), line, merged)) for index, line in enumerate(lines)]
    try:
        running = choices
        while running:
            item = await merged.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Line:
    """The way of one choice's chunks from the model to its chain."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[_Item] = asyncio.Queue(_AHEAD)
        self._closed = False

    async def put(self, item: _Item) -> None:
        if not self._closed:
            await self._queue.put(item)

    async def chunks(self) -> AsyncGenerator[Chunk]:
        while (item := await self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Take nothing more, and let go whoever waits to put."""
        self._closed = True
        while not self._queue.empty():
            self._queue.get_nowait()


async def _deal(source: AsyncIterator[Chunk], lines: list[_Line]) -> None:
    end: BaseException | None = None
    try:
        async for chunk in source:
            await lines[chunk.index].put(chunk)
    except (Exception, asyncio.CancelledError) as error:
        if not is_failure(error):
            raise
        # Handed to every chain, which names the plugin.
        end = error
    for line in lines:
        await line.put(end)


async def _run(stream: AsyncGenerator[Chunk], line: _Line, merged: asyncio.Queue[_Item]) -> None:
    end: BaseException | None = None
    try:
        async with aclosing(stream):
            async for chunk in stream:
                await merged.put(chunk)
    except (Exception, asyncio.CancelledError) as error:
        if not is_failure(error):
            raise
        # Raised again where the chains meet.
        end = error
    line.close()
    await merged.put(end)
