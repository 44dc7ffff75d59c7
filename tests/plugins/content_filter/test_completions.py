"""The classifier after the model, with its own weights: answers by policy, streamed or not."""

from __future__ import annotations

import pytest

from plugins import content_filter
from plugins.content_filter.classifier import HEADS, SEVERITY_HEADS, Scores
from plugins.content_filter.completions import AGAIN, LEAST, MOST, WINDOWS, levels, sentences
from sluicegate.errors import Refused
from sluicegate.policies import DEFAULT_V2, ContentFilter, Mode, Policy, Source
from sluicegate.testing import FakeModel, answered, chat_request, post_filtered
from sluicegate.types import Chunk, ToolCall

THREAT = "I am going to stab you and your family to death tonight."
BENIGN = (
    "Bread is made of flour, water, salt and yeast. Mix them, knead the dough for ten minutes and let it rest until it "
    "has doubled. Heat the oven, shape the loaf, and bake it for half an hour; it is done when it sounds hollow. "
)
SAFE = {category: {"filtered": False, "severity": "safe"} for category in ("hate", "sexual", "violence", "self_harm")}


async def test_a_harmless_answer_goes_with_a_verdict_on_each_category():
    passed = await post_filtered(content_filter, [Chunk(BENIGN * 3), Chunk(finish_reason="stop")])

    assert passed == (Chunk(BENIGN * 3, content_filter_results=SAFE), Chunk(finish_reason="stop"))


async def test_a_threat_ends_the_answer_by_its_severity():
    with pytest.raises(Refused) as refused:
        await post_filtered(content_filter, THREAT)

    assert refused.value.results["violence"] == {"filtered": True, "severity": "high"}


@pytest.mark.parametrize("before", [1, 3, 5])
async def test_a_threat_is_not_hidden_by_harmless_text_around_it(before):
    text = BENIGN * before + THREAT + " " + BENIGN * 3

    result = await answered("?", text, post_filter=[content_filter])

    assert result.finish_reasons == {0: "content_filter"}
    assert (BENIGN * before).startswith(result.text)
    assert len(BENIGN) * before - len(result.text) <= WINDOWS.largest + WINDOWS.overlap


async def test_a_threat_in_a_tool_call_is_found():
    call = ToolCall(0, "call-1", "send_mail", '{"to": "a@b.de", "text": "' + THREAT.replace(" ", "\\u0020") + '"}')

    with pytest.raises(Refused):
        await post_filtered(content_filter, [Chunk(tool_calls=(call,)), Chunk(finish_reason="tool_calls")])


@pytest.mark.parametrize("size", [1, 7, 50, 399])
async def test_the_verdict_does_not_depend_on_how_the_model_cuts_its_text(size):
    text = BENIGN * 2 + THREAT + BENIGN
    cut = [text[start : start + size] for start in range(0, len(text), size)]

    whole = await answered("?", text, post_filter=[content_filter])
    pieces = await answered("?", FakeModel(*cut), post_filter=[content_filter])

    assert (pieces.text, pieces.finish_reasons) == (whole.text, {0: "content_filter"})
    assert pieces.chunks[-1] == whole.chunks[-1]


async def test_a_policy_that_only_annotates_lets_everything_go():
    policy = Policy("annotating", filters=(ContentFilter("Violence", Source.COMPLETION, blocking=False),))

    passed = await post_filtered(content_filter, [Chunk(THREAT, finish_reason="stop")], policy=policy)

    assert passed[0].text == THREAT
    assert passed[0].content_filter_results == {"violence": {"filtered": False, "severity": "high"}}


async def test_a_policy_that_looks_for_nothing_here_holds_nothing():
    policy = Policy("prompts only", filters=(ContentFilter("Violence", Source.PROMPT),))

    assert await post_filtered(content_filter, THREAT, policy=policy) == THREAT


async def test_in_asynchronous_mode_the_verdict_follows_the_text():
    policy = Policy("async", mode=Mode.ASYNCHRONOUS, filters=DEFAULT_V2.filters)
    model = FakeModel(BENIGN, THREAT)

    result = await answered(chat_request("?", stream=True), model, post_filter=[content_filter], policy=policy)

    assert result.text == BENIGN + THREAT
    assert result.finish_reasons == {0: "content_filter"}
    assert result.chunks[-1].content_filter_results["violence"]["filtered"]
    assert set(result.chunks[-1].content_filter_results) < set(SAFE)


@pytest.mark.parametrize("text", ["", "short", "One sentence, and no other.", " ", "a" * MOST])
def test_a_window_of_one_sentence_is_read_once(text):
    assert list(sentences(text)) == []


def test_short_sentences_are_read_with_the_next_and_long_ones_in_parts():
    long = "x" * 300

    read = list(sentences(f"No. Never. I said that it is over!\n\n{long}. Is it? Yes"))

    assert read[0] == "No. Never. I said that it is over!"
    assert (read[1], read[2]) == (long[:MOST], long[MOST - AGAIN :] + ".")
    assert read[3:] == ["Is it? Yes"]
    assert len(read[3]) < LEAST


def scores(category, score, severity):
    heads = dict.fromkeys(HEADS, 0.0) | {category: score}
    return Scores(**heads, severity=dict.fromkeys(SEVERITY_HEADS, 0) | {category: severity}, flagged=frozenset())


@pytest.mark.parametrize(
    ("category", "score", "severity", "level"),
    [
        ("hate", 0.49, 4, 2),
        ("hate", 0.5, 4, 4),
        ("hate", 0.1, 0, 0),
        ("sexual", 0.44, 4, 2),
        ("sexual", 0.45, 4, 4),
        ("violence", 0.44, 4, 4),
    ],
)
def test_hate_and_sexual_content_in_an_answer_block_only_where_it_is_sure(category, score, severity, level):
    assert levels([scores(category, score, severity)])[category] == level


@pytest.mark.parametrize(("severity", "level"), [(6, 4), (4, 2), (2, 0), (0, 0)])
def test_a_sentence_counts_one_level_less_than_its_window(severity, level):
    assert levels([scores("violence", 0.0, 0), scores("violence", 0.9, severity)])["violence"] == level
