"""An app with one function per thing in which a host and the worker could differ."""

import asyncio
import contextvars
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import azure.functions as func
from azurefunctions.extensions.http.fastapi import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Request,
    Response,
    StreamingResponse,
)
from fastapi import HTTPException
from pydantic import BaseModel

CANARY = "canary-2f9d41"
TICKS: list[bool] = []
SEEN_BY_HANDLER: contextvars.ContextVar[str] = contextvars.ContextVar("SEEN_BY_HANDLER", default="unset")

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


class Item(BaseModel):
    id: int
    tags: list[str] = []


class Signals:
    """Events that one request waits for and another one sets."""

    def __init__(self) -> None:
        self.next = asyncio.Semaphore(0)
        self.gone = asyncio.Event()


SIGNALS: defaultdict[str, Signals] = defaultdict(Signals)


@app.function_name("dict")
@app.route("dict", methods=["GET", "POST"])
async def a_dict(req: Request) -> dict:
    return {"method": req.method, "umlaut": "ä"}


@app.function_name("model")
@app.route("model", methods=["GET"])
async def a_model(req: Request) -> Item:
    return Item(id=1, tags=["a", "b"])


@app.function_name("list")
@app.route("list", methods=["GET"])
async def a_list(req: Request) -> list:
    return [1, None, {"a": 1.5}]


@app.function_name("string")
@app.route("string", methods=["GET"])
async def a_string(req: Request) -> str:
    return 'quoted "text"'


@app.function_name("number")
@app.route("number", methods=["GET"])
async def a_number(req: Request) -> int:
    return 7


@app.function_name("nothing")
@app.route("nothing", methods=["GET"])
async def nothing(req: Request) -> Response:
    return None


@app.function_name("empty")
@app.route("empty", methods=["GET", "DELETE"])
async def empty(req: Request) -> Response:
    return Response(status_code=204)


@app.function_name("error_json")
@app.route("error-json", methods=["GET"])
async def error_json(req: Request) -> JSONResponse:
    return JSONResponse({"error": {"code": "429"}}, 429, {"retry-after": "7", "x-a": "1"})


@app.function_name("http_exception")
@app.route("http-exception", methods=["GET"])
async def http_exception(req: Request) -> Response:
    raise HTTPException(418, {"reason": "teapot"}, {"x-a": "teapot"})


@app.function_name("boom")
@app.route("boom", methods=["GET", "POST"])
async def boom(req: Request) -> Response:
    raise ValueError(CANARY)


@app.function_name("boom_sync")
@app.route("boom-sync", methods=["GET"])
def boom_sync(req: Request) -> Response:
    raise KeyError(CANARY)


@app.function_name("echo")
@app.route("echo/{name}/{number:int?}")
async def echo(req: Request) -> JSONResponse:
    return JSONResponse(
        {
            "method": req.method,
            "path": req.url.path,
            "parameters": req.path_params,
            "query": req.query_params.multi_items(),
            "cookies": req.cookies,
            "repeated": req.headers.getlist("x-repeated"),
            "body": (await req.body()).decode(),
        }
    )


@app.function_name("sync")
@app.route("sync/{name}", methods=["GET"])
def sync(req: Request) -> PlainTextResponse:
    return PlainTextResponse(f"hello {req.path_params['name']}")


@app.function_name("items_list")
@app.route("items/list", methods=["GET"])
async def items_list(req: Request) -> PlainTextResponse:
    return PlainTextResponse("the list")


@app.function_name("items_z")
@app.route("items/{id}", methods=["GET"])
async def items_z(req: Request) -> PlainTextResponse:
    return PlainTextResponse(f"item {req.path_params['id']}")


@app.function_name("shadow_by_name")
@app.route("shadow/{id}", methods=["GET"])
async def shadow_by_name(req: Request) -> PlainTextResponse:
    return PlainTextResponse("first by name")


@app.function_name("shadowed")
@app.route("shadow/exact", methods=["GET"])
async def shadowed(req: Request) -> PlainTextResponse:
    return PlainTextResponse("more specific, but later by name")


@app.function_name("rest")
@app.route("rest/{*path}", methods=["GET"])
async def rest(req: Request) -> JSONResponse:
    return JSONResponse(req.path_params)


@app.function_name("mixed_segment")
@app.route("v{major:int}.{minor:int}/{guid:guid}", methods=["GET"])
async def mixed_segment(req: Request) -> JSONResponse:
    return JSONResponse(req.path_params)


@app.function_name("unnamed_route")
@app.route(methods=["GET"])
async def unnamed_route(req: Request) -> PlainTextResponse:
    return PlainTextResponse("routed by its name")


