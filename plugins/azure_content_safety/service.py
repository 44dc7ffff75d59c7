"""What the service is asked, and what it answers.

An answer that lacks something that was asked for counts as none: what was not read is never taken for harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .asking import Asking
from .connection import PREVIEW, STABLE

if TYPE_CHECKING:
    from azure.ai.contentsafety.aio import ContentSafetyClient

T = TypeVar("T")

CATEGORIES = {"hate": "Hate", "sexual": "Sexual", "violence": "Violence", "self_harm": "SelfHarm"}
"""Our categories with a severity, and their names in the service."""


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


class ContentSafety:
    """The service's questions. Each raises ``FilterUnavailable`` when it is not answered, ``Rejected`` when it is refused."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def close(self) -> None:
        """Close the connections."""
        await self._asking.close()

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

        return await self._asking.ask("text:analyze", call)

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

    async def _posted(self, operation: str, version: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Ask what the package has no method for, through its client."""

        async def call(client: ContentSafetyClient) -> T:
            from azure.core.rest import HttpRequest

            request = HttpRequest("POST", f"/{operation}", params={"api-version": version}, json=dict(body))
            response = await client.send_request(request)
            response.raise_for_status()
            return read(response.json())

        return await self._asking.ask(operation, call)


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
