"""Send an answer as server-sent events, the way the OpenAI SDK reads them.

An answer ends with ``[DONE]`` or with one ``error`` event; a stream that ends with neither looks like success to the SDK.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from sluicegate.api import errors

PING_S = 15.0
"""After so long a silence a comment is sent, so that no proxy takes the connection for dead."""
CLOSE_S = 10.0
"""How long an answer whose caller has gone may take to close, which includes retaining it."""
_PING = b": ping\n\n"

log = logging.getLogger(__name__)


class Events:
    """Frames ready to send, with the stream that they are made of: closing them closes both, started or not."""

    def __init__(self, frames: AsyncIterator[bytes], source: AsyncIterator[Any]) -> None:
        self._frames = frames
        self._source = source

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._frames

    async def aclose(self) -> None:
        """Close the frames, then their source."""
        async with closing(self._source), closing(self._frames):
            pass


class EventStream(StreamingResponse):
    """A response that closes its events whatever happens to the connection.

    Starlette cancels the body of a caller that went away, or stops reading it, depending on the server's ASGI version; in
    neither case would what the events do at their end be sure to finish. Here every version is served alike: the events run
    in a task that is cancelled once and then waited for, so what they await at their end completes.

    Args:
        events: What ``chat.events`` and ``completions.events`` return.
        headers: More headers to send.
        now: Monotonic seconds.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        events: Events,
        headers: Mapping[str, str] | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        standing = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, headers=standing | dict(headers or {}), media_type="text/event-stream")
        self._events = events
        self._now = now
        self._sleep = sleep
        self._sending = asyncio.Lock()
        self._last_sent = now()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        jobs = (self.stream_response(send), self._ping(send), self.listen_for_disconnect(receive))
        tasks = [asyncio.create_task(job) for job in jobs]
        failures: list[BaseException | None] = []
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            with anyio.move_on_after(CLOSE_S, shield=True):
                failures = await asyncio.gather(*tasks, return_exceptions=True)
                await self._close()
        for failure in failures:
            # An OSError is how a server says that the caller went away.
            if isinstance(failure, Exception) and not isinstance(failure, OSError):
                raise failure

    async def stream_response(self, send: Send) -> None:
        """Send the frames; an exception of theirs becomes the last one."""
        await self._send(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        frames = self._frames()
        async with closing(frames):
            async for frame in frames:
                await self._send(send, {"type": "http.response.body", "body": frame, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _frames(self) -> AsyncIterator[bytes]:
        try:
            async for frame in self._events:
                yield frame
        except Exception as error:  # noqa: BLE001 - the status is sent, so the stream is the only place left to tell
            yield errors.event(error)

    async def _send(self, send: Send, message: Message) -> None:
        async with self._sending:
            await send(message)
        self._last_sent = self._now()

    async def _ping(self, send: Send) -> None:
        while True:
            silent_s = self._now() - self._last_sent
            if silent_s >= PING_S:
                await self._send(send, {"type": "http.response.body", "body": _PING, "more_body": True})
            else:
                await self._sleep(PING_S - silent_s)

    async def _close(self) -> None:
        try:
            await self._events.aclose()
        except Exception as error:  # noqa: BLE001 - nobody is left to tell, and the message may quote the prompt
            log.error("an answer failed to close: %s", type(error).__name__)


@asynccontextmanager
async def closing(stream: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Close ``stream`` at the end, if it is a generator or anything else that can be closed."""
    try:
        yield
    finally:
        aclose = getattr(stream, "aclose", None)
        if aclose is not None:
            await aclose()
