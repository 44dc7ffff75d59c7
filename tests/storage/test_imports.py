"""Import from a URL: only from hosts that were named, never past a redirect, and without a word of the URL in what is said."""

from __future__ import annotations

import pytest
from aiohttp import web

from sluicegate.api import imports
from tests.inside import Tenant, folders, open_app

IMPORT = "/openai/files/import"
VERSION = {"api-version": "2024-10-21"}
DATA = b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n' * 2000
SECRET = "sig=hush-4711"


@pytest.fixture
async def host():
    """A server on loopback, and its address."""

    async def serve(request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/good":
                return web.Response(body=DATA)
            case "/elsewhere":
                raise web.HTTPFound("/good")
            case "/endless":
                answer = web.StreamResponse()
                await answer.prepare(request)
                while True:
                    await answer.write(b"\n")
            case _:
                return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    yield f"{host}:{port}"
    await runner.cleanup()


@pytest.fixture
async def contoso(tmp_path, host):
    gate = open_app(tmp_path, folders(tmp_path, "local"), more=f'import_hosts = ["{host}", "files.example"]')
    await gate.start()
    yield await Tenant.create(gate, "contoso", "local")
    await gate.shutdown()


async def fetched(tenant, url, **more):
    body = {"filename": "a.jsonl", "purpose": "fine-tune", "content_url": url, **more}
    return await tenant.caller.post(IMPORT, params=VERSION, json=body)


async def test_a_file_is_there_when_its_import_has_ended(contoso, host):
    answer = await fetched(contoso, f"http://{host}/good?{SECRET}")

    file = answer.json()
    content = await contoso.caller.get(f"/openai/v1/files/{file['id']}/content")
    assert (answer.status_code, file["status"], file["bytes"]) == (201, "processed", len(DATA))
    assert answer.headers["location"] == f"/openai/files/{file['id']}?api-version=2024-10-21"
    assert content.content == DATA


@pytest.mark.parametrize("path", ["missing", "elsewhere"])
async def test_what_is_not_there_itself_is_no_file(contoso, host, path, caplog):
    answer = await fetched(contoso, f"http://{host}/{path}?{SECRET}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "fileImportFailed")
    assert (await contoso.caller.get("/openai/v1/files")).json()["data"] == []
    assert SECRET not in answer.text + caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://{other}/good",
        "http://files.example/good",
        "https://files.example:8443/good",
        "https://user@files.example/good",
        "https://files.example.evil.example/good",
        "https://127.0.0.1/good",
        "file:///etc/passwd",
        "ftp://files.example/good",
        "https://[::1/good",
        "good",
    ],
)
async def test_any_other_place_is_refused_and_not_asked(contoso, host, url, monkeypatch):
    monkeypatch.setattr(imports, "_Import", None)
    name, _, port = host.partition(":")

    answer = await fetched(contoso, url.format(other=f"{name}:{int(port) ^ 1}") + f"?{SECRET}")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "content_url")
    assert SECRET not in answer.text


async def test_too_much_is_refused_and_nothing_stays(contoso, host, monkeypatch, tmp_path):
    monkeypatch.setattr(imports, "MAX_FILE_BYTES", 1000)

    answer = await fetched(contoso, f"http://{host}/good")

    assert answer.status_code == 413
    assert (await contoso.caller.get("/openai/v1/files")).json()["data"] == []


async def test_what_never_ends_is_given_up_and_nothing_stays(contoso, host, monkeypatch):
    monkeypatch.setattr(imports, "TOTAL_S", 0.2)
    # Without a limit it would end here.
    monkeypatch.setattr(imports, "MAX_FILE_BYTES", 4 << 20)

    answer = await fetched(contoso, f"http://{host}/endless?{SECRET}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "fileImportFailed")
    assert SECRET not in answer.text
    assert (await contoso.caller.get("/openai/v1/files")).json()["data"] == []
