"""The limit on a request's body, enforced while the body streams through."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def limit_body(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, max_bytes: int) -> None:
    """Call ``app``, or answer 413 when the request's body is larger.

    A body whose declared length is too large is not read by the app at all. One that turns out too large on the way
    ends for the app as if the client had gone, and whatever the app then answers is replaced; if the answer had begun,
    it is left as it is.
    """
    if _declared_length(scope) > max_bytes:
        await _refuse(receive, send, max_bytes)
        return
    guard = _Guard(receive, send, max_bytes)
    try:
        await app(scope, guard.receive, guard.send)
    finally:
        if guard.exceeded and not guard.answering:
            await _refuse(receive, send, max_bytes)


class _Guard:
    """Counts what the app receives and, past the limit, drops what it sends."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._left = max_bytes
        self.exceeded = False
        self.answering = False

    async def receive(self) -> Message:
        if self.exceeded:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.exceeded = True
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self.exceeded and not self.answering:
            return
        self.answering = True
        await self._send(message)


def _declared_length(scope: Scope) -> int:
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    value = headers.get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


async def _refuse(receive: Receive, send: Send, max_bytes: int) -> None:
    message = f"The request body is larger than the {max_bytes} bytes that this host accepts."
    error = {"code": "413", "message": message, "type": "invalid_request_error", "param": None}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    # Closing while the client still sends would reset the connection, and many clients then never see the answer.
    await _discard(receive, max_bytes)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive, max_bytes: int) -> None:
    left = max_bytes
    while left >= 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))
