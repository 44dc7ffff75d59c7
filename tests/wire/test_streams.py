"""What is promised of streamed answers, read off the wire byte by byte and through the openai package."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest

from tests.wire.conftest import SPELLINGS, path, sdk
from tests.wire.cues import play, user
from tests.wire.serving import Server, records

TERM = "Project Nightjar"
CUTS = [[TERM[:place], TERM[place:]] for place in range(1, len(TERM))] + [
    list(TERM),
    [TERM],
    ["pro", "JECT\n\t", " night", "JAR"],
]


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex


def chat(*script: Any, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return the body of a streamed chat that plays a script."""
    return {"model": "chat", "stream": True, "messages": user(*script, name=name), **fields}


def events(body: bytes) -> list[Any]:
    """Return the data of server-sent events: parsed JSON, or the text ``[DONE]``."""
    assert body.endswith(b"\n\n")
    data = [event.removeprefix("data: ") for event in body.decode().removesuffix("\n\n").split("\n\n")]
    return [json.loads(event) if event != "[DONE]" else event for event in data]


def deltas(answer: list[Any], index: int = 0) -> str:
    """Return the text that one choice's events say."""
    choices = [choice for event in answer if event != "[DONE]" for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == index)


def reasons(answer: list[Any]) -> dict[int, str]:
    """Return each choice's finish reason."""
    choices = [choice for event in answer if event != "[DONE]" for choice in event.get("choices", ())]
    return {choice["index"]: choice["finish_reason"] for choice in choices if choice["finish_reason"]}


def read_until(pieces: Iterator[bytes], text: bytes) -> bytes:
    """Read on until ``text`` has come."""
    received = b""
    while text not in received:
        received += next(pieces)
    return received


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["chat/completions", "completions"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_piece_is_sent_before_the_model_makes_the_next(http, cues, name, spelling, operation):
    script = ["one ", {"cue": f"{name}-1"}, "two ", {"cue": f"{name}-2"}, "three"]
    body = (
        chat(*script) if operation == "chat/completions" else {"model": "chat", "prompt": play(*script), "stream": True}
    )

    with http.stream("POST", path(spelling, operation), json=body) as response:
        pieces = response.iter_raw()
        read_until(pieces, b'"one "')
        cues.give(f"{name}-1")
        read_until(pieces, b'"two "')
        cues.give(f"{name}-2")
        rest = read_until(pieces, b"[DONE]")

    assert b'"three"' in rest
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_the_sdk_has_each_piece_before_the_model_makes_the_next(client, cues, name):
    script = ["one ", {"cue": f"{name}-1"}, "two ", {"cue": f"{name}-2"}, "three"]

    answer = client.chat.completions.create(model="chat", messages=user(*script), stream=True)

    received = []
    for chunk in answer:
        if chunk.choices and chunk.choices[0].delta.content:
            received.append(chunk.choices[0].delta.content)
            if len(received) < 3:
                cues.give(f"{name}-{len(received)}")
    assert received == ["one ", "two ", "three"]


def test_streams_do_not_wait_for_each_other(http, cues, name):
    with http.stream("POST", path("v1", "chat/completions"), json=chat("one ", {"cue": name}, "two")) as slow:
        pieces = slow.iter_raw()
        read_until(pieces, b'"one "')
        fast = http.post(path("v1", "chat/completions"), json=chat("three"))
        cues.give(name)
        read_until(pieces, b"[DONE]")

    assert deltas(events(fast.content)) == "three"


# --- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_order_is_azures(http, spelling):
    body = chat("one ", "two", stream_options={"include_usage": True})

    verdict, role, one, two, end, usage, done = events(http.post(path(spelling, "chat/completions"), json=body).content)

    clean = {"custom_blocklists": {"filtered": False, "details": []}}
    assert (verdict["choices"], verdict["prompt_filter_results"][0]["content_filter_results"]) == ([], clean)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (one["choices"][0]["delta"], two["choices"][0]["delta"]) == ({"content": "one "}, {"content": "two"})
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "stop")
    assert end["choices"][0]["content_filter_results"] == clean
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    assert done == "[DONE]"
    for frame in (verdict, role, one, two, end):
        assert (frame["object"], frame["usage"]) == ("chat.completion.chunk", None)
        assert all(choice["content_filter_results"] in ({}, clean) for choice in frame["choices"])


def test_frames_are_padded_unless_the_caller_declines(http):
    padded = http.post(path("v1", "chat/completions"), json=chat("one"))
    bare = http.post(path("v1", "chat/completions"), json=chat("one", stream_options={"include_obfuscation": False}))

    assert b"obfuscation" in padded.content
    assert b"obfuscation" not in bare.content


