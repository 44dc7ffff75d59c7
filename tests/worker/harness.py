"""The official Azure Functions worker library behind a loopback port.

The library, ``azure-functions-runtime``, is what runs function_app.py on Azure from Python 3.13 on. This module plays the
two parts around it: the proxy worker, which hands it protobuf messages, and the host, which routes HTTP requests, forwards
them to the library's own HTTP server, and sends an invocation along with each. Everything between is Microsoft's code:
indexing and its checks, the HTTP server and its coordinator, invocation, conversion of results and errors.

    python tests/worker/harness.py APP_DIR --serve PORT

prints the port that it serves on (a free one for 0) as the first line of its standard output. One app per process: the
library keeps its registries in modules. Beside the app's routes there is, as in the embedded host,
``POST /admin/functions/<timer>``, answered with 202, or with 200 or 500 after the run if ``Prefer: wait`` is sent; here the
body may be ``{"input": {"past_due": true}}``. Answers carry ``x-invocation-status``: Success, Failure or Pending, and
``x-invocations-remembered``: for how many the library holds a record.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure_functions_runtime as runtime
import httpx
import uvicorn
from azure_functions_runtime import http_v2

# At the end, where the app's folder goes before it: the app must not be shadowed by another function_app.py.
REPOSITORY = str(Path(__file__).resolve().parents[2])
sys.path.append(REPOSITORY)

from sluicegate.host.routes import parse_route, routing_path  # noqa: E402

HOP_BY_HOP = (b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server")
MESSAGES = (
    "BindingInfo CollectionBytes CollectionDouble CollectionSInt64 CollectionString FunctionEnvironmentReloadResponse"
    " FunctionLoadResponse FunctionMetadataResponse InvocationResponse ParameterBinding RpcException RpcFunctionMetadata"
    " RpcHttp RpcHttpCookie RpcRetryOptions StatusResult TypedData WorkerInitResponse WorkerMetadata"
)


class Message:
    """Stands in for a protobuf message: fields by keyword, ``WhichOneof`` over those that were given."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def WhichOneof(self, _group: str) -> str | None:
        return next(iter(self.__dict__), None)


def make_protos() -> SimpleNamespace:
    """Build the namespace of message types that the library expects."""
    protos = SimpleNamespace(**{name: type(name, (Message,), {}) for name in MESSAGES.split()})
    protos.StatusResult.Failure, protos.StatusResult.Success, protos.StatusResult.Cancelled = 0, 1, 2
    protos.BindingInfo.undefined, protos.BindingInfo.out, protos.BindingInfo.inout = 0, 1, 2
    setattr(protos.BindingInfo, "in", 0)
    return protos


class Worker:
    """An app, loaded by the library."""

    def __init__(self, app_dir: Path) -> None:
        self.app_dir = app_dir.resolve()
        self.protos = make_protos()
        self.functions: dict[str, Any] = {}
        self.http_uri = ""
        self._routes: list[tuple[Any, Any]] = []
        self._invocations: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Load the app and wait until the library's HTTP server accepts connections."""
        sys.path.insert(sys.path.index(REPOSITORY), str(self.app_dir))
        runtime.start_threadpool_executor()
        init = Message(capabilities={}, function_app_directory=str(self.app_dir))
        request = SimpleNamespace(
            request=Message(worker_init_request=init), properties={"protos": self.protos, "host": "127.0.0.1"}
        )
        started = self._succeeded(await runtime.worker_init_request(request))
        metadata = await runtime.functions_metadata_request(SimpleNamespace(request=Message()))
        for function in self._succeeded(metadata).function_metadata_results or []:
            bindings = [json.loads(binding) for binding in function.raw_bindings]
            function.trigger = next(each for each in bindings if each["type"].endswith("Trigger"))
            self.functions[function.name] = function
            load = Message(function_id=function.function_id, metadata=function)
            request = SimpleNamespace(request=Message(function_load_request=load))
            self._succeeded(await runtime.function_load_request(request))
        self._routes = self._make_routes()
        self.http_uri = started.capabilities["HttpUri"]
        await self._http_server_accepts()

    def match(self, method: str, path: str) -> tuple[Any, dict[str, str]] | None:
        """Return the function that gets a request, and its route parameters."""
        for function, route in self._routes:
            if (found := route.match(method, path)) is not None:
                return function, found
        return None

    def invoke_http(self, function: Any, parameters: dict[str, str]) -> tuple[str, asyncio.Task[Any]]:
        """Begin an invocation; the HTTP request with its id is to be sent to ``http_uri``."""
        http = Message(method="", url="", headers={}, body=Message(), query={}, params=parameters)
        invocation_id = str(uuid.uuid4())
        return invocation_id, self._begin(function, invocation_id, Message(http=http))

    async def run_timer(self, name: str, *, past_due: bool = False) -> bool:
        """Run a timer function; return whether the invocation succeeded."""
        now = datetime.now(UTC).isoformat()
        timer = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": {"Last": now, "LastUpdated": now, "Next": now},
            "IsPastDue": past_due,
        }
        result = await self._begin(self.functions[name], str(uuid.uuid4()), Message(json=json.dumps(timer)))
        return bool(result.result.status == self.protos.StatusResult.Success)

    async def status(self, invocation: asyncio.Task[Any]) -> str:
        """Return Success, Failure, or Pending if the library answered the request without its invocation."""
        await asyncio.wait({invocation}, timeout=5)
        if not invocation.done():
            return "Pending"
        return "Success" if invocation.result().result.status == self.protos.StatusResult.Success else "Failure"

    def invocations_remembered(self) -> int:
        """Return how many records of HTTP invocations the library holds."""
        return len(http_v2.http_coordinator._context_references)

    def _begin(self, function: Any, invocation_id: str, value: Message) -> asyncio.Task[Any]:
        invocation = Message(
            invocation_id=invocation_id,
            function_id=function.function_id,
            input_data=[SimpleNamespace(name=function.trigger["name"], data=value, WhichOneof=lambda _group: "data")],
            trigger_metadata={},
            trace_context=Message(trace_parent="", trace_state="", attributes={}),
            retry_context=Message(retry_count=0, max_retry_count=0, exception=None),
        )
        request = SimpleNamespace(request=Message(invocation_request=invocation))
        task = asyncio.ensure_future(runtime.invocation_request(request))
        self._invocations.add(task)
        task.add_done_callback(self._invocations.discard)
        return task

    def _make_routes(self) -> list[tuple[Any, Any]]:
        host_json = json.loads((self.app_dir / "host.json").read_text())
        prefix = host_json.get("extensions", {}).get("http", {}).get("routePrefix", "api")
        routes = []
        for function in sorted(self.functions.values(), key=lambda each: each.name.upper()):
            if (trigger := function.trigger)["type"] == "httpTrigger":
                template = trigger.get("route") or function.name
                routes.append((function, parse_route(template, prefix=prefix, methods=trigger.get("methods"))))
        return routes

    def _succeeded(self, response: Any) -> Any:
        if response.result.status != self.protos.StatusResult.Success:
            raise RuntimeError(f"{response.result.exception.message}\n{response.result.exception.stack_trace}")
        return response

    async def _http_server_accepts(self) -> None:
        # The library does not tell; the host, too, finds out by trying.
        address = httpx.URL(self.http_uri)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(address.host, address.port)
                    writer.close()
                    return
                await asyncio.sleep(0)


