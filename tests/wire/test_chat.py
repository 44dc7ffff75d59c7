"""Chat completions through the openai package: with its synchronous and asynchronous clients, on both surfaces."""

from __future__ import annotations

import json
from typing import Any

import openai
import pydantic
import pytest

from tests.wire.cues import user

CLEAN = {"custom_blocklists": {"filtered": False, "details": []}}
MORNING = [{"role": "user", "content": "good morning"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = [{"index": 0, "id": "call_1", "name": "weather", "arguments": '{"city": "'}]
REST = [{"index": 0, "arguments": 'Bern"}'}]
TOKENS = [
    {"token": "one ", "logprob": -0.5, "bytes": [111, 110, 101, 32], "top_logprobs": [{"token": "a", "logprob": -1.0}]},
    {"token": "two", "logprob": -0.25, "bytes": [116, 119, 111], "top_logprobs": []},
]


class Place(pydantic.BaseModel):
    city: str
    country: str


def asked(client: Any, **fields: Any) -> dict[str, Any]:
    """Return the request as the model saw it."""
    answer = client.chat.completions.create(model="chat", messages=user({"asked": True}), **fields)
    return json.loads(answer.choices[0].message.content)


def test_a_chat_is_answered(client):
    answer = client.chat.completions.create(model="chat", messages=MORNING)

    assert (answer.object, answer.model) == ("chat.completion", "rehearsal-chat")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "You said: good morning"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 4, 6)


def test_an_answer_carries_the_filters_verdicts(client):
    answer = client.chat.completions.create(model="chat", messages=MORNING)

    assert answer.model_extra["prompt_filter_results"] == [{"prompt_index": 0, "content_filter_results": CLEAN}]
    assert answer.choices[0].model_extra["content_filter_results"] == CLEAN


def test_a_streamed_chat_comes_in_azures_order(client):
    chunks = list(client.chat.completions.create(model="chat", messages=user("one ", "two"), stream=True))

    verdict, role, *pieces, end = chunks
    assert verdict.choices == []
    assert verdict.model_extra["prompt_filter_results"] == [{"prompt_index": 0, "content_filter_results": CLEAN}]
    assert role.choices[0].delta.to_dict() == {"role": "assistant", "content": ""}
    assert [piece.choices[0].delta.to_dict() for piece in pieces] == [{"content": "one "}, {"content": "two"}]
    assert (end.choices[0].delta.to_dict(), end.choices[0].finish_reason) == ({}, "stop")
    assert {chunk.id for chunk in chunks} == {end.id}
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_when_it_is_asked_for(client):
    *before, last = client.chat.completions.create(
        model="chat", messages=MORNING, stream=True, stream_options={"include_usage": True}
    )

    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 4)
    assert before[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in before)


def test_several_choices(client):
    script = [{"index": 1, "text": "right"}, {"index": 0, "text": "left"}, {"index": 1, "finish_reason": "length"}]

    answer = client.chat.completions.create(model="chat", messages=user(*script), n=2)

    found = [(choice.index, choice.message.content, choice.finish_reason) for choice in answer.choices]
    assert found == [(0, "left", "stop"), (1, "right", "length")]


def test_several_streamed_choices(client):
    script = [{"index": index % 2, "text": f"{index} "} for index in range(6)]

    chunks = list(client.chat.completions.create(model="chat", messages=user(*script), n=2, stream=True))

    choices = [choice for chunk in chunks for choice in chunk.choices]
    texts = ["".join(choice.delta.content or "" for choice in choices if choice.index == index) for index in (0, 1)]
    assert texts == ["0 2 4 ", "1 3 5 "]
    assert sorted(choice.index for choice in choices if choice.finish_reason == "stop") == [0, 1]


def test_a_tool_call(client):
    script = [{"tool_calls": CALL}, {"tool_calls": REST}, {"finish_reason": "tool_calls"}]

    choice = client.chat.completions.create(model="chat", messages=user(*script), tools=[WEATHER]).choices[0]

    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls
    assert (call.id, call.type, call.function.name) == ("call_1", "function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Bern"}