@app.function_name("cookies")
@app.route("cookies", methods=["GET"])
async def cookies(req: Request) -> PlainTextResponse:
    response = PlainTextResponse("set")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


@app.function_name("file")
@app.route("file", methods=["GET", "HEAD"])
async def file(req: Request) -> FileResponse:
    return FileResponse(Path(__file__).with_name("host.json"), media_type="application/json")


@app.function_name("html")
@app.route("html", methods=["GET"])
async def html(req: Request) -> HTMLResponse:
    return HTMLResponse("<p>hello</p>", headers={"content-security-policy": "default-src 'none'"})


@app.function_name("redirect")
@app.route("redirect", methods=["GET"])
async def redirect(req: Request) -> RedirectResponse:
    return RedirectResponse("/api/dict")


@app.function_name("options")
@app.route("options", methods=["OPTIONS", "PATCH", "PUT"])
async def options(req: Request) -> PlainTextResponse:
    return PlainTextResponse(req.method)


@app.function_name("invocation")
@app.route("invocation", methods=["GET"])
async def invocation(req: Request, context: func.Context) -> JSONResponse:
    same = req.headers["x-ms-invocation-id"] == context.invocation_id
    return JSONResponse({"same_id": same, "function": context.function_name})


@app.function_name("context_variable")
@app.route("context-variable", methods=["GET"])
async def context_variable(req: Request) -> StreamingResponse:
    SEEN_BY_HANDLER.set("set by the handler")

    async def body() -> AsyncIterator[str]:
        yield SEEN_BY_HANDLER.get()

    return StreamingResponse(body(), media_type="text/plain")


@app.function_name("upload")
@app.route("upload", methods=["POST"])
async def upload(req: Request) -> JSONResponse:
    digest, size = hashlib.sha256(), 0
    async for piece in req.stream():
        digest.update(piece)
        size += len(piece)
    return JSONResponse({"bytes": size, "sha256": digest.hexdigest(), "type": req.headers.get("content-type")})


@app.function_name("unread_body")
@app.route("unread-body", methods=["POST"])
async def unread_body(req: Request) -> PlainTextResponse:
    return PlainTextResponse("not read")


@app.function_name("download")
@app.route("download/{mebibytes:int}", methods=["GET"])
async def download(req: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for number in range(int(req.path_params["mebibytes"]) * 16):
            yield bytes([number % 251]) * 65536

    return StreamingResponse(body(), media_type="application/octet-stream")


@app.function_name("stream_sync")
@app.route("stream-sync", methods=["GET"])
def stream_sync(req: Request) -> StreamingResponse:
    def body() -> Iterator[str]:
        yield from ("one ", "two ", "three")

    return StreamingResponse(body(), media_type="text/plain")


@app.function_name("stream_breaks")
@app.route("stream-breaks", methods=["GET"])
async def stream_breaks(req: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        raise ValueError(CANARY)

    return StreamingResponse(body(), media_type="text/event-stream")


@app.function_name("steps")
@app.route("steps/{key}", methods=["GET"])
async def steps(req: Request) -> StreamingResponse:
    signals = SIGNALS[req.path_params["key"]]

    async def body() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"
            await signals.next.acquire()
        yield "data: [DONE]\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")


@app.function_name("steps_next")
@app.route("steps/{key}/next", methods=["POST"])
async def steps_next(req: Request) -> Response:
    SIGNALS[req.path_params["key"]].next.release()
    return Response(status_code=204)


@app.function_name("endless")
@app.route("endless/{key}", methods=["GET"])
async def endless(req: Request) -> StreamingResponse:
    signals = SIGNALS[req.path_params["key"]]

    async def body() -> AsyncIterator[str]:
        try:
            yield "data: begun\n\n"
            await asyncio.Event().wait()
        finally:
            signals.gone.set()

    return StreamingResponse(body(), media_type="text/event-stream")


@app.function_name("endless_gone")
@app.route("endless/{key}/gone", methods=["GET"])
async def endless_gone(req: Request) -> PlainTextResponse:
    await SIGNALS[req.path_params["key"]].gone.wait()
    return PlainTextResponse("cancelled")


@app.function_name("ticks")
@app.route("ticks", methods=["GET"])
async def ticks(req: Request) -> list:
    return TICKS


@app.function_name("tick")
@app.timer_trigger(arg_name="timer", schedule="%TICK_SCHEDULE%", run_on_startup=False)
async def tick(timer: func.TimerRequest) -> None:
    TICKS.append(timer.past_due)


@app.function_name("tick_fails")
@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *", run_on_startup=False)
def tick_fails(timer: func.TimerRequest) -> None:
    raise ValueError(CANARY)
