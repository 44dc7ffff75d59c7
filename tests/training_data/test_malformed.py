"""One malformed file after the other, each with exactly what is said of it."""

from __future__ import annotations

import codecs
import json
from typing import Any

import pytest

from sluicegate.training_data import CODES, validate
from tests.training_data.rows import (
    FUNCTION,
    SYSTEM,
    WEATHER,
    answer,
    call,
    calls,
    chat,
    good,
    lines,
    preference,
    result,
    user,
)

LONG = "The kitchen opens at seven and serves until ten, after which there is only coffee and"
LINE = lines(chat(user(), answer()))
DEEP = b'{"messages":' + b"[" * 300 + b"]" * 300 + b"}\n"


def function(**more: Any) -> dict[str, Any]:
    return chat(user(), answer(), tools=[{"type": "function", "function": {**FUNCTION, **more}}])


def schema(**more: Any) -> dict[str, Any]:
    return function(parameters={"type": "object", "properties": {"place": {"type": "string"}}, **more})


def weather(*messages: Any) -> dict[str, Any]:
    return chat(user(), *messages, tools=[WEATHER])


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
LINES: dict[str, tuple[bytes, list[tuple[str, str, int | None]]]] = {
    "blank": (b" \t\r\n", [("line_blank", "", None)]),
    "NUL": (b'{"messages":\0[]}\n', [("nul_byte", "", 13)]),
    "BOM in the middle": (codecs.BOM_UTF8 + LINE, [("bom_misplaced", "", 1)]),
    "Latin-1": ('{"prompt": "Grüße"}\n'.encode("latin-1"), [("utf8_invalid", "", 15)]),
    "UTF-8 with a surrogate": (b'{"prompt": "\xed\xa0\x80"}\n', [("utf8_invalid", "", 13)]),
    "overlong UTF-8": (b'{"prompt": "\xc0\xaf"}\n', [("utf8_invalid", "", 13)]),
    "cut off": (LINE[:40] + b"\n", [("json_incomplete", "", 40)]),
    "pretty-printed": (b"{\n", [("json_incomplete", "", 1)]),
    "comma after": (LINE[:-1] + b",\n", [("json_trailing", "", len(LINE))]),
    "two on a line": (LINE[:-1] + LINE, [("json_trailing", "", len(LINE))]),
    "tab in a string": (b'{"prompt": "a\tb"}\n', [("json_control_character", "", 14)]),
    "half a surrogate pair": (rb'{"prompt": "\ud83d"}' + b"\n", [("json_surrogate", "", 19)]),
    "nested deeply": (DEEP, [("json_too_deep", "", 213)]),
    "NaN": (b'{"prompt": NaN}\n', [("json_invalid", "", 12)]),
    "Python": (b"{'prompt': None}\n", [("json_invalid", "", 2)]),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}\n", [("json_number", "", 4308)]),
    "CSV": (b"prompt,completion\n", [("json_invalid", "", 1)]),
    "a string": (b'"messages"\n', [("not_an_object", "", None)]),
    "an array later": (b"[]\n", [("not_an_object", "", None)]),
    "too long": (b'{"prompt": "' + b"a" * 4_200_000 + b'"}\n', [("line_too_long", "", None)]),
}
ROWS: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "no fields": ({}, [("format_unknown", "")]),
    "other fields": ({"question": "a", "answer": "b"}, [("format_unknown", "")]),
    "another format": ({"prompt": "a", "completion": "b"}, [("format_mixed", "")]),
    "unknown field": (chat(user(), answer(), topic="breakfast"), [("field_unknown", "*")]),
    "messages is text": ({"messages": "Hi."}, [("type_wrong", "messages")]),
    "messages is null": ({"messages": None}, [("field_missing", "messages")]),
    "no messages": (chat(), [("list_empty", "messages")]),
    "message is text": (chat("Hi.", user(), answer()), [("type_wrong", "messages[0]")]),
    "no role": (chat(user(), answer(), {"content": "a"}, answer()), [("field_missing", "messages[2].role")]),
    "unknown role": (chat({"role": "bot", "content": "a"}, user(), answer()), [("role_unknown", "messages[0].role")]),
    "role is a list": (chat({"role": [], "content": "a"}, user(), answer()), [("role_unknown", "messages[0].role")]),
    "no content": (chat({"role": "user"}, answer()), [("field_missing", "messages[0].content")]),
    "content is null": (chat(user(None), answer()), [("field_missing", "messages[0].content")]),
    "content is a number": (chat(user(7), answer()), [("type_wrong", "messages[0].content")]),
    "no parts": (
        chat(user([]), answer()),
        [("list_empty", "messages[0].content")],
    ),
    "part is text": (
        chat(user(["a", {"type": "text", "text": "b"}]), answer()),
        [("type_wrong", "messages[0].content[0]")],
    ),
    "unknown part": (
        chat(user([{"type": "audio"}, {"type": "text", "text": "a"}]), answer()),
        [("part_unknown", "messages[0].content[0].type")],
    ),
    "part without text": (
        chat(user([{"type": "text"}, {"type": "text", "text": "a"}]), answer()),
        [("field_missing", "messages[0].content[0].text")],
    ),
    "image": (chat(user([IMAGE]), answer()), [("image", "messages[0].content[0]")]),
    "image of the assistant": (chat(user(), answer([IMAGE])), [("image_misplaced", "messages[1].content[0]")]),
    "image detail": (
        chat(
            user([{"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "best"}}]), answer()
        ),
        [("image", "messages[0].content[0]"), ("type_wrong", "messages[0].content[0].image_url.detail")],
    ),
    "field of a message": (chat(user(mood="bright"), answer()), [("field_unknown", "messages[0].*")]),
    "name": (chat(user(name="Ann Lee"), answer()), [("name_invalid", "messages[0].name")]),
    "empty question": (chat(user(" "), answer()), [("content_empty", "messages[0].content")]),
    "system later": (chat(user(), SYSTEM, answer()), [("role_order", "messages[1].role")]),
    "user twice": (chat(user(), user(), answer()), [("role_repeated", "messages[1].role")]),
    "answer first": (chat(SYSTEM, answer()), [("starts_with_answer", "messages[1].role")]),
    "no answer": (chat(SYSTEM, user()), [("no_answer", "messages")]),
    "question last": (chat(user(), answer(), user()), [("ends_without_answer", "messages")]),
    "empty answer": (chat(user(), answer("\n")), [("answer_empty", "messages[1].content")]),
    "answer stops": (chat(user(), answer(LONG)), [("answer_truncated", "messages[1].content")]),
    "code stops": (chat(user(), answer("```\nx = 1")), [("answer_truncated", "messages[1].content")]),
    "weight 2": (chat(user(), answer(weight=2)), [("weight_invalid", "messages[1].weight")]),
    "weight true": (chat(user(), answer(weight=True)), [("weight_invalid", "messages[1].weight")]),
    "weight of a question": (chat(user(weight=0), answer()), [("weight_misplaced", "messages[0].weight")]),
    "weights all 0": (chat(user(), answer(weight=0)), [("weights_zero", "messages")]),
    "lost character": (chat(user("Gr\ufffd\ufffde"), answer()), [("character_replaced", "")]),
    "tools is an object": (chat(user(), answer(), tools={}), [("type_wrong", "tools")]),
    "no tools": (chat(user(), answer(), tools=[]), [("list_empty", "tools")]),
    "type of a tool": (chat(user(), answer(), tools=[{"type": "retrieval"}]), [("tool_type", "tools[0].type")]),
    "tool without type": (chat(user(), answer(), tools=[{"function": FUNCTION}]), [("field_missing", "tools[0].type")]),
    "tool twice": (chat(user(), answer(), tools=[WEATHER, WEATHER]), [("tool_repeated", "tools[1].function.name")]),
    "function twice": (
        chat(user(), answer(), functions=[FUNCTION, FUNCTION]),
        [("tool_repeated", "functions[1].name")],
    ),
    "tool's name": (function(name="get weather"), [("name_invalid", "tools[0].function.name")]),
    "schema's type": (schema(type="dict"), [("tool_schema", "tools[0].function.parameters")]),
    "schema's properties": (schema(properties=["place"]), [("tool_schema", "tools[0].function.parameters")]),
    "schema's required": (schema(required=["town"]), [("tool_schema", "tools[0].function.parameters")]),
    "parallel calls": (
        chat(user(), answer(), tools=[WEATHER], parallel_tool_calls="no"),
        [("type_wrong", "parallel_tool_calls")],
    ),
    "no calls": (
        weather(calls()),
        [("field_missing", "messages[1].content"), ("list_empty", "messages[1].tool_calls")],
    ),
    "call without tools": (
        chat(user(), calls(call())),
        [("tool_unknown", "messages[1].tool_calls[0].function.name")],
    ),
    "unknown tool": (
        weather(calls(call(name="get_time"))),
        [("tool_unknown", "messages[1].tool_calls[0].function.name")],
    ),
    "arguments as an object": (
        weather(calls({**call(), "function": {"name": "get_weather", "arguments": {"place": "Bern"}}})),
        [("type_wrong", "messages[1].tool_calls[0].function.arguments")],
    ),
    "arguments not JSON": (
        weather(calls(call(arguments="place=Bern"))),
        [("arguments_invalid", "messages[1].tool_calls[0].function.arguments")],
    ),
    "required argument": (
        weather(calls(call(arguments='{"unit": "c"}'))),
        [("arguments_mismatch", "messages[1].tool_calls[0].function.arguments")],
    ),
    "argument not in the enum": (
        weather(calls(call(arguments='{"place": "Bern", "unit": "k"}'))),
        [("arguments_mismatch", "messages[1].tool_calls[0].function.arguments")],
    ),
    "type of a call": (weather(calls({**call(), "type": "tool"})), [("tool_type", "messages[1].tool_calls[0].type")]),
    "call without id": (
        weather(calls({key: value for key, value in call().items() if key != "id"})),
        [("field_missing", "messages[1].tool_calls[0].id")],
    ),
    "id twice": (
        weather(calls(call(), call()), result(), answer()),
        [("call_id_repeated", "messages[1].tool_calls[1].id")],
    ),
    "result of no call": (
        weather(calls(call()), result(), result("call_2"), answer()),
        [("call_id_dangling", "messages[3].tool_call_id")],
    ),
    "result without id": (
        weather(calls(call()), result(), {"role": "tool", "content": "Sun."}, answer()),
        [("field_missing", "messages[3].tool_call_id")],
    ),
    "call without result": (
        weather(calls(call(), call("call_2")), result(), answer()),
        [("call_unanswered", "messages[1].tool_calls[1]")],
    ),
    "function's result without call": (
        chat(user(), {"role": "function", "name": "get_weather", "content": "Sun."}, answer()),
        [("result_without_call", "messages[1]")],
    ),
    "function call of nothing": (
        chat(user(), answer(None, function_call={"name": "get_weather", "arguments": "{}"})),
        [("tool_unknown", "messages[1].function_call.name")],
    ),
}
COMPLETIONS: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "no completion": ({"prompt": "a"}, [("field_missing", "completion")]),
    "prompt is a list": ({"prompt": ["a"], "completion": "b"}, [("type_wrong", "prompt")]),
    "empty prompt": ({"prompt": "", "completion": "b"}, [("prompt_empty", "prompt")]),
    "empty completion": ({"prompt": "a", "completion": " "}, [("answer_empty", "completion")]),
    "a third field": ({"prompt": "a", "completion": "b", "context": "c"}, [("field_unknown", "*")]),
    "completion stops": ({"prompt": "a", "completion": LONG}, [("answer_truncated", "completion")]),
}
PREFERENCES: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "input is text": (preference(input="a"), [("type_wrong", "input")]),
    "field of the input": (
        preference(input={"messages": [user()], "topic": "a"}),
        [("field_unknown", "input.*")],
    ),
    "input without messages": (preference(input={"tools": [WEATHER]}), [("field_missing", "input.messages")]),
    "input with an answer": (
        preference(input={"messages": [user(), answer()]}),
        [("input_ends_with_answer", "input.messages")],
    ),
    "no other output": (
        {key: value for key, value in preference().items() if key != "non_preferred_output"},
        [("field_missing", "non_preferred_output")],
    ),
    "empty output": (preference(preferred_output=[]), [("list_empty", "preferred_output")]),
    "output of the user": (
        preference(preferred_output=[user(), answer()]),
        [("role_misplaced", "preferred_output[0].role")],
    ),
    "the same output twice": (
        preference(preferred_output=[answer("Whenever.")]),
        [("outputs_equal", "non_preferred_output")],
    ),
}


