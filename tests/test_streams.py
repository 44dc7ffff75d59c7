"""Helpers for post-filters: what they do must not depend on how the model cuts its text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import Refused
from sluicegate.streams import StopAt, by_word, collect, hold_back
from sluicegate.testing import check_chunking, plugin_of, post_filtered
from sluicegate.types import Chunk, ToolCall, worst_of

VERDICT = {"test": {"filtered": True}}
FINISH = Chunk(finish_reason="stop")
LOGPROBS = {"content": [{"token": "x", "logprob": -0.5}]}


async def stream(*chunks):
    for chunk in chunks:
        yield chunk


class StopBefore:
    """A scanner that stops before a character, and holds back another until it sees what follows."""

    def __init__(self, stop="#", hold="+"):
        self._stop = stop
        self._hold = hold
        self._seen = ""

    def feed(self, text, final):
        self._seen += text
        if self._stop in self._seen:
            raise StopAt(self._seen.index(self._stop), VERDICT)
        held = len(self._seen) - len(self._seen.rstrip(self._hold))
        return len(self._seen) if final else len(self._seen) - held


async def held_back(*chunks, scanner=lambda channel: StopBefore()):
    """Return what passes and whether the answer was refused."""
    passed = []
    try:
        async for chunk in hold_back(stream(*chunks), scanner):
            passed.append(chunk)
    except Refused as refusal:
        return passed, refusal.results == VERDICT
    return passed, False


def arguments(text, index=0):
    return Chunk(tool_calls=(ToolCall(index, None, None, text),))


# --- collect ---------------------------------------------------------------------------------------------------------


async def test_collecting_joins_texts_arguments_and_verdicts():
    whole = await collect(
        stream(
            Chunk("a", index=2, content_filter_results={"hate": {"filtered": False}}),
            Chunk(refusal="no", index=2),
            Chunk("b", index=2, tool_calls=(ToolCall(1, "call-1", "lookup", "{"), ToolCall(0, "call-0", "find", "{}"))),
            Chunk(index=2, tool_calls=(ToolCall(1, None, None, "}"),), finish_reason="tool_calls"),
            Chunk(index=2, content_filter_results={"violence": {"filtered": False}}),
        )
    )

    assert whole == Chunk(
        "ab",
        index=2,
        refusal="no",
        tool_calls=(ToolCall(0, "call-0", "find", "{}"), ToolCall(1, "call-1", "lookup", "{}")),
        finish_reason="tool_calls",
        content_filter_results={"hate": {"filtered": False}, "violence": {"filtered": False}},
    )


async def test_collecting_nothing_gives_an_empty_chunk():
    assert await collect(stream()) == Chunk()


# --- the worst verdicts ----------------------------------------------------------------------------------------------


def test_of_two_verdicts_the_worse_counts_with_the_details_of_both():
    one = {
        "hate": {"filtered": False, "severity": "low"},
        "custom_blocklists": {"filtered": False, "details": []},
        "protected_material_code": {"filtered": False, "detected": True, "citation": {"URL": "u", "license": "MIT"}},
        "only": {"filtered": False, "detected": False},
    }
    other = {
        "hate": {"filtered": False, "severity": "safe"},
        "custom_blocklists": {"filtered": True, "details": [{"filtered": True, "id": "names"}]},
        "protected_material_code": {"filtered": False, "detected": False},
        "error": {"code": "content_filter_error", "message": "The contents are not filtered"},
    }

    assert (
        worst_of(one, other)
        == worst_of(other, one)
        == {
            "hate": one["hate"],
            "custom_blocklists": other["custom_blocklists"],
            "protected_material_code": one["protected_material_code"],
            "only": one["only"],
            "error": other["error"],
        }
    )


RESULTS = st.dictionaries(
    st.sampled_from(["hate", "custom_blocklists"]),
    st.fixed_dictionaries(
        {"filtered": st.booleans()},
        optional={
            "severity": st.sampled_from(["safe", "low", "medium", "high"]),
            "details": st.lists(st.sampled_from(["a", "b", "c"]), unique=True),
        },
    ),
)


@given(RESULTS, RESULTS, RESULTS)
def test_it_makes_no_difference_which_parts_are_joined_first(one, other, third):
    def told(results):
        return {name: (result["filtered"], result.get("severity")) for name, result in results.items()}

    assert told(worst_of(worst_of(one, other), third)) == told(worst_of(one, worst_of(other, third)))


async def test_collecting_keeps_the_worst_verdict_though_a_better_one_follows():
    low, safe = ({"hate": {"filtered": False, "severity": severity}} for severity in ("low", "safe"))

    whole = await collect(stream(Chunk("a", content_filter_results=low), Chunk("b", content_filter_results=safe)))

    assert whole.content_filter_results == low


# --- by_word ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet="ab \n", max_size=4)))
async def test_words_are_never_split_and_nothing_is_lost(texts):
    chunks = [Chunk(text) for text in texts] + [FINISH]

    passed = [chunk async for chunk in by_word(stream(*chunks))]

    assert "".join(chunk.text for chunk in passed) == "".join(texts)
    assert passed[-1].finish_reason == "stop"
    for piece in passed[:-2]:
        assert not piece.text or piece.text[-1].isspace()


async def test_a_chunk_that_is_not_cut_keeps_its_log_probabilities():
    chunk = Chunk("word ", logprobs=LOGPROBS)

    assert [chunk async for chunk in by_word(stream(chunk, FINISH))] == [chunk, FINISH]


async def test_a_chunk_that_is_cut_loses_its_log_probabilities():
    chunks = [Chunk("a wo", logprobs=LOGPROBS), Chunk("rd", logprobs=LOGPROBS), FINISH]

    passed = [chunk async for chunk in by_word(stream(*chunks))]

    assert passed == [Chunk("a "), Chunk("word", finish_reason="stop")]


async def test_tool_calls_and_refusals_do_not_wait_for_a_word_to_end():
    chunks = [Chunk("wo", index=1), Chunk(index=1, refusal="no"), Chunk("rd", index=1, tool_calls=(ToolCall(0),))]

    passed = [chunk async for chunk in by_word(stream(*chunks))]

    assert passed == [
        Chunk(index=1, refusal="no"),
        Chunk(index=1, tool_calls=(ToolCall(0),)),
        Chunk("word", index=1),
    ]


async def test_a_filter_by_words_does_not_depend_on_the_cuts():
    async def post_filter(chunks):
        async for chunk in by_word(chunks):
            yield Chunk(chunk.text.replace("secret", "[word]"), finish_reason=chunk.finish_reason)

    assert await post_filtered(plugin_of(post_filter), "a secret word") == "a [word] word"
    await check_chunking(plugin_of(post_filter), "a secret, a secret  word\n")


async def test_check_chunking_finds_a_filter_that_depends_on_the_cuts():
    async def post_filter(chunks):
        async for chunk in chunks:
            yield Chunk(chunk.text.replace("secret", "[word]"), finish_reason=chunk.finish_reason)

    with pytest.raises(AssertionError, match="text cut at 3"):
        await check_chunking(plugin_of(post_filter), "a secret word")


# --- hold_back -------------------------------------------------------------------------------------------------------


async def test_what_no_scanner_holds_passes_at_once_as_it_is():
    chunks = [Chunk("some ", logprobs=LOGPROBS), arguments("{}"), Chunk(refusal="no"), FINISH]

    assert await held_back(*chunks) == (chunks, False)


async def test_what_is_held_passes_unchanged_once_it_may():
    chunks = [Chunk("a+", logprobs=LOGPROBS), Chunk("b", logprobs=LOGPROBS), FINISH]

    assert await held_back(*chunks) == (chunks, False)


async def test_what_is_held_is_not_sent_before_the_scanner_lets_it_go():
    taken = []

    async def watched():
        for chunk in (Chunk("a+"), Chunk("b"), FINISH):
            taken.append(chunk.text)
            yield chunk

    first = await anext(hold_back(watched(), lambda channel: StopBefore()))

    assert (first, taken) == (Chunk("a+"), ["a+", "b"])


async def test_nothing_overtakes_what_is_held():
    chunks = [Chunk("a+"), arguments("{}"), FINISH]

    assert await held_back(*chunks, scanner=lambda channel: StopBefore()) == (chunks, False)
    assert await held_back(*chunks[:-1], scanner=lambda channel: StopBefore()) == ([], False)


async def test_what_is_held_when_the_answer_breaks_off_is_not_sent():
    assert await held_back(Chunk("a"), Chunk("b+", finish_reason=None)) == ([Chunk("a")], False)


@pytest.mark.parametrize(
    ("chunk", "passed"),
    [
        (Chunk("ab#c"), [Chunk("ab")]),
        (Chunk("#c"), []),
        (Chunk("ab", refusal="c#"), [Chunk("ab"), Chunk(refusal="c")]),
        (Chunk("ab+", refusal="c#"), [Chunk("ab")]),
        (
            Chunk(refusal="c", tool_calls=(ToolCall(0, "id", "name", "#"),)),
            [Chunk(refusal="c"), Chunk(tool_calls=(ToolCall(0, "id", "name"),))],
        ),
        (Chunk(tool_calls=(ToolCall(0, "id", "na#me", "{}"),)), []),
        (
            Chunk(tool_calls=(ToolCall(0, "id", "name", "{}"), ToolCall(1, "id", "name", "{#}"))),
            [
                Chunk(tool_calls=(ToolCall(0, "id", "name"),)),
                arguments("{}"),
                Chunk(tool_calls=(ToolCall(1, "id", "name"),)),
                arguments("{", index=1),
            ],
        ),
        (Chunk("ab#", logprobs=LOGPROBS, finish_reason="stop"), [Chunk("ab")]),
    ],
)
async def test_a_stopped_answer_is_sent_up_to_the_stop(chunk, passed):
    assert await held_back(chunk) == (passed, True)


async def test_two_pieces_of_one_call_in_one_chunk_are_both_looked_at():
    chunk = Chunk(tool_calls=(ToolCall(0, "id", "name", "a"), ToolCall(0, None, None, "+")))

    passed, refused = await held_back(chunk, arguments("#"))

    assert refused
    assert "".join(call.arguments for part in passed for call in part.tool_calls) == "a+"


async def test_a_name_that_comes_in_pieces_is_one_text_to_its_scanner():
    pieces = [Chunk(tool_calls=(ToolCall(0, "id", "na+"),)), Chunk(tool_calls=(ToolCall(0, None, "#"),))]

    assert await held_back(*pieces) == ([pieces[0]], True)


async def test_an_answer_that_is_stopped_at_its_end_has_no_finish_reason():
    class StopAtEnd:
        def feed(self, text, final):
            if final:
                raise StopAt(2, VERDICT)
            return 2

    passed, refused = await held_back(Chunk("ab"), FINISH, scanner=lambda channel: StopAtEnd())

    assert refused
    assert [chunk.finish_reason for chunk in passed] == [None, None]


async def test_each_channel_has_a_scanner_of_its_own():
    made = []

    def scanner(channel):
        made.append(channel)
        return StopBefore()

    calls = (ToolCall(0, "id", "find", "{"), ToolCall(1, "id", "look", "{"))

    await held_back(Chunk("a", refusal="b", tool_calls=calls), Chunk("c"), FINISH, scanner=scanner)

    assert made == [
        "text",
        "refusal",
        "tool_calls[0].name",
        "tool_calls[0].arguments",
        "tool_calls[1].name",
        "tool_calls[1].arguments",
    ]


@pytest.mark.parametrize("text", ["plain", "a+b++c", "ab#cd", "ab+#cd", "#", "a+", "+", ""])
async def test_holding_back_does_not_depend_on_the_cuts(text):
    async def post_filter(chunks):
        async for chunk in hold_back(chunks, lambda channel: StopBefore()):
            yield chunk

    await check_chunking(plugin_of(post_filter), text)
