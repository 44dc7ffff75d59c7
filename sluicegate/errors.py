"""Every error that Sluicegate raises on purpose, and who sees it.

* SluicegateError
  x StartupError            the operator: the app does not start, nothing is served
  x ApiError                the caller, as an OpenAI error body with an HTTP status
    x InvalidRequest        400: something in the request must change
    x Unsupported           400: the serving model cannot do what was asked
    x Unauthorized          401: no key or token that we know
    x Forbidden             403: known, but not allowed here
      x AccessBlocked       403: because of a confirmed violation; ``retry_after_s`` says until when
    x NotFound              404: deployment, model or record
    x MethodNotAllowed      405
    x Conflict              409: the state of the resource does not allow it
    x PreconditionFailed    412: the resource is not the one of the given ETag
    x PayloadTooLarge       413
    x HeadersTooLarge       431
    x TooManyRequests       429: ``retry_after_s`` says when to come back
      x QuotaExceeded       429: something must be deleted first; waiting changes nothing
    x ModelUnavailable      503: the model is not loaded or not reachable
    x FilterUnavailable     503: a filter cannot judge now, and the policy does not let text pass unfiltered
    x CredentialsUnavailable  503: who is calling cannot be checked now
    x RegionNotConfigured   503: the deployment file no longer has the region that the account is in
    x AccountKeyUnavailable 503: the account's own encryption key cannot be reached; a ServiceError as well
      x AccountKeyRevoked   403: its owner does not let it be used
    x UpstreamError         an upstream's own status and code
    x PluginFailed          503: a required plugin raised something unexpected
  x Refused                 a filter refused the content: 400, or ``finish_reason: "content_filter"``
  x TrainingFailed          the customer, in the failed fine-tuning job and its events
  x ServiceError            storage or keys; what a plugin catches around ``BlobStore`` and ``KeyService``
    x BlobNotFound, BlobExists, BlobChanged, StorageUnavailable
    x KeyNotFound, SealBroken
    x KeyUnavailable
      x KeyRefused          disabled, expired, or not ours to use
  x PurgeIncomplete         the operator: something that should be gone is not, or could not be checked

No message here ever quotes a prompt, a completion, a key or a file. An ``ApiError``'s message goes to the caller who
sent the request and to nobody else: it may name a field of that request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from sluicegate.types import FilterOffsets


class SluicegateError(Exception):
    """Base of every error this package raises on purpose."""


class StartupError(SluicegateError):
    """The operator sees it: a plugin, a setting or a file cannot be used, so nothing is served."""


class ApiError(SluicegateError):
    """The caller sees it, as ``{"error": {"code", "message", "param", "type"}}``.

    Args:
        message: What to fix, in a sentence.
        code: The machine-readable code; each class has a default.
        param: The request field to change, such as ``messages[0].content``.
        retry_after_s: Seconds after which the same request may succeed; sent as ``retry-after`` headers.

    Attributes:
        inner: What the body's ``innererror`` says, for programs; None for none.
    """

    status: int = 500
    type: str | None = None
    default_code: ClassVar[str | None] = None
    inner: Mapping[str, Any] | None = None

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(ApiError):
    """The request is malformed or asks for something that does not exist."""

    status = 400
    type = "invalid_request_error"


class Unsupported(InvalidRequest):
    """The request is well formed, but the serving model cannot do it; never ignored in silence."""

    default_code = "unsupported_parameter"


class Unauthorized(ApiError):
    """No authentication plugin knows the caller."""

    status = 401
    default_code = "401"


class Forbidden(ApiError):
    """The caller is known and may not do this."""

    status = 403
    default_code = "Forbidden"


class AccessBlocked(Forbidden):
    """A penalty shuts the resource, or one of its end users, out; the message says why, until when, and how to appeal."""

    def __init__(self, message: str, *, inner: Mapping[str, Any], retry_after_s: float | None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.inner = inner


class NotFound(ApiError):
    """What the path or the body names does not exist for this account."""

    status = 404
    type = "invalid_request_error"
    default_code = "404"


class MethodNotAllowed(ApiError):
    """The resource exists and does not know the method."""

    status = 405
    type = "invalid_request_error"
    default_code = "MethodNotAllowed"


class Conflict(ApiError):
    """The state of the resource does not allow the operation; waiting changes nothing."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class PreconditionFailed(ApiError):
    """The resource is not the one of the given ETag, or exists although it should not."""

    status = 412
    type = "invalid_request_error"
    default_code = "PreconditionFailed"


class PayloadTooLarge(ApiError):
    """The body exceeds the limit."""

    status = 413
    type = "invalid_request_error"
    default_code = "413"


class HeadersTooLarge(ApiError):
    """The headers exceed the limit."""

    status = 431
    type = "invalid_request_error"
    default_code = "431"


class TooManyRequests(ApiError):
    """A limit was reached; ``retry_after_s`` says for how long.

    Args:
        headers: How the limits stand.
        inner: Why they are so low, where a penalty is the cause.
    """

    status = 429
    default_code = "429"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        inner: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.headers = dict(headers or {})
        self.inner = inner


class QuotaExceeded(TooManyRequests):
    """The account has as much of something as it may; the SDK is told not to try again."""

    type = "invalid_request_error"
    default_code = "quotaExceeded"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class ModelUnavailable(ApiError):
    """The model is loading, busy beyond its queue, or its server cannot be reached."""

    status = 503
    type = "server_error"
    default_code = "serviceUnavailable"