def of(data: bytes, line: int) -> list[tuple[str, str, int | None]]:
    """Return what is found in one line of a file that is right without it, having looked that nothing else is."""
    report = validate([data])
    found = report.training.findings

    assert {finding.line for finding in found} <= {line}
    assert json.loads(json.dumps(report.document()))["valid"] is (report.training.errors == 0)
    return [(finding.code, finding.field, finding.column) for finding in found]


@pytest.mark.parametrize("case", LINES)
def test_a_malformed_line(case):
    line, findings = LINES[case]

    assert of(good(5) + line + good(12).split(b"\n", 5)[5], 6) == findings


@pytest.mark.parametrize("case", ROWS)
def test_a_wrong_chat(case):
    row, findings = ROWS[case]

    assert of(good() + lines(row), 13) == [(*finding, None) for finding in findings]


@pytest.mark.parametrize("case", COMPLETIONS)
def test_a_wrong_completion(case):
    row, findings = COMPLETIONS[case]
    right = lines(*({"prompt": f"{each} × 2 =", "completion": f" {2 * each}"} for each in range(12)))

    assert of(right + lines(row), 13) == [(*finding, None) for finding in findings]


@pytest.mark.parametrize("case", PREFERENCES)
def test_a_wrong_preference(case):
    row, findings = PREFERENCES[case]
    right = lines(*(preference(input={"messages": [user(f"What is in room {each}?")]}) for each in range(12)))

    assert of(right + lines(row), 13) == [(*finding, None) for finding in findings]


