"""How a test's clients reach the stand-in as if it were Azure: a proxy that knows its vaults, and an identity endpoint.

One plain HTTP port serves both: ``CONNECT NAME.vault.azure.net:443``, and the token requests that an app on App Service or
Functions makes to ``IDENTITY_ENDPOINT``. Nothing else is let through, so that no test can reach Azure.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

TOKEN_S = 86400


class Gateway:
    """The proxy and the identity endpoint.

    Args:
        knows: Tells whether a host is one of the vaults.
        port: Where their TLS server listens.

    Attributes:
        open: Whether anything is reachable.
        asked: The query of each token request that was answered.
    """

    def __init__(self, knows: Callable[[str], bool], port: int) -> None:
        self.open = True
        self.identity_header = secrets.token_hex(16)
        self.token = f"token-{secrets.token_hex(16)}"
        self.asked: list[dict[str, str]] = []
        self._knows = knows
        self._port = port
        self._tunnels: dict[int, asyncio.Transport] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, *_ = head.split(" ", 2)
            if method == "CONNECT":
                await self._tunnel(target, reader, writer)
            else:
                writer.write(self._identity(target, head))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def cut(self, port: int | None = None) -> None:
        """Break the tunnel whose far end is ``port``, or every tunnel; its client never hears of what was under way."""
        for each, transport in list(self._tunnels.items()):
            if port in (None, each):
                transport.abort()

    async def idle(self) -> None:
        """Return when nobody is connected."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Break every connection and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open or not self._knows(target.removesuffix(":443")):
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        port = far_writer.get_extra_info("sockname")[1]
        self._tunnels[port] = writer.transport
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
        finally:
            del self._tunnels[port]
            far_writer.close()
            with suppress(OSError):
                await far_writer.wait_closed()

    def _identity(self, target: str, head: str) -> bytes:
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n"))}
        if not self.open or headers.get("x-identity-header") != self.identity_header:
            return b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        self.asked.append(query)
        body = json.dumps(
            {
                "access_token": self.token,
                "expires_on": str(int(time.time()) + TOKEN_S),
                "resource": query.get("resource", ""),
                "token_type": "Bearer",
            }
        ).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + body


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
