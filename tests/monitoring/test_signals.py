"""What is a signal of an exchange: what filters found, whatever became of it, and who is behind it as keyed hashes only."""

from __future__ import annotations

from contextlib import suppress

import pytest

from sluicegate.abuse import Finding, Signal
from sluicegate.errors import InvalidRequest, Refused
from sluicegate.monitoring.signals import found_in
from sluicegate.requests import EmbeddingRequest
from sluicegate.testing import Assembly, FakeModel, chat_request, plugin_of
from sluicegate.types import Chunk, Outcome, utc_now

VIOLENCE = {"violence": {"filtered": False, "severity": "medium"}}
CONTEXT = {
    "application_name": "canary-app",
    "end_user_id": "canary-user",
    "end_user_tenant_id": "canary-tenant",
    "source_ip": "203.0.113.7",
}


async def signal(request, *script, pre_filter=()):
    """Return the one signal of an exchange."""
    async with Assembly(FakeModel(*script), pre_filter=pre_filter) as assembly:
        call = assembly.call(request)
        with suppress(Refused, InvalidRequest):
            if isinstance(call.request, EmbeddingRequest):
                await assembly.pipeline.embeddings(call)
            else:
                [_ async for _ in assembly.pipeline.chunks(call)]
        [signal] = assembly.signals
        return signal


def finding_in_prompts(*verdicts, refuses=False):
    async def pre_filter(request):
        for index, results in enumerate(verdicts):
            request = request.annotate(results, index)
        if refuses:
            raise Refused(verdicts[0])
        return request

    return plugin_of(pre_filter)


@pytest.mark.parametrize(
    ("results", "found"),
    [
        ({"hate": {"filtered": False, "severity": "safe"}}, []),
        ({"hate": {"filtered": False, "severity": "low"}}, [Finding("hate", "prompt", 2)]),
        ({"hate": {"filtered": True, "severity": "high"}}, [Finding("hate", "prompt", 6, True)]),
        ({"jailbreak": {"filtered": False, "detected": False}}, []),
        ({"jailbreak": {"filtered": False, "detected": True}}, [Finding("jailbreak", "prompt")]),
        ({"custom_blocklists": {"filtered": False, "details": []}}, []),
        (
            {"custom_blocklists": {"filtered": False, "details": [{"filtered": False, "id": "names"}]}},
            [Finding("custom_blocklists", "prompt")],
        ),
        ({"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}, []),
    ],
)
def test_a_verdict_is_a_finding_if_something_was_found(results, found):
    assert list(found_in([results], "prompt")) == found


def test_of_several_texts_a_category_counts_once_at_its_worst():
    texts = [
        {"hate": {"filtered": False, "severity": "medium"}},
        {"hate": {"filtered": True, "severity": "low"}, "jailbreak": {"filtered": False, "detected": True}},
    ]

    assert list(found_in(texts, "prompt")) == [Finding("hate", "prompt", 4, True), Finding("jailbreak", "prompt")]


async def test_a_prompt_that_is_refused_is_a_signal():
    given = await signal(
        "Hello", pre_filter=[finding_in_prompts({"hate": {"filtered": True, "severity": "high"}}, refuses=True)]
    )

    assert given.findings == (Finding("hate", "prompt", 6, True),)
    assert (given.outcome, given.is_blocked, given.is_flagged) == (Outcome.BLOCKED, True, True)


async def test_what_is_found_in_any_choice_and_any_piece_is_a_signal():
    script = [
        Chunk("one", index=0, content_filter_results={"sexual": {"filtered": False, "severity": "low"}}),
        Chunk("two", index=1, content_filter_results=VIOLENCE),
        Chunk("more", index=1, content_filter_results={"violence": {"filtered": False, "severity": "safe"}}),
    ]

    given = await signal(chat_request("Hello", n=2), *script)

    assert set(given.findings) == {Finding("sexual", "completion", 2), Finding("violence", "completion", 4)}
    assert (given.outcome, given.is_blocked, given.is_flagged) == (Outcome.COMPLETED, False, True)


async def test_every_input_of_an_embedding_counts():
    request = EmbeddingRequest.model_validate({"input": ("one", "two")})

    given = await signal(request, pre_filter=[finding_in_prompts({}, VIOLENCE)])

    assert given.findings == (Finding("violence", "prompt", 4),)


async def test_an_exchange_that_fails_is_a_signal_too():
    given = await signal("Hello", InvalidRequest("No."))

    assert (given.outcome, given.findings, given.is_flagged) == (Outcome.FAILED, (), False)


@pytest.mark.parametrize(
    ("finding", "is_flagged"),
    [
        (Finding("hate", "prompt", 2), False),
        (Finding("hate", "completion", 4), True),
        (Finding("jailbreak", "prompt"), True),
        (Finding("custom_blocklists", "prompt", 0, True), False),
        (Finding("profanity", "prompt", 0, True), False),
    ],
)
def test_what_is_a_sign_of_abuse_is_flagged_and_what_a_customer_forbids_itself_is_not(finding, is_flagged):
    given = Signal("contoso", "chat", utc_now(), Outcome.COMPLETED, (finding,))

    assert given.is_flagged is is_flagged


async def test_who_is_behind_a_request_is_in_its_signal_as_keyed_hashes_only():
    given = await signal(chat_request("canary-prompt", user_security_context=CONTEXT))
    other = await signal(chat_request("Hello", user="canary-app"))

    assert "canary" not in repr(given)
    assert "203.0.113.7" not in repr(given)
    hashes = [given.user, given.application, given.tenant, given.address]
    assert [len(each) for each in hashes] == [64] * 4
    # One value in two fields must not be told as the same.
    assert other.user != given.application
