"""The way to one upstream: authenticated, limited, and repeated where the answer has not begun."""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from sluicegate import ModelUnavailable

from . import failures
from .failures import Failure
from .upstream import Upstream, UpstreamModel

if TYPE_CHECKING:
    from .entra import EntraToken

KEEP_ALIVE_S = 60.0
LARGE_BODY = 1024 * 1024
"""Bytes from which the HTTP client wants a body in pieces."""
DRAIN_S = 0.1
"""How long to wait, after an answer is complete, for the connection to become free for the next one."""


class Content(NamedTuple):
    """The body of a request, streamed; ``size`` in bytes."""

    type: str
    size: int
    pieces: AsyncIterator[bytes]


class Answer(NamedTuple):
    """A whole answer of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One upstream's connections, for one event loop.

    Redirects are not followed and proxy settings of the environment not read: prompts go to the configured host alone.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._entra = _entra_token() if upstream.entra_id else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=upstream.max_connections, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_headers(upstream),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=upstream.connect_timeout_s, sock_read=upstream.first_byte_timeout_s
            ),
        )

    async def post(self, model: UpstreamModel, operation: str, body: bytes) -> Response:
        """Return the upstream's answer, its body not yet read; to be closed by whoever asked.

        Raises:
            ApiError: There is none, as :mod:`.failures` says; :class:`~sluicegate.errors.Refused` for a refused prompt.
        """
        attempt, where = 0, self.upstream.where(model)
        while True:
            answer = await self._attempt(self.upstream.url(model, operation), body, where)
            if not isinstance(answer, Failure):
                return Response(answer, where, self.upstream.idle_timeout_s)
            wait_s = self._wait_s(attempt, answer)
            if wait_s is None:
                raise answer.error
            await asyncio.sleep(wait_s)
            attempt += 1

    async def ask(self, method: str, url: str, content: Content | None = None) -> Answer:
        """Send one request, once, and return whatever is answered, its body read.

        Raises:
            ModelUnavailable: Nothing was; what was sent may have had its effect all the same.
        """
        where = self.upstream.host
        headers = {"Authorization": await self._entra.header()} if self._entra is not None else {}
        data = None
        if content is not None:
            headers |= {"Content-Type": content.type, "Content-Length": str(content.size)}
            data = content.pieces
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                return Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, OSError) as error:
            raise failures.unreachable(error, where, transient=False).error from None

    async def close(self) -> None:
        """Close everything; requests under way fail."""
        await self._session.close()
        if self._entra is not None:
            await self._entra.close()

    async def _attempt(self, url: str, body: bytes, where: str) -> aiohttp.ClientResponse | Failure:
        headers = {"Authorization": await self._entra.header()} if self._entra is not None else None
        content = body if len(body) < LARGE_BODY else io.BytesIO(body)
        try:
            response = await self._session.post(url, data=content, headers=headers, allow_redirects=False)
            if response.status == 200:
                return response
            async with response:
                return failures.answered(response.status, response.headers, await response.read(), where)
        except aiohttp.SocketTimeoutError as error:
            # The upstream may be at work on it: asking again would double the wait and the bill.
            return failures.unreachable(error, where, transient=False)
        except (aiohttp.ClientConnectionError, OSError) as error:
            return failures.unreachable(error, where, transient=True)
        except aiohttp.ClientError as error:
            return failures.unreachable(error, where, transient=False)

    def _wait_s(self, attempt: int, failure: Failure) -> float | None:
        """Return how long to wait before asking again; None when that is not to be done."""
        upstream = self.upstream
        if not failure.transient or attempt >= upstream.max_retries:
            return None
        asked = failure.error.retry_after_s if isinstance(failure.error, ModelUnavailable) else None
        if asked is not None:
            return asked if asked <= upstream.max_retry_wait_s else None
        longest = min(upstream.retry_wait_s * 2.0**attempt, upstream.max_retry_wait_s)
        return longest * (1 - secrets.randbelow(1000) / 2000)


class Response:
    """An answer that has begun, with status 200.

    Attributes:
        where: The upstream and its model, for the log.
    """

    def __init__(self, response: aiohttp.ClientResponse, where: str, idle_timeout_s: float) -> None:
        self.where = where
        self._response = response
        self._idle_timeout_s = idle_timeout_s
        self._begun = False

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end.

        Raises:
            ModelUnavailable: The connection broke, or was silent for too long.
        """
        try:
            block = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise failures.unreachable(error, self.where, transient=False).error from None
        if not self._begun:
            self._begun = True
            self._limit_pauses()
        return block

    async def read_all(self) -> bytes:
        """Return the whole body; raises as :meth:`read`."""
        try:
            return await self._response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise failures.unreachable(error, self.where, transient=False).error from None

    async def finish(self) -> None:
        """Read what follows a complete answer, so that the connection can be used again, unless that takes long."""
        with suppress(aiohttp.ClientError, OSError):
            async with asyncio.timeout(DRAIN_S):
                while await self._response.content.readany():
                    pass

    def close(self) -> None:
        """Close the connection, which stops the model, unless the answer was read to its end."""
        self._response.close()

    def _limit_pauses(self) -> None:
        """From the limit of the first byte to that of a pause, by aiohttp's own timer: asyncio.timeout costs 6 µs a chunk."""
        if (connection := self._response.connection) is not None and connection.protocol is not None:
            connection.protocol.read_timeout = self._idle_timeout_s
            connection.protocol.start_timeout()


def _entra_token() -> EntraToken:
    from .entra import EntraToken  # imports azure-identity, which most upstreams do not need

    return EntraToken()


def _headers(upstream: Upstream) -> dict[str, str]:
    # Compression would cost more time than it saves within one region, and delays events.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "sluicegate"}
    if key := upstream.api_key():
        headers |= {"api-key": key} if upstream.kind == "azure" else {"Authorization": f"Bearer {key}"}
    return headers
