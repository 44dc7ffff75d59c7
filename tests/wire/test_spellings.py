"""The classic surface and v1 are two spellings of one API: the same request has the same answer."""

from __future__ import annotations

import json
import re

import pytest

from tests.wire.conftest import path
from tests.wire.cues import play, user

MORNING = {"messages": [{"role": "user", "content": "good morning"}]}
PROBES = [
    ("chat/completions", {**MORNING}),
    ("chat/completions", {**MORNING, "n": 3}),
    ("chat/completions", {"messages": user({"asked": True}), "temperature": 0, "stop": "x", "user": "ada"}),
    ("chat/completions", {"messages": user("We say ", "Project ", "Nightjar")}),
    ("chat/completions", {"messages": user({"raise": "TooManyRequests", "retry_after_s": 3})}),
    ("chat/completions", {"messages": user("one ", {"raise": "ValueError"})}),
    ("chat/completions", {"messages": [{"role": "user", "content": "Project Nightjar"}]}),
    ("chat/completions", {**MORNING, "colour": "red"}),
    ("chat/completions", {"messages": "good morning"}),
    ("completions", {"prompt": ["good", "morning"], "n": 2}),
    ("completions", {"prompt": play("one ", "two", {"finish_reason": "length"}), "logprobs": 2}),
    ("completions", {"prompt": "Project Nightjar"}),
    ("embeddings", {"input": ["good", "morning"]}),
    ("embeddings", {"input": "good", "encoding_format": "base64", "dimensions": 3}),
    ("embeddings", {"input": "Project Nightjar"}),
]
PROBES += [(operation, {**body, "stream": True}) for operation, body in PROBES if operation != "embeddings"]
IDS = [f"{operation}-{json.dumps(body)[-48:]}-{number}" for number, (operation, body) in enumerate(PROBES)]


@pytest.mark.parametrize(("operation", "body"), PROBES, ids=IDS)
def test_both_spellings_give_the_same_answer(http, operation, body):
    deployment = "embedding" if operation == "embeddings" else "chat"
    body = {**body, "model": deployment}

    classic, v1 = (http.post(path(spelling, operation, deployment), json=body) for spelling in ("classic", "v1"))

    assert v1.status_code == classic.status_code
    assert comparable(v1.text) == comparable(classic.text)
    assert headers(v1) == headers(classic)


@pytest.mark.parametrize("where", ["models", "models/rehearsal-chat", "models/gpt-17"])
def test_both_spellings_list_the_same_models(http, where):
    classic, v1 = http.get(f"/openai/{where}?api-version=2024-10-21"), http.get(f"/openai/v1/{where}")

    assert (v1.status_code, v1.text) == (classic.status_code, classic.text)


def test_routes_ignore_case_and_a_trailing_slash(http):
    assert http.post("/OpenAI/V1/Chat/Completions/", json={**MORNING, "model": "chat"}).status_code == 200
    assert http.get("/OPENAI/MODELS?api-version=2024-10-21").status_code == 200


def test_the_path_names_the_deployment_and_not_the_body_on_the_classic_surface(http):
    for body in ({**MORNING, "model": "something else"}, MORNING):
        assert http.post(path("classic", "chat/completions"), json=body).status_code == 200


def comparable(text: str) -> str:
    """Return an answer without ids, times and padding."""
    text = re.sub(r'"(id)":"(chatcmpl|cmpl)-\w+"', r'"\1":"\2"', text)
    text = re.sub(r'"obfuscation":"\w*"', '"obfuscation":""', text)
    return re.sub(r'"created":\d+', '"created":0', text)


def headers(response) -> dict[str, str]:
    """Return the headers that are not ids or times."""
    changing = ("date", "apim-request-id", "x-request-id", "x-ms-client-request-id")
    return {name: value for name, value in response.headers.items() if name not in changing}