def test_whatever_a_model_says_is_data(http):
    text = 'data: [DONE]\n\ndata: {"error": 1}\n\n\u2028\x00\ud800'
    script = [{"text": text}, {"finish_reason": 'odd","index":7,"x":"'}]

    answer = events(http.post(path("v1", "chat/completions"), json=chat(*script)).content)

    assert deltas(answer) == text
    assert reasons(answer) == {0: 'odd","index":7,"x":"'}


# --- blocked terms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "|".join(cut))
@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_term_never_reaches_the_wire_however_it_is_cut(http, cut, stream):
    response = http.post(path("v1", "chat/completions"), json=chat("We call it ", *cut, " here", stream=stream))

    assert response.status_code == 200
    if stream:
        answer = events(response.content)
        text, reason = deltas(answer), reasons(answer)[0]
        assert answer[-1] == "[DONE]"
        [end] = [event for event in answer[:-1] if event["choices"] and event["choices"][0]["finish_reason"]]
        choice = end["choices"][0]
    else:
        [choice] = response.json()["choices"]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert (text, reason) == ("We call it ", "content_filter")
    assert choice["content_filter_results"]["custom_blocklists"]["details"] == [{"filtered": True, "id": "codenames"}]
    assert b"nightjar" not in response.content.lower()
    assert b"here" not in response.content


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "|".join(cut))
def test_a_blocked_term_never_reaches_the_wire_in_a_tool_call(http, cut):
    pieces = [{"tool_calls": [{"index": 0, "id": "1", "name": "note", "arguments": '{"text": "'}]}]
    pieces += [{"tool_calls": [{"index": 0, "arguments": json.dumps(part)[1:-1]}]} for part in cut]
    pieces += [{"tool_calls": [{"index": 0, "arguments": '"}'}]}, {"finish_reason": "tool_calls"}]
    tools = [{"type": "function", "function": {"name": "note"}}]

    response = http.post(path("v1", "chat/completions"), json=chat(*pieces, tools=tools))

    answer = events(response.content)
    calls = [
        call for event in answer[:-1] for choice in event["choices"] for call in choice["delta"].get("tool_calls", ())
    ]
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert reasons(answer) == {0: "content_filter"}
    assert arguments in ("", '{"text": "')


def test_what_is_cut_is_one_choice_and_the_others_go_on(http):
    script = [{"index": 0, "text": "bad: Project "}, {"index": 1, "text": "good: Project "}]
    script += [{"index": 0, "text": "Nightjar"}, {"index": 1, "text": "Nightingale"}]

    streamed = events(http.post(path("v1", "chat/completions"), json=chat(*script, n=2)).content)
    whole = http.post(path("v1", "chat/completions"), json=chat(*script, n=2, stream=False)).json()

    assert reasons(streamed) == {0: "content_filter", 1: "stop"}
    assert (deltas(streamed, 0), deltas(streamed, 1)) == ("bad: ", "good: Project Nightingale")
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["content_filter", "stop"]
    assert whole["choices"][1]["message"]["content"] == "good: Project Nightingale"


def test_a_choice_that_is_blocked_from_its_start_has_no_content(client):
    answer = client.chat.completions.create(model="chat", messages=user("Nachtschwalbe"))

    assert answer.choices[0].message.to_dict() == {"role": "assistant"}
    assert answer.choices[0].finish_reason == "content_filter"


def test_parse_says_that_a_filter_ended_the_answer(client):
    with pytest.raises(openai.ContentFilterFinishReasonError):
        client.chat.completions.parse(
            model="chat", messages=user("Nachtschwalbe"), response_format={"type": "json_object"}
        )


def test_the_model_is_stopped_when_the_answer_is_cut(http, cues, name):
    """The script would go on after a cue that nobody gives."""
    script = ["We call it ", TERM, " here", {"cue": f"never-{name}"}]

    answer = events(http.post(path("v1", "chat/completions"), json=chat(*script, name=name)).content)

    assert (reasons(answer), answer[-1]) == ({0: "content_filter"}, "[DONE]")
    cues.told(f"closed {name}")


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (["one ", {"raise": "ValueError", "message": "canary-13"}], "plugin_failed"),
        (["one ", {"raise": "TooManyRequests"}], "429"),
        (["one ", {"raise": "ModelUnavailable"}], "serviceUnavailable"),
        (["one ", "fail in post_filter"], "plugin_failed"),
    ],
    ids=lambda value: str(value)[-40:],
)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_failure_after_the_first_piece_ends_the_stream_with_an_error(http, spelling, script, code):
    response = http.post(path(spelling, "chat/completions"), json=chat(*script))

    *before, last = events(response.content)
    assert deltas(before) == "one "
    assert last["error"]["code"] == code
    assert b"[DONE]" not in response.content
    assert b"canary-13" not in response.content


