"""How the service is asked: so many questions at once, again after what may pass, and in vain no longer than agreed."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from sluicegate import FilterUnavailable

from .circuit import Circuit
from .connection import connect

if TYPE_CHECKING:
    from azure.ai.contentsafety.aio import ContentSafetyClient
    from azure.core.exceptions import HttpResponseError

T = TypeVar("T")

PAUSES_S = (0.2, 0.8)
"""Before the second attempt and the third, unless the service says when."""
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
OURS = frozenset({400, 405, 411, 413, 414, 415, 422})
"""Statuses that blame the request, so the text in it: not an outage, whatever a policy says of those."""
_CODE = re.compile(r"[A-Za-z0-9]{1,60}")
_WRONG_SHAPE = (AttributeError, IndexError, KeyError, TypeError, ValueError)

log = logging.getLogger(__name__)


class Rejected(Exception):
    """The service will not read what it was sent: a fault of this plugin, and never a reason to let text pass."""


class Asking:
    """The connection to the service, for the whole process.

    Args:
        key: Of the resource; None for the app's identity.
        timeout_s: For one question, waiting for its turn and all attempts included.
        at_once: How many questions may be under way.
    """

    def __init__(self, endpoint: str, key: str | None, *, timeout_s: float, at_once: int) -> None:
        self._client, self._identity = connect(endpoint, key, timeout_s)
        self._timeout_s = timeout_s
        self._room = asyncio.Semaphore(at_once)
        self._circuit = Circuit()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
        if self._identity is not None:
            await self._identity.close()

    async def ask(self, operation: str, call: Callable[[ContentSafetyClient], Awaitable[T]]) -> T:
        """Return what ``call`` makes of an answer.

        Args:
            operation: For the log.
            call: Makes one attempt. When it cannot make sense of the answer, it raises as a wrong key or type does.

        Raises:
            FilterUnavailable: Nothing was answered, or nothing that can be understood.
            Rejected: The service will not read what it was sent.
        """
        self._circuit.check()
        try:
            async with asyncio.timeout(self._timeout_s), self._room:
                answer = await self._attempted(operation, call)
        except TimeoutError:
            self._circuit.failed()
            raise _unavailable(operation, "no answer in time") from None
        except FilterUnavailable as error:
            self._circuit.failed(error.retry_after_s)
            raise
        self._circuit.succeeded()
        return answer

    async def _attempted(self, operation: str, call: Callable[[ContentSafetyClient], Awaitable[T]]) -> T:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        started = asyncio.get_running_loop().time()
        for pause_s in (*PAUSES_S, None):
            try:
                return await call(self._client)
            except HttpResponseError as error:
                why, wait_s = f"{error.status_code or type(error).__name__} {_code(error)}", _retry_after(error)
                # An identity endpoint may answer 400 as well.
                if error.status_code in OURS and not isinstance(error, ClientAuthenticationError):
                    log.error("Azure AI Content Safety rejects a request of %s: %s", operation, why)
                    raise Rejected(operation) from None
                if error.status_code not in AGAIN:
                    raise _unavailable(operation, why) from None
            except AzureError as error:
                why, wait_s = type(error).__name__, None
            except _WRONG_SHAPE:
                raise _unavailable(operation, "an answer that is not understood") from None
            wait_s = pause_s if wait_s is None else wait_s
            elapsed = asyncio.get_running_loop().time() - started
            if pause_s is None or wait_s is None or elapsed + wait_s >= self._timeout_s:
                raise _unavailable(operation, why, wait_s)
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")


def _unavailable(operation: str, why: str, retry_after_s: float | None = None) -> FilterUnavailable:
    """Tell the operator why, and the caller that."""
    log.error("Azure AI Content Safety does not answer %s: %s", operation, why)
    return FilterUnavailable("The content filter cannot be reached now.", retry_after_s=retry_after_s)


def _code(error: HttpResponseError) -> str:
    """Return the service's code, such as ``TooManyRequests``; its message may quote what it was sent."""
    code = str((error.error.code if error.error else None) or "")
    return code if _CODE.fullmatch(code) else ""


def _retry_after(error: HttpResponseError) -> float | None:
    """Return what the service says, in seconds; None when it says nothing, or a date."""
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if value.isascii() and value.isdecimal():
            return int(value) * unit
    return None
