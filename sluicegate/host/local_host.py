"""The ASGI application that serves a function app without the Core Tools.

It keeps the rules of Azure's host that matter to an app: see ``routes``, ``functions``, ``schedules``, ``timers`` and
``settings``. Requests pass through the web app of the FastAPI extension, the one that the worker uses, so that what a
handler returns or raises becomes the same answer in both places.

What it does not do: function keys (an app that wants them is refused), triggers other than HTTP and timers, output
bindings, ``functionTimeout``, retries, CORS, and remembering timers across restarts.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from azure.functions import FunctionRegister
from azure.functions.timer import TimerRequest
from azurefunctions.extensions.base import ModuleTrackerMeta, RequestTrackerMeta
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sluicegate.errors import StartupError
from sluicegate.host.admin import PREFIX as ADMIN_PREFIX
from sluicegate.host.admin import Admin
from sluicegate.host.body_limit import limit_body
from sluicegate.host.failures import describe
from sluicegate.host.functions import Function, HttpFunction, TimerFunction, index, load_app
from sluicegate.host.invocation import INVOCATION_ID_HEADER, invoke, new_invocation_id
from sluicegate.host.routes import routing_path
from sluicegate.host.settings import HostSettings, apply_local_settings, read_host_settings
from sluicegate.host.timers import Clock, Timers, WallClock

log = logging.getLogger(__name__)

_CALL = "sluicegate.host.call"
_MAX_ADMIN_BODY_BYTES = 64 * 1024
_DOCUMENTATION_PATHS = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")


class LocalHost:
    """Serves the HTTP functions of one app, and runs its timers between ``start`` and ``stop``.

    Args:
        app: As function_app.py builds it.
        app_dir: What handlers find as ``context.function_directory``.
        environ: App settings, for ``%SETTING%`` and disabled functions.
        clock: For the timers.
        access_log: Log one line per request: function, method, status and duration, nothing that the caller sent.

    Raises:
        StartupError: The app would not load on Azure, or this host must not serve it.
    """

    def __init__(
        self,
        app: FunctionRegister,
        *,
        app_dir: Path = Path(),
        settings: HostSettings | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        access_log: bool = False,
    ) -> None:
        self.settings = settings or HostSettings()
        environ = os.environ if environ is None else environ
        self.functions = tuple(index(app, environ, route_prefix=self.settings.route_prefix))
        self._app_dir = app_dir
        self._access_log = access_log
        self._threads = _threads(environ)
        timers = [function for function in self.functions if isinstance(function, TimerFunction)]
        self._timers = Timers(timers, self._fire, clock or WallClock(self.settings.time_zone))
        self._admin = Admin(self._timers)
        self._web = self._web_app()
        self._refuse_documentation_routes()

    @classmethod
    def load(cls, app_dir: Path, *, access_log: bool = False) -> LocalHost:
        """Import the app in a folder as the worker does; its local settings become environment variables.

        Raises:
            StartupError: A file is missing, a setting cannot be used, or the app does not load.
        """
        app_dir = app_dir.resolve()
        apply_local_settings(app_dir, os.environ)
        settings = read_host_settings(app_dir, os.environ)
        app = load_app(app_dir, os.environ)
        return cls(app, app_dir=app_dir, settings=settings, access_log=access_log)

    def match(self, method: str, path: str) -> tuple[HttpFunction, dict[str, str]] | None:
        """Return the function that gets a request, and its route parameters.

        Args:
            method: Upper case.
            path: Decoded, except for ``%2F``.
        """
        for function in self.functions:
            if isinstance(function, HttpFunction) and (found := function.route.match(method, path)) is not None:
                return function, found
        return None

    def start(self) -> None:
        """Start the timers; call it from the event loop that serves the app."""
        self._timers.start()

    async def stop(self, grace: timedelta) -> None:
        """Stop the timers; runs in progress have ``grace`` to end."""
        await self._timers.stop(grace)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        path = routing_path(scope.get("raw_path") or quote(scope["path"]).encode())
        started = time.perf_counter()
        status = _Status(send)
        name = "-"
        if path.lower().startswith(ADMIN_PREFIX):
            await limit_body(self._admin, scope, receive, status.send, max_bytes=_MAX_ADMIN_BODY_BYTES)
        elif (matched := self.match(scope["method"], path)) is None or matched[0].disabled:
            await Response(status_code=404)(scope, receive, status.send)
        else:
            name = matched[0].name
            await self._serve(*matched, scope, receive, status.send)
        if self._access_log:
            elapsed_ms = (time.perf_counter() - started) * 1000
            log.info("%s %s %s %.0f ms", name, scope["method"], status.code, elapsed_ms)

    async def _serve(
        self, function: HttpFunction, parameters: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        invocation_id = new_invocation_id()
        headers = [header for header in scope["headers"] if header[0] != INVOCATION_ID_HEADER]
        scope = {
            **scope,
            "headers": [*headers, (INVOCATION_ID_HEADER, invocation_id.encode())],
            _CALL: (function, parameters, invocation_id),
        }
        try:
            await limit_body(self._web, scope, receive, send, max_bytes=self.settings.max_body_bytes)
        except ClientDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 # the web app has answered 500, or broken the answer off
            _log_failure(function, error)

    def _web_app(self) -> ASGIApp:
        """Build the extension's web app around ``_dispatch``, as the worker builds it around its own."""
        if not ModuleTrackerMeta.module_imported():
            raise StartupError("the app must import azurefunctions.extensions.http.fastapi")

        async def dispatch(request: Request) -> Any:  # whatever the handler returns
            return await self._dispatch(request)

        dispatch.__annotations__ = {"request": RequestTrackerMeta.get_request_type()}
        web = importlib.import_module(ModuleTrackerMeta.get_module()).WebApp()
        web.route(dispatch)
        application: ASGIApp = web.get_app()
        return application

    async def _dispatch(self, request: Request) -> Any:
        function, parameters, invocation_id = request.scope[_CALL]
        RequestTrackerMeta.get_synchronizer().sync_route_params(request, parameters)
        result = await self._invoke(function, request, invocation_id)
        if result is None:
            raise TypeError(f"function {function.name} returned no response")
        return result

    async def _fire(self, function: TimerFunction, past_due: bool) -> None:
        try:
            await self._invoke(function, TimerRequest(past_due=past_due), new_invocation_id())
        except Exception as error:
            _log_failure(function, error)
            raise

    async def _invoke(self, function: Function, value: object, invocation_id: str) -> Any:
        return await invoke(function, value, invocation_id=invocation_id, app_dir=self._app_dir, threads=self._threads)

    def _refuse_documentation_routes(self) -> None:
        for path in _DOCUMENTATION_PATHS:
            if matched := self.match("GET", path):
                raise StartupError(
                    f"function {matched[0].name}: its route matches {path}, which the worker's web app answers itself,"
                    " so that the invocation would stay pending"
                )


class _Status:
    """Remembers the status of an answer that passes by."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.code: int | str = "-"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
        await self._send(message)


def _log_failure(function: Function, error: BaseException) -> None:
    log.error("function %s failed: %s", function.name, describe(error))


def _threads(environ: Mapping[str, str]) -> ThreadPoolExecutor:
    count = environ.get("PYTHON_THREADPOOL_THREAD_COUNT", "")
    return ThreadPoolExecutor(int(count) if count.isdecimal() and count != "0" else None)
