import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import azure.functions as func
import httpx
import pytest

from sluicegate.host import LocalHost, serve


@pytest.fixture
def app() -> func.FunctionApp:
    return func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@pytest.fixture
def http(app) -> Callable[..., Any]:
    """Add an HTTP function to the app, as the decorators do."""

    def add(handler, route=None, *, name=None, **options):
        app.function_name(name or handler.__name__)(app.route(route or handler.__name__, **options)(handler))
        return handler

    return add


@pytest.fixture
def timer(app) -> Callable[..., Any]:
    """Add a timer function to the app, as the decorators do."""

    def add(handler, schedule="0 0 0 1 1 *", *, name=None, **options):
        decorate = app.timer_trigger(arg_name="timer", schedule=schedule, **options)
        app.function_name(name or handler.__name__)(decorate(handler))
        return handler

    return add


@pytest.fixture
def client() -> Callable[[LocalHost], httpx.AsyncClient]:
    """Call a host without a socket, as a caller on this machine."""
    return lambda local: httpx.AsyncClient(transport=httpx.ASGITransport(local), base_url="http://localhost:7071")


@pytest.fixture
def served() -> Callable[..., AbstractAsyncContextManager[str]]:
    """Serve a host on a free port of this machine until the end of the block."""

    @contextlib.asynccontextmanager
    async def start(local: LocalHost, **options: Any) -> AsyncIterator[str]:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stop = options.setdefault("stop", asyncio.Event())
        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(serve(local, listener, on_ready=ready.set_result, **options))
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        try:
            yield ready.result()
        finally:
            stop.set()
            await serving

    return start
