"""Runs a ``LocalHost`` on a port until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from sluicegate.errors import StartupError
from sluicegate.host.failures import describe
from sluicegate.host.local_host import LocalHost

log = logging.getLogger(__name__)

GRACE = timedelta(seconds=10)

OnReady = Callable[[str], Awaitable[None] | None]
OnStop = Callable[[], Awaitable[None]]


def run(
    app_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7071,
    on_ready: OnReady | None = None,
    on_stop: OnStop | None = None,
    grace: timedelta = GRACE,
    access_log: bool = False,
) -> None:
    """Serve the app in a folder until SIGINT or SIGTERM, then return.

    The folder becomes the working directory, as in the worker. A first signal stops the server in an orderly way, see
    ``serve``; a second one ends the process at once.

    Args:
        host: Whoever passes one that is not ``is_loopback`` serves every function to the network.
        port: 0 for any free one.
        on_ready: Called, and awaited if it is a coroutine function, with the base URL once requests are answered. What it
            raises ends the server as a signal does, and is raised here then.
        on_stop: Awaited when the last request and timer run have ended.
        grace: How long those in progress may take after the signal.

    Raises:
        StartupError: The port is in use, or the app does not load.
    """

    async def main() -> None:
        stop = asyncio.Event()
        with _stopped_by_signals(stop), contextlib.chdir(app_dir):
            listener = _listen(host, port)
            with contextlib.closing(listener):
                local = LocalHost.load(Path(), access_log=access_log)
                await serve(local, listener, stop=stop, on_ready=on_ready, on_stop=on_stop, grace=grace)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


async def serve(
    local: LocalHost,
    listener: socket.socket,
    *,
    stop: asyncio.Event,
    on_ready: OnReady | None = None,
    on_stop: OnStop | None = None,
    grace: timedelta = GRACE,
) -> None:
    """Serve until ``stop`` is set, then come to an end.

    No connection is accepted any more and no timer run begins; requests and runs in progress have ``grace`` to end and
    are then cancelled; last, ``on_stop`` is awaited.

    Args:
        listener: Listening; it is closed here.
    """
    asyncio.get_running_loop().set_exception_handler(_log_background_failure)
    server = _Server(_configuration(local, grace))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await _first(serving, server.listening.wait())
        local.start()
        if on_ready is not None and (announcing := on_ready(_url(listener))) is not None:
            await _first(announcing, stop.wait())
        await _first(serving, stop.wait())
    finally:
        server.should_exit = True
        await local.stop(grace)
        await serving
        await _end_of(server.server_state.tasks)
        if on_stop is not None:
            await on_stop()


class _Server(uvicorn.Server):
    """uvicorn's server, told when to stop by us and not by signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def _configuration(local: LocalHost, grace: timedelta) -> uvicorn.Config:
    return uvicorn.Config(
        local,
        lifespan="off",
        ws="none",
        # A client could otherwise claim with X-Forwarded-For to be on this machine.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        # Silent, because what uvicorn logs of a failure quotes the exception's message.
        log_config=None,
        log_level=logging.CRITICAL,
        # Longer than common clients keep a connection, so that theirs is the side that closes an idle one.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(grace.total_seconds())),
    )


async def _first(*awaitables: Awaitable[object]) -> None:
    """Wait for the first of several and raise what it raised; of the others, those that are not yet tasks are ended."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    begun_here = [task for task, awaitable in zip(tasks, awaitables, strict=True) if task is not awaitable]
    for task in begun_here:
        task.cancel()
    await asyncio.gather(*begun_here, return_exceptions=True)
    for task in done:
        task.result()


async def _end_of(requests: set[asyncio.Task[None]]) -> None:
    """Wait for requests that the server has cancelled after the grace period."""
    if requests:
        log.warning("%d requests did not end in time and were cancelled", len(requests))
        await asyncio.wait(requests, timeout=1)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise StartupError(f"cannot listen on {host!r}: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"port {port} is in use; choose another: PORT={port + 1} make run, or --port {port + 1}"
            ) from None
        raise StartupError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def begin_to_stop() -> None:
        log.info("stopping; a second signal ends the process at once")
        stop.set()

    def receive(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        loop.call_soon_threadsafe(begin_to_stop)

    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


def _log_background_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Beside an exception, the loop's message may quote the arguments of a callback, and those may be content.
    error = context.get("exception")
    log.error("outside any request: %s", context["message"] if error is None else describe(error))
