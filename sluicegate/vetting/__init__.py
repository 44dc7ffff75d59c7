"""Vet an answer window by window while it is streamed: for post-filters that read text and do not change it.

A filter brings a detector, which reads a piece of text and returns verdicts; the rest is done here. For example::

    @hookimpl
    async def post_filter(chunks, request, policy):
        async def detect(text):
            verdict = policy.judge("profanity", Source.COMPLETION, detected="darn" in text)
            return verdict.results if verdict else {}

        async with vet(chunks, detect, request, policy) as vetted:
            async for chunk in vetted:
                yield chunk

All that reaches the caller is vetted: text, refusal, and of each tool call its name and arguments, JSON's escapes undone.
Verdicts depend on the text alone, never on how the model cuts it or how fast it is.

By default what is not vetted is held. Each window ends where the model's text has come far enough, and what is sent stays
``overlap`` characters behind it, so that a passage of that length is seen whole before its first character goes. Where the
policy is asynchronous, a streamed answer flows at once and verdicts follow in chunks that say which characters they are
about; what flows stays within ``LAG`` characters of what is vetted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Literal, TypeAlias

from sluicegate.errors import FilterUnavailable
from sluicegate.plugins import is_failure
from sluicegate.policies import NOT_FILTERED, Policy
from sluicegate.requests import GenerationRequest
from sluicegate.streams import flows
from sluicegate.types import Chunk, FilterResults
from sluicegate.vetting.cutting import Windows
from sluicegate.vetting.lines import LAG, Flowing, Held

__all__ = ["AHEAD", "LAG", "Detector", "Windows", "vet"]

Detector: TypeAlias = Callable[[str], Awaitable[FilterResults]]
"""Reads a window and returns the policy's verdicts, ``filtered`` where one of them ends the answer.

It may raise :class:`~sluicegate.errors.FilterUnavailable`. It is called for one window of a choice at a time.
"""

AHEAD = 64
"""Chunks that are read on while a window is being vetted."""
WINDOWS = Windows()
"""Those of a filter that names none."""


@asynccontextmanager
async def vet(
    chunks: AsyncIterator[Chunk],
    detect: Detector,
    request: GenerationRequest,
    policy: Policy,
    windows: Windows = WINDOWS,
) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Give a choice's chunks once they are vetted, with the verdicts of the window that let them go.

    While a window is being vetted the model is read on, up to ``AHEAD`` chunks. A detector that is unavailable ends the
    answer with an error, unless the policy fails open: then the text goes on, annotated as not filtered.

    Raises:
        Refused: A window was refused. What windows before it let go has been given; the rest is withheld.
        FilterUnavailable: The detector is, and the policy fails closed.
    """
    async with _reading(chunks) as ahead, aclosing(_vetted(ahead, detect, request, policy, windows)) as vetted:
        yield vetted


async def _vetted(
    ahead: _Ahead, detect: Detector, request: GenerationRequest, policy: Policy, windows: Windows
) -> AsyncGenerator[Chunk]:
    is_flowing = flows(request, policy)
    line = Flowing(windows, request) if is_flowing else Held(windows)
    detecting: asyncio.Task[FilterResults] | None = None
    failure: BaseException | None = None
    ended = False
    try:
        while not ended or line.due:
            if line.due and detecting is None:
                detecting = asyncio.create_task(_verdicts(detect, line.due[0].text, policy))
                if is_flowing:
                    detecting.add_done_callback(ahead.wake)
            if detecting and (ended or not is_flowing or line.waiting or detecting.done()):
                results, detecting = await detecting, None
                given = line.vetted(results)
            elif (item := await ahead.next()) == _WOKEN:
                continue
            elif isinstance(item, Chunk):
                given = line.take(item)
            else:
                # What came before a failure is vetted and goes out before it.
                ended, failure = True, item
                if item:
                    line.end()
                continue
            for chunk in given:
                yield chunk
    finally:
        if detecting:
            detecting.cancel()
            await asyncio.gather(detecting, return_exceptions=True)
    if failure:
        raise failure


async def _verdicts(detect: Detector, text: str, policy: Policy) -> FilterResults:
    if not text or text.isspace():
        return {}
    try:
        return await detect(text)
    except FilterUnavailable:
        if not policy.fail_open:
            raise
        return NOT_FILTERED


# --- reading on -------------------------------------------------------------------------------------------------------

_WOKEN: Literal["woken"] = "woken"
_Item: TypeAlias = Chunk | BaseException | Literal["woken"] | None
"""A chunk, what the stream failed with, a nudge, or None at the stream's good end."""


class _Ahead:
    """Chunks that a task of its own reads, so that the model's text is taken while a window is being vetted."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[_Item] = asyncio.Queue()
        self._room = asyncio.Semaphore(AHEAD)

    async def read(self, chunks: AsyncIterator[Chunk]) -> None:
        """Read all chunks, never more than ``AHEAD`` beyond those that were asked for."""
        end: BaseException | None = None
        try:
            async for chunk in chunks:
                self._items.put_nowait(chunk)
                await self._room.acquire()
        except (Exception, asyncio.CancelledError) as error:
            if not is_failure(error):
                raise
            # Raised again where the chunks are asked for.
            end = error
        self._items.put_nowait(end)

    async def next(self) -> _Item:
        """Return what comes next."""
        item = await self._items.get()
        if isinstance(item, Chunk):
            self._room.release()
        return item

    def wake(self, _: object) -> None:
        """Let whoever waits for the next chunk look around."""
        self._items.put_nowait(_WOKEN)


@asynccontextmanager
async def _reading(chunks: AsyncIterator[Chunk]) -> AsyncIterator[_Ahead]:
    ahead = _Ahead()
    task = asyncio.create_task(ahead.read(chunks))
    try:
        yield ahead
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
