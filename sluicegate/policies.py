"""Content-filter policies: which categories are looked for in prompts and completions, and what becomes of what is found.

Plugins detect, the policy decides: a filter passes what it found to :meth:`Policy.judge`, and gets back the verdict in
Azure's wire form, and whether it blocks. No plugin compares a severity with a threshold.

Source: Azure's ``raiPolicies`` (``Microsoft.CognitiveServices/accounts``, api-version 2025-09-01).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeAlias

from sluicegate.types import FilterResults

NOT_FILTERED: FilterResults = {
    "error": {"code": "content_filter_error", "message": "The contents are not filtered"},
}
"""In place of verdicts, where a filter was unavailable and the policy lets text pass all the same."""

BLOCKLISTS = "custom_blocklists"
"""The category of verdicts by blocklists."""


class Source(StrEnum):
    """What a filter applies to."""

    PROMPT = "Prompt"
    COMPLETION = "Completion"


class Mode(StrEnum):
    """When a streamed answer is filtered; an answer that is not streamed is always filtered before it is sent."""

    DEFAULT = "Default"
    """Text is sent once it is vetted."""
    DEFERRED = "Deferred"
    """The older name of ``ASYNCHRONOUS``."""
    BLOCKING = "Blocking"
    """As ``DEFAULT``."""
    ASYNCHRONOUS = "Asynchronous_filter"
    """Text is sent at once, verdicts follow."""


class Threshold(StrEnum):
    """From which severity on a filter blocks."""

    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


SEVERITIES: Mapping[int, str] = {0: "safe", 2: "low", 4: "medium", 6: "high"}
"""The levels of the four harm categories, on Azure's scale of 0 to 7 trimmed in pairs, and their names on the wire."""
_BLOCKS_FROM: Mapping[Threshold, int] = {Threshold.LOW: 2, Threshold.MEDIUM: 4, Threshold.HIGH: 6}


@dataclass(frozen=True, slots=True)
class Category:
    """Something a filter can look for.

    Attributes:
        key: On the wire.
        name: In a policy.
        sources: Where it can be looked for.
        has_severity: Whether it has a severity; others are detected or not.
    """

    key: str
    name: str
    sources: frozenset[Source]
    has_severity: bool = False


_PROMPTS = frozenset({Source.PROMPT})
_COMPLETIONS = frozenset({Source.COMPLETION})

CATEGORIES: Mapping[str, Category] = {
    category.key: category
    for category in (
        Category("hate", "Hate", _PROMPTS | _COMPLETIONS, has_severity=True),
        Category("sexual", "Sexual", _PROMPTS | _COMPLETIONS, has_severity=True),
        Category("violence", "Violence", _PROMPTS | _COMPLETIONS, has_severity=True),
        Category("self_harm", "Selfharm", _PROMPTS | _COMPLETIONS, has_severity=True),
        Category("jailbreak", "Jailbreak", _PROMPTS),
        Category("indirect_attack", "Indirect Attack", _PROMPTS),
        Category("profanity", "Profanity", _PROMPTS | _COMPLETIONS),
        Category("protected_material_text", "Protected Material Text", _COMPLETIONS),
        Category("protected_material_code", "Protected Material Code", _COMPLETIONS),
        Category("personally_identifiable_information", "PII", _COMPLETIONS),
        Category("ungrounded_material", "Ungrounded Material", _COMPLETIONS),
    )
}
"""Every category that a policy can name, by its key on the wire."""


@dataclass(frozen=True, slots=True)
class ContentFilter:
    """What a policy says of one category in one source.

    Attributes:
        name: The category's name in a policy, such as ``Selfharm``.
        enabled: Whether it is looked for at all.
        blocking: Whether what is found blocks; otherwise it is annotated only.
        severity_threshold: Of no meaning where a category has no severity.
    """

    name: str
    source: Source
    enabled: bool = True
    blocking: bool = True
    severity_threshold: Threshold = Threshold.MEDIUM


@dataclass(frozen=True, slots=True)
class BlocklistItem:
    """One pattern of a blocklist: a term, or a regular expression in RE2's syntax."""

    pattern: str
    is_regex: bool = False


@dataclass(frozen=True, eq=False)
class Blocklist:
    """A blocklist with its items; compared by identity, which is the same for as long as its items are."""

    name: str
    items: tuple[BlocklistItem, ...]


