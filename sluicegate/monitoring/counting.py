"""What is counted in an hour of one account: by deployment, and by end user for those of whom something was flagged.

Of an end user of whom nothing was flagged lately there is no row, so most people leave no trace here. Everything is bounded:
what is more than that counts in ``others``, and towards its deployment all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sluicegate.abuse import Signal
from sluicegate.monitoring.types import FlaggedExchange

MOST_USERS = 1_000
"""End users with a row of their own in an hour of an account."""
MOST_FLAGGED = 200
"""Flagged exchanges of an hour of an account that can be found for a review."""
MOST_FLAGGED_OF_USER = 20
"""Those of one end user, so that nobody hides another's among many of their own."""


@dataclass(slots=True)
class Counts:
    """How many exchanges there were, and what was found in them.

    Attributes:
        blocked: Those whose prompt was refused or whose answer was ended.
        flagged: Those in which something was found that is a sign of abuse.
        findings: How many, by ``category.severity.source``, such as ``violence.4.prompt``.
    """

    requests: int = 0
    blocked: int = 0
    flagged: int = 0
    findings: dict[str, int] = field(default_factory=dict)

    def add(self, signal: Signal) -> None:
        """Count one exchange."""
        self.requests += 1
        if not signal.findings:
            return
        self.blocked += signal.is_blocked
        self.flagged += signal.is_flagged
        for category, source, severity, _ in signal.findings:
            key = f"{category}.{severity}.{source}"
            self.findings[key] = self.findings.get(key, 0) + 1

    def merge(self, other: Counts) -> None:
        """Count what another counted, too."""
        self.requests += other.requests
        self.blocked += other.blocked
        self.flagged += other.flagged
        for key, count in other.findings.items():
            self.findings[key] = self.findings.get(key, 0) + count

    def of(self, category: str) -> int:
        """Return in how many exchanges a category was found, at any severity; prompts and answers counted apart."""
        return sum(count for key, count in self.findings.items() if key.rsplit(".", 2)[0] == category)

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "requests": self.requests,
            "blocked": self.blocked,
            "flagged": self.flagged,
            "findings": dict(sorted(self.findings.items())),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Counts:
        """Return what :attr:`document` was made of."""
        return cls(document["requests"], document["blocked"], document["flagged"], dict(document["findings"]))


def total(counts: Iterable[Counts]) -> Counts:
    """Return several counts as one."""
    whole = Counts()
    for each in counts:
        whole.merge(each)
    return whole


@dataclass(slots=True)
class Hour:
    """What was counted in one hour, or in a part of it.

    Attributes:
        deployments: By deployment, everything.
        users: By end user's keyed hash, for those with something flagged in this hour or in the day before.
        others: Of further end users with something flagged.
        flagged: References to flagged exchanges, in the order of time as far as one process knows it.
    """

    deployments: dict[str, Counts] = field(default_factory=dict)
    users: dict[str, Counts] = field(default_factory=dict)
    others: Counts = field(default_factory=Counts)
    flagged: list[FlaggedExchange] = field(default_factory=list)

    @property
    def total(self) -> Counts:
        """All of the account's exchanges in the hour."""
        return total(self.deployments.values())

    def row(self, user: str) -> Counts:
        """Return the row of an end user, or that of ``others`` where there are too many."""
        row = self.users.get(user)
        if row is None:
            if len(self.users) >= MOST_USERS:
                return self.others
            row = self.users[user] = Counts()
        return row

    def refer(self, flagged: FlaggedExchange) -> None:
        """Remember a flagged exchange, unless there are enough."""
        if len(self.flagged) >= MOST_FLAGGED:
            return
        of_user = sum(each.user == flagged.user for each in self.flagged) if flagged.user else 0
        if of_user < MOST_FLAGGED_OF_USER:
            self.flagged.append(flagged)

    def merge(self, other: Hour) -> None:
        """Count what another part of the hour counted, too."""
        for name, counts in other.deployments.items():
            self.deployments.setdefault(name, Counts()).merge(counts)
        for user, counts in other.users.items():
            self.row(user).merge(counts)
        self.others.merge(other.others)
        for flagged in other.flagged:
            self.refer(flagged)

    def without(self, is_gone: Callable[[str | None], bool]) -> Hour:
        """Return the hour without the rows of some end users, and without references to their exchanges.

        Args:
            is_gone: Told the keyed hash of an end user; None for exchanges of nobody that is known.
        """
        return Hour(
            self.deployments,
            {user: counts for user, counts in self.users.items() if not is_gone(user)},
            self.others,
            [each for each in self.flagged if not is_gone(each.user)],
        )

    @property
    def entries(self) -> int:
        """How many rows of end users and references it has: what is personal in it."""
        return len(self.users) + len(self.flagged)

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "v": 1,
            "deployments": {name: counts.document for name, counts in sorted(self.deployments.items())},
            "users": {user: counts.document for user, counts in sorted(self.users.items())},
            "others": self.others.document,
            "flagged": [each.document for each in self.flagged],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Hour:
        """Return what :attr:`document` was made of."""
        return cls(
            {name: Counts.from_document(each) for name, each in document["deployments"].items()},
            {user: Counts.from_document(each) for user, each in document["users"].items()},
            Counts.from_document(document["others"]),
            [FlaggedExchange.of(each) for each in document["flagged"]],
        )
