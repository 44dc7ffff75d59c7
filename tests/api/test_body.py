import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate import ChatRequest, CompletionRequest, EmbeddingRequest, InvalidRequest
from sluicegate.api.body import parse

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
SECRET = "s3cret"


def problem(kind, raw):
    with pytest.raises(InvalidRequest) as caught:
        parse(kind, raw)
    return caught.value


def refusal(fields):
    """The problem of a request that would be fine but for ``fields``."""
    if "prompt" in fields:
        return problem(CompletionRequest, json.dumps(fields).encode())
    if "input" in fields:
        return problem(EmbeddingRequest, json.dumps(fields).encode())
    return problem(ChatRequest, json.dumps({"messages": MESSAGES, **fields}).encode())


def message(**fields):
    return {"messages": [fields]}


def test_a_good_body_becomes_a_request():
    request = parse(ChatRequest, json.dumps({"messages": MESSAGES, "temperature": 1}).encode())

    assert request.messages[0].content == "hi"
    assert request.temperature == 1


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"", "line 1 column 0"),
        (b"  ", "line 1 column 2"),
        (b'{"messages":\n  [}', "line 2 column 4"),
        (b"{} {}", "line 1 column 4"),
        (b"\xef\xbb\xbf{}", "line 1 column 1"),
        ("{}".encode("utf-16"), "line 1 column 1"),
        (b'{"messages": "\xff"}', "line 1 column 15"),
        (b'{"messages": "\\ud83d"}', "line 1 column 21"),
        (b'{"messages": "\\ude00"}', "line 1 column 2"),
        (b'{"messages": NaN}', "line 1 column 14"),
        (b'{"messages": -Infinity}', "line 1 column 15"),
        pytest.param(b"[" * 1_000_000, "line 1 column 202", id="a megabyte of lists"),
        pytest.param(b'{"a":' * 200_000, "line 1 column", id="a megabyte of objects"),
        pytest.param(b'{"max_tokens": ' + b"9" * 5000 + b"}", "number out of range", id="5000 digits"),
    ],
)
def test_malformed_json_is_located(raw, where):
    error = problem(ChatRequest, raw)

    assert error.message.startswith("We could not parse the JSON body of your request: ")
    assert where in error.message
    assert (error.code, error.param) == ("invalid_json", None)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([], "an array"),
        (None, "null"),
        (5, "an integer"),
        (True, "a boolean"),
        (1.5, "a decimal number"),
        ("a", "a string"),
    ],
)
def test_a_body_that_is_no_object_is_of_the_wrong_type(value, kind):
    error = problem(ChatRequest, json.dumps(value).encode())

    assert error.message == f"Invalid type for the request body: expected an object, but got {kind} instead."
    assert (error.code, error.param) == ("invalid_type", None)


