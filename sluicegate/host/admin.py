"""The part of the host's admin API that is useful on a developer's machine.

* ``POST /admin/functions/<timer>`` runs a timer function now and answers 202 at once. The Core Tools want the body
  ``{"input": …}``; here it may be empty, and what it says is ignored, as timers ignore it on Azure. With the header
  ``Prefer: wait`` the answer comes when the run has ended: 200, or 500 if it failed.
* ``GET /admin/host/status`` tells that the host is running.

No key is asked for. Instead only callers on this machine are served, and no web page of another origin: see
``loopback.is_local_request``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from sluicegate.host.loopback import is_local_request
from sluicegate.host.timers import Timers

PREFIX = "/admin/"


class Admin:
    """The ASGI application behind ``/admin/``."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._started = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if not is_local_request(request.scope):
            return _error(
                403, "The admin API serves only this machine, called by its own name and from its own origin."
            )
        match (request.method, *request.url.path[len(PREFIX) :].rstrip("/").split("/")):
            case ("POST", "functions", name):
                return await self._run_timer(name, request)
            case ("GET", "host", "status"):
                uptime_ms = int((time.monotonic() - self._started) * 1000)
                return JSONResponse({"state": "Running", "processUptime": uptime_ms})
        return Response(status_code=404)

    async def _run_timer(self, name: str, request: Request) -> Response:
        if (function := self._timers.find(name)) is None:
            return Response(status_code=404)
        try:
            if body := await request.body():
                json.loads(body)
        except ValueError:
            return _error(400, 'The body must be empty or JSON such as {"input": ""}.')
        except ClientDisconnect:
            return Response(status_code=400)
        run = self._timers.begin(function)
        if not _prefers_wait(request.headers):
            return Response(status_code=202)
        # Shielded: a caller who goes away does not end the run.
        if await asyncio.shield(run):
            return JSONResponse({"function": function.name, "status": "completed"}, headers=_WAITED)
        return _error(500, f"Function {function.name} failed; the log names the exception.", headers=_WAITED)


_WAITED = {"preference-applied": "wait"}


def _prefers_wait(headers: Mapping[str, str]) -> bool:
    preferences = headers.get("prefer", "").split(",")
    return any(preference.partition(";")[0].strip().lower() == "wait" for preference in preferences)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"code": str(status), "message": message, "type": kind, "param": None}
    return JSONResponse({"error": error}, status, headers)