@pytest.mark.parametrize(
    ("data", "findings"),
    [
        (b"", ["file_empty"]),
        (codecs.BOM_UTF8, ["file_empty"]),
        (good(9), ["too_few_examples"]),
        (good().decode().encode("utf-16"), ["encoding_utf16"]),
        (good().decode().encode("utf-32"), ["encoding_utf16"]),
        (b"[" + good(12)[:-1].replace(b"\n", b",") + b"]", ["json_array", "too_few_examples"]),
        (b"[\n" + good(12), ["json_array"]),
    ],
    ids=["empty", "BOM alone", "nine", "UTF-16", "UTF-32", "array", "array over lines"],
)
def test_a_file_that_is_wrong_as_a_whole(data, findings):
    assert sorted(each.code for each in validate([data]).training.findings) == findings


def test_a_file_of_more_than_512_mib_is_refused_and_not_read_on():
    blank = b"\n" * (1 << 20)
    report = validate([good(), *[blank] * 2, *[b"x" * (1 << 20)] * 510])

    assert report.training.counts["file_too_large"] == 1
    assert not report.is_valid
    assert "json_invalid" not in report.training.counts


def test_every_code_has_a_case():
    cases = [
        finding[0] for of in (LINES, ROWS, COMPLETIONS, PREFERENCES) for _, found in of.values() for finding in found
    ]
    elsewhere = {code for code in CODES if code.startswith(("file_", "context_", "duplicate", "leak", "encoding_"))}

    assert set(CODES) - elsewhere - set(cases) == {"too_few_examples", "json_array", "answers_differ", "format_differs"}
