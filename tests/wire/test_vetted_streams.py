"""Answers that are vetted while they stream, read off the wire and through the openai package."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.wire.conftest import SPELLINGS, path, raw, sdk
from tests.wire.cues import play, user
from tests.wire.test_content_filter import HARMS, THREAT
from tests.wire.test_streams import chat, deltas, events, read_until, reasons

BENIGN = (
    "Bread is made of flour, water, salt and yeast. Mix them, knead the dough for ten minutes and let it rest until it "
    "has doubled. Heat the oven, shape the loaf, and bake it for half an hour; it is done when it sounds hollow. "
)
LONG = BENIGN * 4
HARMFUL = LONG + THREAT + " " + LONG
FIRST, BEHIND = 192, 128
"""In default mode nothing is sent before so many characters have come, and then all but the last few of them."""


@pytest.fixture
def http(filtered_server):
    with raw(filtered_server) as client:
        yield client


@pytest.fixture
def client(filtered_server):
    with sdk(filtered_server, "AzureOpenAI") as client:
        yield client


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def are_clean(results: Any) -> bool:
    """Return whether these are verdicts on every harm, and none of them ends the answer."""
    return results.keys() == HARMS and not any(result["filtered"] for result in results.values())


def choices(answer: list[Any]) -> list[Any]:
    return [choice for event in answer if event != "[DONE]" for choice in event["choices"]]


# --- default mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("size", [2, 5, 64, 10_000])
@pytest.mark.parametrize("operation", ["chat/completions", "completions"])
def test_harm_in_the_middle_of_a_long_answer_never_reaches_the_wire_however_it_is_cut(http, operation, size, stream):
    body = {"model": "chat", "stream": stream}
    script = cut(HARMFUL, size)
    body |= {"messages": user(*script)} if operation == "chat/completions" else {"prompt": play(*script)}

    response = http.post(path("v1", operation), json=body)

    if stream:
        *frames, done = events(response.content)
        assert done == "[DONE]"
        said = choices(frames)
        text = "".join(each.get("text") or each.get("delta", {}).get("content") or "" for each in said)
        end = said[-1]
    else:
        [end] = response.json()["choices"]
        text = end.get("text") or end["message"]["content"]
    assert (end["finish_reason"], end["content_filter_results"]["violence"]["filtered"]) == ("content_filter", True)
    assert LONG.startswith(text)
    assert len(LONG) - len(text) < 500
    assert not any(word in response.content for word in (b"stab", b"family", b"death"))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_order_is_azures(http, spelling):
    body = chat(*cut(LONG, 40), stream_options={"include_usage": True, "include_obfuscation": False})

    prompt, role, *said, end, usage, done = events(http.post(path(spelling, "chat/completions"), json=body).content)

    assert (prompt["choices"], set(prompt["prompt_filter_results"][0]["content_filter_results"])) == (
        [], {*HARMS, "jailbreak"},
    )  # fmt: skip
    assert role["choices"][0]["content_filter_results"] == {}
    assert deltas(said) == LONG
    assert all(are_clean(frame["choices"][0]["content_filter_results"]) for frame in said)
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "stop")
    assert end["choices"][0]["content_filter_results"] == {}
    assert (usage["choices"], usage["usage"]["completion_tokens"] > 0, done) == ([], True, "[DONE]")


def test_the_first_text_is_sent_after_192_characters_and_then_it_stays_128_behind(http, cues, name):
    """The model makes more only when the caller has what it must have by then."""
    first, second = LONG[:FIRST], LONG[FIRST : FIRST + 128]
    script = [*first, {"cue": f"{name}-1"}, *second, {"cue": f"{name}-2"}, "the end"]

    with http.stream("POST", path("v1", "chat/completions"), json=chat(*script, name=name)) as response:
        pieces = response.iter_raw()
        read_until(pieces, encoded(LONG[FIRST - BEHIND - 25]))
        cues.give(f"{name}-1")
        read_until(pieces, encoded(LONG[FIRST + 128 - BEHIND - 25]))
        cues.give(f"{name}-2")
        rest = read_until(pieces, b"[DONE]")

    assert b"the end" in rest


def encoded(text: str) -> bytes:
    return b'"content":' + json.dumps(text).encode()


def test_a_short_answer_is_sent_when_it_has_ended(client):
    answer = client.chat.completions.create(model="chat", messages=user("Hello ", "world."), stream=True)

    assert [chunk.choices[0].delta.content for chunk in answer if chunk.choices][1:3] == ["Hello ", "world."]


def test_harm_in_a_tool_call_never_reaches_the_wire(http):
    arguments = json.dumps({"to": "ann@example.org", "text": THREAT})
    script = [{"tool_calls": [{"index": 0, "id": "1", "name": "send_mail", "arguments": ""}]}]
    script += [{"tool_calls": [{"index": 0, "arguments": piece}]} for piece in cut(arguments, 3)]
    tools = [{"type": "function", "function": {"name": "send_mail"}}]

    response = http.post(
        path("v1", "chat/completions"), json=chat(*script, {"finish_reason": "tool_calls"}, tools=tools)
    )

    assert reasons(events(response.content)) == {0: "content_filter"}
    assert b"stab" not in response.content
    assert b"ann@" not in response.content


@pytest.mark.parametrize("stream", [True, False])
def test_one_choice_is_cut_and_the_others_go_on(client, stream):
    script = [
        {"index": index, "text": piece}
        for pieces in zip(cut(BENIGN, 74), cut(THREAT, 20), strict=True)
        for index, piece in enumerate(pieces)
    ]

    answer = client.chat.completions.create(model="chat", messages=user(*script), n=2, stream=stream)

    if stream:
        ended = {
            choice.index: choice.finish_reason for chunk in answer for choice in chunk.choices if choice.finish_reason
        }
    else:
        ended = {choice.index: choice.finish_reason for choice in answer.choices}
        assert answer.choices[0].message.content == BENIGN
        assert answer.choices[1].message.to_dict() == {"role": "assistant"}
    assert ended == {0: "stop", 1: "content_filter"}


def test_a_whole_answer_has_the_verdicts_of_all_its_windows(client):
    answer = client.chat.completions.create(model="chat", messages=user(LONG))

    assert are_clean(answer.choices[0].model_extra["content_filter_results"])


# --- asynchronous mode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["AzureOpenAI", "OpenAI"])
def test_text_flows_before_it_is_vetted_and_the_sdk_reads_the_verdicts_that_follow(filtered_server, cues, name, kind):
    script = ["Hello ", {"cue": name}, *cut(LONG, 30)]
    with sdk(filtered_server, kind) as client:
        answer = client.chat.completions.create(model="flowing", messages=user(*script, name=name), stream=True)
        received = []
        for chunk in answer:
            received += chunk.choices
            if chunk.choices and chunk.choices[0].delta.content == "Hello ":
                cues.give(name)

    told = [choice.model_extra for choice in received if "content_filter_offsets" in choice.model_extra]
    said = [choice for choice in received if choice.delta.content]
    assert "".join(choice.delta.content for choice in said) == "Hello " + LONG
    assert all(choice.model_extra["content_filter_results"] == {} for choice in said)
    assert all(are_clean(extra["content_filter_results"]) for extra in told)
    prompt = len(play(*script)) + len(name)
    assert abs(told[0]["content_filter_offsets"]["start_offset"] - prompt) < 100
    assert told[-1]["content_filter_offsets"]["check_offset"] == told[-1]["content_filter_offsets"]["end_offset"]
    assert received[-1].finish_reason == "stop"


def test_frames_of_verdicts_say_nothing_else(http):
    answer = events(http.post(path("v1", "chat/completions"), json=chat(LONG, model="flowing")).content)

    told = [choice for choice in choices(answer) if "content_filter_offsets" in choice]
    assert told
    for choice in told:
        assert (choice["delta"], choice["finish_reason"]) == ({}, None)
        assert set(choice["content_filter_offsets"]) == {"check_offset", "start_offset", "end_offset"}


@pytest.mark.parametrize("size", [10, 10_000])
def test_a_violation_ends_the_stream_within_a_thousand_characters_and_names_what_failed_only(http, size):
    script = cut(LONG + THREAT + " " + BENIGN * 20, size)

    answer = events(http.post(path("v1", "chat/completions"), json=chat(*script, model="flowing")).content)

    end = choices(answer)[-1]
    assert (end["delta"], end["finish_reason"]) == ({}, "content_filter")
    [[category, result]] = end["content_filter_results"].items()
    assert (category, result["filtered"]) == ("violence", True)
    assert end["content_filter_offsets"]["start_offset"] < end["content_filter_offsets"]["end_offset"]
    assert len(deltas(answer)) <= len(LONG + THREAT) + 1000
    assert answer[-1] == "[DONE]"


def test_an_answer_that_is_not_streamed_is_vetted_before_it_is_sent(http):
    body = chat(HARMFUL, model="flowing", stream=False)

    response = http.post(path("v1", "chat/completions"), json=body)

    assert response.json()["choices"][0]["finish_reason"] == "content_filter"
    assert b"stab" not in response.content


def test_the_sdks_helper_for_streams_takes_the_frames(client):
    with client.chat.completions.stream(model="flowing", messages=user(*cut(LONG, 30))) as stream:
        stream.until_done()
        final = stream.get_final_completion()

    assert (final.choices[0].message.content, final.choices[0].finish_reason) == (LONG, "stop")


def test_words_and_personal_data_flow_too_and_are_reported_at_the_end(client, cues, name):
    script = ["Write to jo@exam", {"cue": name}, "ple.com ", "now."]
    received = []

    answer = client.chat.completions.create(model="reporting", messages=user(*script, name=name), stream=True)
    for chunk in answer:
        received += chunk.choices
        if chunk.choices and chunk.choices[0].delta.content == "Write to jo@exam":
            cues.give(name)

    assert "".join(choice.delta.content or "" for choice in received) == "Write to jo@example.com now."
    end = received[-1]
    assert (end.finish_reason, end.delta.content) == ("stop", None)
    results = end.model_extra["content_filter_results"]
    assert results["profanity"] == {"filtered": False, "detected": False}
    assert results["personally_identifiable_information"]["redacted_text"] == "Write to [Email] now."


def test_profanity_ends_an_answer_that_flows(http):
    answer = events(
        http.post(path("v1", "chat/completions"), json=chat("What a ", "shi", "t day", model="reporting")).content
    )

    assert deltas(answer) == "What a shi"
    end = choices(answer)[-1]
    assert (end["delta"], end["finish_reason"]) == ({}, "content_filter")
    assert end["content_filter_results"] == {"profanity": {"filtered": True, "detected": True}}


# --- what is kept of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("model", ["chat", "flowing"])
def test_an_officer_reads_what_was_sent_and_what_was_withheld_and_nothing_beyond(filtered_server, http, model, stream):
    response = http.post(path("v1", "chat/completions"), json=chat(*cut(HARMFUL, 40), model=model, stream=stream))

    record = response.headers["x-request-id"]
    headers = {"api-key": filtered_server.credentials["officer_key"]}
    found = http.get(f"/governance/retained/{record}", params={"reason": "ticket 4711"}, headers=headers)
    [answer] = found.json()["record"]["answers"]
    sent = deltas(events(response.content)) if stream else response.json()["choices"][0]["message"]["content"]
    assert (found.json()["record"]["outcome"], answer["finish_reason"]) == ("cut", "content_filter")
    assert answer["text"] == sent
    assert THREAT in answer["text"] + answer["withheld"]
    assert HARMFUL.startswith(answer["text"] + answer["withheld"])
    assert answer["content_filter_results"]["violence"]["filtered"]
