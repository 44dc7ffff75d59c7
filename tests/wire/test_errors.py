"""Every error that can occur here: its status, its body in Azure's form, and what the openai package makes of it."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from tests.wire.conftest import API_VERSION, SPELLINGS, path, sdk
from tests.wire.cues import play, user

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
LIMIT = 32 << 20
EMBEDDING_LIMIT = 8 << 20


def error(response: httpx.Response) -> dict[str, object]:
    """Return an error's body, which has Azure's four fields whatever else it has."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()["error"]
    assert {"code", "message", "param", "type"} <= body.keys()
    return body


def chat(**fields: object) -> dict[str, object]:
    """Return the body of a chat with more or other fields."""
    return {**CHAT, **fields}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b'{"model": "chat", "messages": [}', "line 1 column 32"),
        (b'{"model": "chat",\n "messages": [{"role": "user"\n', "line 3 column 0"),
        (b'{"model": "chat"} trailing', "line 1 column 19"),
        (b'{"temperature": NaN}', "line 1 column"),
        (b"", "line 1 column 0"),
        (b'{"model": "\xff"}', "line 1 column"),
    ],
    ids=["hole", "end", "trailing", "not a number", "empty", "not UTF-8"],
)
def test_malformed_json_is_refused_with_the_place(http, spelling, body, position):
    response = http.post(path(spelling, "chat/completions"), content=body)

    assert (response.status_code, error(response)["code"]) == (400, "invalid_json")
    assert position in error(response)["message"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("operation", "body", "code", "param"),
    [
        ("chat/completions", {"model": "chat"}, "missing_required_parameter", "messages"),
        ("chat/completions", chat(colour="red"), "unknown_parameter", "colour"),
        ("chat/completions", chat(temperature="hot"), "invalid_type", "temperature"),
        ("chat/completions", chat(temperature=2.5), "decimal_above_max_value", "temperature"),
        ("chat/completions", chat(n=0), "integer_below_min_value", "n"),
        ("chat/completions", chat(messages=[]), "empty_array", "messages"),
        ("chat/completions", chat(messages=[{"role": "king"}]), "invalid_value", "messages[0].role"),
        (
            "chat/completions",
            chat(messages=[{"content": "x"}]),
            "missing_required_parameter",
            "messages[0].role",
        ),
        (
            "chat/completions",
            chat(messages=[{"role": "user"}]),
            "missing_required_parameter",
            "messages[0].content",
        ),
        ("chat/completions", chat(stream_options={}), None, "stream_options"),
        ("chat/completions", chat(store=True), None, "store"),
        ("chat/completions", chat(tool_choice="auto"), None, "tool_choice"),
        ("chat/completions", [], "invalid_type", None),
        ("completions", {"model": "chat"}, "missing_required_parameter", "prompt"),
        ("completions", {"model": "chat", "prompt": "x", "messages": []}, "unknown_parameter", "messages"),
        ("completions", {"model": "chat", "prompt": 7}, "invalid_type", "prompt"),
        ("completions", {"model": "chat", "prompt": [255]}, None, None),
        ("embeddings", {"model": "embedding"}, "missing_required_parameter", "input"),
        ("embeddings", {"model": "embedding", "input": ["x", 7]}, "invalid_type", "input[1]"),
        (
            "embeddings",
            {"model": "embedding", "input": "x", "encoding_format": "hex"},
            "invalid_value",
            "encoding_format",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[-40:],
)
def test_a_bad_field_is_refused_by_name(http, spelling, operation, body, code, param):
    deployment = "embedding" if operation == "embeddings" else "chat"

    response = http.post(path(spelling, operation, deployment), json=body)

    assert (response.status_code, error(response)["code"], error(response)["param"]) == (400, code, param)
    assert error(response)["type"] == "invalid_request_error"


def test_the_deployment_must_be_named_on_v1(http):
    response = http.post(path("v1", "chat/completions"), json={"messages": CHAT["messages"]})

    assert (response.status_code, error(response)["param"]) == (400, "model")


def test_no_message_quotes_a_value(http):
    canary = "canary-77"
    bodies = [
        {**CHAT, "temperature": canary},
        {**CHAT, "tool_choice": canary},
        {**CHAT, "messages": [{"role": canary, "content": canary}]},
        {**CHAT, "messages": canary},
        {**CHAT, "response_format": {"type": canary}},
    ]

    answers = [http.post(path("v1", "chat/completions"), json=body) for body in bodies]

    assert [answer.status_code for answer in answers] == [400] * len(bodies)
    assert all(canary not in answer.text for answer in answers)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "401"),
        ({"api-key": "wrong"}, "401"),
        ({"api-key": "x" * 5000}, "401"),
        ({"authorization": "Bearer wrong"}, "401"),
        ({"authorization": "Bearer a.jwt.token"}, "401"),
        ({"authorization": "Basic Og=="}, "401"),
    ],
    ids=["missing", "wrong", "long", "bearer", "jwt", "basic"],
)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_caller_nobody_knows(server, spelling, headers, code):
    response = httpx.post(server.endpoint + path(spelling, "chat/completions"), headers=headers, json=CHAT)

    assert (response.status_code, error(response)["code"]) == (401, code)
    assert error(response)["message"].startswith("Access denied due to")


