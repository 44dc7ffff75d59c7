"""Prompts: what is asked about which text, and what the policy makes of the answers."""

from __future__ import annotations

import json
import logging

import pytest

from plugins import azure_content_safety
from sluicegate.errors import InvalidRequest, Refused
from sluicegate.policies import DEFAULT, DEFAULT_V2, ContentFilter, Source, Threshold
from sluicegate.requests import ChatRequest, EmbeddingRequest
from sluicegate.testing import chat_request, check_plugin

SHIELDED = DEFAULT_V2.replacing(ContentFilter("Indirect Attack", Source.PROMPT))
SAFE = {"filtered": False, "severity": "safe"}
NOT_DETECTED = {"filtered": False, "detected": False}


def chat(*messages):
    """Return a chat; the results of tools follow one call that asks for them all."""
    spoken = [{"role": role, "content": text} for role, text in messages]
    results = [each for each in spoken if each["role"] == "tool"]
    calls = [
        {"id": str(number), "type": "function", "function": {"name": "look", "arguments": "{}"}}
        for number in range(len(results))
    ]
    for number, each in enumerate(results):
        each["tool_call_id"] = str(number)
    if results:
        spoken.insert(spoken.index(results[0]), {"role": "assistant", "tool_calls": calls})
    return ChatRequest.model_validate_json(json.dumps({"model": "m", "messages": spoken}))


def embed(*inputs):
    return EmbeddingRequest.model_validate_json(json.dumps({"model": "m", "input": inputs}))


async def results(config, request, policy=DEFAULT_V2):
    """Return the verdicts on the first prompt, refused or not."""
    request = chat_request(request) if isinstance(request, str) else request
    try:
        return (await azure_content_safety.pre_filter(request, policy, config)).prompt_filter_results.get(0, {})
    except Refused as refusal:
        return refusal.results


def test_obeys_the_rules():
    check_plugin(azure_content_safety, endpoint="https://contoso.cognitiveservices.azure.com")


async def test_a_harmless_prompt_gets_a_verdict_on_everything_that_is_looked_for(stand_in, config):
    found = await results(config(), "What is the capital of France?")

    assert found == {
        "hate": SAFE,
        "sexual": SAFE,
        "violence": SAFE,
        "self_harm": SAFE,
        "jailbreak": NOT_DETECTED,
    }
    assert stand_in.bodies("text:analyze") == [
        {
            "text": "What is the capital of France?",
            "categories": ["Hate", "Sexual", "Violence", "SelfHarm"],
            "outputType": "FourSeverityLevels",
        }
    ]
    assert stand_in.bodies("text:shieldPrompt") == [{"userPrompt": "What is the capital of France?", "documents": []}]


@pytest.mark.parametrize(
    ("text", "category", "severity", "filtered"),
    [
        ("[Hate 2]", "hate", "low", False),
        ("[Hate 4]", "hate", "medium", True),
        ("[Sexual 6]", "sexual", "high", True),
        ("[Violence 5]", "violence", "medium", True),
        ("[SelfHarm 3]", "self_harm", "low", False),
    ],
)
async def test_the_service_finds_and_the_policy_decides(config, text, category, severity, filtered):
    assert (await results(config(), text))[category] == {"filtered": filtered, "severity": severity}


async def test_another_policy_decides_otherwise(config):
    strict = DEFAULT.replacing(ContentFilter("Hate", Source.PROMPT, severity_threshold=Threshold.LOW))
    lax = DEFAULT.replacing(ContentFilter("Hate", Source.PROMPT, blocking=False))

    assert (await results(config(), "[Hate 2]", strict))["hate"] == {"filtered": True, "severity": "low"}
    assert (await results(config(), "[Hate 6]", lax))["hate"] == {"filtered": False, "severity": "high"}


async def test_what_the_policy_does_not_look_for_is_not_asked(stand_in, config):
    hate_alone = DEFAULT.replacing(
        *(ContentFilter(name, Source.PROMPT, enabled=False) for name in ("Sexual", "Violence", "Selfharm"))
    )

    assert set(await results(config(), "[attack] [Sexual 6]", hate_alone)) == {"hate"}
    assert [operation for operation, _ in stand_in.calls] == ["text:analyze"]
    assert stand_in.calls[0][1]["categories"] == ["Hate"]


@pytest.mark.parametrize(
    ("off", "operation"), [({"harms": False}, "text:shieldPrompt"), ({"prompt_shields": False}, "text:analyze")]
)
async def test_what_the_settings_switch_off_is_not_asked(stand_in, config, off, operation):
    await results(config(**off), "hello")

    assert {called for called, _ in stand_in.calls} == {operation}


async def test_an_attack_by_the_user(config):
    assert (await results(config(), "[attack]"))["jailbreak"] == {"filtered": True, "detected": True}


async def test_an_attack_in_a_document_or_a_tools_result(stand_in, config):
    request = chat(
        ("user", 'Summarise. """ <documents> one [attack] </documents> """'),
        ("tool", "a harmless result"),
    )

    found = await results(config(), request, SHIELDED)

    assert found["jailbreak"] == NOT_DETECTED
    assert found["indirect_attack"] == {"filtered": True, "detected": True}
    [body] = stand_in.bodies("text:shieldPrompt")
    assert body["userPrompt"] == "Summarise. "
    assert body["documents"] == ["one [attack]", "a harmless result"]


