"""Response headers, and what the process tells of its health."""

from __future__ import annotations

import httpx
import pytest

from sluicegate import __version__
from tests.wire.conftest import path
from tests.wire.serving import Server

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}


def test_every_answer_has_an_id_under_the_names_that_clients_look_for(http):
    answers = [
        http.post(path("v1", "chat/completions"), json=CHAT),
        http.post(path("v1", "chat/completions"), json={**CHAT, "stream": True}),
        http.post(path("v1", "chat/completions"), json={}),
        http.get("/openai/v1/models"),
        http.get("/openai/v1/models", headers={"api-key": "wrong"}),
        http.get("/openai/v1/unknown"),
    ]

    ids = [answer.headers["apim-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    for answer, each in zip(answers, ids, strict=True):
        assert answer.headers["x-request-id"] == answer.headers["x-ms-client-request-id"] == each
        assert answer.headers["x-ms-region"] == "local"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_sdk_shows_the_id(client):
    answer = client.chat.completions.with_raw_response.create(**CHAT)

    assert answer.request_id == answer.headers["apim-request-id"]


def test_the_clients_own_id_comes_back(http):
    given = http.post(path("v1", "chat/completions"), json=CHAT, headers={"x-ms-client-request-id": "ticket 7"})
    silly = http.post(path("v1", "chat/completions"), json=CHAT, headers={"x-ms-client-request-id": "7" * 5000})

    assert given.headers["x-ms-client-request-id"] == "ticket 7"
    assert given.headers["x-request-id"] != "ticket 7"
    assert silly.headers["x-ms-client-request-id"] == silly.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("content", ["hello", "Project Nightjar"])
def test_it_is_said_that_filters_ran(http, content, stream):
    body = {"model": "chat", "messages": [{"role": "user", "content": content}], "stream": stream}

    assert http.post(path("v1", "chat/completions"), json=body).headers["x-ms-rai-invoked"] == "true"


def test_it_is_not_said_where_none_did(http, plain_server):
    api_key = plain_server.credentials["api_key"]
    unfiltered = httpx.post(
        plain_server.endpoint + path("v1", "chat/completions"), json=CHAT, headers={"api-key": api_key}
    )

    assert unfiltered.status_code == 200
    assert "x-ms-rai-invoked" not in unfiltered.headers
    assert "x-ms-rai-invoked" not in http.get("/openai/v1/models").headers
    assert "x-ms-rai-invoked" not in http.post(path("v1", "chat/completions"), json={}).headers


def test_a_stream_is_neither_cached_nor_buffered(http):
    answer = http.post(path("v1", "chat/completions"), json={**CHAT, "stream": True})

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")


def test_health_is_told_to_anyone(server):
    response = httpx.get(f"{server.endpoint}/healthz")

    assert response.status_code == 200
    assert response.json() == {"status": "ok", "version": __version__, "reasons": []}
    assert response.headers["cache-control"] == "no-store"


def test_data_that_should_be_gone_degrades_health_until_it_is(tmp_path, cues):
    old = tmp_path / "data" / "storage" / "ret-20200101" / "default"
    old.mkdir(parents=True)
    with Server(tmp_path / "data", "full", REHEARSAL_CUES=str(cues.path)) as server:
        health = httpx.get(f"{server.endpoint}/healthz")
        purged = httpx.post(f"{server.endpoint}/admin/functions/purge", headers={"prefer": "wait"})

        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["reasons"] == ["retained data of 20200101 is overdue for deletion"]
        assert purged.status_code == 200
        assert not old.exists()


def test_storage_that_cannot_be_read_degrades_health(tmp_path):
    with Server(tmp_path / "data", "full") as server:
        (tmp_path / "data" / "storage").rename(tmp_path / "data" / "gone")
        (tmp_path / "data" / "storage").touch()

        health = httpx.get(f"{server.endpoint}/healthz")

        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["reasons"] == ["storage or keys cannot be reached (StorageUnavailable)"]
