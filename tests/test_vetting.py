"""Vetting a streamed answer: nothing goes that no window has shown whole, whatever the cuts, at a flat cost."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import FilterUnavailable, PluginFailed, Refused
from sluicegate.policies import DEFAULT_V2, NOT_FILTERED, Mode
from sluicegate.requests import CompletionRequest
from sluicegate.streams import collect
from sluicegate.testing import Assembly, FakeModel, answered, chat_request, check_chunking, plugin_of
from sluicegate.types import Chunk, FilterOffsets, Outcome, ToolCall
from sluicegate.vetting import AHEAD, LAG, Windows, vet

WINDOWS = Windows(overlap=40, first=50, largest=120)
ASYNCHRONOUS = replace(DEFAULT_V2, mode=Mode.ASYNCHRONOUS)
CLEAN = {"hate": {"filtered": False, "severity": "safe"}, "sexual": {"filtered": False, "severity": "safe"}}
HARM = "something vile"
VILE = CLEAN | {"hate": {"filtered": True, "severity": "high"}}
STREAMED = chat_request("?", stream=True)
PROSE = "The quick brown fox jumps over the lazy dog, and then it sleeps in the sun for the rest of the day. "


class Detector:
    """Refuses ``HARM``, and remembers what it was shown."""

    def __init__(self, windows=WINDOWS, name="detector"):
        self.shown = []
        self.waits = []
        self.__name__ = name
        self._windows = windows

    async def __call__(self, text):
        self.shown.append(text)
        for wait in self.waits:
            await wait.wait()
        return VILE if HARM in text else CLEAN

    @property
    def plugin(self):
        async def post_filter(chunks, request, policy):
            async with vet(chunks, self, request, policy, self._windows) as vetted:
                async for chunk in vetted:
                    yield chunk

        return plugin_of(post_filter, name=self.__name__)


def pieces(text, size=7):
    return [text[start : start + size] for start in range(0, len(text), size)]


def prose(length):
    return (PROSE * (length // len(PROSE) + 1))[:length]


async def let_others_run():
    for _ in range(300):
        await asyncio.sleep(0)


# --- what goes and what does not -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "short",
        prose(350),
        prose(170) + HARM + prose(170),
        HARM + prose(200),
        prose(95) + HARM,
        "x" * 120 + HARM + "y" * 90,
        " " * 300,
        "",
        '"' + r"\u0041\n\\\ud83d\ude00 " * 14 + HARM[:9] + r"\u0020vile" + r" \u0041" * 20,
    ],
    ids=["short", "harmless", "in the middle", "first", "last", "no spaces", "blank", "empty", "escapes"],
)
async def test_what_goes_does_not_depend_on_how_the_model_cuts_its_text(text):
    await check_chunking(Detector().plugin, text)


async def test_two_filters_in_a_row_do_not_depend_on_the_cuts_either():
    async def refuse_dogs(text):
        return {"violence": {"filtered": "lazy cat" in text, "severity": "low"}}

    async def post_filter(chunks, request, policy):
        first, second = Detector(), refuse_dogs
        async with vet(chunks, first, request, policy, WINDOWS) as once, vet(once, second, request, policy) as twice:
            async for chunk in twice:
                yield chunk

    await check_chunking(plugin_of(post_filter), prose(250) + HARM + prose(50))
    await check_chunking(plugin_of(post_filter), prose(150) + "lazy cat" + prose(150) + HARM)


@given(
    st.integers(0, 600),
    st.integers(0, 200),
    st.lists(st.integers(1, 60), min_size=1),
    st.sampled_from([HARM, HARM + "!" * (WINDOWS.overlap - len(HARM))]),
    st.sampled_from([PROSE, "nospacesatall", "Übergröße 漢字。 "]),
)
async def test_a_passage_as_long_as_the_overlap_never_goes_in_part(before, after, sizes, harm, filler):
    text = (filler * 100)[:before] + harm + (filler * 100)[:after]
    cut, chunks = 0, []
    while cut < len(text):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(text[cut : cut + size])
        cut += size

    async def whole(window):
        return VILE if harm in window else CLEAN

    async def post_filter(chunks, request, policy):
        async with vet(chunks, whole, request, policy, WINDOWS) as vetted:
            async for chunk in vetted:
                yield chunk

    result = await answered("?", FakeModel(*chunks), post_filter=[plugin_of(post_filter)])

    assert result.finish_reasons == {0: "content_filter"}
    assert len(result.text) <= before
    assert text.startswith(result.text)
    [answer] = result.exchange.answers
    assert result.text + answer.withheld in [text[:end] for end in range(len(text) + 1)]
    assert harm in answer.withheld


@given(st.text(), st.integers(1, 30))
async def test_what_is_harmless_goes_as_it_is(text, size):
    chunks = [Chunk(piece, logprobs={"content": [{"token": piece}]}) for piece in pieces(text, size)]

    result = await answered("?", FakeModel(*chunks), post_filter=[Detector().plugin])

    kept = [replace(chunk, content_filter_results={}) for chunk in result.chunks]
    assert kept == [*chunks, Chunk(finish_reason="stop")]


async def test_each_chunk_has_the_verdicts_of_the_window_that_let_it_go_and_the_last_one_none():
    levels = iter(["safe", "low", "medium", "safe"])

    async def detect(text):
        return {"hate": {"filtered": False, "severity": next(levels)}}

    async def post_filter(chunks, request, policy):
        async with vet(chunks, detect, request, policy, WINDOWS) as vetted:
            async for chunk in vetted:
                yield chunk

    result = await answered("?", FakeModel(*pieces(prose(300))), post_filter=[plugin_of(post_filter)])

    seen = [chunk.content_filter_results["hate"]["severity"] for chunk in result.chunks[:-1]]
    assert list(dict.fromkeys(seen)) == ["safe", "low", "medium"]
    assert result.chunks[-1] == Chunk(finish_reason="stop")
    assert result.exchange.answers[0].content_filter_results == {"hate": {"filtered": False, "severity": "medium"}}


async def test_a_refusal_carries_all_verdicts_and_the_text_before_it_stays():
    result = await answered("?", FakeModel(*pieces(prose(300) + HARM)), post_filter=[Detector().plugin])

    assert result.chunks[-1] == Chunk(finish_reason="content_filter", content_filter_results=VILE)
    assert 150 < len(result.text) <= 300
    assert result.exchange.outcome is Outcome.CUT


# --- every channel ---------------------------------------------------------------------------------------------------


def calling(name, *arguments):
    first, *rest = arguments or ("",)
    yield Chunk(tool_calls=(ToolCall(0, "call-1", name, first),))
    for piece in rest:
        yield Chunk(tool_calls=(ToolCall(0, None, None, piece),))
    yield Chunk(finish_reason="tool_calls")


ESCAPED = "".join(f"\\u{ord(char):04x}" for char in HARM)


@pytest.mark.parametrize(
    "chunks",
    [
        [Chunk(refusal=prose(100)), Chunk(refusal=HARM)],
        list(calling("lookup", '{"a": "', *pieces(prose(150)), *HARM, '"}')),
        list(calling("lookup", '{"a": "', *pieces(ESCAPED), '"}')),
        list(calling(HARM, "{}")),
        [Chunk("fine. "), *calling("lookup", json.dumps({"a": HARM}))],
    ],
    ids=["refusal", "arguments", "escaped arguments", "name", "after text"],
)
async def test_all_that_reaches_the_caller_is_vetted(chunks):
    result = await answered("?", FakeModel(*chunks), post_filter=[Detector().plugin])

    assert result.finish_reasons == {0: "content_filter"}
    sent = await collect(stream(*result.chunks))
    said = sent.text + sent.refusal + "".join((call.name or "") + call.arguments for call in sent.tool_calls)
    assert HARM not in said
    assert ESCAPED[:12] not in said


async def stream(*chunks):
    for chunk in chunks:
        yield chunk


async def test_text_does_not_wait_for_the_end_of_a_tool_call_that_follows():
    never = asyncio.Event()
    detector = Detector()
    model = FakeModel("I look it up.", Chunk(tool_calls=(ToolCall(0, "call-1", "lookup", "{"),)), never)
    async with (
        Assembly(model, post_filter=[detector.plugin]) as assembly,
        aclosing(assembly.pipeline.chunks(assembly.call("?"))) as answer,
    ):
        first = await anext(answer)

    assert (first.text, detector.shown) == ("I look it up.", ["I look it up."])


async def test_a_channel_that_goes_on_after_another_is_seen_with_its_last_characters():
    chunks = ["it is something", Chunk(refusal="no"), " vile"]

    result = await answered("?", FakeModel(*chunks), post_filter=[Detector().plugin])

    assert (result.text, result.finish_reasons) == ("it is something", {0: "content_filter"})


async def test_a_cut_inside_a_tool_call_keeps_its_pieces_in_order():
    chunks = calling("lookup", '{"a": "', *pieces(prose(200)), HARM)

    result = await answered("?", FakeModel(*chunks), post_filter=[Detector().plugin])

    sent = await collect(stream(*result.chunks))
    assert sent.tool_calls[0].name == "lookup"
    assert 60 < len(sent.tool_calls[0].arguments) <= 207
    assert ('{"a": "' + prose(200)).startswith(sent.tool_calls[0].arguments)


# --- cost and delay --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 100_000])
async def test_an_answer_costs_the_same_for_each_character_however_long_it_is(size):
    detector = Detector()

    await answered("?", FakeModel(*pieces(prose(100_000), size)), post_filter=[detector.plugin])

    new = WINDOWS.largest
    assert len(detector.shown) <= 100_000 / new + 3
    assert sum(map(len, detector.shown)) <= 100_000 * (new + WINDOWS.overlap + 48) / new
    assert max(map(len, detector.shown)) <= new + WINDOWS.overlap + 48


async def test_the_first_text_goes_when_the_first_window_is_full():
    never = asyncio.Event()
    model = FakeModel(*prose(WINDOWS.first + WINDOWS.overlap), never)
    async with (
        Assembly(model, post_filter=[Detector().plugin]) as assembly,
        aclosing(assembly.pipeline.chunks(assembly.call("?"))) as answer,
    ):
        first = await anext(answer)

    assert first.text == PROSE[0]


async def test_no_window_is_split_inside_a_word():
    detector = Detector()

    await answered("?", FakeModel(prose(600)), post_filter=[detector.plugin])

    words = {word for window in detector.shown[:-1] for word in window.split()}
    assert words <= set(PROSE.split())


async def test_the_model_is_read_on_while_a_window_is_vetted_but_not_without_end():
    detector = Detector()
    detector.waits.append(asyncio.Event())
    model = FakeModel(*prose(1000))
    async with Assembly(model, post_filter=[detector.plugin]) as assembly:
        answer = assembly.pipeline.chunks(assembly.call("?"))
        reading = asyncio.create_task(collect(answer))
        await let_others_run()
        at_first_window = WINDOWS.first + WINDOWS.overlap
        sent = model.sent
        detector.waits.pop().set()
        whole = await reading

    assert at_first_window < sent <= at_first_window + AHEAD + 1
    assert whole.text == prose(1000)


async def test_another_answer_goes_on_while_a_window_is_vetted():
    detector = Detector()
    detector.waits.append(asyncio.Event())
    async with Assembly(FakeModel("one"), post_filter=[detector.plugin]) as assembly:
        slow = asyncio.create_task(collect(assembly.pipeline.chunks(assembly.call("?"))))
        await let_others_run()
        held = detector.waits.pop()
        other = await collect(assembly.pipeline.chunks(assembly.call("?")))
        held.set()

        assert (other.text, (await slow).text) == ("one", "one")


@pytest.mark.parametrize("policy", [DEFAULT_V2, ASYNCHRONOUS], ids=["default", "asynchronous"])
async def test_nothing_is_left_running_when_the_caller_leaves(policy):
    detector = Detector()
    detector.waits.append(asyncio.Event())
    model = FakeModel(*prose(1000))
    async with Assembly(model, post_filter=[detector.plugin], policy=policy) as assembly:
        before = asyncio.all_tasks()
        reading = asyncio.create_task(collect(assembly.pipeline.chunks(assembly.call(STREAMED))))
        await let_others_run()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

        assert asyncio.all_tasks() == before
        assert (model.closed, assembly.exchanges[0].outcome) == (1, Outcome.ABANDONED)


@pytest.mark.parametrize("sizes", [(-1, 64, 64), (0, 48, 64), (0, 64, 63)])
def test_windows_that_would_not_go_on_are_refused(sizes):
    with pytest.raises(ValueError, match="windows need"):
        Windows(*sizes)


# --- failures --------------------------------------------------------------------------------------------------------


def failing_from(length, error):
    async def post_filter(chunks, request, policy):
        seen = []

        async def detect(text):
            seen.append(text)
            if sum(map(len, seen)) > length:
                raise error
            return CLEAN

        async with vet(chunks, detect, request, policy, WINDOWS) as vetted:
            async for chunk in vetted:
                yield chunk

    return plugin_of(post_filter, name="failing")


@pytest.mark.parametrize("policy", [DEFAULT_V2, ASYNCHRONOUS], ids=["default", "asynchronous"])
async def test_a_detector_that_is_unavailable_ends_the_answer_with_an_error(policy):
    failing = failing_from(200, FilterUnavailable("The classifier is down."))

    result = await answered(STREAMED, FakeModel(*pieces(prose(500))), post_filter=[failing], policy=policy)

    assert isinstance(result.error, FilterUnavailable)
    assert result.text
    assert result.finish_reasons == {}
    assert result.exchange.outcome is Outcome.FAILED


@pytest.mark.parametrize("policy", [DEFAULT_V2, ASYNCHRONOUS], ids=["default", "asynchronous"])
async def test_where_the_policy_fails_open_the_text_goes_on_and_says_so(policy):
    failing = failing_from(200, FilterUnavailable("The classifier is down."))
    policy = replace(policy, fail_open=True)

    result = await answered(STREAMED, FakeModel(*pieces(prose(500))), post_filter=[failing], policy=policy)

    assert (result.text, result.finish_reasons) == (prose(500), {0: "stop"})
    assert NOT_FILTERED in [chunk.content_filter_results for chunk in result.chunks]


async def test_a_detector_with_a_bug_fails_closed_even_where_the_policy_fails_open():
    policy = replace(DEFAULT_V2, fail_open=True)

    result = await answered("?", "text", post_filter=[failing_from(0, ValueError("canary"))], policy=policy)

    assert isinstance(result.error, PluginFailed)
    assert (result.error.plugin, result.text) == ("failing", "")


@pytest.mark.parametrize("end", [ValueError("canary"), Refused(VILE)], ids=["fails", "refuses"])
async def test_what_came_before_the_model_failed_is_vetted_and_sent(end):
    detector = Detector()

    result = await answered("?", FakeModel("so far ", "so good", end), post_filter=[detector.plugin])

    assert (result.text, detector.shown) == ("so far so good", ["so far so good"])
    assert result.finish_reasons == ({0: "content_filter"} if isinstance(end, Refused) else {})
    assert isinstance(result.error, PluginFailed) is not isinstance(end, Refused)


async def test_what_an_earlier_filter_let_go_before_it_refused_is_vetted_by_the_later_one_and_sent():
    lenient = Detector(name="lenient")
    text = prose(300) + HARM

    alone = await answered("?", FakeModel(*pieces(text)), post_filter=[Detector(name="strict").plugin])
    both = await answered("?", FakeModel(*pieces(text)), post_filter=[Detector(name="strict").plugin, lenient.plugin])

    assert both.text == alone.text
    assert both.chunks[-1].content_filter_results == VILE
    assert both.exchange.answers[0].withheld.endswith(HARM)


async def test_what_a_later_filter_held_when_an_earlier_one_refused_is_withheld():
    async def post_filter(chunks):
        held = [chunk async for chunk in chunks]
        for chunk in held:
            yield chunk

    holding = plugin_of(post_filter, name="holding")

    result = await answered("?", FakeModel(*pieces(prose(300) + HARM)), post_filter=[Detector().plugin, holding])

    assert (result.text, result.exchange.answers[0].withheld) == ("", prose(300) + HARM)


async def test_each_choice_is_vetted_on_its_own():
    model = FakeModel(
        *(Chunk(text, index=index) for text in pieces(prose(300)) for index in (0, 1)), Chunk(HARM, index=1)
    )

    result = await answered(chat_request("?", n=2), model, post_filter=[Detector().plugin])

    assert result.finish_reasons == {0: "stop", 1: "content_filter"}
    assert result.exchange.answers[0].text == prose(300)
    assert result.exchange.answers[1].withheld.endswith(HARM)


# --- asynchronous mode -----------------------------------------------------------------------------------------------


def annotations(result):
    return [chunk for chunk in result.chunks if chunk.content_filter_offsets]


async def test_text_flows_while_nothing_is_vetted_yet():
    detector = Detector()
    detector.waits.append(asyncio.Event())
    model = FakeModel(*pieces(prose(500)))
    async with (
        Assembly(model, post_filter=[detector.plugin], policy=ASYNCHRONOUS) as assembly,
        aclosing(assembly.pipeline.chunks(assembly.call(STREAMED))) as answer,
    ):
        flown = [await anext(answer) for _ in pieces(prose(500))]

    assert flown == [Chunk(piece) for piece in pieces(prose(500))]


async def test_verdicts_follow_with_offsets_from_the_start_of_the_prompt_and_the_end_waits_for_all():
    request = chat_request("How are you?", stream=True)

    result = await answered(
        request, FakeModel(*pieces(prose(500))), post_filter=[Detector().plugin], policy=ASYNCHRONOUS
    )

    offsets = [chunk.content_filter_offsets for chunk in annotations(result)]
    assert all(
        chunk == Chunk(content_filter_results=CLEAN, content_filter_offsets=chunk.content_filter_offsets)
        for chunk in annotations(result)
    )
    assert offsets[0].start_offset == len("How are you?")
    assert offsets[-1] == FilterOffsets(512, offsets[-1].start_offset, 512)
    for earlier, later in pairwise(offsets):
        assert earlier.start_offset < later.start_offset < earlier.end_offset < later.end_offset
        assert earlier.check_offset <= later.check_offset
    assert result.text == prose(500)
    assert result.chunks[-1] == Chunk(finish_reason="stop")


async def test_offsets_of_a_completion_count_from_the_start_of_its_own_prompt():
    request = CompletionRequest.model_validate({"prompt": ("one", "three"), "stream": True})

    result = await answered(request, FakeModel("text"), post_filter=[Detector().plugin], policy=ASYNCHRONOUS)

    assert {chunk.index: chunk.content_filter_offsets.start_offset for chunk in annotations(result)} == {0: 3, 1: 5}


@pytest.mark.parametrize("size", [1, 50, 10_000])
async def test_a_violation_is_signalled_within_a_thousand_characters(size):
    text = prose(700) + HARM + prose(5000)

    result = await answered(
        STREAMED, FakeModel(*pieces(text, size)), post_filter=[Detector().plugin], policy=ASYNCHRONOUS
    )

    assert text.startswith(result.text)
    assert len(result.text) <= 700 + len(HARM) + LAG
    last = result.chunks[-1]
    assert (last.finish_reason, last.content_filter_results) == ("content_filter", {"hate": VILE["hate"]})
    place = 1 + text.index(HARM)
    assert last.content_filter_offsets.start_offset <= place < last.content_filter_offsets.end_offset
    assert last.content_filter_offsets.check_offset <= place
    [answer] = result.exchange.answers
    assert answer.text == result.text
    assert text.startswith(answer.text + answer.withheld)
    assert (answer.finish_reason, result.exchange.outcome) == ("content_filter", Outcome.CUT)


async def test_text_waits_when_it_would_be_too_far_ahead_of_what_is_vetted():
    detector = Detector()
    detector.waits.append(asyncio.Event())
    async with Assembly(FakeModel(*prose(3000)), post_filter=[detector.plugin], policy=ASYNCHRONOUS) as assembly:
        flown = []

        async def read():
            async for chunk in assembly.pipeline.chunks(assembly.call(STREAMED)):
                flown.append(chunk.text)

        reading = asyncio.create_task(read())
        while len(flown) < LAG:
            await asyncio.sleep(0)
        await let_others_run()
        ahead = len(flown)
        detector.waits.pop().set()
        await reading

    assert ahead == LAG
    assert "".join(flown) == prose(3000)


async def test_an_answer_that_is_not_streamed_is_vetted_before_it_is_sent():
    text = prose(300) + HARM + prose(300)

    result = await answered("?", FakeModel(text), post_filter=[Detector().plugin], policy=ASYNCHRONOUS)

    assert len(result.text) <= 300
    assert annotations(result) == []


async def test_filters_in_a_row_never_say_that_more_is_vetted_than_is():
    slow, fast = Detector(name="slow"), Detector(Windows(overlap=20, first=49, largest=60), name="fast")
    held = asyncio.Event()
    slow.waits.append(held)
    seen = []
    model = FakeModel(*pieces(prose(600)))
    async with Assembly(model, post_filter=[slow.plugin, fast.plugin], policy=ASYNCHRONOUS) as assembly:
        async for chunk in assembly.pipeline.chunks(assembly.call(STREAMED)):
            if chunk.content_filter_offsets:
                seen.append((held.is_set(), chunk.content_filter_offsets))
            if len(fast.shown) > 5:
                held.set()

    checks = [offsets.check_offset for _, offsets in seen]
    assert {offsets.check_offset for released, offsets in seen if not released} == {1}
    assert checks == sorted(checks)
    assert checks[-1] == 601