class Front:
    """The ASGI application in front of a worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # The worker closes its connection after a failed invocation without saying so, hence none is used twice.
        self._client = httpx.AsyncClient(
            base_url=worker.http_uri, timeout=None, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = routing_path(scope["raw_path"])
        if path.startswith("/admin/functions/"):
            await self._run_timer(path.removeprefix("/admin/functions/"), scope, receive, send)
        elif (matched := self._worker.match(scope["method"], path)) is None:
            await _answer(send, 404)
        else:
            await self._forward(*matched, scope, receive, send)

    async def _forward(self, function: Any, parameters: dict[str, str], scope: Any, receive: Any, send: Any) -> None:
        """Relay a request and its answer, until the end or until the client goes away."""
        body_was_read = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise httpx.WriteError("the client went away")
                yield message.get("body", b"")
                if not message.get("more_body"):
                    body_was_read.set()
                    return

        async def client_is_gone() -> None:
            await body_was_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass

        relaying = asyncio.ensure_future(self._relay(function, parameters, scope, body(), send))
        watching = asyncio.ensure_future(client_is_gone())
        await asyncio.wait({relaying, watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in (relaying, watching):
            task.cancel()
        await asyncio.gather(relaying, watching, return_exceptions=True)

    async def _relay(
        self, function: Any, parameters: dict[str, str], scope: Any, body: AsyncIterator[bytes], send: Any
    ) -> None:
        invocation_id, invocation = self._worker.invoke_http(function, parameters)
        query = scope["query_string"].decode()
        url = scope["raw_path"].decode() + (f"?{query}" if query else "")
        headers = [
            (name, value) for name, value in scope["headers"] if name not in (b"connection", b"x-ms-invocation-id")
        ]
        headers.append((b"x-ms-invocation-id", invocation_id.encode()))
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
        content = body if has_body else await _drain(body)
        # A broken answer is left unfinished, so that the server in front breaks its own off.
        with contextlib.suppress(httpx.TransportError):
            async with self._client.stream(scope["method"], url, headers=headers, content=content) as response:
                answer = [(name.lower(), value) for name, value in response.headers.raw]
                answer = [header for header in answer if header[0] not in HOP_BY_HOP]
                answer.append((b"x-invocation-status", (await self._worker.status(invocation)).encode()))
                answer.append((b"x-invocations-remembered", str(self._worker.invocations_remembered()).encode()))
                await send({"type": "http.response.start", "status": response.status_code, "headers": answer})
                async for piece in response.aiter_raw():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _run_timer(self, name: str, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        function = self._worker.functions.get(name)
        if scope["method"] != "POST" or function is None or function.trigger["type"] != "timerTrigger":
            await _answer(send, 404)
            return
        asked = (json.loads(body) if body else {}).get("input") or {}
        run = asyncio.ensure_future(self._worker.run_timer(name, past_due=bool(asked and asked.get("past_due"))))
        if dict(scope["headers"]).get(b"prefer") != b"wait":
            await _answer(send, 202)
        else:
            await _answer(send, 200 if await run else 500)


async def _drain(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in body])


async def _answer(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def serve(app_dir: Path, port: int, report: Any) -> None:
    """Serve an app until SIGTERM; ``report`` gets the port once requests are answered."""
    worker = Worker(app_dir)
    await worker.start()
    listener = socket.create_server(("127.0.0.1", port))
    print(listener.getsockname()[1], file=report, flush=True)
    config = uvicorn.Config(Front(worker), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[listener])
    runtime.stop_threadpool_executor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("app_dir", type=Path)
    parser.add_argument("--serve", type=int, required=True, metavar="PORT")
    arguments = parser.parse_args()
    # The library's HTTP server logs to standard output, which is kept for the port.
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asyncio.run(serve(arguments.app_dir, arguments.serve, report))


if __name__ == "__main__":
    main()
