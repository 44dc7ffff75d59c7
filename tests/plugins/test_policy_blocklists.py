"""Blocklists of a policy: terms and expressions, in prompts and answers, blocking or noted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plugins import blocklists
from plugins._expressions import HELD, STEP
from sluicegate import Chunk, Refused, ToolCall
from sluicegate.policies import DEFAULT_V2, Blocklist, BlocklistItem, BlocklistUse, Mode, Source
from sluicegate.requests import CompletionRequest
from sluicegate.testing import FakeModel, answered, chat_request, check_chunking, post_filtered, pre_filtered

PROMPT, COMPLETION = Source.PROMPT, Source.COMPLETION
NUMBER = BlocklistItem(r"\bNJ-\d{4}\b", is_regex=True)
TERM = BlocklistItem("Project Nightjar")


def using(*uses):
    return replace(DEFAULT_V2, blocklists=uses)


def listed(name, *items, source=COMPLETION, blocking=True):
    return BlocklistUse(Blocklist(name, items), source, blocking)


def verdict(**lists):
    details = [{"filtered": blocks, "id": name} for name, blocks in lists.items()]
    return {"custom_blocklists": {"filtered": any(lists.values()), "details": details}}


async def refused_prompt(text, policy, **settings):
    with pytest.raises(Refused) as caught:
        await pre_filtered(blocklists, text, policy=policy, **settings)
    return caught.value


# --- prompts ---------------------------------------------------------------------------------------------------------


async def test_a_prompt_with_a_term_or_an_expression_of_the_policy_is_refused():
    policy = using(listed("codenames", TERM, NUMBER, source=PROMPT))

    for text in ("project  NIGHTJAR", "about NJ-1234.", 'arguments {"a": "\\u004eJ-1234"}'):
        assert (await refused_prompt(text, policy)).results == verdict(codenames=True)
    for text in ("nj-1234", "NJ-12345", "Project Nightjars"):
        assert await pre_filtered(blocklists, text, policy=policy) == text


async def test_a_list_counts_only_where_the_policy_uses_it():
    policy = using(listed("codenames", TERM, source=COMPLETION))
    request = await pre_filtered(blocklists, chat_request("Project Nightjar"), policy=policy)

    assert request.prompt_filter_results == {}


async def test_what_is_only_noted_passes_with_a_note_and_a_refusal_names_every_list_that_is_hit():
    noting = listed("noted", TERM, source=PROMPT, blocking=False)
    noted = await pre_filtered(blocklists, chat_request("Project Nightjar"), policy=using(noting))
    both = await refused_prompt("Project Nightjar NJ-1234", using(noting, listed("numbers", NUMBER, source=PROMPT)))

    assert noted.prompt_filter_results == {0: verdict(noted=False)}
    assert both.results == verdict(noted=False, numbers=True)


async def test_lists_of_the_settings_block_whatever_the_policy_says():
    own = {"codenames": ["Project Nightjar"]}
    noting = listed("codenames", TERM, source=PROMPT, blocking=False)

    assert (await refused_prompt("Project Nightjar", using(noting), lists=own)).results == verdict(codenames=True)
    assert (await refused_prompt("Project Nightjar", DEFAULT_V2, lists=own)).results == verdict(codenames=True)


async def test_each_prompt_has_its_own_verdict():
    policy = using(listed("codenames", TERM, source=PROMPT), listed("noted", NUMBER, source=PROMPT, blocking=False))
    request = CompletionRequest.model_validate({"prompt": ("fine", "NJ-1234")})
    refused = CompletionRequest.model_validate({"prompt": ("fine", "Project Nightjar")})

    passed = await pre_filtered(blocklists, request, policy=policy)

    assert passed.prompt_filter_results == {0: verdict(), 1: verdict(noted=False)}
    assert (await refused_prompt(refused, policy)).prompt_index == 1


async def test_a_long_prompt_is_read_whole():
    policy = using(listed("codenames", TERM, NUMBER, source=PROMPT))

    assert await refused_prompt("word " * 50_000 + "NJ-1234", policy)
    assert await refused_prompt("word " * 50_000 + "Project Nightjar", policy)


async def test_an_expression_that_would_hang_another_engine_does_not():
    policy = using(listed("slow", BlocklistItem("(a|aa)+$b", is_regex=True), source=PROMPT))

    assert await pre_filtered(blocklists, "a" * 100_000, policy=policy)


async def test_half_a_character_does_not_stop_an_expression():
    policy = using(listed("numbers", NUMBER, source=PROMPT))

    assert await refused_prompt("\ud800 NJ-1234", policy)


async def test_ten_thousand_items_work():
    items = [BlocklistItem(f"term number {number}") for number in range(5_000)]
    items += [BlocklistItem(rf"NJ-{number}\d+", is_regex=True) for number in range(5_000)]
    policy = using(listed("many", *items, source=PROMPT))

    assert await refused_prompt("about term number 4999", policy)
    assert await refused_prompt("about NJ-49991", policy)
    assert await pre_filtered(blocklists, "about term number 5000", policy=policy)


# --- answers ---------------------------------------------------------------------------------------------------------

FILLER = "It was a quiet day and nobody said a word. " * 20


async def test_an_answer_ends_before_a_match():
    policy = using(listed("codenames", TERM, NUMBER))

    for text in ("We call it NJ-1234.", f"{FILLER}We call it NJ-1234. {FILLER}", "We call it Project Nightjar"):
        result = await answered("hello", text, post_filter=[blocklists], policy=policy)

        assert result.text == text[: text.index("NJ-1234" if "NJ" in text else "Project")]
        assert result.finish_reasons == {0: "content_filter"}
        assert result.chunks[-1].content_filter_results == verdict(codenames=True)


@pytest.mark.parametrize("text", ["It is NJ-1234, not more.", f"{FILLER[:400]}NJ-1234{FILLER[:100]}", "NJ-123", ""])
@pytest.mark.parametrize("blocking", [True, False])
async def test_the_result_does_not_depend_on_how_the_model_cuts_its_text(text, blocking):
    await check_chunking(blocklists, text, policy=using(listed("codenames", TERM, NUMBER, blocking=blocking)))


async def test_several_lists_do_not_depend_on_cuts_either():
    policy = using(
        listed("codenames", TERM), listed("numbers", NUMBER), listed("noted", BlocklistItem("quiet"), blocking=False)
    )

    await check_chunking(blocklists, "A quiet Project Nightjar is NJ-1234", policy=policy)


async def test_what_is_noted_in_an_answer_passes_at_once_with_a_note_for_each_list():
    noted = [
        listed(name, item, blocking=False) for name, item in (("a", TERM), ("b", NUMBER), ("c", BlocklistItem("x y")))
    ]
    chunks = [Chunk("Project "), Chunk("Nightjar "), Chunk("NJ-1234 "), Chunk(finish_reason="stop")]

    passed = await post_filtered(blocklists, chunks, policy=using(*noted))

    assert [chunk.text for chunk in passed] == [chunk.text for chunk in chunks]
    assert passed[-1].content_filter_results == verdict(a=False, b=False)


@pytest.mark.parametrize("offset", range(0, STEP + 1, 8))
async def test_a_match_as_long_as_what_is_held_is_never_sent_in_part(offset):
    long = BlocklistItem(f"<x{{{HELD - 2}}}>", is_regex=True)
    text = "a" * (300 + offset) + "<" + "x" * (HELD - 2) + ">" + "b" * 300
    chunks = [*map(Chunk, text), Chunk(finish_reason="stop")]

    with pytest.raises(Refused):
        await post_filtered(blocklists, chunks, policy=using(listed("long", long)))
    result = await answered("hello", text, post_filter=[blocklists], policy=using(listed("long", long)))

    assert result.text == "a" * (300 + offset)


async def test_anchors_mean_the_ends_of_the_answer():
    policy = using(listed("ends", BlocklistItem("^bad", is_regex=True), BlocklistItem("worse$", is_regex=True)))
    passes = f"{FILLER}bad and worse {FILLER}"

    assert await post_filtered(blocklists, passes, policy=policy) == passes
    await check_chunking(blocklists, f"{FILLER[:300]}worse", policy=policy)
    for text in ("bad day", f"{FILLER}worse"):
        with pytest.raises(Refused):
            await post_filtered(blocklists, text, policy=policy)


async def test_the_end_of_a_window_is_not_the_end_of_the_answer():
    policy = using(listed("ends", BlocklistItem("worse$", is_regex=True), BlocklistItem(r"\bNJ-1\b", is_regex=True)))
    chunks = [Chunk("a" * (STEP - 6) + " worse"), Chunk(" then better, " + "b" * (STEP - 19) + " NJ-1"), Chunk("2.")]

    passed = await post_filtered(blocklists, [*chunks, Chunk(finish_reason="stop")], policy=policy)

    assert "".join(chunk.text for chunk in passed) == "".join(chunk.text for chunk in chunks)


async def test_the_arguments_of_a_tool_call_are_read_as_json_does():
    policy = using(listed("numbers", NUMBER))
    call = ToolCall(0, "c1", "look_up", '{"id": "\\u004eJ-1234"}')

    with pytest.raises(Refused):
        await post_filtered(blocklists, [Chunk(tool_calls=(call,)), Chunk(finish_reason="tool_calls")], policy=policy)


async def test_without_lists_a_plugin_says_nothing():
    passed = await post_filtered(blocklists, [Chunk("x", finish_reason="stop")])

    assert passed == (Chunk("x", finish_reason="stop"),)


@pytest.mark.parametrize(("text", "sent"), [("NJ-1234", "It is Project NJ-1234. "), ("Nightjar", "It is ")])
async def test_expressions_hold_nothing_where_the_policy_is_asynchronous_and_terms_do(text, sent):
    policy = replace(using(listed("codenames", TERM, NUMBER)), mode=Mode.ASYNCHRONOUS)
    model = FakeModel("It is ", "Project ", text[:-1], text[-1], ". ", FILLER)

    result = await answered(chat_request("hello", stream=True), model, post_filter=[blocklists], policy=policy)

    assert result.text == sent
    assert result.finish_reasons == {0: "content_filter"}
