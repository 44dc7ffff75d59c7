"""Errors of the control plane in ARM's form: ``{"error": {"code", "message", "target"}}``."""

from __future__ import annotations

from sluicegate.api import errors
from sluicegate.api.encoding import encode
from sluicegate.api.errors import Rendered
from sluicegate.errors import ApiError, BlobChanged, BlobExists, Conflict, KeyUnavailable, StorageUnavailable

_CODES = {
    401: "AuthenticationFailed",
    403: "AuthorizationFailed",
    404: "ResourceNotFound",
    413: "RequestEntityTooLarge",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}
"""Where the data plane's code is only the number, or none."""


def render(error: Exception) -> Rendered:
    """Return what the caller gets for ``error``; what is not meant for callers says nothing."""
    if isinstance(error, BlobChanged | BlobExists):
        error = Conflict("Another request changed the resource at the same time: read it again, then change it.")
    if isinstance(error, StorageUnavailable | KeyUnavailable):
        return _body(503, "ServiceUnavailable", "Storage or keys cannot be reached now; try again later.")
    if not isinstance(error, ApiError):
        return _body(500, "InternalServerError", "The server had an error while processing your request.")
    code = error.code if error.code and not error.code.isdecimal() and error.code != "serviceUnavailable" else None
    rendered = errors.render(error)
    body = _body(rendered.status, code or _CODES.get(rendered.status, "BadRequest"), error.message, error.param)
    return Rendered(body.status, body.body, rendered.headers)


def _body(status: int, code: str, message: str, target: str | None = None) -> Rendered:
    found = {"code": code, "message": message, **({"target": target} if target else {})}
    return Rendered(status, encode({"error": found}))
