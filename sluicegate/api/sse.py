"""Send an answer as server-sent events, the way the OpenAI SDK reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse


class Events:
    """Frames ready to send, with the stream that they are made of: closing them closes both, started or not."""

    def __init__(self, frames: AsyncIterator[bytes], source: AsyncIterator[Any]) -> None:
        self._frames = frames
        self._source = source

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._frames

    async def aclose(self) -> None:
        """Close the frames, then their source."""
        raise NotImplementedError


class EventStream(StreamingResponse):
    """A response that closes its events whatever happens to the connection.

    An exception from ``events`` becomes one ``error`` event in place of ``[DONE]``; 15 seconds of silence are filled with a
    comment, so that no proxy takes the connection for dead.

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
        now: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        raise NotImplementedError
