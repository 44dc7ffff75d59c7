import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from azurefunctions.extensions.http.fastapi import PlainTextResponse, Request, Response, StreamingResponse

from sluicegate.errors import StartupError
from sluicegate.host import LocalHost, run, serve
from sluicegate.host.settings import HostSettings

CANARY = "canary-5a3d"
ROOT = HostSettings(route_prefix="")

APP = f"""
import asyncio, logging, os, sys
import azure.functions as func
from azurefunctions.extensions.http.fastapi import PlainTextResponse, Request, Response, StreamingResponse

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.function_name("settings")
@app.route("settings")
async def settings(req: Request) -> Response:
    return PlainTextResponse(os.environ["FROM_FILE"] + " " + os.getcwd())

@app.function_name("boom")
@app.route("boom")
async def boom(req: Request) -> Response:
    raise ValueError((await req.body()).decode())

@app.function_name("boom_later")
@app.route("boom-later")
async def boom_later(req: Request) -> Response:
    async def body():
        yield "begun"
        raise ValueError(req.query_params["q"])
    return StreamingResponse(body())

@app.function_name("boom_aside")
@app.route("boom-aside")
async def boom_aside(req: Request) -> Response:
    async def aside():
        raise ValueError("{CANARY}")
    await asyncio.wait([asyncio.create_task(aside())])
    return Response()

@app.function_name("endless")
@app.route("endless")
async def endless(req: Request) -> Response:
    async def body():
        yield "begun"
        await asyncio.Event().wait()
    return StreamingResponse(body())

@app.function_name("tick")
@app.timer_trigger(arg_name="timer", schedule="%SCHEDULE%")
async def tick(timer: func.TimerRequest) -> None:
    raise ValueError("{CANARY}")
"""

SCRIPT = """
import logging, sys
from pathlib import Path
from sluicegate.host import run

logging.basicConfig(level=logging.DEBUG)

async def on_stop():
    print("on_stop", flush=True)

run(Path(sys.argv[1]), port=0, on_ready=lambda url: print(url, flush=True), on_stop=on_stop, access_log=True)
print("returned", flush=True)
"""


@pytest.fixture
def app_dir(tmp_path):
    (tmp_path / "function_app.py").write_text(APP)
    (tmp_path / "host.json").write_text('{"version": "2.0"}')
    values = '{"FROM_FILE": "from local.settings.json", "SCHEDULE": "0 0 0 1 1 *"}'
    (tmp_path / "local.settings.json").write_text(f'{{"IsEncrypted": false, "Values": {values}}}')
    return tmp_path


