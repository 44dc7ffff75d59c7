import asyncio
import json

import httpx
import pytest
from azurefunctions.extensions.http.fastapi import JSONResponse, Request, Response
from starlette.requests import ClientDisconnect

from sluicegate.host import LocalHost
from sluicegate.host.settings import HostSettings

LIMIT = 256 * 1024


@pytest.fixture
def local(app, http):
    """A host with a low limit and functions that read, ignore and forgive."""

    async def size(req: Request) -> Response:
        return JSONResponse({"bytes": len(await req.body())})

    async def ignore(req: Request) -> Response:
        return JSONResponse({"read": False})

    async def forgive(req: Request) -> Response:
        try:
            await req.body()
        except ClientDisconnect:
            return JSONResponse({"error": "gone"}, 503)
        return Response()

    for handler in (size, ignore, forgive):
        http(handler)
    return LocalHost(app, settings=HostSettings(route_prefix="", max_body_bytes=LIMIT))


def chunks(total: int):
    async def send():
        left = total
        while left > 0:
            yield b"x" * min(left, 50_000)
            left -= 50_000

    return send()


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_a_body_at_the_limit_is_accepted(local, served, chunked):
    async with served(local) as url, httpx.AsyncClient(base_url=url) as caller:
        response = await caller.post("/size", content=chunks(LIMIT) if chunked else b"x" * LIMIT)

    assert response.json() == {"bytes": LIMIT}


@pytest.mark.parametrize("path", ["/size", "/forgive"])
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_a_larger_body_is_answered_with_413(local, served, chunked, path):
    too_large = LIMIT + 1

    async with served(local) as url, httpx.AsyncClient(base_url=url) as caller:
        response = await caller.post(path, content=chunks(too_large) if chunked else b"x" * too_large)

    assert response.status_code == 413
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "error": {
            "code": "413",
            "message": f"The request body is larger than the {LIMIT} bytes that this host accepts.",
            "type": "invalid_request_error",
            "param": None,
        }
    }


async def test_a_declared_length_beyond_the_limit_is_refused_before_the_body_is_sent(local, served):
    async with served(local) as url:
        address = httpx.URL(url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999999\r\n\r\n")
        status = await reader.readline()
        writer.close()

    assert status.startswith(b"HTTP/1.1 413 ")


async def test_the_host_does_not_gather_a_body_that_the_function_streams(app, http, served):
    """Each piece reaches the function before the next one is sent."""
    pieces = asyncio.Queue()

    async def read(req: Request) -> Response:
        async for piece in req.stream():
            pieces.put_nowait(piece)
        return Response()

    http(read)

    async def body():
        for number in range(3):
            yield b"%d" % number
            assert await pieces.get() == b"%d" % number

    local = LocalHost(app, settings=HostSettings(route_prefix=""))
    async with served(local) as url, httpx.AsyncClient(base_url=url) as caller:
        response = await caller.post("/read", content=body())

    assert response.status_code == 200


async def test_a_client_that_sends_all_before_it_reads_gets_its_413(app, http, served):
    """More than the buffers between the two can hold is still on its way when the limit is reached."""
    limit = 16 * 1024 * 1024

    async def size(req: Request) -> Response:
        return JSONResponse({"bytes": len(await req.body())})

    http(size)
    local = LocalHost(app, settings=HostSettings(route_prefix="", max_body_bytes=limit))

    async with served(local) as url:
        address = httpx.URL(url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /size HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(31):
            writer.write(b"100000\r\n" + bytes(1024 * 1024) + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        status = await reader.readline()
        writer.close()

    assert status.startswith(b"HTTP/1.1 413 ")


async def test_an_endless_chunked_body_ends_with_413_too(local, served):
    """The client never ends its body; the answer arrives all the same."""
    async with served(local) as url:
        address = httpx.URL(url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /size HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n" % (LIMIT + 1) + b"x" * (LIMIT + 1) + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        error = json.loads(await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])))
        writer.close()

    assert head.startswith(b"HTTP/1.1 413 ")
    assert error["error"]["code"] == "413"