def test_a_streamed_tool_call(client):
    script = [{"tool_calls": CALL}, {"tool_calls": REST}, {"finish_reason": "tool_calls"}]

    chunks = client.chat.completions.create(model="chat", messages=user(*script), tools=[WEATHER], stream=True)

    pieces = [piece for chunk in chunks for choice in chunk.choices for piece in choice.delta.tool_calls or ()]
    assert [(piece.index, piece.id, piece.function.name, piece.function.arguments) for piece in pieces] == [
        (0, "call_1", "weather", '{"city": "'),
        (0, None, None, 'Bern"}'),
    ]


def test_a_tools_result_goes_back_to_the_model(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        *MORNING,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]

    answer = client.chat.completions.create(model="chat", messages=messages, tools=[WEATHER], tool_choice="auto")

    assert answer.choices[0].message.content == "You said: sunny"


def test_the_sdks_stream_helper_assembles_the_answer(client):
    script = [{"tool_calls": CALL}, {"tool_calls": REST}, {"finish_reason": "tool_calls"}]

    with client.chat.completions.stream(model="chat", messages=user(*script), tools=[strict(WEATHER)]) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_completion()

    assert "tool_calls.function.arguments.done" in kinds
    assert answer.choices[0].message.tool_calls[0].function.parsed_arguments == {"city": "Bern"}


def strict(tool: dict[str, Any]) -> dict[str, Any]:
    parameters = {**tool["function"]["parameters"], "additionalProperties": False}
    return {**tool, "function": {**tool["function"], "parameters": parameters, "strict": True}}


def test_the_older_functions(client):
    script = [{"tool_calls": CALL}, {"tool_calls": REST}, {"finish_reason": "tool_calls"}]

    choice = client.chat.completions.create(
        model="chat", messages=user(*script), functions=[WEATHER["function"]], function_call="auto"
    ).choices[0]

    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.to_dict() == {"name": "weather", "arguments": '{"city": "Bern"}'}


def test_an_answer_is_parsed_into_a_class(client):
    answer = client.chat.completions.parse(
        model="chat", messages=user('{"city": "Bern", ', '"country": "Switzerland"}'), response_format=Place
    )

    assert answer.choices[0].message.parsed == Place(city="Bern", country="Switzerland")


def test_the_models_own_refusal(client):
    script = [{"refusal": "I will "}, {"refusal": "not."}]

    whole = client.chat.completions.create(model="chat", messages=user(*script))
    streamed = client.chat.completions.create(model="chat", messages=user(*script), stream=True)

    assert (whole.choices[0].message.refusal, whole.choices[0].message.content) == ("I will not.", None)
    assert [chunk.choices[0].delta.refusal for chunk in streamed if chunk.choices][1:-1] == ["I will ", "not."]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client, stream):
    script = [{"text": token["token"], "logprobs": {"content": [token]}} for token in TOKENS]

    answer = client.chat.completions.create(
        model="chat", messages=user(*script), logprobs=True, top_logprobs=1, stream=stream
    )

    chunks = list(answer) if stream else [answer]
    found = [choice.logprobs.content for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [token.to_dict() for tokens in found for token in tokens] == TOKENS


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["a", "b"]},
        {"stop": "a"},
        {"seed": 7},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"temperature": 0.5, "top_p": 0.25},
        {"presence_penalty": -0.5, "frequency_penalty": 0.5},
        {"logit_bias": {"15": -100}},
        {"prediction": {"type": "content", "content": "as before"}},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tools": [WEATHER], "parallel_tool_calls": False},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object"}}}},
        {"reasoning_effort": "low"},
        {"user": "ada"},
    ],
    ids=lambda fields: json.dumps(fields)[-40:],
)
def test_what_is_asked_for_reaches_the_model(client, fields):
    found = asked(client, **fields)

    assert {name: found[name] for name in fields} == fields


def test_every_kind_of_message_reaches_the_model(client):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "Hello", "name": "Ada"},
        {"role": "assistant", "content": "Hello!"},
        *user({"asked": True}),
    ]

    answer = client.chat.completions.create(model="chat", messages=messages)

    assert json.loads(answer.choices[0].message.content)["messages"] == messages


def test_stored_completions_are_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="chat", messages=MORNING, store=True)

    assert caught.value.param == "store"


def test_store_false_is_what_happens_anyway(client):
    answer = client.chat.completions.create(model="chat", messages=MORNING, store=False)

    assert answer.choices[0].finish_reason == "stop"