@pytest.mark.parametrize("role", ["operator_key", "officer_key", "reviewer_keys"])
def test_a_key_of_another_role_does_not_open_the_data_plane(server, role):
    keys = server.credentials[role]
    for api_key in keys if isinstance(keys, list) else [keys]:
        response = httpx.get(f"{server.endpoint}/openai/v1/models", headers={"api-key": api_key})

        assert (response.status_code, error(response)["code"]) == (401, "PermissionDenied")


def test_a_key_is_as_good_in_either_header(server):
    api_key = server.credentials["api_key"]
    for headers in (
        {"api-key": api_key},
        {"authorization": f"Bearer {api_key}"},
        {"Authorization": f"bearer  {api_key}"},
    ):
        assert httpx.get(f"{server.endpoint}/openai/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("operation", ["chat/completions", "completions", "embeddings"])
def test_an_unknown_deployment(http, spelling, operation):
    body = {**CHAT, "model": "nowhere"} if operation == "chat/completions" else {"model": "nowhere"}
    body |= {"prompt": "x"} if operation == "completions" else {"input": "x"} if operation == "embeddings" else {}

    response = http.post(path(spelling, operation, "nowhere"), json=body)

    assert (response.status_code, error(response)["code"]) == (404, "DeploymentNotFound")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_deployment_of_the_wrong_kind(http, spelling):
    response = http.post(path(spelling, "chat/completions", "embedding"), json={**CHAT, "model": "embedding"})

    assert (response.status_code, error(response)["code"]) == (400, "OperationNotSupported")


@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("GET", "/openai/v1/chat/completions"),
        ("PUT", "/openai/v1/models/rehearsal-chat"),
        ("POST", "/openai/v1/responses"),
        ("POST", "/openai/v1/moderations"),
        ("POST", f"/openai/deployments/chat/images/generations?api-version={API_VERSION}"),
        ("GET", f"/openai/fine_tuning/alpha/graders/run?api-version={API_VERSION}"),
        ("GET", "/openai"),
    ],
)
def test_an_unknown_operation(http, method, where):
    response = http.request(method, where)

    assert (response.status_code, error(response)["code"]) == (404, "404")


@pytest.mark.parametrize("version", [None, "", "2021-01-01", "preview", "2099-01-01"])
def test_the_classic_surface_wants_a_version_that_it_knows(http, version):
    query = "" if version is None else f"?api-version={version}"

    for where in ("/openai/deployments/chat/chat/completions", "/openai/deployments/chat/completions"):
        response = http.post(where + query, json=CHAT)
        assert (response.status_code, error(response)["code"]) == (404, "404")
    assert http.get(f"/openai/models{query}").status_code == 404


def test_v1_knows_no_dated_version(http):
    response = http.post(f"/openai/v1/chat/completions?api-version={API_VERSION}", json=CHAT)

    assert (response.status_code, error(response)["message"]) == (400, "API version not supported")


@pytest.mark.parametrize("version", ["v1", "preview"])
def test_v1s_own_versions_may_be_named(http, version):
    assert http.post(f"/openai/v1/chat/completions?api-version={version}", json=CHAT).status_code == 200


def test_the_oldest_version_shows_no_verdicts(http):
    answer = http.post("/openai/deployments/chat/chat/completions?api-version=2023-05-15", json=CHAT).json()

    assert "prompt_filter_results" not in answer
    assert "content_filter_results" not in answer["choices"][0]


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "on the way"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_body_that_is_too_large(http, spelling, declared):
    body = json.dumps(chat(user="x" * LIMIT)).encode()
    pieces = (body[start : start + (1 << 20)] for start in range(0, len(body), 1 << 20))

    response = http.post(path(spelling, "chat/completions"), content=body if declared else pieces)

    assert (response.status_code, error(response)["code"]) == (413, "413")


def test_a_body_just_within_the_limit(http):
    content = "x" * (EMBEDDING_LIMIT - 100)

    response = http.post(path("v1", "embeddings"), json={"model": "embedding", "input": content})

    assert response.status_code == 200


def test_less_is_taken_for_embeddings_than_for_chat(http):
    content = "x" * EMBEDDING_LIMIT

    response = http.post(path("v1", "embeddings"), json={"model": "embedding", "input": content})

    assert (response.status_code, error(response)["code"]) == (413, "413")


def test_a_limit_tells_when_to_come_back(http):
    messages = user({"raise": "TooManyRequests", "message": "Slow down.", "retry_after_s": 1.5})

    response = http.post(path("v1", "chat/completions"), json={"model": "chat", "messages": messages})

    assert (response.status_code, error(response)["message"]) == (429, "Slow down.")
    assert (response.headers["retry-after-ms"], response.headers["retry-after"]) == ("1500", "2")


@pytest.mark.parametrize("kind", ["AzureOpenAI", "OpenAI"])
def test_the_sdk_comes_back_after_a_limit(server, kind):
    script = [{"raise": "TooManyRequests", "retry_after_s": 0.001, "once": f"limit of {kind}"}, "welcome back"]

    with sdk(server, kind, max_retries=1) as client:
        answer = client.chat.completions.create(model="chat", messages=user(*script))

    assert answer.choices[0].message.content == "welcome back"