@dataclass(frozen=True, slots=True)
class BlocklistUse:
    """A blocklist that a policy uses in one source."""

    blocklist: Blocklist
    source: Source
    blocking: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy makes of what was found.

    Attributes:
        result: In wire form: ``{"filtered": False, "severity": "low"}`` or ``{"filtered": True, "detected": True}``.
    """

    category: str
    result: Mapping[str, Any]

    @property
    def blocks(self) -> bool:
        """Whether the prompt is to be refused, or the answer to end."""
        return bool(self.result["filtered"])

    @property
    def results(self) -> FilterResults:
        """The verdict as ``Refused``, ``request.annotate`` and ``Chunk.content_filter_results`` take it."""
        return {self.category: self.result}


HARMS = ("Hate", "Sexual", "Violence", "Selfharm")
"""The four categories that a policy can switch off, or to annotate only, with approval."""

_Key: TypeAlias = tuple[str, Source]


@dataclass(frozen=True, slots=True)
class Policy:
    """One resolved policy; what it does not name is off.

    Attributes:
        filters: At most one for each category and source.
        fail_open: Whether text passes when a filter is unavailable; otherwise the request fails.
        whole_request: Whether a prompt's categories are looked for in earlier turns and system text too.
    """

    name: str
    mode: Mode = Mode.DEFAULT
    filters: tuple[ContentFilter, ...] = ()
    blocklists: tuple[BlocklistUse, ...] = ()
    fail_open: bool = False
    whole_request: bool = False
    _on: Mapping[_Key, ContentFilter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        on = {(each.name, each.source): each for each in self.filters if each.enabled}
        object.__setattr__(self, "_on", on)

    @property
    def is_asynchronous(self) -> bool:
        """Whether a streamed answer is sent before it is vetted."""
        return self.mode in (Mode.ASYNCHRONOUS, Mode.DEFERRED)

    def is_on(self, category: str, source: Source) -> bool:
        """Return whether a category is to be looked for; ``category`` is its key on the wire."""
        return (CATEGORIES[category].name, source) in self._on

    def judge(
        self,
        category: str,
        source: Source,
        *,
        severity: int | None = None,
        detected: bool | None = None,
        **details: Any,
    ) -> Verdict | None:
        """Return the verdict on what a filter found, or did not find; None where the policy does not look for it.

        Args:
            category: Its key on the wire, such as ``self_harm``.
            severity: 0, 2, 4 or 6, for categories that have severities.
            detected: For the others.
            details: Further members of the result, such as ``citation``.
        """
        known = CATEGORIES[category]
        if (severity is None) is known.has_severity or (detected is None) is not known.has_severity:
            raise TypeError(f"{category} is judged by its {'severity' if known.has_severity else 'detected'}")
        rule = self._on.get((known.name, source))
        if rule is None:
            return None
        if severity is None:
            return Verdict(category, {"filtered": rule.blocking and detected, "detected": detected, **details})
        filtered = rule.blocking and severity >= _BLOCKS_FROM[rule.severity_threshold]
        return Verdict(category, {"filtered": filtered, "severity": SEVERITIES[severity], **details})

    def judge_blocklists(self, hits: Collection[str], source: Source) -> Verdict | None:
        """Return the verdict on a text that hits these lists, by name; None where the policy uses no list in ``source``."""
        uses = [use for use in self.blocklists if use.source is source]
        if not uses:
            return None
        details = [{"filtered": use.blocking, "id": use.blocklist.name} for use in uses if use.blocklist.name in hits]
        return Verdict(BLOCKLISTS, {"filtered": any(each["filtered"] for each in details), "details": details})

    @property
    def weakened(self) -> tuple[str, ...]:
        """Which of the four harms do not block, such as ``Hate (Prompt)``: what needs approval."""
        blocking = {key for key, each in self._on.items() if each.blocking}
        return tuple(f"{name} ({source})" for source in Source for name in HARMS if (name, source) not in blocking)

    def strengthened(self) -> Policy:
        """Return this policy with all four harms blocking, at the thresholds it has."""
        known = {(each.name, each.source): each for each in self.filters}
        harms = (known.get((name, source), ContentFilter(name, source)) for source in Source for name in HARMS)
        return self.replacing(*(replace(each, enabled=True, blocking=True) for each in harms))

    def replacing(self, *filters: ContentFilter) -> Policy:
        """Return this policy with these filters in place of those of the same category and source."""
        merged = {(each.name, each.source): each for each in (*self.filters, *filters)}
        return replace(self, filters=tuple(merged.values()))


def _filters(names: Iterable[str], *sources: Source, **options: Any) -> tuple[ContentFilter, ...]:
    return tuple(ContentFilter(name, source, **options) for source in sources for name in names)


DEFAULT = Policy("Microsoft.Default", filters=_filters(HARMS, Source.PROMPT, Source.COMPLETION))
"""Azure's older default: the four harms block from medium severity on."""

DEFAULT_V2 = replace(
    DEFAULT.replacing(
        ContentFilter("Jailbreak", Source.PROMPT),
        ContentFilter("Protected Material Text", Source.COMPLETION),
        # Annotated with its citation, so that the caller can keep to the licence of the code.
        ContentFilter("Protected Material Code", Source.COMPLETION, blocking=False),
    ),
    name="Microsoft.DefaultV2",
)
"""The policy of a deployment that names none: with prompt attacks, and protected material in completions."""

BUILT_IN: Mapping[str, Policy] = {policy.name: policy for policy in (DEFAULT, DEFAULT_V2)}
