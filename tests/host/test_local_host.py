import asyncio
import contextvars
import logging

import azure.functions as func
import httpx
import pytest
from azurefunctions.extensions.http.fastapi import JSONResponse, PlainTextResponse, Request, Response, StreamingResponse
from fastapi import HTTPException

from sluicegate.errors import StartupError
from sluicegate.host import LocalHost
from sluicegate.host.settings import HostSettings

CANARY = "canary-90fe"
ROOT = HostSettings(route_prefix="")


async def test_a_function_answers_under_the_prefix_with_its_route_parameters(app, http, client):
    async def deployment(req: Request) -> Response:
        return JSONResponse(req.path_params)

    http(deployment, "deployments/{name}/chat/{part?}")

    async with client(LocalHost(app)) as caller:
        response = await caller.get("/API/deployments/gpt%2F5%20mini/Chat/")

    assert response.json() == {"name": "gpt%2F5 mini"}


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/a"), ("OPTIONS", "/a"), ("GET", "/b"), ("GET", "/docs")])
async def test_no_route_and_a_wrong_method_are_404(app, http, client, method, path):
    http(lambda req: Response(), "a", name="a", methods=["GET"])

    async with client(LocalHost(app, settings=ROOT)) as caller:
        response = await caller.request(method, path)

    assert (response.status_code, response.content) == (404, b"")


async def test_the_first_function_by_name_gets_the_request(app, http, client):
    http(lambda req: PlainTextResponse("exact"), "items/list", name="z_list")
    http(lambda req: PlainTextResponse("any"), "items/{id}", name="a_get")

    async with client(LocalHost(app, settings=ROOT)) as caller:
        response = await caller.get("/items/list")

    assert response.text == "any"


def test_a_route_can_be_looked_up(app, http):
    http(lambda req: Response(), "items/{id}", name="get_item", methods=["GET"])
    local = LocalHost(app, settings=ROOT)

    function, parameters = local.match("GET", "/items/7")

    assert (function.name, parameters) == ("get_item", {"id": "7"})
    assert local.match("POST", "/items/7") is None


async def test_a_disabled_function_keeps_its_route_and_answers_404(app, http, client):
    http(lambda req: Response(), "items/{id}", name="a_get")
    http(lambda req: Response(), "items/{id}", name="b_get")
    local = LocalHost(app, settings=ROOT, environ={"AzureWebJobs.a_get.Disabled": "true"})

    async with client(local) as caller:
        response = await caller.get("/items/7")

    assert response.status_code == 404


async def test_a_handler_may_be_a_plain_function(app, http, client):
    def plain(req: Request, context: func.Context) -> Response:
        return PlainTextResponse(context.function_name)

    http(plain)

    async with client(LocalHost(app, settings=ROOT)) as caller:
        assert (await caller.get("/plain")).text == "plain"


async def test_the_invocation_id_is_the_hosts_own(app, http, client):
    async def echo(req: Request, context: func.Context) -> Response:
        return JSONResponse([context.invocation_id, *req.headers.getlist("x-ms-invocation-id")])

    http(echo)

    async with client(LocalHost(app, settings=ROOT)) as caller:
        in_context, *in_headers = (await caller.get("/echo", headers={"x-ms-invocation-id": "mine"})).json()

    assert in_headers == [in_context]
    assert in_context != "mine"


async def test_the_body_of_an_answer_does_not_see_the_handlers_context_variables(app, http, client):
    variable = contextvars.ContextVar("variable", default="unset")

    async def stream(req: Request) -> Response:
        variable.set("set")

        async def body():
            yield variable.get()

        return StreamingResponse(body())

    http(stream)

    async with client(LocalHost(app, settings=ROOT)) as caller:
        assert (await caller.get("/stream")).text == "unset"


async def test_a_failing_function_is_answered_with_a_plain_500_and_logged_without_its_message(
    app, http, client, caplog
):
    async def boom(req: Request) -> Response:
        raise ValueError(CANARY)

    http(boom)

    async with client(LocalHost(app, settings=ROOT)) as caller:
        response = await caller.post("/boom?q=" + CANARY, content=CANARY, headers={"x-prompt": CANARY})

    assert (response.status_code, response.text) == (500, "Internal Server Error")
    assert "function boom failed: ValueError\n" in caplog.text
    assert "in boom" in caplog.text
    assert CANARY not in caplog.text


async def test_a_failing_stream_is_broken_off_and_logged_without_its_message(app, http, served, caplog):
    async def stream(req: Request) -> Response:
        async def body():
            yield "data: 1\n\n"
            raise ValueError(CANARY)

        return StreamingResponse(body())

    http(stream)

    async with served(LocalHost(app, settings=ROOT)) as url, httpx.AsyncClient(base_url=url) as caller:
        with pytest.raises(httpx.RemoteProtocolError):
            await caller.get("/stream")

    assert "function stream failed: " in caplog.text
    assert CANARY not in caplog.text