class FilterUnavailable(ApiError):
    """A filter cannot judge: its service is down, or it is busy beyond its queue. Raise it from a filter.

    The request fails, or the answer ends with an error, unless the policy is one that fails open.
    """

    status = 503
    type = "server_error"
    default_code = "content_filter_error"


class CredentialsUnavailable(ApiError):
    """Who is calling cannot be checked now, because the issuer's keys cannot be had; nobody is let in meanwhile."""

    status = 503
    type = "server_error"
    default_code = "serviceUnavailable"


class RegionNotConfigured(ApiError):
    """The data of an account is in a region that the deployment file does not have any more, so nobody gets at it.

    Args:
        location: The account's.
    """

    status = 503
    type = "server_error"
    default_code = "RegionNotConfigured"

    def __init__(self, location: str) -> None:
        super().__init__(
            f"The data of this resource is in the region {location!r}, which this deployment does not have configured: "
            "nothing of it is served or can be read until its operator configures the region again."
        )


class UpstreamError(ApiError):
    """An upstream model server refused or failed; its status and code are passed on, its text is not.

    Args:
        status: The upstream's HTTP status.
        headers: Those of the upstream's headers that the caller should see, such as ``retry-after-ms``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.status = status
        self.type = type
        self.headers = dict(headers or {})


class PluginFailed(ApiError):
    """A required plugin raised something unexpected; nothing more is sent."""

    status = 503
    type = "server_error"
    default_code = "plugin_failed"

    def __init__(self, plugin: str, hook: str) -> None:
        # The cause may quote the prompt, so it goes nowhere but the frames in the log.
        super().__init__(f"plugin {plugin!r} failed in {hook}; the request was not completed")
        self.plugin = plugin
        self.hook = hook


class Refused(SluicegateError):
    """A filter refused the content. Raise it from ``pre_filter`` or ``post_filter``.

    Args:
        results: The verdicts in wire form, such as ``{"custom_blocklists": {"filtered": True, "details": [...]}}``.
            They are merged over those the request or the answer already carries.
        prompt_index: Of several prompts of a completion request, or inputs of an embedding request, the refused one.
        offsets: From ``post_filter`` in asynchronous mode: which part of the choice is refused.
    """

    def __init__(
        self,
        results: Mapping[str, Mapping[str, Any]],
        *,
        prompt_index: int = 0,
        offsets: FilterOffsets | None = None,
    ) -> None:
        super().__init__("content refused by " + ", ".join(sorted(results)))
        self.results = dict(results)
        self.prompt_index = prompt_index
        self.offsets = offsets


class TrainingFailed(SluicegateError):
    """A fine-tuning job cannot succeed, and its owner is told why.

    Args:
        message: What to change, in a sentence; it quotes no example.
        code: The job's ``error.code``.
        param: ``training_file`` or ``validation_file`` when one of them is to blame.
    """

    def __init__(self, message: str, *, code: str = "trainingFailed", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class ServiceError(SluicegateError):
    """Base of what storage and key services raise."""


class BlobNotFound(ServiceError):
    """No blob of that name."""


class BlobExists(ServiceError):
    """A create-only write found the name taken."""


class BlobChanged(ServiceError):
    """The ETag given is no longer the blob's."""


class StorageUnavailable(ServiceError):
    """The store cannot be reached, is full or is read-only; worth retrying where the cause is temporary."""


class KeyNotFound(ServiceError):
    """The key never existed or was destroyed: what it wrapped is unreadable for good."""


class KeyUnavailable(ServiceError):
    """The key service cannot be reached, or the key is disabled; worth retrying."""


class KeyRefused(KeyUnavailable):
    """The key service answers that the key may not be used: disabled, expired, or not by us. Its owner can change that."""


class AccountKeyUnavailable(ApiError, KeyUnavailable):
    """The key that an account brought for its data cannot be reached, so nothing of it is read or written.

    Args:
        key: As ``CustomerKey.label`` names it.
    """

    status = 503
    type: str | None = "server_error"
    default_code = "EncryptionKeyUnavailable"
    _reason: ClassVar[str] = "cannot be reached now. Try again later."

    def __init__(self, account: str, key: str) -> None:
        super().__init__(f"The encryption key of account {account!r}, {key}, {self._reason}")


class AccountKeyRevoked(AccountKeyUnavailable):
    """The key that an account brought for its data is disabled, expired, deleted or closed to this service."""

    status = 403
    type = None
    default_code = "EncryptionKeyRevoked"
    _reason = (
        "is disabled, expired or deleted, or closed to this service. Enable it and let this service read it, wrap and unwrap "
        "with it: until then nothing of this account is served or can be read."
    )


class SealBroken(ServiceError):
    """What was read back is not what was sealed there: changed, cut short, moved, or in an unknown format."""


class PurgeIncomplete(SluicegateError):
    """The operator sees it: the timer's invocation fails and the next one tries again.

    Args:
        left: What is not gone or not proven gone, without content: ``"20260101: its key"``.
    """

    def __init__(self, left: Iterable[str]) -> None:
        self.left = tuple(left)
        super().__init__("purge incomplete: " + "; ".join(self.left))


class CountsUnreadable(SluicegateError):
    """The operator sees it: counts of signals that are stored are not what this version writes."""


class MonitoringIncomplete(SluicegateError):
    """The operator sees it: the invocation of the timer ``abuse`` fails and the next one tries again.

    Args:
        left: Which steps failed, without content: ``"patterns (StorageUnavailable)"``.
    """

    def __init__(self, left: Iterable[str]) -> None:
        self.left = tuple(left)
        super().__init__("monitoring incomplete: " + "; ".join(self.left))