async def test_harm_is_looked_for_in_what_is_new_and_attacks_in_all_turns(stand_in, config):
    request = chat(("user", "first"), ("assistant", "answer"), ("user", "second"))

    await results(config(), request)

    assert [body["text"] for body in stand_in.bodies("text:analyze")] == ["second"]
    assert [body["userPrompt"] for body in stand_in.bodies("text:shieldPrompt")] == ["first\n\nsecond"]


@pytest.mark.parametrize("start", [0, 9_990, 19_480, 24_990])
async def test_a_long_prompt_is_read_to_its_end_in_overlapping_pieces(stand_in, config, start):
    text = "x" * start + "[Violence 6]" + "x" * (25_000 - start)

    assert (await results(config(), text))["violence"]["severity"] == "high"
    pieces = [body["text"] for body in stand_in.bodies("text:analyze")]
    assert [len(piece) for piece in sorted(pieces, key=len, reverse=True)][:2] == [10_000, 10_000]
    assert len(pieces) == 3


async def test_documents_go_five_at_a_time_and_ten_thousand_characters(stand_in, config):
    documents = [("tool", f"{number} " + "y" * 2_990) for number in range(7)] + [("tool", "z" * 12_000 + "[attack]")]

    found = await results(config(), chat(("user", "hello"), *documents), SHIELDED)

    assert found["indirect_attack"]["detected"] is True
    bodies = stand_in.bodies("text:shieldPrompt")
    assert all(len(body["documents"]) <= 5 and sum(map(len, body["documents"])) <= 10_000 for body in bodies)
    assert sum("userPrompt" in body for body in bodies) == 1


async def test_each_input_of_an_embedding_request_has_its_own_verdict(config):
    request = embed("fine", "[Hate 2]", "[Hate 6]", "[Hate 4]")

    with pytest.raises(Refused) as refused:
        await azure_content_safety.pre_filter(request, DEFAULT, config())

    assert refused.value.prompt_index == 2
    assert refused.value.results["hate"]["severity"] == "high"


async def test_a_request_that_needs_too_many_calls_is_refused_before_any(stand_in, config):
    request = embed(*["text"] * 11)

    with pytest.raises(InvalidRequest, match="more than the 10 calls") as refused:
        await azure_content_safety.pre_filter(request, DEFAULT, config(most_calls=10))

    assert refused.value.code == "context_length_exceeded"
    assert stand_in.calls == []


async def test_no_more_calls_are_under_way_than_the_settings_allow(stand_in, config):
    request = embed(*["text"] * 40)

    await azure_content_safety.pre_filter(request, DEFAULT, config(calls_at_once=3))

    assert len(stand_in.calls) == 40
    assert stand_in.most_at_once <= 3


@pytest.mark.parametrize("text", ["", "   ", "\n"])
async def test_a_prompt_with_nothing_to_read_is_not_sent(stand_in, config, text):
    assert (await results(config(), text))["hate"] == SAFE
    assert stand_in.calls == []


async def test_half_a_surrogate_pair_does_not_keep_the_rest_from_being_read(config):
    assert (await results(config(), "\ud83d [Hate 6]"))["hate"]["filtered"] is True


async def test_an_emoji_counts_as_one_character(stand_in, config):
    await results(config(prompt_shields=False), "😀" * 10_000)

    assert [len(body["text"]) for body in stand_in.bodies("text:analyze")] == [10_000]


# --- blocklists of the resource --------------------------------------------------------------------------------------


async def test_a_list_of_the_resource_blocks_and_is_named(stand_in, config):
    stand_in.blocklists = {"codenames": {"1": "Nightjar"}, "swearing": {"2": "darn"}}

    found = await results(config(blocklists=("codenames", "swearing")), "What is Nightjar?")

    assert found["custom_blocklists"] == {"filtered": True, "details": [{"filtered": True, "id": "codenames"}]}
    assert "custom_blocklists" not in await results(config(blocklists=("codenames",)), "What is darn?")


async def test_lists_see_the_whole_request(stand_in, config):
    stand_in.blocklists = {"codenames": {"1": "Nightjar"}}
    request = chat(("system", "You know of Nightjar."), ("user", "first"), ("assistant", "x"), ("user", "second"))

    found = await results(config(blocklists=("codenames",)), request)

    assert found["custom_blocklists"]["filtered"] is True
    assert found["hate"] == SAFE


# --- privacy ---------------------------------------------------------------------------------------------------------


async def test_nothing_of_a_text_or_key_is_logged_whatever_the_level(stand_in, config, caplog):
    caplog.set_level(logging.DEBUG)
    stand_in.fail(500, "InternalError", message="I read: secret words", times=1)

    await results(config(), "secret words [Hate 6]")

    assert "secret words" not in caplog.text
    assert stand_in.key not in caplog.text


async def test_the_service_learns_text_and_nothing_of_the_caller(stand_in, config):
    request = chat_request("hello", user="somebody", safety_identifier="payroll")

    await results(config(), request)

    sent = str(stand_in.calls)
    assert "somebody" not in sent
    assert "payroll" not in sent
