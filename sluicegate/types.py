"""The values that pass between hooks, in OpenAI's field names.

Requests are in :mod:`sluicegate.requests`. Everything here is frozen; a filter returns a changed copy
(:func:`dataclasses.replace`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from sluicegate.requests import Request

FilterResults: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Verdicts by category in Azure's wire form: ``{"hate": {"filtered": False, "severity": "safe"}}``."""
_SEVERITIES = ("safe", "low", "medium", "high")


def worst_of(one: FilterResults, other: FilterResults) -> FilterResults:
    """Return the verdicts on a text whose parts got these: of each category the worse one, with the details of both."""
    if not (one and other):
        return one or other
    both = {category: _worse(one[category], other[category]) for category in one if category in other}
    return {**one, **other, **both}


def _worse(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    if one == other:
        return one
    worse = max(one, other, key=_badness)
    lists = {
        name: value for name, value in other.items() if isinstance(value, list) and isinstance(one.get(name), list)
    }
    return {
        **worse,
        **{name: one[name] + [item for item in more if item not in one[name]] for name, more in lists.items()},
    }


def _badness(result: Mapping[str, Any]) -> tuple[bool, bool, int]:
    severity = result.get("severity")
    level = _SEVERITIES.index(severity) if severity in _SEVERITIES else -1
    return bool(result.get("filtered")), bool(result.get("detected")), level


TextSource: TypeAlias = Literal["prompt", "completion", "document"]
"""Where a text that is classified comes from; a document is what a prompt quotes, a tool's result included."""


class PluginConfig(BaseModel):
    """Base of a plugin's own settings; an unknown key is an error.

    One object of it lives as long as the app: run-time state (a client, a loaded model) belongs in pydantic private
    attributes of the subclass, never in module globals.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class Role(StrEnum):
    """What a key or token may do."""

    CALLER = "caller"
    """The data plane: chat, completions, embeddings, models."""
    OPERATOR = "operator"
    """The control plane: accounts, deployments, policies."""
    REVIEWER = "reviewer"
    """Flagged content, with a second person's approval."""
    OFFICER = "officer"
    """Retention, receipts, audit."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling.

    Attributes:
        account: The account whose data this request touches; empty for an operator of the whole deployment.
        role: What the credential may do.
        name: Which credential it was, such as ``key1``: for audit entries, never secret.
    """

    account: str
    role: Role
    name: str


@dataclass(frozen=True, slots=True)
class Model:
    """A language model that a plugin serves.

    Attributes:
        id: The name that deployments and ``GET /openai/v1/models`` use; unique in the app.
        operations: Which of ``chat.completions``, ``completions`` and ``embeddings`` it serves.
        features: What it can do beyond plain text, from ``sluicegate.requests.FEATURES``; a request that needs
            another one is refused by name.
        context_length: In tokens of the model, prompt and completion together.
        created: Unix seconds.
        dimensions: Length of its embedding vectors.
        retention: What the model's own provider keeps, in a sentence for the data-protection officer.
        retains: Whether the provider keeps prompts or answers of its own accord; unless said, it does when ``retention`` is anything
            but ``nothing``. An account whose content may not be kept gets no such model.
    """

    id: str
    operations: frozenset[str]
    features: frozenset[str] = frozenset()
    context_length: int = 0
    created: int = 0
    owned_by: str = "sluicegate"
    dimensions: int | None = None
    retention: str = "nothing"
    retains: bool | None = None

    @property
    def keeps_content(self) -> bool:
        """Whether the provider keeps prompts or answers of its own accord."""
        return self.retention != "nothing" if self.retains is None else self.retains


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted by the model's own tokenizer."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One piece of a tool call, as on the wire: ``id`` and ``name`` come once, ``arguments`` (JSON text) in pieces.

    Attributes:
        index: Which of the choice's tool calls this piece belongs to, from 0.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class FilterOffsets:
    """Which part of prompt and choice verdicts are about, in characters from the start of the prompt.

    Attributes:
        check_offset: What is before it is vetted by every filter; it never decreases.
        start_offset: Where the part begins.
        end_offset: Where it ends, exclusive.
    """

    check_offset: int
    start_offset: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer; an answer is a stream of them.

    Attributes:
        text: The piece of text, possibly empty.
        index: The choice it belongs to; with ``n > 1`` each choice runs through a filter chain of its own.
        tool_calls: Pieces of tool calls.
        refusal: A piece of the model's own refusal text.
        logprobs: In the operation's form: chat ``{"content": [...]}``, completions ``{"tokens": [...], ...}``. They describe
            the chunk's own text, so a filter that changes ``text`` must drop them.
        finish_reason: ``stop``, ``length``, ``tool_calls`` or ``content_filter`` on a choice's last chunk.
        content_filter_results: Verdicts on the chunk's text, and on what was vetted with it.
        content_filter_offsets: In asynchronous mode, what the verdicts are about; such a chunk says nothing else.
        usage: Of the whole request, cumulative; the last one counts. The core takes it off before filters run.
        prompt_filter_results: Verdicts by prompt index; from an upstream they are its own, and the core merges them with
            the request's before it sends them in a chunk of their own.
    """

    text: str = ""
    index: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    logprobs: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    content_filter_results: FilterResults = field(default_factory=dict)
    content_filter_offsets: FilterOffsets | None = None
    usage: Usage | None = None
    prompt_filter_results: Mapping[int, FilterResults] | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input, in input order: little-endian float32, ``dimensions`` long, unit L2 norm."""

    vectors: tuple[bytes, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Classification:
    """What a classifier makes of one text, before any policy has its say.

    Attributes:
        scores: Probabilities, 0 to 1, by category: ``hate``, ``sexual``, ``violence``, ``self_harm``, ``jailbreak``,
            ``indirect_attack`` and whatever else the classifier knows.
        severity: 0, 2, 4 or 6 for ``hate``, ``sexual``, ``violence`` and ``self_harm``.
        flagged: The categories that the classifier takes as found in a text of this source.
        thresholds: The scores from which a category counts as found; empty when the classifier does not say.
    """

    scores: Mapping[str, float]
    severity: Mapping[str, int]
    flagged: frozenset[str]
    thresholds: Mapping[str, float] = field(default_factory=dict)


class Outcome(StrEnum):
    """What became of an exchange."""

    COMPLETED = "completed"
    """The whole answer was sent."""
    BLOCKED = "blocked"
    """A pre-filter, or the model's own server, refused the request; nothing was answered."""
    CUT = "cut"
    """A post-filter ended at least one choice."""
    FAILED = "failed"
    """An error ended it."""
    ABANDONED = "abandoned"
    """The caller went away."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice, as sent and as withheld.

    Attributes:
        text: What the caller received.
        tool_calls: Whole calls as sent, pieces joined.
        withheld: What the refusing post-filter had read and not let pass; empty unless it refused.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    withheld: str = ""
    finish_reason: str | None = None
    content_filter_results: FilterResults = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One authenticated request and what became of it: what ``retain`` may keep.

    Attributes:
        id: Opaque, unique; the caller knows it as ``x-request-id``.
        operation: ``chat.completions``, ``completions`` or ``embeddings``.
        user: Keyed hash of the caller's ``user`` field, or None; never the field itself.
        request: As it stood after the pre-filters (so redacted), or as the refusing pre-filter saw it.
        answers: One per choice; none for embeddings, whose vectors are not kept.
        prompt_filter_results: Verdicts by prompt index.
    """

    id: str
    account: str
    deployment: str
    model: str
    operation: str
    user: str | None
    started: datetime
    finished: datetime
    request: Request
    answers: tuple[Answer, ...]
    prompt_filter_results: Mapping[int, FilterResults]
    usage: Usage | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Expired:
    """Purge scope: everything whose time is up at ``now`` (aware, UTC).

    Attributes:
        days: What the account allows at most, 1 to 30.
    """

    now: datetime
    days: int = 30


@dataclass(frozen=True, slots=True)
class OfRecord:
    """Purge scope: one record, by its id."""

    id: str


@dataclass(frozen=True, slots=True)
class OfUser:
    """Purge scope: everything of one end user.

    Attributes:
        user: The account's keyed hash of the user, as ``Exchange.user`` has it.
    """

    user: str


@dataclass(frozen=True, slots=True)
class OfAccount:
    """Purge scope: everything of the account that has been kept so far."""


Scope: TypeAlias = Expired | OfRecord | OfUser | OfAccount
"""What a purge is to delete."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What one purge removed.

    Attributes:
        days: UTC days (``YYYYMMDD``) that are gone, keys and ciphertext.
        blobs: How many blobs were deleted.
        bytes: How many bytes of storage went with them, or with the records.
        records: How many records were deleted one by one; those of whole days are not counted.
        evidence: SHA-256, in hex, over the names of what was deleted; empty when that is nothing. It can be checked
            against a list of the names, and tells nobody what they are.
    """

    days: tuple[str, ...] = ()
    blobs: int = 0
    bytes: int = 0
    records: int = 0
    evidence: str = field(default="", compare=False)


def utc_now() -> datetime:
    """Return the present as an aware UTC datetime."""
    return datetime.now(UTC)
