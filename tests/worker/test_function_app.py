"""The product's function app under the official worker, and whether the embedded host answers as the worker does."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.wire.cues import Cues, play, user
from tests.wire.serving import ROOT, SITE, Server, records

VERSION = "api-version=2024-10-21"
CHAT = "/openai/v1/chat/completions"
CLASSIC = f"/openai/deployments/chat/chat/completions?{VERSION}"
MORNING = [{"role": "user", "content": "good morning"}]
TERM = ["We call it Project", " Night", "jar here"]
STATUS = "x-invocation-status"


@pytest.fixture(scope="module")
def cues(tmp_path_factory) -> Iterator[Cues]:
    cues = Cues(tmp_path_factory.mktemp("cues") / "socket")
    yield cues
    cues.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data folder with an account, which every server here uses at once."""
    with Server(tmp_path_factory.mktemp("app") / "data", "full") as server:
        return server.data


@pytest.fixture(scope="module")
def settings(data, cues) -> dict[str, str]:
    """The app settings, as Azure would hand them to the worker."""
    return {
        "SLUICEGATE_CONFIG": "tests/wire/deployments/full.toml",
        "SLUICEGATE_STORAGE": f"folder:{data / 'storage'}",
        "SLUICEGATE_KEYS": f"folder:{data / 'keys'}",
        "SLUICEGATE_REGION": "local",
        "PURGE_SCHEDULE": "0 0 0 1 1 *",
        "FINE_TUNE_SCHEDULE": "0 0 0 1 1 *",
        "ABUSE_SCHEDULE": "0 0 0 1 1 *",
        "PYTHONPATH": str(SITE),
        "REHEARSAL_CUES": str(cues.path),
    }


@pytest.fixture(params=["worker", "embedded"])
def url(request, settings) -> str:
    """The product, served by the official worker and by the embedded host."""
    return request.getfixturevalue(request.param)(ROOT, settings)


@pytest.fixture
def api_key(data) -> str:
    return json.loads((data / "credentials.json").read_text())["api_key"]


@pytest.fixture
def http(url, api_key) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"api-key": api_key}, timeout=60) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex


