"""The values of abuse monitoring; none holds content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

TIMER = "timer/abuse"
"""Who does what the timer does, in the audit log."""


@dataclass(frozen=True, slots=True)
class FlaggedExchange:
    """A reference to an exchange in which something was found that is a sign of abuse.

    Attributes:
        id: Of the exchange, ``x-request-id`` to the caller.
        at: When it was over, aware, UTC; what is retained of it is kept under that day.
        categories: What was found, such as ``violence``; sorted.
        user: Keyed hash of the end user, or None.
    """

    id: str
    at: datetime
    deployment: str
    categories: tuple[str, ...]
    user: str | None = None

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "deployment": self.deployment,
            "categories": list(self.categories),
            "user": self.user,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> FlaggedExchange:
        """Return what :attr:`document` was made of."""
        at = datetime.fromisoformat(document["at"])
        categories = tuple(document["categories"])
        return cls(document["id"], at, document["deployment"], categories, document["user"])


@dataclass(frozen=True, slots=True)
class Score:
    """How much what filters found of an account, or of one end user, looks like abuse; see :mod:`sluicegate.monitoring.scoring`.

    Attributes:
        value: 0 to 1, from the four parts, each 0 to 1.
        reasons: The stored numbers behind each part, a line each.
    """

    value: float
    frequency: float
    severity: float
    intent: float
    trend: float
    reasons: tuple[str, ...] = ()

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "value": self.value,
            "frequency": self.frequency,
            "severity": self.severity,
            "intent": self.intent,
            "trend": self.trend,
            "reasons": list(self.reasons),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Score:
        """Return what :attr:`document` was made of."""
        return cls(**{**document, "reasons": tuple(document["reasons"])})


@dataclass(frozen=True, slots=True)
class Pattern:
    """An account, or one of its end users, whose score has reached its threshold.

    Attributes:
        user: Keyed hash of the end user; None for the account as a whole.
        window: From when to when signals were counted, aware, UTC.
        flagged: What can be reviewed, newest first; empty for an account whose content is not kept.
    """

    account: str
    user: str | None
    window: tuple[datetime, datetime]
    score: Score
    flagged: tuple[FlaggedExchange, ...] = ()


def same_person(one: str, other: str) -> bool:
    """Return whether two actors are one: the same credential, whichever account it is of."""
    return one.partition("/")[2] == other.partition("/")[2]
