"""Profanity is reported or blocked as the policy says, in prompts and answers, and harmless words that contain it are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plugins import profanity
from sluicegate import Chunk, Refused, Source
from sluicegate.policies import DEFAULT_V2, ContentFilter, Mode
from sluicegate.requests import ChatRequest, CompletionRequest
from sluicegate.testing import (
    FakeModel,
    answered,
    chat_request,
    check_chunking,
    check_plugin,
    post_filtered,
    pre_filtered,
)


def policy(*sources, blocking):
    return DEFAULT_V2.replacing(*(ContentFilter("Profanity", source, blocking=blocking) for source in sources))


ANNOTATING = policy(Source.PROMPT, Source.COMPLETION, blocking=False)
BLOCKING = policy(Source.PROMPT, Source.COMPLETION, blocking=True)
FOUND = {"profanity": {"filtered": False, "detected": True}}
FILTERED = {"profanity": {"filtered": True, "detected": True}}
CLEAN = {"profanity": {"filtered": False, "detected": False}}

PROFANE = [
    "what the fuck",
    "This is BULLSHIT.",
    "f\u200buck it",
    "two bastards and a shithead",
    "stop fuckin' around",
    "they fucked up",
    "a half-assed job, a half arsed one",
    "damn it",
]  # fmt: skip
HARMLESS = [
    "Scunthorpe, Essex, Penistone and Cockermouth",
    "an assistant assesses the class of a bass in the grass",
    "Dick and Fanny saw a cock, a tit and a pussycat",
    "analysis of a cocktail with sauce on the shuttlecock",
    "Mishit, shiitake, Shitake, pass, piston, hello, condamnation",
    "screw the lid on, hell for leather, a bloody wound",
]


def test_obeys_the_rules():
    check_plugin(profanity)


@pytest.mark.parametrize("text", PROFANE)
async def test_profanity_is_reported_and_passes_where_the_policy_annotates(text):
    request = ChatRequest.model_validate({"messages": ({"role": "user", "content": text},)})

    returned = await pre_filtered(profanity, request, policy=ANNOTATING)
    passed = await post_filtered(profanity, [Chunk(text), Chunk(finish_reason="stop")], policy=ANNOTATING)

    assert returned.prompt_filter_results == {0: FOUND}
    assert passed == (Chunk(text), Chunk(finish_reason="stop", content_filter_results=FOUND))
    await check_chunking(profanity, text, policy=ANNOTATING)


@pytest.mark.parametrize("text", PROFANE)
async def test_profanity_is_refused_where_the_policy_blocks(text):
    with pytest.raises(Refused) as prompt:
        await pre_filtered(profanity, text, policy=BLOCKING)
    with pytest.raises(Refused) as completion:
        await post_filtered(profanity, text, policy=BLOCKING)

    assert prompt.value.results == completion.value.results == FILTERED
    await check_chunking(profanity, text, policy=BLOCKING)


async def test_what_precedes_profanity_is_sent_and_no_part_of_it():
    got = await answered("hello", FakeModel("What a ", "shi", "t day"), post_filter=[profanity], policy=BLOCKING)

    assert got.text == "What a "
    assert got.chunks[-1] == Chunk(finish_reason="content_filter", content_filter_results=FILTERED)


@pytest.mark.parametrize("text", HARMLESS)
async def test_words_that_only_look_alike_pass(text):
    passed = await post_filtered(profanity, [Chunk(text, finish_reason="stop")], policy=BLOCKING)

    assert await pre_filtered(profanity, text, policy=BLOCKING) == text
    assert passed[-1].content_filter_results == CLEAN


async def test_by_default_nothing_is_looked_for():
    given = (Chunk("fuck", finish_reason="stop"),)

    assert await post_filtered(profanity, given) == given
    assert await pre_filtered(profanity, "fuck") == "fuck"


async def test_prompts_and_answers_are_separate_matters():
    only_prompts = policy(Source.PROMPT, blocking=True)

    with pytest.raises(Refused):
        await pre_filtered(profanity, "fuck", policy=only_prompts)
    assert await post_filtered(profanity, "fuck", policy=only_prompts) == "fuck"


async def test_an_old_turn_does_not_block_a_conversation_for_good():
    turns = (
        {"role": "user", "content": "fuck"},
        {"role": "assistant", "content": "?"},
        {"role": "user", "content": "hi"},
    )
    request = ChatRequest.model_validate({"messages": turns})

    returned = await pre_filtered(profanity, request, policy=BLOCKING)

    assert returned.prompt_filter_results == {0: CLEAN}


async def test_each_prompt_has_a_verdict_of_its_own():
    request = CompletionRequest.model_validate({"prompt": ("hello", "oh shit")})

    returned = await pre_filtered(profanity, request, policy=ANNOTATING)

    assert returned.prompt_filter_results == {0: CLEAN, 1: FOUND}


async def test_the_prompt_that_is_refused_is_named():
    request = CompletionRequest.model_validate({"prompt": ("hello", "oh shit")})

    with pytest.raises(Refused) as refused:
        await pre_filtered(profanity, request, policy=BLOCKING)

    assert refused.value.prompt_index == 1


@pytest.mark.parametrize(("stream", "sent"), [(True, "What a shi"), (False, "What a ")])
async def test_a_streamed_answer_flows_until_profanity_is_found_where_the_policy_is_asynchronous(stream, sent):
    flowing = replace(BLOCKING, mode=Mode.ASYNCHRONOUS)
    model = FakeModel("What a ", "shi", "t day")

    got = await answered(chat_request("hello", stream=stream), model, post_filter=[profanity], policy=flowing)

    assert got.text == sent
    assert got.chunks[-1] == Chunk(finish_reason="content_filter", content_filter_results=FILTERED)
