"""What the product relies on in a host, shown on the official worker and on the embedded host."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import httpx
import pytest

CANARY = "canary-2f9d41"
SAMPLE_APP = Path(__file__).parent / "sample_app"
ENVIRON = {"TICK_SCHEDULE": "0 0 0 1 1 *"}


@pytest.fixture
def key() -> str:
    """A name for signals that no other test uses."""
    return uuid.uuid4().hex


def test_json(client):
    response = client.post("/api/echo/deployment/3", content=b"body", params={"api-version": "v1"})

    assert response.status_code == 200
    assert response.json()["parameters"] == {"name": "deployment", "number": "3"}
    assert response.json()["query"] == [["api-version", "v1"]]
    assert response.json()["body"] == "body"


def test_a_stream_arrives_chunk_by_chunk(client, key):
    """Each event is received before the function is allowed to produce the next one."""
    received = []

    with client.stream("GET", f"/api/steps/{key}") as response:
        for event in response.iter_raw():
            received.append(event)
            client.post(f"/api/steps/{key}/next")

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert received == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"]


def test_a_client_who_goes_away_cancels_the_stream(client, key):
    with client.stream("GET", f"/api/endless/{key}") as response:
        first = next(response.iter_raw())

    assert first == b"data: begun\n\n"
    assert client.get(f"/api/endless/{key}/gone").text == "cancelled"


def test_a_stream_that_fails_is_broken_off(client):
    with client.stream("GET", "/api/stream-breaks") as response:
        body = response.iter_raw()
        assert next(body) == b"data: 1\n\n"
        with pytest.raises(httpx.RemoteProtocolError):
            next(body)


@pytest.mark.parametrize("path", ["/api/boom", "/api/boom-sync", "/api/nothing"])
def test_an_exception_is_a_plain_500_that_does_not_tell_its_message(client, path):
    response = client.get(path)

    assert (response.status_code, response.text) == (500, "Internal Server Error")


def test_requests_go_on_after_an_exception(client):
    for _ in range(3):
        assert client.get("/api/boom").status_code == 500
        assert client.get("/api/dict").status_code == 200


def test_a_large_body_streams_in(client):
    piece = bytes(range(256)) * 4096
    digest = hashlib.sha256(piece * 48).hexdigest()

    response = client.post("/api/upload", content=(piece for _ in range(48)))

    assert response.json() == {"bytes": 48 * 1024 * 1024, "sha256": digest, "type": None}


def test_a_large_answer_streams_out(client):
    digest, size = hashlib.sha256(), 0
    expected = hashlib.sha256()
    for number in range(48 * 16):
        expected.update(bytes([number % 251]) * 65536)

    with client.stream("GET", "/api/download/48") as response:
        for piece in response.iter_raw():
            digest.update(piece)
            size += len(piece)

    assert (size, digest.hexdigest()) == (48 * 1024 * 1024, expected.hexdigest())


def test_a_multipart_body_arrives_as_it_was_sent(client):
    content = bytes(range(256)) * 12288
    request = client.build_request(
        "POST", "/api/upload", files={"file": ("a.jsonl", content)}, data={"purpose": "fine-tune"}
    )

    response = client.send(request)

    sent = request.read()
    assert response.json() == {
        "bytes": len(sent),
        "sha256": hashlib.sha256(sent).hexdigest(),
        "type": request.headers["content-type"],
    }


def test_a_timer_is_invoked(client):
    before = client.get("/api/ticks").json()
    waited = client.post("/admin/functions/tick", headers={"prefer": "wait"})

    assert waited.status_code == 200
    assert client.get("/api/ticks").json() == [*before, False]


def test_a_timer_is_begun_without_waiting(client):
    response = client.post("/admin/functions/tick", json={"input": ""})

    assert (response.status_code, response.content) == (202, b"")


def test_a_timer_that_fails_is_told_without_its_message(client):
    response = client.post("/admin/functions/tick_fails", headers={"prefer": "wait"})

    assert response.status_code == 500
    assert CANARY not in response.text


def test_the_worker_passes_past_due_on(worker):
    url = worker(SAMPLE_APP, ENVIRON)

    body = {"input": {"past_due": True}}
    assert httpx.post(f"{url}/admin/functions/tick", json=body, headers={"prefer": "wait"}).status_code == 200
    assert httpx.get(f"{url}/api/ticks").json()[-1] is True


def test_the_worker_tells_of_each_invocation_whether_it_succeeded(worker):
    url = worker(SAMPLE_APP, ENVIRON)

    assert httpx.get(f"{url}/api/dict").headers["x-invocation-status"] == "Success"
    assert httpx.get(f"{url}/api/boom").headers["x-invocation-status"] == "Failure"


def test_the_embedded_host_logs_failures_without_their_message(embedded):
    running = embedded.running(SAMPLE_APP, ENVIRON)
    with httpx.Client(base_url=running.url) as client:
        client.get("/api/boom")
        client.get("/api/boom-sync")

    assert "function boom failed: ValueError" in running.logged()
    assert CANARY not in running.logged()
