"""The classifier before the model: read what is to be read of a request, and have its policy judge the worst of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby, islice, product
from typing import TypeAlias

from plugins.content_filter.classifier import SEVERITY_HEADS, Classifier, Head, Scores
from plugins.content_filter.classifier import Source as Reading
from plugins.content_filter.pieces import pieces
from sluicegate import FilterUnavailable, InvalidRequest, Policy, Refused, Source
from sluicegate.requests import Request
from sluicegate.scopes import Kind, Passage, passages

CATEGORIES = (*SEVERITY_HEADS, "jailbreak", "indirect_attack")
AT_ONCE = 2 * (os.cpu_count() or 1)
"""Texts of one request that are handed over at a time, so that those of others get their turn."""
CHARACTERS_A_SECOND = 250_000 * (os.cpu_count() or 1)
"""About how fast prompts are read; for telling when to come back."""

_Text: TypeAlias = tuple[Reading, str]


class Prompts:
    """Filters requests.

    Args:
        max_waiting: Characters that may wait to be read, over all requests of the process.
    """

    def __init__(self, classifier: Classifier, max_waiting: int) -> None:
        self._classifier = classifier
        self._max_waiting = max_waiting
        self._waiting = 0

    async def filtered(self, request: Request, policy: Policy) -> Request:
        """Return the request with verdicts on each of its prompts.

        Raises:
            Refused: The policy blocks a prompt, the first such one.
            InvalidRequest: It is too long ever to be read.
            FilterUnavailable: Too much waits already.
        """
        looked_for = [category for category in CATEGORIES if policy.is_on(category, Source.PROMPT)]
        read = [
            (passage, categories)
            for passage in passages(request, policy)
            if (categories := [each for each in looked_for if passage.is_read_for(each, policy)])
        ]
        with self._room_for(sum(len(passage.value) for passage, _ in read)):
            scores = await self._scores({text for passage, _ in read for text in _texts(passage, policy)})
        worst: dict[tuple[int, str], int] = {}
        for passage, categories in read:
            for text, category in product(_texts(passage, policy), categories):
                place = passage.prompt_index, category
                worst[place] = max(worst.get(place, 0), _level(scores[text][category]))
        for index in range(request.prompt_count if looked_for else 0):
            request = _judged(request, index, {each: worst.get((index, each), 0) for each in looked_for}, policy)
        return request

    @contextmanager
    def _room_for(self, length: int) -> Iterator[None]:
        if length > self._max_waiting:
            raise InvalidRequest(
                f"This request has more text than can be filtered, at most {self._max_waiting:,} characters: shorten it.",
                code="context_length_exceeded",
            )
        if self._waiting + length > self._max_waiting:
            wait_s = max(1.0, self._waiting / CHARACTERS_A_SECOND)
            raise FilterUnavailable("The content filter is busy: try again later.", retry_after_s=wait_s)
        self._waiting += length
        try:
            yield
        finally:
            self._waiting -= length

    async def _scores(self, texts: set[_Text]) -> Mapping[_Text, Scores]:
        scores: dict[_Text, Scores] = {}
        for reading, batch in _batches(texts):
            found = await self._classifier.classify_all(batch, reading)
            scores.update(zip(((reading, text) for text in batch), found, strict=True))
        return scores


def _texts(passage: Passage, policy: Policy) -> Iterator[_Text]:
    is_document = passage.kind is Kind.DOCUMENT and policy.is_on("indirect_attack", Source.PROMPT)
    reading: Reading = "document" if is_document else "prompt"
    for piece in pieces(passage.value):
        yield reading, piece


def _batches(texts: Iterable[_Text]) -> Iterator[tuple[Reading, list[str]]]:
    for reading, group in groupby(sorted(texts), key=lambda text: text[0]):
        while batch := [text for _, text in islice(group, AT_ONCE)]:
            yield reading, batch


def _level(head: Head) -> int:
    return int(head.detected) if head.severity is None else head.severity


def _judged(request: Request, index: int, found: Mapping[str, int], policy: Policy) -> Request:
    """Annotate one prompt with the verdicts on what was found, or refuse it."""
    results = {}
    for category, level in found.items():
        kind = {"severity": level} if category in SEVERITY_HEADS else {"detected": bool(level)}
        if verdict := policy.judge(category, Source.PROMPT, **kind):
            results[category] = verdict.result
    if any(result["filtered"] for result in results.values()):
        raise Refused(results, prompt_index=index)
    return request.annotate(results, index)
