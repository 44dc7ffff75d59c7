"""What happens when the service fails: it is asked again, it is left alone, and nothing passes unread."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from plugins import azure_content_safety
from plugins.azure_content_safety import asking
from plugins.azure_content_safety.asking import Rejected
from plugins.azure_content_safety.circuit import FAILURES, PAUSE_S, Circuit
from sluicegate.errors import FilterUnavailable, PluginFailed
from sluicegate.policies import DEFAULT, NOT_FILTERED
from sluicegate.testing import Use, answered, chat_request

ALONE = DEFAULT
"""Looks for harms alone, so that a request is one call."""


async def asked(config, text="hello"):
    return await azure_content_safety.pre_filter(chat_request(text), ALONE, config)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (408, "Timeout"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (502, "BadGateway"),
        (503, "ServerBusy"),
        (504, "GatewayTimeout"),
    ],
)
async def test_a_passing_failure_is_asked_again(stand_in, config, status, code):
    stand_in.fail(status, code, times=2)

    request = await asked(config(), "[Hate 2]")

    assert request.prompt_filter_results[0]["hate"]["severity"] == "low"
    assert len(stand_in.calls) == 3


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "TooManyRequests"), (500, "InternalError"), (503, "ServerBusy")],
)
async def test_one_that_does_not_pass_makes_the_filter_unavailable(stand_in, config, status, code):
    stand_in.fail(status, code, times=9)

    with pytest.raises(FilterUnavailable):
        await asked(config())

    assert len(stand_in.calls) == 3


@pytest.mark.parametrize(("status", "code"), [(401, "401"), (403, "Forbidden"), (404, "ResourceNotFound")])
async def test_what_the_operator_must_mend_is_not_asked_again_and_is_logged(stand_in, config, caplog, status, code):
    stand_in.fail(status, code, times=9)

    with pytest.raises(FilterUnavailable, match=r"^The content filter cannot be reached now\.$"):
        await asked(config())

    assert len(stand_in.calls) == 1
    assert f"does not answer text:analyze: {status} {code}" in caplog.text


@pytest.mark.parametrize("status", [400, 413, 415])
async def test_a_text_that_the_service_rejects_is_no_outage(stand_in, config, status):
    """Or else a caller could send a text that it rejects, and a policy that fails open would let it pass."""
    stand_in.fail(status, "InvalidRequestBody", message="I read: secret", times=9)

    with pytest.raises(Rejected):
        await asked(config())

    assert len(stand_in.calls) == 1


async def test_how_long_to_wait_is_what_the_service_says(stand_in, config):
    stand_in.fail(429, "TooManyRequests", times=1, retry_after="3600")

    with pytest.raises(FilterUnavailable) as raised:
        await asked(config())

    assert raised.value.retry_after_s == 3600
    assert len(stand_in.calls) == 1


async def test_a_short_wait_is_waited_in_place_of_our_own(stand_in, config, monkeypatch):
    monkeypatch.setattr(asking, "PAUSES_S", (3600, 3600))
    stand_in.fail(429, "TooManyRequests", times=1, retry_after_ms="1", retry_after="3600")
    stand_in.fail(429, "TooManyRequests", times=1, retry_after="0")

    await asked(config())

    assert len(stand_in.calls) == 3


async def test_a_service_that_does_not_answer_in_time(stand_in, config):
    stand_in.hold()

    with pytest.raises(FilterUnavailable):
        # Enough to connect on any machine: who gives up while connecting leaves a transport to the garbage collector.
        await asked(config(timeout_s=3))


async def test_a_service_that_is_not_there(config):
    with pytest.raises(FilterUnavailable):
        await asked(config(endpoint="https://127.0.0.1:9"))


async def test_a_service_with_another_certificate_is_not_told_anything(stand_in, config, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")

    with pytest.raises(FilterUnavailable):
        await asked(config())

    assert stand_in.calls == []


async def test_no_text_follows_a_redirect(stand_in, config):
    stand_in.fail(307, "Elsewhere", times=1, location=f"{stand_in.endpoint}/contentsafety/elsewhere")

    with pytest.raises(FilterUnavailable):
        await asked(config())

    assert [operation for operation, _ in stand_in.calls] == ["text:analyze"]


@pytest.mark.parametrize(
    "answer",
    [
        "<html>Sign in</html>",
        [],
        {},
        {"categoriesAnalysis": []},
        {"categoriesAnalysis": [{"category": "Hate", "severity": 0}]},
        {
            "categoriesAnalysis": [
                {"category": name, "severity": 1} for name in ("Hate", "Sexual", "Violence", "SelfHarm")
            ]
        },
        {
            "categoriesAnalysis": [
                {"category": name, "severity": None} for name in ("Hate", "Sexual", "Violence", "SelfHarm")
            ]
        },
    ],
)
async def test_an_answer_that_lacks_something_is_not_taken_for_harmless(stand_in, config, answer):
    stand_in.answer(answer, operation="text:analyze", times=3)

    with pytest.raises(FilterUnavailable):
        await asked(config())


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("text:shieldPrompt", {"documentsAnalysis": []}),
        ("text:shieldPrompt", {"userPromptAnalysis": {"attackDetected": False}, "documentsAnalysis": []}),
        (
            "text:shieldPrompt",
            {"userPromptAnalysis": {"attackDetected": None}, "documentsAnalysis": [{"attackDetected": False}]},
        ),
        ("text:detectProtectedMaterial", {"protectedMaterialAnalysis": {}}),
        ("text:detectProtectedMaterialForCode", {}),
    ],
)
async def test_likewise_of_the_other_questions(stand_in, config, operation, answer):
    stand_in.answer(answer, operation=operation, times=3)
    asks = {
        "text:shieldPrompt": lambda service: service.attacks("prompt", ["document"]),
        "text:detectProtectedMaterial": lambda service: service.is_protected_text("x" * 200),
        "text:detectProtectedMaterialForCode": lambda service: service.protected_code("x" * 200),
    }

    with pytest.raises(FilterUnavailable):
        await asks[operation](config().service)


# --- the circuit -----------------------------------------------------------------------------------------------------


async def test_a_service_that_goes_on_failing_is_left_alone(stand_in, config):
    connected = config()
    stand_in.fail(401, "401", times=100)

    for _ in range(FAILURES + 3):
        with pytest.raises(FilterUnavailable) as raised:
            await asked(connected)

    assert len(stand_in.calls) == FAILURES
    assert 0 < raised.value.retry_after_s <= PAUSE_S


def test_after_a_pause_one_failure_begins_the_next_and_an_answer_ends_it():
    now = [100.0]
    circuit = Circuit(lambda: now[0])
    for _ in range(FAILURES):
        circuit.check()
        circuit.failed()

    with pytest.raises(FilterUnavailable):
        circuit.check()
    now[0] += PAUSE_S
    circuit.check()
    circuit.failed(retry_after_s=60)
    now[0] += 59
    with pytest.raises(FilterUnavailable):
        circuit.check()
    now[0] += 1
    circuit.check()
    circuit.succeeded()
    circuit.failed()
    circuit.check()


# --- in the pipeline -------------------------------------------------------------------------------------------------


async def answered_by(settings, policy):
    return await answered(
        "hello", "An answer.", pre_filter=[Use(azure_content_safety, settings=settings)], policy=policy
    )


async def test_a_request_that_cannot_be_read_is_refused(stand_in, settings):
    stand_in.fail(503, "ServerBusy", times=9)

    answer = await answered_by(settings, ALONE)

    assert isinstance(answer.error, FilterUnavailable)
    assert answer.text == ""


async def test_a_policy_that_fails_open_lets_it_pass_and_says_so(stand_in, settings):
    stand_in.fail(503, "ServerBusy", times=9)

    answer = await answered_by(settings, replace(ALONE, fail_open=True))

    assert answer.text == "An answer."
    assert answer.exchange.prompt_filter_results[0] == NOT_FILTERED


async def test_but_never_a_text_that_the_service_rejects(stand_in, settings, caplog):
    stand_in.fail(400, "InvalidRequestBody", message="I read: secret words", times=9)
    caplog.set_level(logging.DEBUG)

    answer = await answered_by(settings, replace(ALONE, fail_open=True))

    assert isinstance(answer.error, PluginFailed)
    assert "secret words" not in caplog.text
