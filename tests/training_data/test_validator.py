"""What is asked of files as wholes: right rows pass, repetitions are found, nothing is quoted, memory is bounded."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.training_data import CODES, FileValidator, validate, validate_async
from sluicegate.training_data.languages import guess
from sluicegate.training_data.lines import Lines
from sluicegate.training_data.repeats import normalised
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

RIGHT = {
    "question and answer": chat(user(), answer()),
    "developer": chat({"role": "developer", "content": "Be brief."}, user(), answer()),
    "several turns with weights": chat(SYSTEM, user(), answer("At ten.", weight=0), user("No!"), answer(weight=1)),
    "content in parts": chat(user([{"type": "text", "text": "When is breakfast?"}]), answer()),
    "name": chat(user(name="guest_12"), answer()),
    "refusal": chat(user("Open room 12."), answer(None, refusal="I must not open rooms of others.")),
    "a call at the end": chat(user(), calls(call()), tools=[WEATHER], parallel_tool_calls=False),
    "a call with null content": chat(user(), {**calls(call()), "content": None}, tools=[WEATHER]),
    "two calls and their results": chat(
        user(), calls(call(), call("call_2")), result("call_2"), result(), answer(), tools=[WEATHER]
    ),
    "the older function call": chat(
        user(),
        answer(None, function_call={"name": "get_weather", "arguments": '{"place": "Bern"}'}),
        {"role": "function", "name": "get_weather", "content": "Rain."},
        answer("Take an umbrella."),
        functions=[FUNCTION],
    ),
    "a function without parameters": chat(
        user(), calls(call(name="now", arguments="{}")), tools=[{"type": "function", "function": {"name": "now"}}]
    ),
    "an answer in Japanese": chat(
        user("朝食は何時ですか"), answer("朝食は七時から十時まで一階の食堂でお召し上がりいただけます" * 4)
    ),
    "a list without full stops": chat(
        user(), answer("There is, every day of the week and all year round:\n- bread and butter")
    ),
    "code": chat(user(), answer("```python\nprint('breakfast')\n```")),
}


def codes(*rows: object, **settings: object) -> dict[str, int]:
    return dict(validate([good(), lines(*rows)], **settings).training.counts)


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_row_has_no_finding(case):
    assert codes(RIGHT[case]) == {}


@pytest.mark.parametrize(
    "row",
    [
        preference(),
        preference(input={"messages": [SYSTEM, user()], "tools": [WEATHER], "parallel_tool_calls": True}),
        preference(
            preferred_output=[calls(call()), result(), answer()], input={"messages": [user()], "tools": [WEATHER]}
        ),
        {"prompt": "Breakfast ->", "completion": " seven\n"},
    ],
)
def test_the_other_formats_pass_too(row):
    report = validate([lines(row)] * 10)

    assert set(report.training.counts) <= {"duplicate"}
    assert report.is_valid


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("end", [True, False])
def test_a_mark_and_either_newline_and_no_last_newline_are_right(start, newline, end):
    data = start + good().replace(b"\n", newline)

    report = validate([data if end else data.removesuffix(newline)])

    assert report.training.counts == {}
    assert (report.training.lines, report.training.examples) == (12, 12)


def test_repetitions_name_the_first_line_and_the_closest_likeness_alone():
    asked = chat(SYSTEM, user("Who is in room 3?"), answer("Guest 3."))
    shouted = chat(SYSTEM, user("who is in ROOM 3"), answer("guest  3!"))
    other = chat(SYSTEM, user("Who is in room 3?"), answer("Nobody."))

    found = validate([good(), lines(asked, shouted, other)]).training.findings

    assert [(each.code, each.line, each.other_line) for each in found] == [
        ("duplicate", 13, 4),
        ("duplicate_normalised", 14, 4),
        ("answers_differ", 15, 4),
    ]


def test_rows_with_other_tools_or_other_numbers_are_no_repetitions():
    sums = [
        chat(user(f"{left} + {right} = ?"), answer(f"{left + right}.")) for left, right in ((1, 23), (12, 3), (1.2, 3))
    ]

    assert codes(chat(user(), answer()), chat(user(), answer(), tools=[WEATHER]), *sums) == {}


def test_validation_data_that_was_trained_on_is_found():
    known = chat(SYSTEM, user("Who is in room 3?"), answer("guest 3"))
    half_known = chat(SYSTEM, user("Who is in room 5"), answer("Somebody."))

    report = validate([good()], [lines(known, half_known, chat(user(), answer()))])

    assert [(each.code, each.line, each.other_line) for each in report.validation.findings] == [
        ("leak", 1, 4),
        ("leak_prompt", 2, 6),
    ]
    assert report.is_valid


def test_validation_data_needs_one_example_in_the_format_of_the_training_data():
    other = validate([good()], [lines({"prompt": "a", "completion": "b"})])
    empty = validate([good()], [])

    assert dict(other.validation.counts) == {"format_differs": 1}
    assert dict(empty.validation.counts) == {"file_empty": 1}
    assert not other.is_valid
    assert not empty.is_valid


def test_tokens_are_counted_by_the_models_tokenizer_or_estimated_and_said_so():
    words = validate([good()], count=lambda text: len(text.split()), context=20)
    guessed = validate([good()], context=20)

    assert (words.training.tokens_are, guessed.training.tokens_are) == ("counted", "estimated")
    assert dict(words.training.counts) == {"context_exceeded": 12, "too_few_examples": 1}
    assert dict(guessed.training.counts) == {"context_exceeded_estimate": 12}
    assert not words.is_valid
    assert guessed.is_valid


def test_statistics_are_of_the_good_examples():
    row = chat(
        user("a" * 40), answer("The breakfast is in the hall and it is from seven to ten in the morning for you.")
    )

    statistics = validate([lines(*[row] * 10)], count=len).training.document()["statistics"]

    assert statistics["messages"] == {"min": 2, "mean": 2.0, "median": 2, "p95": 2, "max": 2}
    assert statistics["tokens"]["total"] == 10 * statistics["tokens"]["max"]
    assert statistics["answer_languages"] == {"en": 10}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Das Frühstück ist von sieben bis zehn und nicht im Zimmer.", "de"),
        ("Le petit déjeuner est servi dans la salle et pas dans les chambres.", "fr"),
        ("El desayuno es a las siete y no se sirve en la habitación.", "es"),
        ("朝食は七時からです", "ja"),
        ("早餐七点开始", "zh"),
        ("Завтрак в семь", "cyrillic"),
        ("xyzzy", "unknown"),
        ("", "unknown"),
    ],
)
def test_languages(text, language):
    assert guess(text) == language


def test_no_report_quotes_what_a_file_says():
    secret = "zebra-crossing"
    rows = [
        chat(user(secret), answer(secret, **{secret: secret})),
        chat({"role": secret, "content": secret}),
        {secret: secret},
        chat(user(), calls(call(id=secret, name=secret, arguments=secret)), **{secret: 1}),
        chat(user(name=secret + "!"), answer(), tools=[{"type": "function", "function": {"name": secret, secret: 1}}]),
        chat(user(), answer(), tools=[{"type": "function", "function": {"name": "a", "parameters": {"type": secret}}}]),
    ]
    broken = f'{{"{secret}": {secret}\n"{secret}\n'.encode()

    report = validate([lines(*rows), broken], [lines(*rows)])

    assert len(report.training.findings) > 10
    assert "zebra" not in json.dumps(report.document()) + repr(report)


def test_findings_beyond_the_most_are_counted():
    report = validate([b"x\n" * 1000 + lines(*[chat(user(), answer())] * 500)])

    assert dict(report.training.counts) == {"json_invalid": 1000, "duplicate": 499}
    assert len(report.training.findings) == 200
    assert report.training.errors == 1000


def test_memory_does_not_grow_with_the_text():
    validator = FileValidator()
    row = lines(chat(user("How are you today? " * 50), answer("I am fine today. " * 50)))
    validator.feed(row * 100)
    tracemalloc.start()

    for _ in range(20):
        validator.feed(row * 1000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 20_000 * 64


def test_a_line_without_end_is_not_held():
    found = Lines(most=10)
    tracemalloc.start()

    assert not [line for _ in range(1000) for line in found.feed(b"x" * 10_000)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 100_000
    assert list(found.feed(b"\nab\n")) == [None, b"ab"]


async def test_the_event_loop_turns_while_a_server_validates():
    turns = 0

    async def source() -> AsyncIterator[bytes]:
        yield b"{\n" * 400_000

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    await validate_async(source())
    turning.cancel()

    assert turns > 10


async def test_the_server_reads_the_same_from_an_asynchronous_source():
    async def source(data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    data, other = good() + lines(*RIGHT.values()) + b"{\n", good(2)

    report = await validate_async(source(data), source(other), context=30)

    assert report == validate([data], [other], context=30)


# --- whatever bytes come ---------------------------------------------------------------------------------------------

KEYS = sorted(
    [
        "messages",
        "role",
        "content",
        "name",
        "weight",
        "tool_calls",
        "function_call",
        "refusal",
        "tool_call_id",
        "tools",
        "functions",
        "parallel_tool_calls",
        "type",
        "function",
        "id",
        "arguments",
        "parameters",
        "properties",
        "required",
        "items",
        "enum",
        "anyOf",
        "additionalProperties",
        "strict",
        "text",
        "image_url",
        "url",
        "detail",
        "prompt",
        "completion",
        "input",
        "preferred_output",
        "non_preferred_output",
    ]
)
WORDS = [
    "system",
    "user",
    "assistant",
    "tool",
    "function",
    "text",
    "image_url",
    "object",
    "string",
    "{}",
    "",
    "a",
    "\ufffd",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=30,
)
MESSAGES = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5) | VALUES, max_size=5)


@given(st.lists(st.dictionaries(st.sampled_from(["messages", "tools", "input", "functions"]), MESSAGES), max_size=5))
@settings(deadline=None, max_examples=300)
def test_no_list_of_messages_crashes_it(rows):
    validate([lines(*rows)], [lines(*rows)], context=5)


@given(st.lists(VALUES, max_size=8))
@settings(deadline=None, max_examples=300)
def test_no_json_crashes_it(rows):
    document = validate([lines(*rows)], [lines(*rows)], context=5).document()

    assert set(document["training"]["counts"]) <= set(CODES)
    json.dumps(document, allow_nan=False)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_no_bytes_crash_it(data):
    validate([data, good(1), data])


BYTES = st.lists(
    st.sampled_from([*good(3).splitlines(keepends=True), b"\n", b"\r\n", b"{", b"\xff\xfe", b"\xef\xbb\xbf", b"\0"])
)


@given(BYTES, st.lists(st.integers(1, 50), min_size=1))
@settings(deadline=None)
def test_no_cut_into_chunks_changes_the_report(pieces, sizes):
    data = b"".join(pieces)
    chunks, at = [], 0
    while at < len(data):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(data[at : at + size])
        at += size

    assert validate(chunks) == validate([data])


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    once = normalised(text)

    assert normalised(once.decode()) == once
