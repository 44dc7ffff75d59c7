"""Recognise quotations of works that the operator names, text and code, in answers: to report them with a citation or to block.

Works are compared by fingerprints, so no text of theirs is kept, and any quotation that is long enough is found, however the model
cuts, spaces, capitalises or punctuates it. Reworded text is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr, model_validator

from plugins._reading import is_json
from sluicegate import Chunk, FilterResults, PluginConfig, Policy, Source, hookimpl
from sluicegate.requests import GenerationRequest
from sluicegate.streams import Scanner, StopAt, Unheld, flows, hold_back

from .corpus import works
from .fingerprints import Thresholds
from .index import Citation, Index, build, load
from .scan import Scan
from .tokens import Kind

CATEGORIES = {Kind.TEXT: "protected_material_text", Kind.CODE: "protected_material_code"}
LINKS = {Kind.TEXT: 4, Kind.CODE: 8}
"""How many tokens in a row, at least, must occur in a work for text to be held; not more than ``noise``."""


class Config(PluginConfig):
    manifests: tuple[str, ...] = ()
    """Files that name works (see ``corpus``); indexed when the worker starts, at about a second a megabyte."""

    index: str | None = None
    """A file that ``python -m plugins.protected_material`` made of manifests, in their place: for large corpora."""

    text_noise: int = 12
    """Text: nothing shorter is reported, in words."""

    text_guarantee: int = 20
    """Text: every quotation as long is found, in words."""

    code_noise: int = 40
    """Code: nothing shorter is reported, in names, numbers and signs."""

    code_guarantee: int = 60
    """Code: every quotation as long is found, in names, numbers and signs."""

    _index: Index = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.manifests and self.index is not None:
            raise ValueError("name manifests or an index, not both")
        for path in (*self.manifests, *([] if self.index is None else [self.index])):
            if not Path(path).is_file():
                raise ValueError(f"there is no file {path!r}")
        for kind, limits in self.thresholds().items():
            if not limits.link <= limits.noise <= limits.guarantee:
                raise ValueError(f"{kind}: noise must be at least {limits.link}, and guarantee at least noise")
        return self

    def thresholds(self) -> dict[Kind, Thresholds]:
        """Return the thresholds of each kind of work."""
        return {
            Kind.TEXT: Thresholds(self.text_noise, self.text_guarantee, LINKS[Kind.TEXT]),
            Kind.CODE: Thresholds(self.code_noise, self.code_guarantee, LINKS[Kind.CODE]),
        }


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def startup(config: Config) -> None:
    config._index = await asyncio.to_thread(_index, config)


def _index(config: Config) -> Index:
    if config.index is not None:
        return load(Path(config.index))
    return build((work for manifest in config.manifests for work in works(Path(manifest))), config.thresholds())


@hookimpl
async def post_filter(
    chunks: AsyncIterator[Chunk], request: GenerationRequest, policy: Policy, config: Config
) -> AsyncIterator[Chunk]:
    sought = [kind for kind in config._index if policy.is_on(CATEGORIES[kind], Source.COMPLETION)]
    if not sought:
        async for chunk in chunks:
            yield chunk
        return
    choice = _Choice(sought, config._index, request, policy)
    async for chunk in hold_back(chunks, choice.channel):
        if chunk.finish_reason is not None:
            chunk = replace(chunk, content_filter_results={**chunk.content_filter_results, **choice.results()})
        yield chunk


class _Choice:
    """One choice of an answer: what was found in its channels."""

    def __init__(self, sought: list[Kind], index: Index, request: GenerationRequest, policy: Policy) -> None:
        self._sought = sought
        self._index = index
        self._request = request
        self._policy = policy
        self._channels: list[_Channel] = []

    def channel(self, name: str) -> Scanner:
        """Return the scanner of a channel."""
        scans = []
        for kind in self._sought:
            verdict = self._policy.judge(CATEGORIES[kind], Source.COMPLETION, detected=True)
            ends = verdict is not None and verdict.blocks
            scans.append(Scan(kind, self._index[kind], holds=ends, is_json=is_json(name, self._request)))
        channel = _Channel(scans, self._results)
        self._channels.append(channel)
        return Unheld(channel) if flows(self._request, self._policy) else channel

    def results(self) -> FilterResults:
        """Return the verdicts on the whole choice."""
        found = dict(
            (scan.kind, scan.quotation.citation)
            for channel in reversed(self._channels)
            for scan in channel.scans
            if scan.quotation is not None
        )
        results: dict[str, Mapping[str, Any]] = {}
        for kind in self._sought:
            results.update(self._results(kind, found.get(kind)))
        return results

    def _results(self, kind: Kind, citation: Citation | None) -> FilterResults:
        details: dict[str, Any] = {}
        if citation is not None and kind is Kind.CODE:
            details["citation"] = {"URL": citation.url, "license": citation.license}
        verdict = self._policy.judge(CATEGORIES[kind], Source.COMPLETION, detected=citation is not None, **details)
        return verdict.results if verdict is not None else {}


class _Channel:
    """Looks for works of every kind in one channel; of quotations that end the answer, the one that is known first does."""

    def __init__(self, scans: list[Scan], results: Callable[[Kind, Citation], FilterResults]) -> None:
        self.scans = scans
        self._results = results

    def feed(self, text: str, final: bool) -> int:
        """As :meth:`sluicegate.streams.Scanner.feed`."""
        allowed = min([scan.feed(text, final) for scan in self.scans])
        ending = [(scan.quotation, scan.kind) for scan in self.scans if scan.holds and scan.quotation]
        if ending:
            quotation, kind = min(ending, key=lambda each: each[0].end)
            raise StopAt(quotation.start, self._results(kind, quotation.citation))
        return allowed