@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        ({"raise": "InvalidRequest", "message": "No.", "code": "context_length_exceeded"}, openai.BadRequestError, "context_length_exceeded"),
        ({"raise": "Forbidden"}, openai.PermissionDeniedError, "Forbidden"),
        ({"raise": "TooManyRequests"}, openai.RateLimitError, "429"),
        ({"raise": "ModelUnavailable"}, openai.InternalServerError, "serviceUnavailable"),
        ({"raise": "UpstreamError", "status": 418, "code": "teapot"}, openai.APIStatusError, "teapot"),
        ({"raise": "ValueError"}, openai.InternalServerError, "plugin_failed"),
        ({"raise": "KeyError"}, openai.InternalServerError, "plugin_failed"),
    ],
    ids=lambda value: str(value.get("raise")) if isinstance(value, dict) else "",
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_model_raises_before_it_answers(client, stream, script, kind, code):
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model="chat", messages=user(script), stream=stream)

    assert caught.value.code == code
    assert caught.value.request_id


def test_a_model_for_embeddings_may_raise_as_well(client):
    with pytest.raises(openai.RateLimitError):
        client.embeddings.create(model="embedding", input=play({"raise": "TooManyRequests"}))


@pytest.mark.parametrize("hook", ["pre_filter", "post_filter", "retain"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_plugin_that_fails_is_named_and_not_quoted(http, spelling, hook):
    messages = [{"role": "user", "content": f"canary-42, fail in {hook}"}]

    response = http.post(path(spelling, "chat/completions"), json={"model": "chat", "messages": messages})

    assert (response.status_code, error(response)["code"]) == (503, "plugin_failed")
    assert hook in error(response)["message"]
    assert "canary-42" not in response.text


@pytest.mark.parametrize("hook", ["pre_filter", "retain"])
def test_a_plugin_that_fails_on_an_embeddings_input(http, hook):
    body = {"model": "embedding", "input": f"canary-42, fail in {hook}"}

    response = http.post(path("v1", "embeddings"), json=body)

    assert (response.status_code, error(response)["code"]) == (503, "plugin_failed")
    assert "canary-42" not in response.text


def test_a_plugin_that_fails_to_authenticate_lets_nobody_in(http):
    response = http.get("/openai/v1/models", headers={"x-rehearsal": "canary-42, fail in authenticate"})

    assert (response.status_code, error(response)["code"]) == (503, "plugin_failed")
    assert "canary-42" not in response.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_blocked_prompt_is_refused_in_azures_form(http, spelling, stream):
    messages = [{"role": "user", "content": "Tell me of project  NIGHTJAR."}]

    response = http.post(
        path(spelling, "chat/completions"), json={"model": "chat", "messages": messages, "stream": stream}
    )

    verdict = {"custom_blocklists": {"filtered": True, "details": [{"filtered": True, "id": "codenames"}]}}
    body = error(response)
    assert response.status_code == body["status"] == 400
    assert (body["code"], body["param"], body["type"]) == ("content_filter", "prompt", None)
    assert body["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    assert body["innererror"]["content_filter_result"] == verdict
    assert body["innererror"]["content_filter_results"] == verdict
    assert "NIGHTJAR" not in response.text


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Project Nightjar"}, {"role": "user", "content": "hello"}],
        [{"role": "user", "content": [{"type": "text", "text": "Project "}, {"type": "text", "text": "Nightjar"}]}],
        [{"role": "user", "content": "hello", "name": "Nachtschwalbe"}],
        [
            {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '"Nachtschw\\u0061lbe"'}}]},
            {"role": "tool", "tool_call_id": "1", "content": "hello"},
        ],
        [{"role": "user", "content": "\uff30roject\u200b \uff2eIGHT\u00adjar"}],
    ],
    ids=["system", "parts", "name", "arguments", "disguised"],
)  # fmt: skip
def test_a_blocked_term_is_found_wherever_the_model_would_read_it(client, messages):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="chat", messages=messages)

    assert caught.value.code == "content_filter"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": "Nachtschwalbe"}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"Nachtschwalbe": {}}}}}]},
        {"prediction": {"type": "content", "content": "Nachtschwalbe"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "Nachtschwalbe"}}}},
        {"stop": ["Nachtschwalbe"]},
    ],
    ids=["description", "schema", "prediction", "format", "stop"],
)  # fmt: skip
def test_a_blocked_term_is_found_in_every_field(client, fields):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**CHAT, **fields)

    assert caught.value.code == "content_filter"


@pytest.mark.parametrize("path", ["/openai/v1/models", "/governance/audit", "/subscriptions/s/providers/p"])
def test_headers_that_are_too_large_are_refused_before_they_are_read(server, path):
    response = httpx.get(server.endpoint + path, headers={"api-key": "unknown", "x-more": "x" * (64 << 10)})

    assert response.status_code == 431
    assert "64 KiB" in response.json()["error"]["message"]
