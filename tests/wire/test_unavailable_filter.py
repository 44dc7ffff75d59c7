"""A filter that cannot judge: the caller gets an error, or, where the policy fails open, text that says it was not filtered."""

from __future__ import annotations

import json

import pytest

from tests.wire.conftest import path, raw
from tests.wire.cues import user
from tests.wire.test_streams import deltas, events
from tests.wire.test_vetted_streams import choices

NOT_FILTERED = {"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}
AWAY = "be unavailable"


@pytest.fixture
def http(unavailable_server):
    with raw(unavailable_server) as client:
        yield client


def unreadable(**fields):
    """Return a request that cannot be filtered, unlike its answer."""
    return {"model": "chat", "messages": [{"role": "system", "content": AWAY}, *user("Hello.")], **fields}


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_cannot_be_filtered_is_turned_away(http, stream):
    response = http.post(path("v1", "chat/completions"), json=unreadable(stream=stream))

    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert response.json()["error"]["code"] == "content_filter_error"
    assert "Hello" not in response.text


def test_nothing_of_an_answer_that_cannot_be_filtered_is_sent(http):
    body = {"model": "chat", "messages": user("Please ", AWAY, " now.")}

    whole = http.post(path("v1", "chat/completions"), json=body)
    streamed = http.post(path("v1", "chat/completions"), json={**body, "stream": True})

    assert whole.status_code == 503
    assert json.loads(streamed.content.split(b"data: ")[-1])["error"]["code"] == "content_filter_error"
    for response in (whole, streamed):
        assert "Please" not in response.text
        assert "[DONE]" not in response.text


def test_where_the_policy_fails_open_the_prompts_verdict_says_so(http):
    response = http.post(path("v1", "chat/completions"), json=unreadable(model="open"))

    body = response.json()
    assert body["choices"][0]["message"]["content"] == "Hello."
    assert body["prompt_filter_results"] == [{"prompt_index": 0, "content_filter_results": NOT_FILTERED}]


@pytest.mark.parametrize("stream", [True, False])
def test_where_the_policy_fails_open_the_answers_verdict_says_so(http, stream):
    body = {"model": "open", "messages": user("Please ", AWAY, " now."), "stream": stream}

    response = http.post(path("v1", "chat/completions"), json=body)

    if stream:
        answer = events(response.content)
        said = [each for each in choices(answer) if each["delta"].get("content")]
        assert (deltas(answer), answer[-1]) == (f"Please {AWAY} now.", "[DONE]")
    else:
        said = response.json()["choices"]
        assert said[0]["message"]["content"] == f"Please {AWAY} now."
    assert all(each["content_filter_results"] == NOT_FILTERED for each in said)
