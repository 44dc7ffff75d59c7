"""Block terms and expressions of lists in prompts and answers, streamed ones too.

There are two kinds of lists: those of this plugin's settings block whatever the policy says; those of a policy, in prompts or
in completions, block or are noted, as it says. Of terms, case, width, accents written apart, invisible characters, the amount
of white space and JSON's escapes make no difference. A term matches whole words only where it begins or ends with a letter or
digit of a script that puts spaces between words. In an answer, text is held back only while it could still become a blocked
term; where the policy blocks regular expressions, the last 256 characters are held, unless it is asynchronous. This is a list
of words, not an understanding of text: paraphrases and misspellings pass.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from pydantic import Field, PrivateAttr, field_validator

from plugins._expressions import Expressions, ExpressionScan
from plugins._terms import Scan, Terms, folded_term
from sluicegate import Chunk, FilterResults, PluginConfig, Policy, Refused, Source, hookimpl
from sluicegate.policies import BLOCKLISTS, BlocklistUse
from sluicegate.requests import GenerationRequest, Request
from sluicegate.streams import Scanner, StopAt, Unheld, flows, hold_back

_IN_A_THREAD = 20_000
"""Characters of a request from which on it is read beside the event loop."""
_COMPILED = 32
"""Combinations of lists that are kept compiled."""

_Uses: TypeAlias = tuple[BlocklistUse, ...]


class Config(PluginConfig):
    lists: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Terms that are blocked for everybody, by the name of their list; the name is what callers are told."""

    _compiled: OrderedDict[_Uses, _Lists] = PrivateAttr(default_factory=OrderedDict)

    @field_validator("lists")
    @classmethod
    def _terms_have_text(cls, lists: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, terms in lists.items():
            if not all(map(folded_term, terms)):
                raise ValueError(f"list {name!r} holds an empty term")
        return lists

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._compiled[()] = _Lists(self.lists, ())


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def pre_filter(request: Request, policy: Policy, config: Config) -> Request:
    lists = await _lists(policy, Source.PROMPT, config)
    if not lists:
        return request
    if sum(len(text.value) for text in request.texts()) > _IN_A_THREAD:
        return await asyncio.to_thread(_judged, request, lists)
    return _judged(request, lists)


@hookimpl
async def post_filter(
    chunks: AsyncIterator[Chunk], request: GenerationRequest, policy: Policy, config: Config
) -> AsyncIterator[Chunk]:
    lists = await _lists(policy, Source.COMPLETION, config)
    if not lists:
        async for chunk in chunks:
            yield chunk
        return
    noted: set[str] = set()
    async for chunk in hold_back(chunks, lambda _: _Scans(lists, noted, flows(request, policy))):
        if chunk.finish_reason is not None:
            chunk = replace(chunk, content_filter_results={**lists.verdict(noted), **chunk.content_filter_results})
        yield chunk


async def _lists(policy: Policy, source: Source, config: Config) -> _Lists:
    """Return the lists that count for a source, compiled: the plugin's own, and the policy's."""
    uses = tuple(use for use in policy.blocklists if use.source is source)
    lists = config._compiled.get(uses)
    if lists is None:
        # Ten thousand terms take a fifth of a second.
        lists = config._compiled[uses] = await asyncio.to_thread(_Lists, config.lists, uses)
        while len(config._compiled) > _COMPILED:
            # Not the first, which is the one without a policy's lists.
            del config._compiled[next(each for each in config._compiled if each)]
    elif uses:
        config._compiled.move_to_end(uses)
    return lists


class _Lists:
    """Lists of a source, compiled; false when there are none.

    Attributes:
        blocking: Whether a match blocks, by the name of the list.
    """

    def __init__(self, own: Mapping[str, Iterable[str]], uses: _Uses) -> None:
        self.blocking = dict.fromkeys(own, True)
        terms = {name: list(terms) for name, terms in own.items()}
        expressions: dict[str, Expressions] = {}
        for use in uses:
            self.blocking.setdefault(use.blocklist.name, use.blocking)
            items = use.blocklist.items
            terms.setdefault(use.blocklist.name, []).extend(
                item.pattern for item in items if not item.is_regex and folded_term(item.pattern)
            )
            if patterns := [item.pattern for item in items if item.is_regex]:
                expressions[use.blocklist.name] = Expressions(patterns)
        self._is_empty = not (any(terms.values()) or uses)
        indexed = {name: found for name, found in terms.items() if found}
        blocking = {name: found for name, found in indexed.items() if self.blocking[name]}
        # In one index, because of overlapping terms of several lists the one complete first counts.
        self._blocking = Terms(blocking) if blocking else None
        self._noting = [Terms({name: found}) for name, found in indexed.items() if not self.blocking[name]]
        self._expressions = expressions

    def __bool__(self) -> bool:
        return not self._is_empty

    def hits(self, text: str) -> set[str]:
        """Return the names of the lists that have a match in a whole text."""
        indexes = [*self._noting, *([self._blocking] if self._blocking else [])]
        by_term = {name for terms in indexes for name in terms.hits(text)}
        return by_term | {name for name, expressions in self._expressions.items() if expressions.matches(text)}

    def verdict(self, hits: Collection[str]) -> FilterResults:
        """Return the verdict on what hits these lists."""
        details = [{"filtered": blocks, "id": name} for name, blocks in self.blocking.items() if name in hits]
        return {BLOCKLISTS: {"filtered": any(each["filtered"] for each in details), "details": details}}

    def scans(self, is_blocking: bool) -> list[Scanner]:
        """Return new scanners of one channel, which stop at a match of the lists that block, or of those that do not."""
        indexes = self._noting if not is_blocking else [self._blocking] if self._blocking else []
        found: list[Scanner] = [Scan(terms, self.verdict) for terms in indexes]
        for name, expressions in self._expressions.items():
            if self.blocking[name] is is_blocking:
                found.append(ExpressionScan(expressions, partial(self.verdict, [name])))
        return found


def _judged(request: Request, lists: _Lists) -> Request:
    """Return the request with a verdict on each prompt, or refuse the first that is blocked."""
    hits: list[set[str]] = [set() for _ in range(request.prompt_count)]
    for text in request.texts():
        hits[text.prompt_index] |= lists.hits(text.value)
    for index, names in enumerate(hits):
        verdict = lists.verdict(names)
        if verdict[BLOCKLISTS]["filtered"]:
            raise Refused(verdict, prompt_index=index)
        request = request.annotate(verdict, index)
    return request


class _Scans:
    """Stops a channel where the first blocking list does, and notes the names of others that match.

    Args:
        flows: Expressions hold nothing back; terms do, which costs little, because the plugin's own are never sent.
    """

    def __init__(self, lists: _Lists, noted: set[str], flows: bool) -> None:
        self._blocking = [
            Unheld(scan) if flows and isinstance(scan, ExpressionScan) else scan for scan in lists.scans(True)
        ]
        self._noting = lists.scans(False)
        self._noted = noted
        self._received = 0

    def feed(self, text: str, final: bool) -> int:
        self._received += len(text)
        self._note(text, final)
        counts = [self._received]
        stops: list[StopAt] = []
        for scan in self._blocking:
            try:
                counts.append(scan.feed(text, final))
            except StopAt as stop:
                counts.append(stop.count)
                stops.append(stop)
        if stops:
            # What another list holds could be a match by now, so it is not sent either.
            raise StopAt(min(counts), min(stops, key=lambda stop: stop.count).results)
        return min(counts)

    def _note(self, text: str, final: bool) -> None:
        going_on = []
        for scan in self._noting:
            try:
                scan.feed(text, final)
                going_on.append(scan)
            except StopAt as stop:
                self._noted.update(detail["id"] for detail in stop.results[BLOCKLISTS]["details"])
        self._noting = going_on
