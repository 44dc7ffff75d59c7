"""What an upstream's failures become here: for the caller, for the log, and for whoever decides about a retry.

========================================  ==========================================  =============
upstream                                  the caller sees                             log, retry
========================================  ==========================================  =============
400 ``content_filter``                    ``Refused`` with the upstream's verdicts    –
400, 413, 422                             400 or 413 with code and param              –
401, 403, 404, 410, 3xx, no quota left    503                                         error
408, 5xx                                  503, ``retry-after``                        warning, retried
429                                       429, ``retry-after``                        –
other 4xx                                 the same status and code                    warning
no connection                             503                                         warning, retried
no first byte in time, broken off         503                                         warning
========================================  ==========================================  =============

An upstream's message may quote the prompt. It is neither shown nor kept: the caller gets our words with the upstream's
``code`` and ``param``, as far as these are plain names, and the log gets status, code and the upstream's request id.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from sluicegate import InvalidRequest, ModelUnavailable, Refused, TooManyRequests, UpstreamError
from sluicegate.errors import ApiError, PayloadTooLarge

from .verdicts import verdicts

ADVICE = {
    "context_length_exceeded": "The prompt and the answer asked for exceed the model's context length.",
    "unsupported_parameter": "The model does not support this parameter.",
    "unsupported_value": "The model does not support this value of the parameter.",
    "invalid_prompt": "The model's provider does not accept this prompt.",
}
REFUSAL_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
QUOTA_CODES = frozenset({"insufficient_quota", "quotaExceeded", "billing_hard_limit_reached"})
MISCONFIGURED = frozenset({401, 403, 404, 410})
TRANSIENT = frozenset({408, 500, 502, 503, 504})
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PARAM = re.compile(r"[A-Za-z0-9_.\[\]-]{1,128}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Attributes:
        error: What to raise.
        transient: Whether asking again may help.
    """

    error: ApiError | Refused
    transient: bool = False


def answered(status: int, headers: Mapping[str, str], body: bytes, where: str) -> Failure:
    """Return what an answer other than 200 means.

    Args:
        where: The upstream and its model, for the log.
    """
    detail = _detail(body)
    failure = _classified(status, detail, retry_after_s(headers))
    request_id = _plain(headers.get("apim-request-id") or headers.get("x-request-id"), _CODE)
    if isinstance(failure.error, ModelUnavailable | UpstreamError):
        level = logging.WARNING if failure.transient or isinstance(failure.error, UpstreamError) else logging.ERROR
        log.log(level, "%s: HTTP %d, code %s, request id %s", where, status, plain_code(detail), request_id)
    if headers.get("x-should-retry") == "false":
        return Failure(failure.error)
    return failure


def unreachable(error: BaseException, where: str, *, transient: bool) -> Failure:
    """Return what a failure of the connection means; only its class is logged."""
    log.warning("%s: %s", where, type(error).__name__)
    return Failure(ModelUnavailable("The model's server cannot be reached, or does not answer in time."), transient)


def broken_off(where: str) -> ModelUnavailable:
    """Return the error for a stream that ended before its answer."""
    log.warning("%s: the answer broke off", where)
    return ModelUnavailable("The model's server broke off in the middle of the answer.")


def malformed(where: str) -> ModelUnavailable:
    """Return the error for an answer that cannot be read."""
    log.warning("%s: the answer cannot be read", where)
    return ModelUnavailable("The model's server sent an answer that cannot be read.")


def reported(detail: Any, where: str) -> ApiError | Refused:
    """Return the error that an event within a stream reports."""
    detail = detail if isinstance(detail, dict) else {}
    log.warning("%s: the answer ended with an error, code %s", where, plain_code(detail))
    status = detail.get("status")
    if plain_code(detail) in REFUSAL_CODES:
        status = 400
    return _classified(status if isinstance(status, int) and status >= 400 else 500, detail, None).error


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait an upstream asks for; ``retry-after-ms`` is the finer and wins.

    A date in ``retry-after`` is passed over: no model server sends one.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) / unit
    return None


def code_of(body: bytes) -> str | None:
    """Return the code of an answer's error, as far as it is a plain name."""
    return plain_code(_detail(body))


def plain_name(value: Any) -> str:
    """Return a name that an upstream sent, such as a state; ``unknown`` for whatever could be a text."""
    return _plain(value, _CODE) or "unknown"


def plain_code(detail: Mapping[str, Any]) -> str | None:
    """Return an error's code as far as it is a plain name."""
    return _plain(detail.get("code"), _CODE)


def _classified(status: int, detail: Mapping[str, Any], wait_s: float | None) -> Failure:
    code = plain_code(detail)
    if status == 400 and (code in REFUSAL_CODES or _inner(detail)):
        return Failure(Refused(_refusal_results(detail)))
    if status in (400, 413, 422):
        kind = PayloadTooLarge if status == 413 else InvalidRequest
        message = ADVICE.get(code or "", "The model's server does not accept this request.")
        return Failure(kind(message, code=code, param=_plain(detail.get("param"), _PARAM)))
    if status in MISCONFIGURED or status < 400 or code in QUOTA_CODES:
        return Failure(ModelUnavailable("The model is not available: its upstream is not set up for it."))
    if status == 429:
        message = "The model's server has reached its rate limit. Try again later."
        return Failure(TooManyRequests(message, retry_after_s=wait_s))
    if status in TRANSIENT or status >= 500:
        message = "The model's server is not available now. Try again later."
        return Failure(ModelUnavailable(message, retry_after_s=wait_s), transient=True)
    return Failure(UpstreamError("The model's server refused the request.", status=status, code=code))


def _detail(body: bytes) -> Mapping[str, Any]:
    """Return the error object of a body, empty when it has none."""
    try:
        parsed = from_json(body)
    except ValueError:
        return {}
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}


def _inner(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object that names the categories; it goes by two names (Azure's REST specs and its answers differ)."""
    inner = detail.get("innererror") or detail.get("inner_error")
    return inner if isinstance(inner, dict) and inner.get("code") in REFUSAL_CODES else {}


def _refusal_results(detail: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the verdicts of a refused prompt; empty when the upstream does not say which."""
    inner = _inner(detail)
    try:
        return verdicts(inner.get("content_filter_result") or inner.get("content_filter_results"))
    except (AttributeError, TypeError):
        return {}


def _plain(value: Any, pattern: re.Pattern[str]) -> str | None:
    """Return a name that an upstream sent; None for whatever could be a text."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if pattern.fullmatch(text) else None
