"""Answers: each window of what a model says, and at the end of a stream what its documents do not say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sluicegate import Chunk, FilterOffsets, FilterResults, FilterUnavailable, Policy, Source
from sluicegate.policies import ContentFilter
from sluicegate.requests import GenerationRequest
from sluicegate.scopes import Kind, passages
from sluicegate.vetting import Windows, vet

from .pieces import cut, readable, together
from .service import CATEGORIES
from .verdicts import with_blocklists

if TYPE_CHECKING:
    from .config import Config

WINDOWS = Windows(overlap=256, first=128, largest=512)
"""Each window is up to three calls, and at most as long as protected text may be. What the service knows as protected is
longer than 200 characters, or more than 11 words of a song."""
SHORTEST_PROTECTED = 110
"""Characters; the service reads no less for protected material."""
MOST_GROUNDED, MOST_QUERY, MOST_SOURCES = 7_500, 7_500, 55_000
"""Characters of answer, question and sources in one question about groundedness."""
GROUNDED = "ungrounded_material"
PROTECTED = ("protected_material_text", "protected_material_code")


async def filtered(
    chunks: AsyncIterator[Chunk], request: GenerationRequest, policy: Policy, config: Config
) -> AsyncGenerator[Chunk]:
    """Yield a choice's chunks once they are vetted."""
    detector = _Detector(with_blocklists(policy, config.blocklists), config)
    grounding = _Grounding(request, policy, config)
    vetting = vet(chunks, detector.detect, request, policy, WINDOWS) if detector.looks else nullcontext(chunks)
    async with vetting as vetted:
        async for chunk in vetted:
            grounding.read(chunk)
            if chunk.finish_reason is not None and (results := await grounding.results()):
                yield grounding.said(results)
            yield chunk


class _Detector:
    """Asks about windows of one choice, whatever the policy looks for in answers.

    Attributes:
        looks: Whether it looks for anything.
    """

    def __init__(self, policy: Policy, config: Config) -> None:
        self._policy = policy
        self._config = config
        self._harms = tuple(each for each in CATEGORIES if config.harms and policy.is_on(each, Source.COMPLETION))
        self._protected = tuple(
            each for each in PROTECTED if config.protected_material and policy.is_on(each, Source.COMPLETION)
        )
        self.looks = bool(self._harms or self._protected or config.blocklists)

    async def detect(self, window: str) -> FilterResults:
        """Return the verdicts on one window."""
        text = readable(window)
        found: list[FilterResults] = await together(self._questions(text))
        return {category: result for results in found for category, result in results.items()}

    def _questions(self, text: str) -> list[Coroutine[Any, Any, FilterResults]]:
        questions = []
        if self._harms or self._config.blocklists:
            questions.append(self._analysed(text))
        if "protected_material_text" in self._protected:
            questions.append(self._protected_text(text))
        if "protected_material_code" in self._protected:
            questions.append(self._protected_code(text))
        return questions

    async def _analysed(self, text: str) -> FilterResults:
        found = await self._config.service.analyse(text, self._harms, self._config.blocklists)
        verdicts = [self._policy.judge(each, Source.COMPLETION, severity=found.severity[each]) for each in self._harms]
        if found.blocklists:
            verdicts.append(self._policy.judge_blocklists(found.blocklists, Source.COMPLETION))
        return {verdict.category: verdict.result for verdict in verdicts if verdict}

    async def _protected_text(self, text: str) -> FilterResults:
        found = len(text) >= SHORTEST_PROTECTED and await self._config.service.is_protected_text(text)
        verdict = self._policy.judge("protected_material_text", Source.COMPLETION, detected=found)
        return verdict.results if verdict else {}

    async def _protected_code(self, text: str) -> FilterResults:
        found = await self._config.service.protected_code(text) if len(text) >= SHORTEST_PROTECTED else None
        details: dict[str, Any] = {"citation": dict(found)} if found else {}
        verdict = self._policy.judge(
            "protected_material_code", Source.COMPLETION, detected=found is not None, **details
        )
        return verdict.results if verdict else {}


class _Grounding:
    """Follows one choice of a streamed answer, to ask at its end what its documents do not say.

    It annotates and never blocks, so that a service which does not answer costs the annotation and not the answer.
    """

    def __init__(self, request: GenerationRequest, policy: Policy, config: Config) -> None:
        self._config = config
        self._policy = policy.replacing(
            *(replace(each, blocking=False) for each in policy.filters if each.name == "Ungrounded Material")
        )
        self._text = ""
        self._index = 0
        self._offsets: FilterOffsets | None = None
        self._start = 0
        self._sources: list[str] = []
        self._query = ""
        if config.groundedness and request.stream and policy.is_on(GROUNDED, Source.COMPLETION):
            # Documents are told from the user's own words, whether or not attacks are looked for in them.
            told = policy.replacing(ContentFilter("Indirect Attack", Source.PROMPT))
            read = passages(request, told)
            self._sources = _within(MOST_SOURCES, [readable(each.value) for each in read if each.kind is Kind.DOCUMENT])
            asked = [readable(each.value) for each in read if each.kind is Kind.USER and each.is_new]
            self._query = "\n".join(asked)[-MOST_QUERY:]

    def read(self, chunk: Chunk) -> None:
        """Take note of what the choice says."""
        self._index = chunk.index
        if offsets := chunk.content_filter_offsets:
            if self._offsets is None:
                self._start = offsets.start_offset
            self._offsets = offsets
        if self._sources:
            self._text += chunk.text

    async def results(self) -> FilterResults:
        """Return the verdict on the whole answer; none where there is nothing to compare it with."""
        if not self._sources or not self._text.strip():
            return {}
        spans: list[tuple[int, int]] = []
        text, start = readable(self._text), 0
        try:
            for part in cut(text, MOST_GROUNDED, 0):
                found = await self._config.service.ungrounded(part, self._query, self._sources)
                spans += [(start + first, start + last) for first, last in found]
                start += len(part)
        except FilterUnavailable:
            return {}
        details: dict[str, Any] = {}
        if spans:
            details["details"] = [
                {"completion_start_offset": first, "completion_end_offset": last} for first, last in spans
            ]
        verdict = self._policy.judge(GROUNDED, Source.COMPLETION, detected=bool(spans), **details)
        return verdict.results if verdict else {}

    def said(self, results: FilterResults) -> Chunk:
        """Return a chunk that says so before the answer's last one, with offsets where the stream has such."""
        offsets = self._offsets
        if offsets is not None:
            offsets = FilterOffsets(offsets.check_offset, self._start, self._start + len(self._text))
        return Chunk(index=self._index, content_filter_results=results, content_filter_offsets=offsets)


def _within(most: int, texts: list[str]) -> list[str]:
    """Return the texts from the first on, as many as are ``most`` characters together; the last one may be cut."""
    kept = []
    for text in texts:
        if most <= 0:
            break
        kept.append(text[:most])
        most -= len(text)
    return kept