@pytest.fixture
def process(app_dir):
    """The embedded host in a process of its own; its first line of output was its URL."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-c", SCRIPT, str(app_dir)]
    with subprocess.Popen(arguments, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            child.url = child.stdout.readline().strip()
            assert child.url.startswith("http://127.0.0.1:")
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_in_an_orderly_way(process, app_dir, number):
    answer = httpx.get(process.url + "/api/settings")
    process.send_signal(number)
    output, errors = process.communicate()

    assert answer.text == f"from local.settings.json {app_dir}"
    assert process.returncode == 0
    assert output == "on_stop\nreturned\n"
    assert "Traceback" not in errors


def test_a_second_signal_ends_the_process_at_once(process):
    with httpx.stream("GET", process.url + "/api/endless") as response:
        next(response.iter_text())
        process.send_signal(signal.SIGINT)
        while "stopping" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()

    assert process.returncode == 130
    assert output == ""
    assert "Traceback" not in errors


def test_nothing_that_a_caller_sent_and_no_exceptions_message_is_logged(process):
    headers = {"x-prompt": CANARY, "api-key": CANARY, "cookie": CANARY, "prefer": "wait"}
    with httpx.Client(base_url=process.url, params={"q": CANARY}, headers=headers) as client:
        client.post("/api/boom", content=CANARY)
        client.post(f"/api/nowhere/{CANARY}", content=CANARY)
        client.get("/api/boom-aside")
        client.post("/admin/functions/tick", content=CANARY)
        client.post("/admin/functions/tick", json={"input": CANARY})
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/api/boom-later")
    process.terminate()
    _, errors = process.communicate()

    assert "function boom failed: ValueError" in errors
    assert "function boom_later failed: " in errors
    assert "function tick failed: ValueError" in errors
    assert "outside any request: ValueError" in errors
    assert "boom POST 500" in errors
    assert CANARY not in errors


def test_a_port_in_use_is_named_with_the_way_out(app_dir):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(StartupError) as refusal:
            run(app_dir, port=port)

    assert (
        str(refusal.value) == f"port {port} is in use; choose another: PORT={port + 1} make run, or --port {port + 1}"
    )


def test_an_address_that_is_not_ours_is_named(app_dir):
    with pytest.raises(StartupError, match=r"cannot listen on 192\.0\.2\.1, port 0"):
        run(app_dir, host="192.0.2.1", port=0)


def test_an_app_that_does_not_load_frees_the_port_and_restores_the_process(app_dir, monkeypatch):
    monkeypatch.delenv("FROM_FILE", raising=False)
    monkeypatch.setenv("PYTHON_SCRIPT_FILE_NAME", "not_there.py")
    monkeypatch.setenv("SCHEDULE", "")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    with pytest.raises(StartupError, match=r"not_there\.py is missing"):
        run(app_dir, port=0)

    assert Path.cwd() != app_dir
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


async def test_a_request_in_progress_ends_before_the_server_does(app, http, served):
    begun, release, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ended = []

    async def slow(req: Request) -> Response:
        async def body():
            yield "begun "
            begun.set()
            await release.wait()
            yield "ended"

        return StreamingResponse(body())

    async def on_stop():
        ended.append("on_stop")

    http(slow)
    local = LocalHost(app, settings=ROOT)

    async with httpx.AsyncClient() as caller, served(local, stop=stop, on_stop=on_stop) as url:
        request = asyncio.create_task(caller.get(url + "/slow"))
        await begun.wait()
        stop.set()
        await refused(url)
        ended.append("refused")
        release.set()
        response = await request
        ended.append("answered")

    assert response.text == "begun ended"
    assert ended == ["refused", "answered", "on_stop"]


async def refused(url: str) -> None:
    """Return once no connection is accepted any more."""
    address = httpx.URL(url)
    with contextlib.suppress(OSError):
        while True:
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.close()


async def test_a_request_that_outlasts_the_grace_period_is_cancelled_before_on_stop(app, http, served, caplog):
    begun, stop = asyncio.Event(), asyncio.Event()
    ended = []

    async def endless(req: Request) -> Response:
        async def body():
            try:
                yield "begun"
                begun.set()
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        return StreamingResponse(body())

    async def on_stop():
        ended.append("on_stop")

    http(endless)
    local = LocalHost(app, settings=ROOT)

    async with (
        httpx.AsyncClient() as caller,
        served(local, stop=stop, on_stop=on_stop, grace=timedelta(seconds=1)) as url,
    ):
        request = asyncio.create_task(caller.get(url + "/endless"))
        await begun.wait()
        stop.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await request

    assert ended == ["cancelled", "on_stop"]
    assert "Traceback" not in caplog.text


async def test_a_timer_run_in_progress_ends_before_on_stop(app, timer, served):
    begun, release, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ended = []

    async def purge(timer):
        begun.set()
        await release.wait()
        ended.append("purged")

    async def on_stop():
        ended.append("on_stop")

    timer(purge, run_on_startup=True)

    async with served(LocalHost(app), stop=stop, on_stop=on_stop):
        await begun.wait()
        stop.set()
        release.set()

    assert ended == ["purged", "on_stop"]


async def test_a_timer_run_that_outlasts_the_grace_period_is_cancelled_before_on_stop(app, timer, served):
    begun, stop = asyncio.Event(), asyncio.Event()
    ended = []

    async def purge(timer):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def on_stop():
        ended.append("on_stop")

    timer(purge, run_on_startup=True)

    async with served(LocalHost(app), stop=stop, on_stop=on_stop, grace=timedelta(0)):
        await begun.wait()
        stop.set()

    assert ended == ["cancelled", "on_stop"]


async def test_what_on_ready_raises_ends_the_server_in_an_orderly_way(app):
    ended = []

    async def on_ready(url):
        raise StartupError("no model")

    async def on_stop():
        ended.append("on_stop")

    listener = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(StartupError, match=r"^no model$"):
        await serve(LocalHost(app), listener, stop=asyncio.Event(), on_ready=on_ready, on_stop=on_stop)

    assert ended == ["on_stop"]


async def test_stopping_does_not_wait_for_on_ready(app):
    stop, begun = asyncio.Event(), asyncio.Event()
    ended = []

    async def on_ready(url):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("on_ready")

    async def on_stop():
        ended.append("on_stop")

    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(serve(LocalHost(app), listener, stop=stop, on_ready=on_ready, on_stop=on_stop))
    await begun.wait()
    stop.set()
    await serving

    assert ended == ["on_ready", "on_stop"]


async def test_a_forwarded_header_does_not_make_a_caller_local(app, http, served):
    async def client_address(req: Request) -> Response:
        return PlainTextResponse(req.client.host)

    http(client_address, "client")

    async with served(LocalHost(app, settings=ROOT)) as url, httpx.AsyncClient(base_url=url) as caller:
        response = await caller.get("/client", headers={"x-forwarded-for": "10.1.2.3"})

    assert response.text == "127.0.0.1"
    assert "server" not in response.headers


async def test_a_websocket_is_an_ordinary_request(app, http, served, caplog):
    caplog.set_level(logging.DEBUG, logger="uvicorn")
    http(lambda req: PlainTextResponse("plain"), "socket", name="socket")
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "x", "sec-websocket-version": "13"}

    async with served(LocalHost(app, settings=ROOT)) as url, httpx.AsyncClient(base_url=url) as caller:
        response = await caller.get("/socket", headers=upgrade)

    assert response.text == "plain"
