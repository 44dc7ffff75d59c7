import json

import openai
import pytest

from sluicegate import (
    Forbidden,
    InvalidRequest,
    ModelUnavailable,
    NotFound,
    Refused,
    TooManyRequests,
    Unauthorized,
    Unsupported,
    UpstreamError,
)
from sluicegate.api.errors import event, render
from sluicegate.errors import ApiError, BlobChanged, KeyUnavailable, PayloadTooLarge, PluginFailed, StorageUnavailable
from tests.api.support import HATE, SAFE, sdk

JAILBREAK = {"jailbreak": {"filtered": True, "detected": True}}
MESSAGES = [{"role": "user", "content": "hi"}]


class Conflict(ApiError):
    status = 409
    default_code = "conflict"


def body(error, *verdicts):
    return json.loads(render(error, *verdicts).body)["error"]


async def raised(error, seen=None):
    """What the SDK raises for ``error``."""
    rendered = render(error)
    client = sdk(rendered.body, rendered.status, rendered.headers, seen)
    if seen is None:
        client = client.with_options(max_retries=0)
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model="m", messages=MESSAGES)
    return caught.value


def test_every_field_is_there():
    assert body(InvalidRequest("Wrong.", code="invalid_value", param="n")) == {
        "message": "Wrong.",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_value",
    }
    assert body(Unauthorized("Who?")) == {"message": "Who?", "type": None, "param": None, "code": "401"}


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InvalidRequest("m", code="c", param="p"), openai.BadRequestError, "c"),
        (Unsupported("m", param="p"), openai.BadRequestError, "unsupported_parameter"),
        (Unauthorized("m"), openai.AuthenticationError, "401"),
        (Forbidden("m"), openai.PermissionDeniedError, "Forbidden"),
        (NotFound("m"), openai.NotFoundError, "404"),
        (NotFound("m", code="DeploymentNotFound"), openai.NotFoundError, "DeploymentNotFound"),
        (Conflict("m"), openai.ConflictError, "conflict"),
        (PayloadTooLarge("m"), openai.APIStatusError, "413"),
        (TooManyRequests("m"), openai.RateLimitError, "429"),
        (ModelUnavailable("m"), openai.InternalServerError, "serviceUnavailable"),
        (PluginFailed("redact", "pre_filter"), openai.InternalServerError, "plugin_failed"),
        (UpstreamError("m", status=422, code="c"), openai.UnprocessableEntityError, "c"),
        (Refused(HATE), openai.BadRequestError, "content_filter"),
        (RuntimeError("m"), openai.InternalServerError, "server_error"),
    ],
)
async def test_the_sdk_raises_the_class_for_the_status(error, kind, code):
    caught = await raised(error)

    assert type(caught) is kind
    assert caught.code == code
    assert caught.param == ("prompt" if isinstance(error, Refused) else getattr(error, "param", None))


def test_a_refused_prompt_has_the_form_that_clients_parse():
    rendered = render(Refused(HATE | JAILBREAK), SAFE | {"violence": {"filtered": False, "severity": "low"}})

    error = json.loads(rendered.body)["error"]
    verdicts = {"violence": {"filtered": False, "severity": "low"}} | HATE | JAILBREAK
    assert rendered.status == 400
    assert error.pop("message").startswith("The response was filtered due to the prompt")
    assert error == {
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": verdicts,
            "content_filter_results": verdicts,
        },
    }


async def test_the_sdk_passes_the_verdicts_on():
    caught = await raised(Refused(HATE))

    assert caught.body["innererror"]["content_filter_result"] == HATE


@pytest.mark.parametrize(
    ("error", "milliseconds", "seconds"),
    [
        (TooManyRequests("m", retry_after_s=0.25), "250", "1"),
        (TooManyRequests("m", retry_after_s=30), "30000", "30"),
        (ModelUnavailable("m", retry_after_s=-1), "0", "0"),
    ],
)
def test_when_to_come_back_is_said_in_both_units(error, milliseconds, seconds):
    assert render(error).headers == {"retry-after-ms": milliseconds, "retry-after": seconds}


def test_who_does_not_know_when_to_come_back_says_nothing():
    assert render(ModelUnavailable("m")).headers == {}


async def test_the_sdk_does_not_repeat_a_conflict():
    seen = []

    await raised(Conflict("m"), seen)

    assert len(seen) == 1


async def test_the_sdk_repeats_what_may_pass():
    seen = []

    await raised(ModelUnavailable("m", retry_after_s=0.001), seen)

    assert len(seen) == 3


def test_an_upstreams_headers_are_passed_on():
    error = UpstreamError("m", status=429, headers={"retry-after-ms": "7"})

    assert render(error).headers == {"retry-after-ms": "7"}


@pytest.mark.parametrize("status", [0, 200, 302, 600])
def test_an_upstream_that_fails_with_success_is_a_bad_gateway(status):
    assert render(UpstreamError("m", status=status)).status == 502


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("the prompt was: secret"), 500),
        (KeyError("secret"), 500),
        (BlobChanged("secret"), 500),
        (StorageUnavailable("secret"), 503),
        (KeyUnavailable("secret"), 503),
    ],
)
def test_an_error_that_is_not_for_callers_says_nothing_of_its_cause(error, status):
    rendered = render(error)

    assert rendered.status == status
    assert b"secret" not in rendered.body
    assert type(error).__name__.encode() not in rendered.body


async def test_an_error_event_raises_in_the_sdk():
    client = sdk(event(PluginFailed("redact", "post_filter")))
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)

    with pytest.raises(openai.APIError, match="redact") as caught:
        await anext(stream)

    assert caught.value.code == "plugin_failed"
