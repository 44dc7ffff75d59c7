"""Render an error as the caller sees it: status, body and headers, or an event in the middle of a stream.

A refused prompt has the form that client code parses, ``error.innererror.content_filter_result``; the alias
``content_filter_results`` is what the specs say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sluicegate.api.encoding import encode
from sluicegate.errors import (
    ApiError,
    KeyUnavailable,
    Refused,
    StorageUnavailable,
    TooManyRequests,
    UpstreamError,
)
from sluicegate.types import FilterResults


@dataclass(frozen=True, slots=True)
class Rendered:
    """An error on the wire; ``body`` is JSON."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def render(error: Exception, prompt_filter_results: FilterResults | None = None) -> Rendered:
    """Return what the caller gets for ``error``; an error that is not meant for callers becomes a 500 that says nothing.

    Args:
        error: An ``ApiError``, ``Refused`` on a prompt, or anything else.
        prompt_filter_results: Verdicts the request already carried; those of ``Refused`` are merged over them.
    """
    if isinstance(error, Refused):
        return Rendered(400, encode({"error": _refused({**(prompt_filter_results or {}), **error.results})}))
    if isinstance(error, ApiError):
        body: dict[str, Any] = {
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "type": error.type,
        }
        if error.inner is not None:
            body["innererror"] = error.inner
        return Rendered(_status(error), encode({"error": body}), _headers(error))
    if isinstance(error, StorageUnavailable | KeyUnavailable):
        return Rendered(503, encode({"error": _UNAVAILABLE}))
    return Rendered(500, encode({"error": _UNEXPECTED}))


def event(error: Exception) -> bytes:
    """Return ``error`` as the event that ends a stream in place of ``[DONE]``."""
    return b"data: " + render(error).body + b"\n\n"


_UNEXPECTED = {
    "code": "server_error",
    "message": "The server had an error while processing your request.",
    "param": None,
    "type": "server_error",
}


_UNAVAILABLE = {
    "code": "serviceUnavailable",
    "message": "Storage or keys cannot be reached now; try again later.",
    "param": None,
    "type": "server_error",
}


def _refused(results: FilterResults) -> Mapping[str, Any]:
    return {
        "message": "The response was filtered due to the prompt triggering the content management policy. "
        "Please modify your prompt and retry.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": results,
            "content_filter_results": results,
        },
    }


def _status(error: ApiError) -> int:
    """Return the status; an upstream that claims success while failing is a bad gateway."""
    return error.status if 400 <= error.status <= 599 else 502


def _headers(error: ApiError) -> dict[str, str]:
    if isinstance(error, UpstreamError):
        return dict(error.headers)
    headers = dict(error.headers) if isinstance(error, TooManyRequests) else {}
    if error.retry_after_s is not None:
        wait_s = max(0.0, error.retry_after_s)
        headers |= {"retry-after-ms": str(math.ceil(wait_s * 1000)), "retry-after": str(math.ceil(wait_s))}
    elif error.status == 409:
        # The SDK repeats every 409, and a conflict that no waiting resolves would be repeated in vain.
        headers = {"x-should-retry": "false"}
    return headers
