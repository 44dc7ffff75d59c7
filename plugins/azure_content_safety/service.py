"""What the service is asked, and what it answers, or why it does not.

An answer that lacks something that was asked for counts as none: what was not read is never taken for harmless.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sluicegate import FilterUnavailable

from .circuit import Circuit
from .connection import PREVIEW, STABLE, connect

if TYPE_CHECKING:
    from azure.ai.contentsafety.aio import ContentSafetyClient
    from azure.core.exceptions import HttpResponseError

T = TypeVar("T")

CATEGORIES = {"hate": "Hate", "sexual": "Sexual", "violence": "Violence", "self_harm": "SelfHarm"}
"""Our categories with a severity, and their names in the service."""
PAUSES_S = (0.2, 0.8)
"""Before the second attempt and the third, unless the service says when."""
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
OURS = frozenset({400, 405, 411, 413, 414, 415, 422})
"""Statuses that blame the request, so the text in it: not an outage, whatever a policy says of those."""
_CODE = re.compile(r"[A-Za-z0-9]{1,60}")
_WRONG_SHAPE = (AttributeError, IndexError, KeyError, TypeError, ValueError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found in a text.

    Attributes:
        severity: 0, 2, 4 or 6 for each category that was asked for.
        blocklists: The names of those that were hit.
    """

    severity: Mapping[str, int]
    blocklists: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Attacks:
    """Whether a prompt, and whether any of its documents, attacks."""

    prompt: bool
    documents: bool


class Rejected(Exception):
    """The service will not read what it was sent: a fault of this plugin, and never a reason to let text pass."""


class ContentSafety:
    """The service, for the whole process.

    Every question raises :class:`~sluicegate.FilterUnavailable` when it is not answered in time.

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

    # --- questions ---------------------------------------------------------------------------------------------------

    async def analyse(self, text: str, categories: Sequence[str], blocklists: Sequence[str] = ()) -> Analysis:
        """Return severities, and which of the resource's blocklists are hit, of at most 10,000 characters.

        Args:
            categories: Keys of ``CATEGORIES``; none where blocklists alone matter.
        """

        async def call(client: ContentSafetyClient) -> Analysis:
            body: dict[str, Any] = {
                "text": text,
                # With no category at all the service would read for all four.
                "categories": [CATEGORIES[category] for category in categories or ("hate",)],
                "outputType": "FourSeverityLevels",
            }
            if blocklists:
                body |= {"blocklistNames": list(blocklists), "haltOnBlocklistHit": False}
            answer = await client.analyze_text(body)
            found = {each["category"]: _level(each["severity"]) for each in answer["categoriesAnalysis"]}
            hits = frozenset(str(each["blocklistName"]) for each in answer.get("blocklistsMatch") or ())
            return Analysis({category: found[CATEGORIES[category]] for category in categories}, hits)

        return await self._asked("text:analyze", call)

    async def attacks(self, prompt: str, documents: Sequence[str]) -> Attacks:
        """Return whether a prompt of at most 10,000 characters, or any of at most five documents of together so many, attacks.

        Args:
            prompt: Empty for documents alone.
        """
        body: dict[str, Any] = {"documents": list(documents)}
        if prompt:
            body["userPrompt"] = prompt

        def read(answer: Any) -> Attacks:
            in_documents = [_flag(each["attackDetected"]) for each in answer.get("documentsAnalysis") or ()]
            if len(in_documents) != len(documents):
                raise ValueError("a document is not judged")
            in_prompt = _flag(answer["userPromptAnalysis"]["attackDetected"]) if prompt else False
            return Attacks(in_prompt, any(in_documents))

        return await self._posted("text:shieldPrompt", STABLE, body, read)

    async def is_protected_text(self, text: str) -> bool:
        """Return whether a text of 110 to 1,000 characters is known: lyrics, articles, recipes, web pages."""

        def read(answer: Any) -> bool:
            return _flag(answer["protectedMaterialAnalysis"]["detected"])

        return await self._posted("text:detectProtectedMaterial", STABLE, {"text": text}, read)

    async def protected_code(self, code: str) -> Mapping[str, str] | None:
        """Return where known code comes from, ``URL`` and ``license``, possibly empty; None when it is not known."""

        def read(answer: Any) -> Mapping[str, str] | None:
            analysis = answer["protectedMaterialAnalysis"]
            if not _flag(analysis["detected"]):
                return None
            for citation in analysis.get("codeCitations") or ():
                urls = citation.get("sourceUrls") or [""]
                return {"URL": str(urls[0]), "license": str(citation.get("license") or "")}
            return {}

        return await self._posted("text:detectProtectedMaterialForCode", PREVIEW, {"code": code}, read)

    async def ungrounded(self, text: str, query: str, sources: Sequence[str]) -> list[tuple[int, int]]:
        """Return which parts of a text the sources do not say, by their first character and the one after their last.

        Args:
            text: At most 7,500 characters.
            query: The question it answers, at most 7,500 characters, possibly empty.
            sources: At most 55,000 characters together.
        """
        body: dict[str, Any] = {
            "domain": "Generic",
            "text": text,
            "groundingSources": list(sources),
            "reasoning": False,
        }
        body |= {"task": "QnA", "qna": {"query": query}} if query else {"task": "Summarization"}

        def read(answer: Any) -> list[tuple[int, int]]:
            if not _flag(answer["ungroundedDetected"]):
                return []
            return [_span(each, text) for each in answer.get("ungroundedDetails") or ()] or [(0, len(text))]

        return await self._posted("text:detectGroundedness", PREVIEW, body, read)

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _posted(self, operation: str, version: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Ask what the package has no method for, through its client."""

        async def call(client: ContentSafetyClient) -> T:
            from azure.core.rest import HttpRequest

            request = HttpRequest("POST", f"/{operation}", params={"api-version": version}, json=dict(body))
            response = await client.send_request(request)
            response.raise_for_status()
            return read(response.json())

        return await self._asked(operation, call)

    async def _asked(self, operation: str, call: Callable[[ContentSafetyClient], Awaitable[T]]) -> T:
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
        from azure.core.exceptions import AzureError, HttpResponseError

        started = asyncio.get_running_loop().time()
        for pause_s in (*PAUSES_S, None):
            try:
                return await call(self._client)
            except HttpResponseError as error:
                why, wait_s = f"{error.status_code or type(error).__name__} {_code(error)}", _retry_after(error)
                if error.status_code in OURS:
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


def _level(severity: Any) -> int:
    if severity not in (0, 2, 4, 6):
        raise ValueError("no severity of four levels")
    return int(severity)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("no truth value")
    return value


def _span(detail: Mapping[str, Any], text: str) -> tuple[int, int]:
    """Return where a detail is in the text, by its offsets or, in older answers, by its words."""
    if "offset" in detail and "length" in detail:
        start = int(detail["offset"]["codePoint"])
        return start, start + int(detail["length"]["codePoint"])
    start = text.find(str(detail["text"]).rstrip("."))
    return (start, start + len(str(detail["text"]).rstrip("."))) if start >= 0 else (0, len(text))
