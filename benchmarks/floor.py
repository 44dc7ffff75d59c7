"""The least a gateway in Python can do: forward bytes with aiohttp. It parses, filters and keeps nothing."""

from __future__ import annotations

import os
from typing import Any

import aiohttp

_session: list[aiohttp.ClientSession] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Forward one request to the server that ``UPSTREAM`` names; for uvicorn."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if not _session:
        _session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    url = os.environ["UPSTREAM"] + "/chat/completions"
    async with _session[0].post(url, data=body, headers={"content-type": "application/json"}) as reply:
        kind = reply.headers["content-type"].encode()
        await send({"type": "http.response.start", "status": reply.status, "headers": [(b"content-type", kind)]})
        async for part in reply.content.iter_any():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
