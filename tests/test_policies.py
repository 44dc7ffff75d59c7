"""What a policy makes of what filters find, and what the pipeline does with a policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sluicegate.errors import FilterUnavailable, Refused
from sluicegate.policies import (
    BUILT_IN,
    CATEGORIES,
    DEFAULT,
    DEFAULT_V2,
    NOT_FILTERED,
    Blocklist,
    BlocklistItem,
    BlocklistUse,
    ContentFilter,
    Mode,
    Policy,
    Source,
    Threshold,
    Verdict,
)
from sluicegate.requests import CompletionRequest, EmbeddingRequest
from sluicegate.testing import FakeModel, Use, answered, plugin_of, post_filtered, pre_filtered
from sluicegate.types import Outcome

PROMPT, COMPLETION = Source.PROMPT, Source.COMPLETION
ANNOTATING = DEFAULT_V2.replacing(ContentFilter("Hate", PROMPT, blocking=False))
OFF = DEFAULT_V2.replacing(ContentFilter("Hate", PROMPT, enabled=False))


# --- judging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "blocked"),
    [(Threshold.LOW, {2, 4, 6}), (Threshold.MEDIUM, {4, 6}), (Threshold.HIGH, {6})],
)
def test_severities_from_the_threshold_on_are_blocked_and_safe_never_is(threshold, blocked):
    policy = Policy("p", filters=(ContentFilter("Violence", PROMPT, severity_threshold=threshold),))

    verdicts = {severity: policy.judge("violence", PROMPT, severity=severity) for severity in (0, 2, 4, 6)}

    assert {severity for severity, verdict in verdicts.items() if verdict.blocks} == blocked


def test_verdicts_have_the_form_of_the_wire():
    assert DEFAULT_V2.judge("self_harm", COMPLETION, severity=2) == Verdict(
        "self_harm", {"filtered": False, "severity": "low"}
    )
    assert DEFAULT_V2.judge("jailbreak", PROMPT, detected=True).results == {
        "jailbreak": {"filtered": True, "detected": True}
    }
    citation = {"URL": "https://example.com/a", "license": "MIT"}
    assert DEFAULT_V2.judge("protected_material_code", COMPLETION, detected=True, citation=citation).result == {
        "filtered": False,
        "detected": True,
        "citation": citation,
    }


def test_what_is_off_has_no_verdict():
    assert OFF.judge("hate", PROMPT, severity=6) is None
    assert not OFF.is_on("hate", PROMPT)
    assert OFF.is_on("hate", COMPLETION)
    assert DEFAULT_V2.judge("jailbreak", COMPLETION, detected=True) is None
    assert Policy("empty").judge("hate", PROMPT, severity=6) is None


def test_what_is_annotated_only_never_blocks():
    assert ANNOTATING.judge("hate", PROMPT, severity=6).result == {"filtered": False, "severity": "high"}


@pytest.mark.parametrize("found", [{}, {"detected": True}, {"severity": 2, "detected": True}])
def test_a_filter_that_confuses_severity_and_detection_fails(found):
    with pytest.raises(TypeError):
        DEFAULT_V2.judge("hate", PROMPT, **found)


@pytest.mark.parametrize("found", [{}, {"severity": 2}])
def test_a_filter_that_gives_a_severity_to_what_has_none_fails(found):
    with pytest.raises(TypeError):
        DEFAULT_V2.judge("jailbreak", PROMPT, **found)


@pytest.mark.parametrize(("category", "severity"), [("hatred", 2), ("hate", 3)])
def test_a_filter_that_misspells_a_category_or_a_severity_fails(category, severity):
    with pytest.raises(KeyError):
        DEFAULT_V2.judge(category, PROMPT, severity=severity)


def test_a_list_that_is_hit_is_named_and_blocks_if_the_policy_says_so():
    lists = [Blocklist(name, (BlocklistItem("x"),)) for name in ("blocks", "annotates", "other", "answers")]
    uses = [
        BlocklistUse(lists[0], PROMPT),
        BlocklistUse(lists[1], PROMPT, blocking=False),
        BlocklistUse(lists[2], PROMPT),
        BlocklistUse(lists[3], COMPLETION),
    ]
    policy = Policy("p", blocklists=tuple(uses))

    both = policy.judge_blocklists({"annotates", "blocks", "answers"}, PROMPT)
    harmless = policy.judge_blocklists({"annotates"}, PROMPT)

    assert both.results == {
        "custom_blocklists": {
            "filtered": True,
            "details": [{"filtered": True, "id": "blocks"}, {"filtered": False, "id": "annotates"}],
        }
    }
    assert harmless.result == {"filtered": False, "details": [{"filtered": False, "id": "annotates"}]}
    assert policy.judge_blocklists((), COMPLETION).result == {"filtered": False, "details": []}
    assert DEFAULT_V2.judge_blocklists((), PROMPT) is None


# --- what is built in ------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_azure():
    harms = ("hate", "sexual", "violence", "self_harm")
    for policy in (DEFAULT, DEFAULT_V2):
        for source in Source:
            assert {policy.judge(harm, source, severity=4).blocks for harm in harms} == {True}
            assert {policy.judge(harm, source, severity=2).blocks for harm in harms} == {False}
        assert policy.mode is Mode.DEFAULT
        assert not policy.fail_open
        assert not policy.whole_request
    on = {key for key in CATEGORIES if any(DEFAULT_V2.is_on(key, source) for source in Source)} - set(harms)
    assert on == {"jailbreak", "protected_material_text", "protected_material_code"}
    assert not {key for key in CATEGORIES if any(DEFAULT.is_on(key, source) for source in Source)} - set(harms)
    assert DEFAULT_V2.judge("protected_material_text", COMPLETION, detected=True).blocks
    assert list(BUILT_IN) == ["Microsoft.Default", "Microsoft.DefaultV2"]


def test_no_policy_looks_for_something_where_it_does_not_exist():
    sources = {category.name: category.sources for category in CATEGORIES.values()}

    assert all(each.source in sources[each.name] for policy in BUILT_IN.values() for each in policy.filters)


def test_the_older_names_of_the_modes_mean_what_the_newer_do():
    assert {mode for mode in Mode if Policy("p", mode).is_asynchronous} == {Mode.ASYNCHRONOUS, Mode.DEFERRED}


# --- in the pipeline -------------------------------------------------------------------------------------------------


async def pre_filter(request, policy):
    verdict = policy.judge("hate", PROMPT, severity=4)
    if verdict and verdict.blocks:
        raise Refused(verdict.results)
    return request.annotate(verdict.results) if verdict else request


async def post_filter(chunks, policy):
    verdict = policy.judge("hate", COMPLETION, severity=6)
    async for chunk in chunks:
        if verdict.blocks:
            raise Refused(verdict.results)
        yield replace(chunk, content_filter_results=verdict.results)


HATE = plugin_of(pre_filter, name="hate")
HATEFUL = plugin_of(post_filter, name="hateful")


async def test_the_policy_of_the_call_decides():
    refused = await answered("hello", pre_filter=[HATE])
    annotated = await answered("hello", pre_filter=[HATE], policy=ANNOTATING)
    off = await answered("hello", pre_filter=[HATE], policy=OFF)

    assert isinstance(refused.error, Refused)
    assert annotated.exchange.prompt_filter_results == {0: {"hate": {"filtered": False, "severity": "medium"}}}
    assert off.exchange.prompt_filter_results == {}


async def test_post_filters_get_the_policy_too():
    cut = await answered("hello", post_filter=[HATEFUL])
    policy = DEFAULT_V2.replacing(ContentFilter("Hate", COMPLETION, blocking=False))
    whole = await answered("hello", "Hi.", post_filter=[HATEFUL], policy=policy)

    assert cut.finish_reasons == {0: "content_filter"}
    assert whole.text == "Hi."
    assert whole.chunks[0].content_filter_results == {"hate": {"filtered": False, "severity": "high"}}


async def test_the_harness_gives_one_plugin_the_policy_that_it_is_asked_to():
    with pytest.raises(Refused):
        await pre_filtered(HATE, "hello")
    with pytest.raises(Refused):
        await post_filtered(HATEFUL, "hello")
    policy = ANNOTATING.replacing(ContentFilter("Hate", COMPLETION, blocking=False))

    assert await pre_filtered(HATE, "hello", policy=policy) == "hello"
    assert await post_filtered(HATEFUL, "hello", policy=policy) == "hello"


def unavailable(name="down"):
    async def pre_filter(request):
        raise FilterUnavailable("The filter does not answer.", retry_after_s=2)

    return plugin_of(pre_filter, name=name)


OPEN = replace(DEFAULT_V2, fail_open=True)


async def test_a_request_whose_filter_is_unavailable_fails():
    model = FakeModel()

    result = await answered("hello", model, pre_filter=[unavailable()])

    assert (type(result.error), result.error.status, result.error.retry_after_s) == (FilterUnavailable, 503, 2)
    assert model.opened == 0
    assert result.exchange.outcome is Outcome.FAILED


async def test_where_the_policy_fails_open_every_prompt_says_that_it_was_not_filtered():
    request = CompletionRequest.model_validate({"prompt": ("one", "two")})

    result = await answered(request, pre_filter=[unavailable()], policy=OPEN)

    assert result.error is None
    assert result.exchange.prompt_filter_results == {0: NOT_FILTERED, 1: NOT_FILTERED}


async def test_a_policy_that_fails_open_does_not_pass_what_another_filter_refuses():
    policy = replace(OPEN, filters=DEFAULT_V2.filters)

    result = await answered("hello", pre_filter=[unavailable(), HATE], policy=policy)

    assert isinstance(result.error, Refused)
    assert set(result.error.results) == {"error", "hate"}


async def test_a_filter_that_is_not_required_may_be_unavailable():
    result = await answered("hello", pre_filter=[Use(unavailable(), required=False)])

    assert result.error is None
    assert result.exchange.prompt_filter_results == {0: NOT_FILTERED}


async def test_a_policy_that_fails_open_does_not_excuse_a_filter_that_is_broken():
    async def pre_filter(request):
        raise ConnectionError("hello")

    result = await answered("hello", pre_filter=[plugin_of(pre_filter)], policy=OPEN)

    assert (result.error.status, result.error.code) == (503, "plugin_failed")


@pytest.mark.parametrize("policy", [DEFAULT_V2, OPEN])
async def test_inputs_to_embed_are_filtered_as_prompts_are(policy):
    request = EmbeddingRequest.model_validate({"input": ("one", "two")})
    result = await answered(request, pre_filter=[unavailable()], policy=policy)

    assert (result.error is None) is policy.fail_open


async def test_of_several_prompts_the_refused_one_has_the_verdict():
    async def pre_filter(request):
        raise Refused({"hate": {"filtered": True, "severity": "high"}}, prompt_index=1)

    annotated = CompletionRequest.model_validate({"prompt": ("one", "two")}).annotate({"x": {"filtered": False}}, 1)

    result = await answered(annotated, pre_filter=[plugin_of(pre_filter)])

    assert set(result.error.results) == {"hate", "x"}
    assert set(result.exchange.prompt_filter_results) == {1}