def chat(*script: Any, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return the body of a chat that plays a script."""
    return {"model": "chat", "messages": user(*script, name=name), **fields}


def read_until(pieces: Iterator[bytes], text: bytes) -> bytes:
    received = b""
    while text not in received:
        received += next(pieces)
    return received


@pytest.mark.parametrize("stream", [False, True])
def test_the_sdk_chats_on_both_surfaces(url, api_key, stream):
    classic = openai.AzureOpenAI(azure_endpoint=url, api_key=api_key, api_version="2024-10-21")
    v1 = openai.OpenAI(base_url=f"{url}/openai/v1/", api_key=api_key)

    for client in (classic, v1):
        with client:
            answer = client.chat.completions.create(model="chat", messages=MORNING, stream=stream)
            if stream:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
            else:
                text = answer.choices[0].message.content
        assert text == "You said: good morning"


@pytest.mark.parametrize("where", [CHAT, CLASSIC])
def test_each_piece_is_sent_before_the_model_makes_the_next(http, cues, name, where):
    script = ["one ", {"cue": f"{name}-1"}, "two ", {"cue": f"{name}-2"}, "three"]

    with http.stream("POST", where, json=chat(*script, stream=True)) as response:
        pieces = response.iter_raw()
        read_until(pieces, b'"one "')
        cues.give(f"{name}-1")
        read_until(pieces, b'"two "')
        cues.give(f"{name}-2")
        rest = read_until(pieces, b"[DONE]")

    assert b'"three"' in rest


async def test_an_answer_whose_caller_left_is_kept_and_the_model_stops(http, cues, data, name):
    script = ["one ", {"cue": f"never-{name}"}, "two"]

    with http.stream("POST", CHAT, json=chat(*script, name=name, stream=True)) as response:
        read_until(response.iter_raw(), b'"one "')

    exchange = response.headers["x-request-id"]
    cues.told(f"closed {name}")
    cues.told(f"kept abandoned {exchange}")
    kept = (await records(data))[exchange]
    assert (kept["outcome"], kept["answers"][0]["text"]) == ("abandoned", "one ")


def test_a_blocked_term_never_reaches_the_wire(http):
    whole = http.post(CHAT, json=chat(*TERM))
    streamed = http.post(CHAT, json=chat(*TERM, stream=True))

    assert whole.json()["choices"][0]["message"]["content"] == "We call it "
    for response in (whole, streamed):
        assert '"finish_reason":"content_filter"' in response.text
        assert "night" not in response.text.lower()


def test_the_timer_purges_what_is_due(http, data):
    old = data / "storage" / "ret-20200101" / "default"
    old.mkdir(parents=True)

    response = http.post("/admin/functions/purge", headers={"prefer": "wait"})

    assert response.status_code == 200
    assert not old.exists()


def test_the_timer_fails_while_something_due_cannot_be_removed(http, data):
    """A file where a container should be cannot be dropped like one."""
    stray = data / "storage" / "ret-20200102"
    stray.symlink_to(data / "storage")
    try:
        assert http.post("/admin/functions/purge", headers={"prefer": "wait"}).status_code == 500
    finally:
        stray.unlink()


PROBES = [
    ("GET", "/healthz", None),
    ("HEAD", "/healthz", None),
    ("POST", "/healthz", {}),
    ("GET", "/openai/v1/models", None),
    ("GET", f"/openai/models?{VERSION}", None),
    ("GET", "/openai/v1/models/rehearsal-chat", None),
    ("GET", f"/openai/models/a%2Fb?{VERSION}", None),
    ("GET", "/openai/v1/models/%F0%9F%A6%8A", None),
    ("GET", "/openai/models", None),
    ("PUT", "/openai/v1/models", {}),
    ("POST", CHAT, {"model": "chat", "messages": MORNING}),
    ("POST", CLASSIC, {"messages": MORNING}),
    ("POST", CLASSIC.replace("2024-10-21", "1999"), {"messages": MORNING}),
    ("POST", f"{CHAT}?{VERSION}", {"model": "chat", "messages": MORNING}),
    ("POST", "/OPENAI/v1/Chat/Completions/", {"model": "chat", "messages": MORNING}),
    ("POST", CHAT, {"model": "chat", "messages": MORNING, "n": 2, "stream": True}),
    ("POST", CHAT, chat("one ", "two", stream=True, stream_options={"include_usage": True})),
    ("POST", CHAT, chat({"asked": True}, user="ada", temperature=0.5)),
    ("POST", CHAT, chat(*TERM)),
    ("POST", CHAT, chat(*TERM, stream=True)),
    ("POST", CHAT, chat("one ", {"raise": "ValueError"}, stream=True)),
    ("POST", CHAT, chat("one ", {"raise": "ValueError"})),
    ("POST", CHAT, chat({"raise": "TooManyRequests", "retry_after_s": 1.5})),
    ("POST", CHAT, chat({"raise": "UpstreamError", "status": 418, "code": "teapot"})),
    ("POST", CHAT, {"model": "chat", "messages": [{"role": "user", "content": "Project Nightjar"}]}),
    ("POST", CHAT, {"model": "chat", "messages": [{"role": "user", "content": "fail in pre_filter"}]}),
    ("POST", CHAT, {"model": "chat", "messages": [{"role": "user", "content": "fail in retain"}]}),
    ("POST", CHAT, {"model": "chat", "messages": [{"role": "user", "content": "fail in retain"}], "stream": True}),
    ("POST", CHAT, {"model": "chat", "messages": []}),
    ("POST", CHAT, {"model": "chat", "colour": "red", "messages": MORNING}),
    ("POST", CHAT, {"model": "nowhere", "messages": MORNING}),
    ("POST", CHAT, {"model": "embedding", "messages": MORNING}),
    ("POST", CHAT, "not an object"),
    ("POST", "/openai/v1/completions", {"model": "chat", "prompt": ["one", "two"], "n": 2}),
    ("POST", "/openai/v1/completions", {"model": "chat", "prompt": play("one", "two"), "stream": True}),
    ("POST", f"/openai/deployments/chat/completions?{VERSION}", {"prompt": "one"}),
    ("POST", "/openai/v1/embeddings", {"model": "embedding", "input": ["one", "two"]}),
    ("POST", f"/openai/deployments/embedding/embeddings?{VERSION}", {"input": "one", "encoding_format": "base64"}),
    ("POST", "/openai/v1/responses", {}),
    ("GET", "/openai", None),
    ("GET", "/openai/", None),
    ("DELETE", f"/openai/files/x?{VERSION}", None),
    ("OPTIONS", CHAT, None),
    ("GET", "/", None),
    ("GET", "/docs", None),
    ("GET", "/openapi.json", None),
    ("GET", "/nowhere", None),
    ("POST", "/admin/functions/healthz", {}),
]


@pytest.mark.parametrize(("method", "where", "body"), PROBES, ids=[f"{each[1]}-{n}" for n, each in enumerate(PROBES)])
def test_an_answer_is_the_workers(worker, embedded, settings, api_key, method, where, body):
    expected = answer(worker(ROOT, settings), api_key, method, where, body)

    assert answer(embedded(ROOT, settings), api_key, method, where, body) == expected


@pytest.mark.parametrize(
    "headers", [{}, {"api-key": "wrong"}, {"x-rehearsal": "fail in authenticate"}], ids=["missing", "wrong", "failing"]
)
def test_an_answer_to_nobody_is_the_workers(worker, embedded, settings, headers):
    found = [httpx.get(f"{serve(ROOT, settings)}/openai/v1/models", headers=headers) for serve in (worker, embedded)]

    assert found[0].status_code in (401, 503)
    assert [each.status_code for each in found] == [found[0].status_code] * 2
    assert found[0].text == found[1].text


def test_a_body_that_is_too_large_is_refused_by_both(worker, embedded, settings, api_key):
    body = json.dumps({"model": "chat", "messages": MORNING, "user": "x" * (32 << 20)})
    for serve in (worker, embedded):
        response = httpx.post(serve(ROOT, settings) + CHAT, content=body, headers={"api-key": api_key}, timeout=60)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "413")


def test_no_answer_counts_as_a_failed_invocation(worker, settings, api_key):
    """Azure's host would raise an alarm, and close the caller's connection."""
    with httpx.Client(base_url=worker(ROOT, settings), headers={"api-key": api_key}, timeout=60) as client:
        for method, where, body in PROBES:
            response = client.request(method, where, json=body)
            assert response.headers.get(STATUS) in (None, "Success")


def test_neither_log_quotes_a_prompt(worker, embedded, settings, api_key):
    for serve in (worker, embedded):
        running = serve.running(ROOT, settings)
        for hook in ("pre_filter", "post_filter", "retain"):
            messages = [{"role": "user", "content": f"canary-5e1f, fail in {hook}"}]
            body = {"model": "chat", "messages": messages}
            assert httpx.post(running.url + CHAT, json=body, headers={"api-key": api_key}).status_code == 503

        assert "plugin faulty failed in pre_filter: ValueError" in running.logged()
        assert "canary-5e1f" not in running.logged()
        assert api_key not in running.logged()


def answer(url: str, api_key: str, method: str, where: str, body: object) -> dict[str, object]:
    """Return what there is to compare of an answer: all but ids, times and padding."""
    changing = ("date", "server", "apim-request-id", "x-request-id", "x-ms-client-request-id")
    response = httpx.request(method, url + where, json=body, headers={"api-key": api_key}, timeout=60)
    text = re.sub(r'"(id)":"(chatcmpl|cmpl)-\w+"', r'"\1":"\2"', response.text)
    text = re.sub(r'"obfuscation":"\w*"|"created":\d+', "", text)
    kept = (name for name in response.headers if name not in changing and not name.startswith("x-invocation"))
    headers = {name: response.headers[name] for name in kept}
    return {"status": response.status_code, "body": text, **headers}
