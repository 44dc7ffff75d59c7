"""A proxy in front of Azurite that misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import re
from typing import Self

from plugins import azure_blob
from tests.azurite import server

LOST = "lost"
"""The request is carried out, and its answer never arrives."""
SILENCE = "silence"
"""The request is not carried out, and nobody says so."""
RESET = "reset"
"""The request is not carried out, and the connection ends."""


class Proxy:
    """Passes requests on, but for those that begin like ``which``: the first ``times`` of them meet a fault.

    Args:
        fault: One of the above, or an HTTP status.

    Attributes:
        store: A blob store on the other side of it.
        met: How many requests have met the fault.
    """

    def __init__(self, port: int, which: str, fault: str | int = LOST, times: float = 1) -> None:
        self._upstream = port
        self.which = which
        self.fault = fault
        self.times = times
        self.met = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.connection_string = server.connection_string(port)
        self.store = azure_blob.open_storage(self.connection_string)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            while request := await _request(reader):
                head, body = request
                meets = re.match(self.which, head) is not None and self.met < self.times
                self.met += meets
                if meets and isinstance(self.fault, int):
                    writer.write(b"HTTP/1.1 %d Fault\r\ncontent-length: 0\r\n\r\n" % self.fault)
                    continue
                if meets and self.fault == SILENCE:
                    await reader.read()
                    return
                if meets and self.fault == RESET:
                    return
                upstream.write(head.encode() + body)
                await upstream.drain()
                answer = await _answer(upstream_reader, head)
                if meets:
                    return
                writer.write(answer)
                await writer.drain()
        finally:
            for each in (writer, upstream):
                each.close()


async def _request(reader: asyncio.StreamReader) -> tuple[str, bytes] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        return head, await reader.readexactly(_length(head))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _answer(reader: asyncio.StreamReader, request: str) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if request.startswith("HEAD"):
        return head
    if b"chunked" not in head:
        return head + await reader.readexactly(_length(head.decode()))
    body = b""
    while not body.endswith(b"0\r\n\r\n"):
        body += await reader.readuntil(b"\r\n")
    return head + body


def _length(head: str) -> int:
    found = re.search(r"(?im)^content-length: *(\d+)", head)
    return int(found[1]) if found else 0
