"""What the serving model cannot do is refused by name, never ignored."""

from __future__ import annotations

import httpx
import pytest

from tests.wire.conftest import SPELLINGS, path, raw

CHAT = {"messages": [{"role": "user", "content": "hello"}]}
TOOL = {"type": "function", "function": {"name": "weather"}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CHAT_FIELDS = [
    ({"seed": 1}, "seed"),
    ({"logit_bias": {"1": 1}}, "logit_bias"),
    ({"logprobs": True}, "logprobs"),
    ({"presence_penalty": 1}, "presence_penalty"),
    ({"frequency_penalty": 1}, "frequency_penalty"),
    ({"tools": [TOOL]}, "tools"),
    ({"tools": [{"type": "custom", "custom": {"name": "grep"}}]}, "tools"),
    ({"functions": [TOOL["function"]]}, "functions"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, "response_format"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"verbosity": "low"}, "verbosity"),
    ({"modalities": ["audio"], "audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"prompt_cache_key": "x"}, "prompt_cache_key"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"data_sources": [{"type": "azure_search"}]}, "data_sources"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages[0]"),
]  # fmt: skip
COMPLETION_FIELDS = [
    ({"suffix": "x"}, "suffix"),
    ({"echo": True}, "echo"),
    ({"best_of": 2}, "best_of"),
    ({"logprobs": 1}, "logprobs"),
    ({"seed": 1}, "seed"),
    ({"prompt": [1, 2]}, "prompt"),
]
EMBEDDING_FIELDS = [
    ({"dimensions": 8}, "dimensions"),
    ({"input": [1, 2]}, "input"),
    ({"input_type": "query"}, "input_type"),
]
NEUTRAL = {
    "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "logprobs": False, "n": 1, "modalities": ["text"],
    "response_format": {"type": "text"}, "service_tier": "auto", "store": False, "temperature": 1, "top_p": 1, "user": "ada",
    "max_completion_tokens": 5, "stop": ["x"], "metadata": {},
}  # fmt: skip
CASES = [
    (operation, base, *case)
    for operation, base, cases in (
        ("chat/completions", CHAT, CHAT_FIELDS),
        ("completions", {"prompt": "x"}, COMPLETION_FIELDS),
        ("embeddings", {"input": "x"}, EMBEDDING_FIELDS),
    )
    for case in cases
]


@pytest.fixture
def plain(plain_server):
    with raw(plain_server) as client:
        yield client


@pytest.mark.parametrize(
    ("operation", "base", "fields", "param"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES]
)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_the_model_cannot_do_is_refused_by_name(plain: httpx.Client, spelling, operation, base, fields, param):
    deployment = "embedding" if operation == "embeddings" else "chat"

    response = plain.post(path(spelling, operation, deployment), json={**base, **fields, "model": deployment})

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", param)


def test_values_that_ask_for_nothing_need_no_feature(plain):
    response = plain.post(path("v1", "chat/completions"), json={**CHAT, **NEUTRAL, "model": "chat"})

    assert response.status_code == 200


def test_without_filters_there_are_no_verdicts(plain):
    answer = plain.post(path("v1", "chat/completions"), json={**CHAT, "model": "chat"}).json()
    stream = plain.post(path("v1", "chat/completions"), json={**CHAT, "model": "chat", "stream": True}).text

    assert "prompt_filter_results" not in answer
    assert answer["choices"][0]["content_filter_results"] == {}
    assert "prompt_filter_results" not in stream
