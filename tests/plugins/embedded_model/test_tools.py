"""Tool calls: described, chosen, forced, recognised."""

import pytest

from plugins.embedded_model.engine import Engine
from plugins.embedded_model.tools import offered
from sluicegate import InvalidRequest, Unsupported

from .conftest import chat_request, user

pytestmark = pytest.mark.asyncio(loop_scope="session")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
MAIL = {"type": "function", "function": {"name": "read_mail"}}
CLOCK = {"type": "function", "function": {"name": "read_clock"}}
QUESTION = "What is the weather in Paris?"
NAMED = {"type": "function", "function": {"name": "read_mail"}}


def allowed(mode: str, *names: str):
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "names", "forced"),
    [
        ("auto", ["get_weather", "read_mail"], False),
        (None, ["get_weather", "read_mail"], False),
        ("none", [], False),
        ("required", ["get_weather", "read_mail"], True),
        (NAMED, ["read_mail"], True),
        (allowed("auto", "get_weather"), ["get_weather"], False),
        (allowed("required", "get_weather"), ["get_weather"], True),
    ],
)
async def test_the_choice_leaves_some_of_the_tools_to_the_model(choice, names, forced):
    tools = offered(chat_request(messages=user("Hi"), tools=[WEATHER, MAIL], tool_choice=choice))

    assert ([function.name for function in tools.functions], tools.forced) == (names, forced)


async def test_allowed_tools_must_be_among_the_tools():
    with pytest.raises(InvalidRequest, match="'other' is not among"):
        offered(chat_request(messages=user("Hi"), tools=[WEATHER], tool_choice=allowed("auto", "other")))


async def test_a_required_call_is_made_and_fits_its_schema(chat):
    answer = await chat(QUESTION, tools=[WEATHER, MAIL], tool_choice="required", parallel_tool_calls=True)

    assert answer.call() == ("get_weather", {"city": "Paris", "unit": "c"})
    assert answer.finish() == "tool_calls"
    assert answer.text() == ""
    assert {piece.index for chunk in answer.chunks for piece in chunk.tool_calls} == {0}
    assert [piece.id is None for chunk in answer.chunks for piece in chunk.tool_calls].count(False) == 1


async def test_a_named_function_is_called_whatever_was_asked(chat):
    answer = await chat(QUESTION, tools=[CLOCK, MAIL], tool_choice=NAMED)

    assert answer.call() == ("read_mail", {})


async def test_each_choice_has_a_call_of_its_own(chat):
    answer = await chat("Hi", tools=[MAIL], tool_choice="required", n=2)

    ids = {piece.id for chunk in answer.chunks for piece in chunk.tool_calls if piece.id}
    assert len(ids) == 2
    assert [answer.finish(index) for index in range(2)] == ["tool_calls"] * 2


async def test_a_call_that_the_model_begins_itself_is_recognised(chat):
    answer = await chat("Repeat exactly: <tool_call>", tools=[WEATHER, MAIL], parallel_tool_calls=False)

    name, arguments = answer.call()
    assert name == "get_weather"
    assert set(arguments) == {"city", "unit"}
    assert answer.finish() == "tool_calls"
    assert "<tool" not in answer.text()


async def test_with_tool_choice_none_there_is_only_text(chat):
    answer = await chat("Repeat exactly: <tool_call>", tools=[WEATHER], tool_choice="none", max_tokens=8)

    assert not any(chunk.tool_calls for chunk in answer.chunks)
    assert answer.text()


async def test_an_ordinary_answer_is_text_although_there_are_tools(chat):
    answer = await chat("What is the capital of France?", tools=[MAIL], max_tokens=4)

    assert answer.text()
    assert answer.finish() == "length"


@pytest.mark.parametrize(("tools", "max_tokens"), [([MAIL, CLOCK], 1), ([WEATHER], 3)], ids=["name", "arguments"])
async def test_a_call_that_is_cut_says_so(chat, tools, max_tokens):
    answer = await chat(QUESTION, tools=tools, tool_choice="required", max_tokens=max_tokens)

    assert answer.finish() == "length"
    assert answer.usage.completion_tokens == max_tokens


async def test_a_strict_function_whose_schema_cannot_be_kept_is_refused(chat):
    function = {"name": "f", "strict": True, "parameters": {"type": "object", "not": {}}}

    with pytest.raises(Unsupported) as refused:
        await chat("Hi", tools=[{"type": "function", "function": function}], tool_choice="required")

    assert (refused.value.code, refused.value.param) == ("unsupported_schema", "tools")


async def test_without_strict_such_a_function_still_gets_an_object(chat):
    function = {"name": "f", "parameters": {"type": "object", "dependentRequired": {"a": ["b"]}}}

    answer = await chat("Hi", tools=[{"type": "function", "function": function}], tool_choice="required", max_tokens=40)

    assert "".join(piece.arguments for chunk in answer.chunks for piece in chunk.tool_calls).startswith("{")


async def test_json_and_the_choice_of_a_tool_do_not_go_together(chat):
    with pytest.raises(Unsupported) as refused:
        await chat("Hi", tools=[WEATHER], response_format={"type": "json_object"})

    assert refused.value.param == "response_format"


async def test_a_tools_result_is_read(chat, engine: Engine):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *user(QUESTION),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "21 degrees, sunny"},
    ]

    answer = await chat(messages=messages, tools=[WEATHER])

    assert "sunny" in answer.text()
