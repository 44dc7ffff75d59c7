"""What plugins see of abuse monitoring: signals, which say what filters found in an exchange, and notices; they hold no content.

Everything that names a person, an application or an address is a keyed hash under the account's own secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from sluicegate.types import Outcome

_NAME = re.compile("[A-Za-z0-9_-]{1,50}")
FindingSource: TypeAlias = Literal["prompt", "completion"]


class Finding(NamedTuple):
    """Something that a filter found in one exchange, at its worst.

    Attributes:
        category: On the wire, such as ``hate``, ``jailbreak`` or ``custom_blocklists``.
        source: Where it was found.
        severity: 2, 4 or 6 for harms; 0 for a category that is found or not.
        blocked: Whether it refused the prompt or ended the answer.
    """

    category: str
    source: FindingSource
    severity: int = 0
    blocked: bool = False


ABUSE_FROM = 4
"""From which severity a harm is a sign of abuse; what is below is counted only."""
ABUSE = frozenset({"jailbreak", "indirect_attack", "protected_material_text", "protected_material_code"})
"""Categories without a severity that are a sign of abuse. What an account forbids itself, such as its blocklists, is not."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What filters found in one exchange; made for every one, of accounts whose content is not kept too.

    Attributes:
        deployment: As the caller wrote it.
        at: When the exchange was over, aware, UTC.
        user: Keyed hash of the end user, as ``Exchange.user``, or None.
        application, tenant, address: Keyed hashes of ``application_name``, ``end_user_tenant_id`` and ``source_ip`` of the request's
            ``user_security_context``, or None.
        exchange: The exchange's id, by which its content may be reviewed; None where content of the account is not kept.
    """

    account: str
    deployment: str
    at: datetime
    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    user: str | None = None
    application: str | None = None
    tenant: str | None = None
    address: str | None = None
    exchange: str | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether the prompt was refused, or the answer ended, because of what was found."""
        return self.outcome is Outcome.BLOCKED or self.outcome is Outcome.CUT

    @property
    def is_flagged(self) -> bool:
        """Whether something was found that is a sign of abuse."""
        return any(finding.severity >= ABUSE_FROM or finding.category in ABUSE for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Notice:
    """What a customer is told of a case or a penalty; it holds no content, and names no reviewer.

    Attributes:
        id: The same however often it is delivered.
        at: When it was written, aware, UTC.
        kind: ``violation.confirmed``, ``access.throttled``, ``access.blocked``, ``access.ended``, ``penalty.expired``,
            ``penalty.lifted``, ``answer.accepted`` or ``appeal.denied``.
        case: The case's id, to be named in an answer.
        category: What was confirmed, such as ``violence``.
        user: Keyed hash of the end user it is about, or None for the account as a whole.
        until: By when to answer, or when the penalty ends; None where neither.
        text: All of this in sentences, for people.
    """

    id: str
    account: str
    at: datetime
    kind: str
    case: str
    category: str
    user: str | None
    until: datetime | None
    text: str

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "account": self.account,
            "at": self.at.isoformat(),
            "kind": self.kind,
            "case": self.case,
            "category": self.category,
            "user": self.user,
            "until": None if self.until is None else self.until.isoformat(),
            "text": self.text,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Notice:
        """Return what :attr:`document` was made of."""
        until = document["until"]
        times = {
            "at": datetime.fromisoformat(document["at"]),
            "until": None if until is None else datetime.fromisoformat(until),
        }
        return cls(**{**document, **times})


Judgement: TypeAlias = Literal["benign", "violation", "unsure"]


@dataclass(frozen=True, slots=True)
class FlaggedContent:
    """A flagged exchange, for an automated review to read and to forget.

    Attributes:
        categories: What filters found in it.
        record: The exchange as the plugin that retains it has kept it: its JSON.
    """

    id: str
    categories: tuple[str, ...]
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReviewVerdict:
    """What an automated review makes of one flagged exchange; all that is kept of the review, so it has no room for content.

    Attributes:
        category: What it violates, a name such as ``violence``; None unless it does.
        confidence: 0 to 1.

    Raises:
        ValueError: It is not one of these verdicts, no name, or no number from 0 to 1.
    """

    verdict: Judgement
    category: str | None = None
    confidence: float = 0.0

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Judgement):
            raise ValueError(f"a verdict is one of {', '.join(get_args(Judgement))}")
        if self.category is not None and not _NAME.fullmatch(self.category):
            raise ValueError("a category is a name of at most 50 letters, digits, - and _")
        if not 0 <= self.confidence <= 1:
            raise ValueError("a confidence is from 0 to 1")

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"verdict": self.verdict, "category": self.category, "confidence": self.confidence}
