"""The bodies of requests to an upstream: what it is told, and what it is never told."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from sluicegate import EmbeddingRequest
from sluicegate.requests import GenerationRequest, Request

from .upstream import Upstream, UpstreamModel

NEVER = frozenset({"model", "stream", "stream_options", "store", "metadata", "encoding_format"})
"""Fields of the caller that are ours to set."""
USER = frozenset({"user", "safety_identifier", "user_security_context"})
"""Fields that name the caller's end user."""


def generation(request: GenerationRequest, model: UpstreamModel, upstream: Upstream, *, stream: bool) -> bytes:
    """Return the body of a chat or completion request."""
    body = _passed_on(request, model, upstream)
    if upstream.store_field and request.operation == "chat.completions":
        body["store"] = False
    if stream:
        body["stream"] = True
        if upstream.usage_field:
            body["stream_options"] = {"include_usage": True}
    return to_json(body)


def embedding(request: EmbeddingRequest, model: UpstreamModel, upstream: Upstream) -> bytes:
    """Return the body of an embedding request."""
    return to_json({**_passed_on(request, model, upstream), "encoding_format": "base64"})


def _passed_on(request: Request, model: UpstreamModel, upstream: Upstream) -> dict[str, Any]:
    withheld = NEVER if upstream.send_user else NEVER | USER
    body = {name: value for name, value in request.body().items() if value is not None and name not in withheld}
    body["model"] = model.upstream_name
    return body
