"""Answers: every window is asked about, and a streamed one is compared with its documents."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from plugins import azure_content_safety
from sluicegate.errors import FilterUnavailable, Refused
from sluicegate.policies import DEFAULT, DEFAULT_V2, NOT_FILTERED, ContentFilter, Mode, Policy, Source
from sluicegate.requests import ChatRequest
from sluicegate.testing import check_chunking, post_filtered
from sluicegate.types import Chunk

SAFE = {"filtered": False, "severity": "safe"}
NOT_DETECTED = {"filtered": False, "detected": False}
PROSE = "The quick brown fox jumps over the lazy dog and sleeps in the sun. " * 3
GROUNDED = DEFAULT_V2.replacing(ContentFilter("Ungrounded Material", Source.COMPLETION))
QUESTION = 'How old is it? """ <documents> The bridge is a hundred years old. </documents> """'


def request(text, **fields):
    message = {"role": "user", "content": text}
    return ChatRequest.model_validate_json(json.dumps({"model": "m", "messages": [message], **fields}))


def verdicts(chunks):
    """Return the last verdict of each category."""
    return {category: result for chunk in chunks for category, result in chunk.content_filter_results.items()}


async def passed(chunks, given, policy, config):
    """Return what passes of one choice."""

    async def source():
        for chunk in chunks:
            yield chunk

    return [chunk async for chunk in azure_content_safety.post_filter(source(), given, policy, config)]


async def test_a_harmless_answer_passes_with_verdicts(settings):
    chunks = await post_filtered(azure_content_safety, [Chunk(PROSE), Chunk(finish_reason="stop")], **settings)

    assert "".join(chunk.text for chunk in chunks) == PROSE
    assert verdicts(chunks) == {
        "hate": SAFE,
        "sexual": SAFE,
        "violence": SAFE,
        "self_harm": SAFE,
        "protected_material_text": NOT_DETECTED,
        "protected_material_code": NOT_DETECTED,
    }


@pytest.mark.parametrize("before", [0, 1, 9, 30])
async def test_harm_never_passes_wherever_it_is(settings, before):
    with pytest.raises(Refused) as refused:
        await post_filtered(azure_content_safety, PROSE * before + "[Violence 6] " + PROSE, **settings)

    assert refused.value.results["violence"] == {"filtered": True, "severity": "high"}


async def test_the_result_does_not_depend_on_how_the_model_cuts_its_text(settings, monkeypatch):
    monkeypatch.setattr("sluicegate.testing.harness.MAX_CUTS", 6)

    await check_chunking(azure_content_safety, PROSE + PROSE + "[Hate 4]", policy=DEFAULT, **settings)


async def test_known_text_is_cut_and_known_code_is_cited(settings):
    with pytest.raises(Refused) as refused:
        await post_filtered(azure_content_safety, f"[lyrics] {PROSE}", **settings)
    chunks = await post_filtered(
        azure_content_safety, [Chunk(f"[code MIT] {PROSE}"), Chunk(finish_reason="stop")], **settings
    )

    assert refused.value.results["protected_material_text"] == {"filtered": True, "detected": True}
    assert verdicts(chunks)["protected_material_code"] == {
        "filtered": False,
        "detected": True,
        "citation": {"URL": "https://github.com/contoso/hello", "license": "MIT"},
    }


async def test_a_short_answer_is_not_looked_up_as_protected_material(stand_in, settings):
    await post_filtered(azure_content_safety, "It is a hundred years old.", **settings)

    assert {operation for operation, _ in stand_in.calls} == {"text:analyze"}


async def test_a_list_of_the_resource_ends_an_answer(stand_in, settings):
    stand_in.blocklists = {"codenames": {"1": "Nightjar"}}

    with pytest.raises(Refused) as refused:
        await post_filtered(azure_content_safety, "It is Nightjar.", blocklists=("codenames",), **settings)

    assert refused.value.results["custom_blocklists"]["details"] == [{"filtered": True, "id": "codenames"}]


async def test_where_nothing_is_looked_for_nothing_waits_and_nobody_asks(stand_in, config):
    given = [Chunk("a "), Chunk("[Violence 6]"), Chunk(finish_reason="stop")]
    taken = []

    async def source():
        for chunk in given:
            taken.append(chunk)
            yield chunk

    async for chunk in azure_content_safety.post_filter(source(), request("hi"), Policy("none"), config()):
        assert chunk is taken[-1]

    assert taken == given
    assert stand_in.calls == []


async def test_a_call_costs_the_same_however_long_the_answer_is(stand_in, config):
    connected = config(protected_material=False)
    answer = [Chunk(word + " ") for word in (PROSE * 40).split()] + [Chunk(finish_reason="stop")]

    await passed(answer, request("?"), DEFAULT, connected)

    lengths = [len(body["text"]) for body in stand_in.bodies("text:analyze")]
    assert max(lengths) <= 1000
    assert sum(lengths) < 2 * len(PROSE * 40)


async def test_verdicts_follow_an_answer_that_flows(config):
    flowing = replace(DEFAULT, mode=Mode.ASYNCHRONOUS)
    answer = [Chunk(PROSE), Chunk(finish_reason="stop")]

    chunks = await passed(answer, request("?", stream=True), flowing, config())

    assert "".join(chunk.text for chunk in chunks) == PROSE
    assert verdicts(chunks)["hate"] == SAFE


# --- groundedness ----------------------------------------------------------------------------------------------------


async def test_what_the_documents_do_not_say_is_pointed_at(stand_in, config):
    answer = [Chunk("😀 It is old. [made up] It is "), Chunk("made of gold. Really."), Chunk(finish_reason="stop")]

    chunks = await passed(answer, request(QUESTION, stream=True), GROUNDED, config(groundedness=True))

    found = verdicts(chunks)["ungrounded_material"]
    [place] = found.pop("details")
    text = "".join(chunk.text for chunk in chunks)
    assert found == {"filtered": False, "detected": True}
    assert text[place["completion_start_offset"] : place["completion_end_offset"]] == "[made up] It is made of gold."
    assert chunks[-1].finish_reason == "stop"
    [body] = stand_in.bodies("text:detectGroundedness")
    assert body["groundingSources"] == ["The bridge is a hundred years old."]
    assert body["task"] == "QnA"
    assert body["qna"] == {"query": "How old is it? "}


async def test_a_grounded_answer_says_so(config):
    answer = [Chunk("A hundred years."), Chunk(finish_reason="stop")]

    chunks = await passed(answer, request(QUESTION, stream=True), GROUNDED, config(groundedness=True))

    assert verdicts(chunks)["ungrounded_material"] == NOT_DETECTED


async def test_an_answer_that_flows_says_where_in_prompt_and_answer_it_is(config):
    flowing = replace(GROUNDED, mode=Mode.ASYNCHRONOUS)
    answer = [Chunk("[made up] It is gold."), Chunk(finish_reason="stop")]

    chunks = await passed(answer, request(QUESTION, stream=True), flowing, config(groundedness=True))

    [said] = [chunk for chunk in chunks if "ungrounded_material" in chunk.content_filter_results]
    assert said.content_filter_offsets.start_offset == len(QUESTION)
    assert said.content_filter_offsets.end_offset == len(QUESTION) + len("[made up] It is gold.")


@pytest.mark.parametrize(
    ("text", "stream", "settings_", "policy"),
    [
        (QUESTION, False, {"groundedness": True}, GROUNDED),
        (QUESTION, True, {}, GROUNDED),
        (QUESTION, True, {"groundedness": True}, DEFAULT_V2),
        ("No documents.", True, {"groundedness": True}, GROUNDED),
    ],
    ids=["not streamed", "not in the settings", "not in the policy", "no documents"],
)
async def test_otherwise_nobody_asks(stand_in, config, text, stream, settings_, policy):
    answer = [Chunk("[made up] Gold."), Chunk(finish_reason="stop")]

    chunks = await passed(answer, request(text, stream=stream), policy, config(**settings_))

    assert "ungrounded_material" not in verdicts(chunks)
    assert stand_in.bodies("text:detectGroundedness") == []


async def test_a_long_answer_is_compared_piece_by_piece(stand_in, config):
    text = ("It is old. " * 1000) + "[made up] It is gold."
    answer = [Chunk(text), Chunk(finish_reason="stop")]
    policy = GROUNDED.replacing(
        ContentFilter("Protected Material Text", Source.COMPLETION, enabled=False),
        ContentFilter("Protected Material Code", Source.COMPLETION, enabled=False),
    )

    chunks = await passed(answer, request(QUESTION, stream=True), policy, config(groundedness=True))

    [place] = verdicts(chunks)["ungrounded_material"]["details"]
    assert text[place["completion_start_offset"] : place["completion_end_offset"]] == "[made up] It is gold."
    assert len(stand_in.bodies("text:detectGroundedness")) == 2


async def test_a_comparison_that_fails_costs_the_annotation_and_not_the_answer(stand_in, config):
    stand_in.fail(403, "Forbidden", operation="text:detectGroundedness")
    answer = [Chunk("A hundred years."), Chunk(finish_reason="stop")]

    chunks = await passed(answer, request(QUESTION, stream=True), GROUNDED, config(groundedness=True))

    assert "".join(chunk.text for chunk in chunks) == "A hundred years."
    assert "ungrounded_material" not in verdicts(chunks)


# --- in the pipeline -------------------------------------------------------------------------------------------------


async def test_an_answer_that_cannot_be_read_ends_with_an_error(stand_in, config):
    stand_in.fail(503, "ServerBusy", operation="text:analyze", times=9)

    with pytest.raises(FilterUnavailable):
        await passed([Chunk("hello"), Chunk(finish_reason="stop")], request("?"), DEFAULT, config())


async def test_a_policy_that_fails_open_lets_it_pass_and_says_so(stand_in, config):
    stand_in.fail(503, "ServerBusy", operation="text:analyze", times=9)
    answer = [Chunk("hello"), Chunk(finish_reason="stop")]

    chunks = await passed(answer, request("?"), replace(DEFAULT, fail_open=True), config())

    assert "".join(chunk.text for chunk in chunks) == "hello"
    assert verdicts(chunks) == NOT_FILTERED