@pytest.mark.parametrize(
    ("kind", "param"), [(ChatRequest, "messages"), (CompletionRequest, "prompt"), (EmbeddingRequest, "input")]
)
def test_what_every_request_needs_is_missing_first(kind, param):
    assert problem(kind, b'{"user": "a"}').message == f"Missing required parameter: '{param}'."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (message(content="hi"), "messages[0].role"),
        (message(role="user"), "messages[0].content"),
        (message(role="user", content=[{"type": "text"}]), "messages[0].content[0].text"),
        (message(role="user", content=[{"text": "hi"}]), "messages[0].content[0].type"),
        (message(role="system", content=[{"type": "text"}]), "messages[0].content[0].text"),
        (message(role="assistant", tool_calls=[{"type": "function", "function": {}}]), "messages[0].tool_calls[0].id"),
        (dict(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
        (dict(tool_choice={}), "tool_choice.type"),
        (dict(tool_choice={"type": "function", "function": {}}), "tool_choice.function.name"),
        (dict(function_call={}), "function_call.name"),
        (dict(prediction={"type": "content"}), "prediction.content"),
        (
            dict(response_format={"type": "json_schema", "json_schema": {}}),
            "response_format.json_schema.name",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(fields, param):
    caught = refusal(fields)

    assert caught.message == f"Missing required parameter: '{param}'."
    assert (caught.code, caught.param) == ("missing_required_parameter", param)


def test_an_unknown_field_is_refused_in_azures_words():
    error = refusal({"foo": SECRET})

    assert error.message == "Unrecognized request argument supplied: foo"
    assert (error.code, error.param) == ("unknown_parameter", "foo")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (message(role="user", content="hi", foo=SECRET), "messages[0].foo"),
        (message(role="user", content="hi", user=SECRET), "messages[0].user"),
        (dict(stream=True, stream_options={"foo": SECRET}), "stream_options.foo"),
        (dict(function_call={"name": "a", "foo": SECRET}), "function_call.foo"),
        (dict(tools=[{"type": "function", "function": {"name": "a"}, "foo": SECRET}]), "tools[0].foo"),
    ],
)
def test_an_unknown_nested_field_is_refused_with_its_path(fields, param):
    caught = refusal(fields)

    assert caught.message == f"Unknown parameter: '{param}'."
    assert (caught.code, caught.param) == ("unknown_parameter", param)


def test_a_long_key_is_cut():
    error = refusal({"k" * 1_000_000: SECRET})

    assert error.param == "k" * 64 + "…"
    assert len(error.message) < 200


@pytest.mark.parametrize(
    ("fields", "param", "expected", "got"),
    [
        (dict(temperature="1"), "temperature", "a number", "a string"),
        (dict(temperature=True), "temperature", "a number", "a boolean"),
        (dict(n=1.0), "n", "an integer", "a decimal number"),
        (dict(n=True), "n", "an integer", "a boolean"),
        (dict(stream="true"), "stream", "a boolean", "a string"),
        (dict(user=5), "user", "a string", "an integer"),
        (dict(messages={}), "messages", "an array", "an object"),
        (dict(messages=None), "messages", "an array", "null"),
        (dict(messages=["hi"]), "messages[0]", "an object", "a string"),
        (dict(logit_bias=[]), "logit_bias", "an object", "an array"),
        (dict(logit_bias={"50": 0.5}), "logit_bias.50", "an integer", "a decimal number"),
        (dict(metadata={"a": 1}), "metadata.a", "a string", "an integer"),
        (dict(reasoning_effort=3), "reasoning_effort", "a string", "an integer"),
        (dict(stop=[1]), "stop[0]", "a string", "an integer"),
        (dict(tool_choice=5), "tool_choice", "one of a string or an object", "an integer"),
        (dict(tool_choice={"type": 5}), "tool_choice.type", "a string", "an integer"),
        (message(role=5, content="hi"), "messages[0].role", "a string", "an integer"),
        (message(role="user", content=5), "messages[0].content", "one of a string or an array", "an integer"),
        (message(role="user", content={}), "messages[0].content", "one of a string or an array", "an object"),
        (
            message(role="user", content=[{"type": "text", "text": "a"}, {"type": "text", "text": 5}]),
            "messages[0].content[1].text",
            "a string",
            "an integer",
        ),
        (
            message(role="user", content=[{"type": "image_url", "image_url": {"url": None}}]),
            "messages[0].content[0].image_url.url",
            "a string",
            "null",
        ),
        (
            dict(prediction={"type": "content", "content": [{"type": "text", "text": 5}]}),
            "prediction.content[0].text",
            "a string",
            "an integer",
        ),
        ({"prompt": None}, "prompt", "one of a string or an array", "null"),
        ({"prompt": ["a", 5]}, "prompt[1]", "a string", "an integer"),
        ({"prompt": [[1], ["a"]]}, "prompt[1][0]", "an integer", "a string"),
        ({"input": [1, 2, "a"]}, "input[2]", "an integer", "a string"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_described_without_the_value(fields, param, expected, got):
    caught = refusal(fields)

    assert caught.message == f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    assert (caught.code, caught.param) == ("invalid_type", param)


@pytest.mark.parametrize(
    ("fields", "param", "code", "words"),
    [
        (dict(temperature=2.1), "temperature", "decimal_above_max_value", "<= 2."),
        (dict(temperature=-1), "temperature", "decimal_below_min_value", ">= 0."),
        (dict(top_p=1.5), "top_p", "decimal_above_max_value", "<= 1."),
        (dict(n=0), "n", "integer_below_min_value", ">= 1."),
        (dict(n=129), "n", "integer_above_max_value", "<= 128."),
        (dict(seed=2**63), "seed", "integer_above_max_value", "<= 9223372036854775807."),
        (dict(max_completion_tokens=2**31), "max_completion_tokens", "integer_above_max_value", "<= 2147483647."),
        (dict(logit_bias={"50": 101}), "logit_bias.50", "integer_above_max_value", "<= 100."),
        (dict(logit_bias={"x": 1}), "logit_bias.x", "invalid_value", r"matches the pattern '^\d+$'."),
        (dict(stop=["a"] * 5), "stop", "array_above_max_length", "maximum length 4, but got an array with length 5"),
        (dict(messages=[]), "messages", "empty_array", "minimum length 1, but got an empty array instead."),
        (dict(messages=MESSAGES * 2049), "messages", "array_above_max_length", "2048, but got an array with length 2049"),
        (message(role="user", content=[]), "messages[0].content", "empty_array", "minimum length 1"),
        ({"prompt": []}, "prompt", "empty_array", "minimum length 1"),
        ({"input": [1, -1]}, "input[1]", "integer_below_min_value", ">= 0."),
        (dict(functions=[{"name": ""}]), "functions[0].name", "empty_string", "minimum length 1"),
        (dict(functions=[{"name": "a" * 65}]), "functions[0].name", "string_above_max_length", "64, but got a string with length 65"),
        (dict(functions=[{"name": "a b"}]), "functions[0].name", "invalid_value", "matches the pattern '^[a-zA-Z0-9_-]+$'."),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_answered_with_the_limit(fields, param, code, words):
    caught = refusal(fields)

    assert caught.message.startswith(f"Invalid '{param}': ")
    assert words in caught.message
    assert (caught.code, caught.param) == (code, param)


@pytest.mark.parametrize(
    ("fields", "param", "supported"),
    [
        (message(role=SECRET, content="hi"), "messages[0].role", "'system', 'developer', 'user'"),
        (message(role="user", content=[{"type": SECRET}]), "messages[0].content[0].type", "'text', 'image_url'"),
        (message(role="tool", tool_call_id="1", content=[{"type": SECRET, "text": ""}]), "messages[0].content[0].type", "'text'."),
        (dict(tool_choice=SECRET), "tool_choice", "'none', 'auto' or 'required'."),
        (dict(response_format={"type": SECRET}), "response_format.type", "'text', 'json_object', 'json_schema'."),
        (dict(verbosity=SECRET), "verbosity", "'low', 'medium' or 'high'."),
        (dict(modalities=[SECRET]), "modalities[0]", "'text' or 'audio'."),
        ({"input": "a", "encoding_format": SECRET}, "encoding_format", "'float' or 'base64'."),
    ],
)  # fmt: skip
def test_an_unknown_keyword_is_answered_with_the_known_ones(fields, param, supported):
    caught = refusal(fields)

    assert caught.message.startswith("Invalid value: supported values are: ")
    assert supported in caught.message
    assert SECRET not in caught.message
    assert (caught.code, caught.param) == ("invalid_value", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (dict(stream_options={}), "stream_options"),
        (dict(store=True), "store"),
        (dict(metadata={"a": "b"}), "metadata"),
        (dict(max_tokens=0), "max_tokens"),
        (dict(top_logprobs=1), "top_logprobs"),
        (dict(tool_choice="auto"), "tool_choice"),
        (dict(parallel_tool_calls=True), "parallel_tool_calls"),
        (dict(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice"),
        (dict(function_call="auto"), "function_call"),
        (dict(functions=[{"name": "f"}], function_call={"name": "g"}), "function_call"),
        (message(role="tool", content="a", tool_call_id="1"), "messages[0].role"),
        (message(role="assistant"), "messages[0].content"),
        ({"prompt": "a", "n": 2, "best_of": 1}, "best_of"),
        ({"input": ["a", ""]}, "input"),
    ],
)
def test_rules_across_fields_name_the_field_to_change(fields, param):
    assert refusal(fields).param == param


def test_of_several_problems_the_first_is_reported():
    error = refusal({"n": 0, "messages": [{"role": "user", "content": 5}], "foo": 1})

    assert error.param == "n"


def test_of_duplicate_keys_the_last_counts_for_filters_and_the_model_alike():
    raw = b'{"messages": [{"role": "user", "content": "first"}], "messages": [{"role": "user", "content": "last"}]}'

    request = parse(ChatRequest, raw)

    assert [text.value for text in request.texts()] == ["last"]
    assert request.body() == {"messages": [{"role": "user", "content": "last"}]}


def test_a_word_that_only_looks_like_no_number_is_fine():
    request = parse(ChatRequest, b'{"messages": [{"role": "user", "content": "NaN or Infinity"}]}')

    assert request.messages[0].content == "NaN or Infinity"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [5] * 300_000},
        {"messages": [{"role": "user", "content": 5}] * 40_000},
        {"prompt": [-1] * 300_000},
        {"prompt": [[-1]] * 20_000},
        {"messages": [{"role": "user", "content": [5] * 300_000}]},
    ],
)
def test_a_million_bytes_of_errors_are_one_error(fields):
    assert len(refusal(fields).message) < 200


def test_the_cause_of_a_problem_is_not_kept():
    error = refusal(message(role="user", content=SECRET, foo=SECRET))

    assert error.__cause__ is None
    assert error.__context__ is None


KEYS = st.sampled_from(
    ["messages", "role", "content", "type", "text", "user", "function", "name", "tools", "tool_choice", "prompt", "input",
     "str", "tuple[str, ...]", "[key]", "tagged-union[NamedTool]", "stop", "logit_bias", "response_format", "json_schema"]
)  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(["user", "assistant", "tool", "text", "function", "json_schema", "content", SECRET, "", None, True, 0, -1, 1.5])
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from([ChatRequest, CompletionRequest, EmbeddingRequest]), st.dictionaries(KEYS, VALUES, max_size=5))
def test_whatever_is_sent_is_a_request_or_one_problem_without_values(kind, fields):
    try:
        message = parse(kind, json.dumps(fields).encode()).operation
    except InvalidRequest as error:
        message = error.message

    assert SECRET not in message
    assert "Invalid value for" not in message


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_answered(raw):
    assert problem(EmbeddingRequest, raw).status == 400


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_too_large_for_a_float_is_out_of_range(number):
    raw = b'{"messages": [{"role": "user", "content": "hi"}], "temperature": %b}' % number.encode()

    assert problem(ChatRequest, raw).param == "temperature"