async def test_a_failing_timer_is_logged_without_its_message(app, timer, client, caplog):
    async def purge(timer):
        raise ValueError(CANARY)

    timer(purge)

    async with client(LocalHost(app)) as caller:
        await caller.post("/admin/functions/purge", headers={"prefer": "wait"})

    assert "function purge failed: ValueError\n" in caplog.text
    assert CANARY not in caplog.text


async def test_a_function_that_returns_nothing_fails(app, http, client, caplog):
    async def nothing(req: Request) -> Response:
        return None

    http(nothing)

    async with client(LocalHost(app, settings=ROOT)) as caller:
        assert (await caller.get("/nothing")).status_code == 500

    assert "function nothing failed: TypeError" in caplog.text


async def test_an_http_exception_is_the_extensions_to_answer(app, http, client):
    async def teapot(req: Request) -> Response:
        raise HTTPException(418, "short and stout")

    http(teapot)

    async with client(LocalHost(app, settings=ROOT)) as caller:
        response = await caller.get("/teapot")

    assert (response.status_code, response.json()) == (418, {"detail": "short and stout"})


async def test_a_stream_arrives_chunk_by_chunk(app, http, served):
    step = asyncio.Semaphore(0)

    async def stream(req: Request) -> Response:
        async def body():
            for number in range(3):
                yield f"data: {number}\n\n"
                await step.acquire()

        return StreamingResponse(body(), media_type="text/event-stream")

    http(stream)

    async with served(LocalHost(app, settings=ROOT)) as url, httpx.AsyncClient(base_url=url) as caller:
        received = []
        async with caller.stream("GET", "/stream") as response:
            async for chunk in response.aiter_raw():
                received.append(chunk)
                step.release()

    assert received == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


async def test_a_client_who_goes_away_ends_the_stream(app, http, served):
    ended = asyncio.Event()

    async def stream(req: Request) -> Response:
        async def body():
            try:
                yield "data: 0\n\n"
                await asyncio.Event().wait()
            finally:
                ended.set()

        return StreamingResponse(body())

    http(stream)

    async with served(LocalHost(app, settings=ROOT)) as url, httpx.AsyncClient(base_url=url) as caller:
        async with caller.stream("GET", "/stream") as response:
            await anext(response.aiter_raw())
        assert await ended.wait()


async def test_a_client_who_goes_away_while_sending_is_no_failure(app, http, served, caplog):
    begun, gone = asyncio.Event(), asyncio.Event()

    async def read(req: Request) -> Response:
        begun.set()
        try:
            return PlainTextResponse(await req.body())
        finally:
            gone.set()

    http(read)

    async with served(LocalHost(app, settings=ROOT)) as url:
        address = httpx.URL(url)
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /read HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nhello")
        await begun.wait()
        writer.close()
        await gone.wait()

    assert "failed" not in caplog.text


async def test_requests_are_logged_only_when_asked_for_and_without_what_the_caller_sent(app, http, client, caplog):
    caplog.set_level(logging.DEBUG)
    http(lambda req: Response(), "items/{id}", name="get_item")

    for access_log in (False, True):
        async with client(LocalHost(app, settings=ROOT, access_log=access_log)) as caller:
            await caller.get(f"/items/{CANARY}?q={CANARY}", headers={"x-prompt": CANARY})

    lines = [record.getMessage() for record in caplog.records if record.name.startswith("sluicegate")]
    assert len(lines) == 1
    assert lines[0].startswith("get_item GET 200 ")
    assert CANARY not in lines[0]


@pytest.mark.parametrize("route", ["docs", "{*path}", "{page}"])
def test_a_route_that_the_workers_documentation_pages_would_swallow_is_refused(app, http, route):
    http(lambda req: Response(), route, name="everything")

    with pytest.raises(StartupError, match="function everything: its route matches /docs"):
        LocalHost(app, settings=ROOT)


def test_a_schedule_that_cannot_be_used_stops_the_app(app, timer):
    timer(lambda timer: None, "every day", name="purge")

    with pytest.raises(StartupError, match="function purge: schedule 'every day'"):
        LocalHost(app)


async def test_a_server_that_gives_no_raw_path_will_do(app, http):
    http(lambda req: PlainTextResponse(req.path_params["name"]), "items/{name}", name="item")
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/items/5%25ä", "query_string": b"", "headers": []}
    await LocalHost(app, settings=ROOT)(scope, receive, send)

    assert sent[1]["body"] == "5%25ä".encode()


async def test_other_protocols_are_not_spoken(app):
    with pytest.raises(NotImplementedError):
        await LocalHost(app)({"type": "websocket"}, None, None)
