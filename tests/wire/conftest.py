"""Servers that are shared by the tests of the wire, and clients of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest

from plugins import local_folder
from sluicegate.tenancy.deployments import Deployment, Deployments
from tests.wire.cues import Cues
from tests.wire.serving import Server

API_VERSION = "2024-10-21"
SPELLINGS = ("classic", "v1")
POLICIES = ("shielded", "noting", "weak", "listing", "flowing", "reporting")
"""Those of ``deployments/filtered.toml``."""


@pytest.fixture(scope="session")
def cues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cues]:
    cues = Cues(tmp_path_factory.mktemp("cues") / "socket")
    yield cues
    cues.close()


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, cues: Cues) -> Iterator[Callable[[str | None], Server]]:
    """``serve(deployment)`` starts the server of a deployment file once."""
    servers: dict[str | None, Server] = {}
    with ExitStack() as stack:

        def start(deployment: str | None = None) -> Server:
            if deployment not in servers:
                data = tmp_path_factory.mktemp("wire") / "data"
                servers[deployment] = stack.enter_context(Server(data, deployment, REHEARSAL_CUES=str(cues.path)))
            return servers[deployment]

        yield start


@pytest.fixture(scope="session")
def server(serve) -> Server:
    """The scripted model, which can do everything, between filters and retention."""
    return serve("full")


@pytest.fixture(scope="session")
def plain_server(serve) -> Server:
    """The scripted model, which can do nothing beyond plain text."""
    return serve("plain")


@pytest.fixture(scope="session")
def filtered_server(serve) -> Server:
    """The scripted model between the classifier and blocklists, with a deployment for each policy, of the policy's name."""
    server = serve("filtered")
    asyncio.run(_deploy(server, POLICIES))
    return server


@pytest.fixture(scope="session")
def unavailable_server(serve) -> Server:
    """The scripted model behind a filter that can be unavailable, with a deployment ``open`` whose policy fails open."""
    server = serve("unavailable")
    asyncio.run(_deploy(server, ("open",)))
    return server


async def _deploy(server: Server, policies: Iterable[str]) -> None:
    blobs = local_folder.open_storage(f"folder:{server.data / 'storage'}")
    try:
        for name in policies:
            await Deployments(blobs).create("default", Deployment(name, "rehearsal-chat", name))
    finally:
        await blobs.close()


@pytest.fixture
def http(server) -> Iterator[httpx.Client]:
    """Whoever reads the specs and not the SDK."""
    with raw(server) as client:
        yield client


@pytest.fixture(scope="session")
def sdk_clients(server) -> Iterator[dict[str, Any]]:
    """The SDK's clients of the fully equipped server, by class; making one takes longer than most tests."""
    with ExitStack() as stack:
        clients = {kind: stack.enter_context(sdk(server, kind)) for kind in ("AzureOpenAI", "OpenAI")}
        runner = stack.enter_context(asyncio.Runner())
        for kind in ("AsyncAzureOpenAI", "AsyncOpenAI"):
            clients[kind] = stack.enter_context(Waiting(sdk(server, kind), runner))
        yield clients


@pytest.fixture(params=["AzureOpenAI", "OpenAI", "AsyncAzureOpenAI", "AsyncOpenAI"])
def client(request: pytest.FixtureRequest, sdk_clients: dict[str, Any]) -> Any:
    """Each of the SDK's clients in turn; the asynchronous ones are waited for at each step."""
    return sdk_clients[request.param]


def raw(server: Server) -> httpx.Client:
    """Return a client that sends the caller's key."""
    return httpx.Client(base_url=server.endpoint, headers={"api-key": server.credentials["api_key"]}, timeout=60)


def sdk(server: Server, kind: str, **options: Any) -> Any:
    """Return one of the SDK's clients, unmodified; it tries nothing twice unless told to."""
    options = {"api_key": server.credentials["api_key"], "max_retries": 0, "timeout": 60, **options}
    if "Azure" in kind:
        return getattr(openai, kind)(azure_endpoint=server.endpoint, api_version=API_VERSION, **options)
    return getattr(openai, kind)(base_url=f"{server.endpoint}/openai/v1/", **options)


def path(spelling: str, operation: str, deployment: str = "chat") -> str:
    """Return the URL of an operation such as ``chat/completions``."""
    if spelling == "v1":
        return f"/openai/v1/{operation}"
    return f"/openai/deployments/{deployment}/{operation}?api-version={API_VERSION}"


class Waiting:
    """An asynchronous client, used like a synchronous one."""

    def __init__(self, value: Any, runner: asyncio.Runner) -> None:
        self._value = value
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return self._wrapped(getattr(self._value, name))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        returned = self._value(*arguments, **named)
        if asyncio.iscoroutine(returned):
            returned = self._runner.run(_awaited(returned))
        return self._wrapped(returned)

    def __iter__(self) -> Iterator[Any]:
        items = aiter(self._value)
        while (item := self._runner.run(_next(items))) is not _END:
            yield item

    def __enter__(self) -> Waiting:
        return self._wrapped(self._runner.run(self._value.__aenter__()))

    def __exit__(self, *error: Any) -> None:
        self._runner.run(self._value.__aexit__(*error))

    def _wrapped(self, value: Any) -> Any:
        kind = type(value)
        is_step = callable(value) or kind.__module__.startswith("openai.resources.")
        is_asynchronous = hasattr(kind, "__aiter__") or hasattr(kind, "__aenter__")
        return Waiting(value, self._runner) if is_step or is_asynchronous else value


_END = object()


async def _awaited(value: Any) -> Any:
    return await value


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)
