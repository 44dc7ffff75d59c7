"""Find personal data and Azure secrets in answers, to report, replace or block them; in prompts, if wanted, to replace or block them.

Each type of entity has a mode: ``off``; ``annotate``, where the deployment's policy decides whether it is reported or blocks;
``redact``, where ``[Email]`` or the like takes its place whatever the policy says; ``block``, where it ends the answer whatever
the policy says. No part of an entity is sent before all of it is known, however the model cuts its text. Found is what has a
form: numbers with checksums, addresses, keys. Names, postal addresses and dates of birth are not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any

from phonenumbers import SUPPORTED_REGIONS
from pydantic import Field, PrivateAttr, field_validator

from plugins._reading import is_json
from sluicegate import Chunk, PluginConfig, Policy, Refused, Source, hookimpl
from sluicegate.requests import GenerationRequest, Request
from sluicegate.streams import Scanner, StopAt, Unheld, flows, hold_back

from .entities import PERSONAL, SECRETS, Entity, Finding, PhoneNumbers
from .scan import Scan

CATEGORY = "personally_identifiable_information"


class Mode(StrEnum):
    """What becomes of an entity."""

    OFF = "off"
    ANNOTATE = "annotate"
    REDACT = "redact"
    BLOCK = "block"


class Config(PluginConfig):
    default: Mode = Mode.ANNOTATE
    """What becomes of entities of the types that ``entities`` does not name."""

    entities: dict[str, Mode] = Field(default_factory=dict)
    """What becomes of entities, by Azure's name of their type, such as ``CreditCardNumber``."""

    prompts: bool = False
    """Whether prompts and inputs are redacted and blocked too; there is nothing to annotate in them."""

    phone_regions: tuple[str, ...] = ("US", "GB")
    """Countries, as two letters, whose phone numbers are found without a country code; each costs time."""

    _all: tuple[Entity | PhoneNumbers, ...] = PrivateAttr(default=())

    @field_validator("entities")
    @classmethod
    def _entities_are_known(cls, entities: dict[str, Mode]) -> dict[str, Mode]:
        if unknown := entities.keys() - NAMES:
            raise ValueError(f"no such entity: {', '.join(sorted(unknown))}; there are {', '.join(sorted(NAMES))}")
        return entities

    @field_validator("phone_regions")
    @classmethod
    def _regions_are_known(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(regions) - set(SUPPORTED_REGIONS):
            raise ValueError(f"no such region: {', '.join(sorted(unknown))}")
        return regions

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._all = (*SECRETS, *PERSONAL, PhoneNumbers(self.phone_regions))

    def mode(self, entity: str) -> Mode:
        """Return what becomes of entities of a type."""
        return self.entities.get(entity, self.default)

    def sought(self, *modes: Mode) -> tuple[Entity | PhoneNumbers, ...]:
        """Return the entities that have one of these modes."""
        return tuple(each for each in self._all if self.mode(each.name) in modes)


NAMES = frozenset({each.name for each in (*SECRETS, *PERSONAL)} | {PhoneNumbers(()).name})


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def pre_filter(request: Request, config: Config) -> Request:
    sought = config.sought(Mode.REDACT, Mode.BLOCK)
    if not config.prompts or not sought:
        return request

    def on_found(finding: Finding, _: int) -> bool:
        if config.mode(finding.entity) is Mode.BLOCK:
            raise Refused({CATEGORY: _result([_sub_category(finding, filtered=True)], filtered=True)})
        return True

    def redacted(text: str) -> str:
        scan = Scan(sought, on_found, is_json=_is_valid_json(text))
        scan.feed(text, True)
        return scan.sent.release(text)

    # A long prompt takes longer than other requests should wait.
    return await asyncio.to_thread(request.map_text, redacted)


@hookimpl
async def post_filter(
    chunks: AsyncIterator[Chunk], request: GenerationRequest, policy: Policy, config: Config
) -> AsyncIterator[Chunk]:
    choice = _Choice(request, policy, config)
    if not choice.sought:
        async for chunk in chunks:
            yield chunk
        return
    async for chunk in hold_back(chunks, choice.scan):
        passed = choice.passed(chunk)
        if passed != Chunk(index=passed.index):
            yield passed


class _Choice:
    """One choice of an answer: what was found in it, and its channels."""

    def __init__(self, request: GenerationRequest, policy: Policy, config: Config) -> None:
        verdict = policy.judge(CATEGORY, Source.COMPLETION, detected=True)
        self._config = config
        self._is_reported = verdict is not None
        self._blocks = verdict is not None and verdict.blocks
        self._found: dict[str, Mapping[str, Any]] = {}
        self._scans: dict[str, Scan] = {}
        self._text: list[str] = []
        self._request = request
        modes = (Mode.ANNOTATE, Mode.REDACT, Mode.BLOCK) if self._is_reported else (Mode.REDACT, Mode.BLOCK)
        self.sought = config.sought(*modes)
        # What the settings redact or block is never sent, whatever the policy says.
        self._flows = flows(request, policy) and not config.sought(Mode.REDACT, Mode.BLOCK)

    def scan(self, channel: str) -> Scanner:
        """Return the scanner of a channel."""
        scan = Scan(self.sought, self._on_found, is_json=is_json(channel, self._request))
        self._scans[channel] = scan
        return Unheld(scan) if self._flows else scan

    def passed(self, chunk: Chunk) -> Chunk:
        """Return a chunk that was let go with its replacements, and the verdict on the last one."""
        text = self._sent("text", chunk.text)
        changed = replace(
            chunk,
            text=text,
            refusal=self._sent("refusal", chunk.refusal),
            tool_calls=tuple(
                replace(
                    call,
                    name=self._sent(f"tool_calls[{call.index}].name", call.name) if call.name else call.name,
                    arguments=self._sent(f"tool_calls[{call.index}].arguments", call.arguments),
                )
                for call in chunk.tool_calls
            ),
            logprobs=chunk.logprobs if text == chunk.text else None,
        )
        self._text.append(chunk.text)
        if chunk.finish_reason is None or not (self._is_reported or self._found):
            return changed
        said = "".join(self._text)
        redacted = self._scans["text"].redacted.release(said) if said else ""
        results = {CATEGORY: _result(list(self._found.values()), redacted_text=redacted)}
        return replace(changed, content_filter_results={**chunk.content_filter_results, **results})

    def _sent(self, channel: str, piece: str) -> str:
        return self._scans[channel].sent.release(piece) if piece else piece

    def _on_found(self, finding: Finding, place: int) -> bool:
        mode = self._config.mode(finding.entity)
        if mode is Mode.BLOCK or (mode is Mode.ANNOTATE and self._blocks):
            found = {**self._found, finding.entity: _sub_category(finding, filtered=True)}
            raise StopAt(place, {CATEGORY: _result(list(found.values()), filtered=True)})
        self._found[finding.entity] = _sub_category(finding, redacted=mode is Mode.REDACT)
        return mode is Mode.REDACT


def _sub_category(finding: Finding, *, filtered: bool = False, redacted: bool = False) -> Mapping[str, Any]:
    return {"sub_category": finding.entity, "filtered": filtered, "detected": True, "redacted": redacted}


def _result(found: list[Mapping[str, Any]], *, filtered: bool = False, redacted_text: str = "") -> Mapping[str, Any]:
    result: dict[str, Any] = {"filtered": filtered, "detected": bool(found)}
    if found and redacted_text:
        result["redacted_text"] = redacted_text
    return {**result, "sub_categories": found} if found else result


def _is_valid_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