def test_the_sdk_raises_what_fails_in_mid_stream(client):
    script = ["one ", {"raise": "KeyError"}]
    answer = client.chat.completions.create(model="chat", messages=user(*script), stream=True)
    received = []

    with pytest.raises(openai.APIError) as caught:
        received.extend(chunk.choices[0].delta.content for chunk in answer if chunk.choices)

    assert received == ["", "one "]
    assert caught.value.code == "plugin_failed"


def test_an_exchange_that_could_not_be_kept_is_no_success(client):
    messages = [{"role": "user", "content": "fail in retain"}]
    answer = client.chat.completions.create(model="chat", messages=messages, stream=True)
    received = []

    with pytest.raises(openai.APIError) as caught:
        received.extend(chunk.choices[0].finish_reason for chunk in answer if chunk.choices)

    assert received[-1] == "stop"
    assert caught.value.code == "plugin_failed"


# --- callers who leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_an_answer_whose_caller_left_is_kept_and_the_model_stops(server, http, cues, name, spelling):
    script = ["one ", {"cue": f"never-{name}"}, "two"]

    with http.stream("POST", path(spelling, "chat/completions"), json=chat(*script, name=name)) as response:
        read_until(response.iter_raw(), b'"one "')

    exchange = response.headers["x-request-id"]
    cues.told(f"closed {name}")
    cues.told(f"kept abandoned {exchange}")
    kept = (await records(server.data))[exchange]
    assert (kept["outcome"], kept["answers"][0]["text"]) == ("abandoned", "one ")


@pytest.mark.parametrize("kind", ["AzureOpenAI", "OpenAI"])
def test_a_caller_who_closes_the_sdks_stream_leaves(server, cues, name, kind):
    script = ["one ", {"cue": f"never-{name}"}, "two"]

    with sdk(server, kind) as client:
        answer = client.chat.completions.create(model="chat", messages=user(*script, name=name), stream=True)
        with closing(answer):
            next(chunk for chunk in answer if chunk.choices and chunk.choices[0].delta.content)

    cues.told(f"closed {name}")
    cues.told(f"kept abandoned {answer.response.headers['x-request-id']}")


async def test_a_task_that_is_cancelled_leaves(server, cues, name):
    script = ["one ", {"cue": f"never-{name}"}, "two"]
    begun = asyncio.Event()

    async def read(client):
        async for chunk in await client.chat.completions.create(
            model="chat", messages=user(*script, name=name), stream=True
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                begun.set()

    async with sdk(server, "AsyncOpenAI") as client:
        reading = asyncio.create_task(read(client))
        await begun.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    await asyncio.to_thread(cues.told, f"closed {name}")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_caller_who_leaves_before_the_first_piece(server, cues, name, spelling):
    script = [{"cue": name}, "one ", {"cue": f"never-{name}"}]

    with socket.create_connection(address(server)) as connection:
        connection.sendall(request(server, path(spelling, "chat/completions"), chat(*script, name=name)))
        cues.reached(name)
    cues.give(name)

    cues.told(f"closed {name}")
    cues.told(f"kept abandoned of {name}")


def test_a_whole_answer_is_made_and_kept_even_if_its_caller_left(server, cues, name):
    """As under Azure's host, which does not tell a function that its caller went away before the answer began."""
    with socket.create_connection(address(server)) as connection:
        body = chat({"cue": name}, "one", name=name, stream=False)
        connection.sendall(request(server, path("v1", "chat/completions"), body))
        cues.reached(name)
    cues.give(name)

    cues.told(f"kept completed of {name}")


def address(server: Server) -> tuple[str, int]:
    url = httpx.URL(server.endpoint)
    return url.host, url.port


def request(server: Server, where: str, body: dict[str, Any]) -> bytes:
    """Return a request as bytes, for a caller who does not wait for the answer."""
    content = json.dumps(body).encode()
    head = [
        f"POST {where} HTTP/1.1",
        "host: localhost",
        f"api-key: {server.credentials['api_key']}",
        f"content-length: {len(content)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + content
