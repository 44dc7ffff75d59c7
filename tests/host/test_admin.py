import asyncio

import httpx
import pytest

from sluicegate.host import LocalHost


async def test_a_timer_can_be_run_now(app, timer, client):
    ran = asyncio.Event()

    async def purge(timer):
        ran.set()

    timer(purge)

    async with client(LocalHost(app)) as caller:
        response = await caller.post("/admin/functions/Purge", json={"input": ""})

    assert (response.status_code, response.content) == (202, b"")
    assert await ran.wait()


async def test_prefer_wait_answers_when_the_run_has_ended(app, timer, client):
    runs = []

    async def purge(timer):
        runs.append(timer.past_due)

    timer(purge)

    async with client(LocalHost(app)) as caller:
        response = await caller.post("/admin/functions/purge", headers={"prefer": "wait"})

    assert response.status_code == 200
    assert response.json() == {"function": "purge", "status": "completed"}
    assert response.headers["preference-applied"] == "wait"
    assert runs == [False]


async def test_prefer_wait_tells_that_a_run_failed_and_not_why(app, timer, client):
    async def purge(timer):
        raise ValueError("canary-11aa")

    timer(purge)

    async with client(LocalHost(app)) as caller:
        response = await caller.post("/admin/functions/purge", headers={"prefer": "respond-async, wait; x=1"})

    assert response.status_code == 500
    assert response.json()["error"]["message"] == "Function purge failed; the log names the exception."
    assert "canary" not in response.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/functions/purge"),
        ("POST", "/admin/functions/health"),
        ("POST", "/admin/functions/unknown"),
        ("POST", "/admin/functions"),
        ("GET", "/admin/"),
    ],
)
async def test_what_is_not_there_is_404(app, http, timer, client, method, path):
    async def health(req):
        raise AssertionError

    async def purge(timer):
        raise AssertionError

    http(health)
    timer(purge)

    async with client(LocalHost(app)) as caller:
        assert (await caller.request(method, path)).status_code == 404


async def test_a_body_that_is_not_json_is_refused(app, timer, client):
    async def purge(timer):
        raise AssertionError

    timer(purge)

    async with client(LocalHost(app)) as caller:
        response = await caller.post("/admin/functions/purge", content=b"input=1")

    assert response.status_code == 400


async def test_a_large_body_is_refused(app, timer, client):
    async def purge(timer):
        raise AssertionError

    timer(purge)

    async with client(LocalHost(app)) as caller:
        response = await caller.post("/admin/functions/purge", json={"input": "x" * 65536})

    assert response.status_code == 413


async def test_a_caller_who_goes_away_does_not_end_the_run(app, timer, client):
    begun, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def purge(timer):
        begun.set()
        await release.wait()
        ended.set()

    timer(purge)

    async with client(LocalHost(app)) as caller:
        call = asyncio.create_task(caller.post("/admin/functions/purge", headers={"prefer": "wait"}))
        await begun.wait()
        call.cancel()
        await asyncio.wait({call})
        release.set()

        assert await ended.wait()


async def test_the_hosts_status(app, client):
    async with client(LocalHost(app)) as caller:
        status = (await caller.get("/admin/host/status")).json()

    assert status["state"] == "Running"
    assert status["processUptime"] >= 0


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:3000"},
        {"host": "evil.example:7071"},
        {"x-forwarded-for": "10.0.0.1"},
    ],
)
async def test_a_foreign_page_or_name_or_proxy_cannot_run_a_timer(app, timer, served, headers):
    async def purge(timer):
        raise AssertionError

    timer(purge)

    async with served(LocalHost(app)) as url, httpx.AsyncClient(base_url=url) as caller:
        response = await caller.post("/admin/functions/purge", headers={"prefer": "wait", **headers})
        status = await caller.get("/admin/host/status", headers=headers)

    assert (response.status_code, status.status_code) == (403, 403)
