"""One application, and what became of it; :mod:`sluicegate.monitoring.applications` has what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sluicegate.monitoring.questions import Kind


class State(StrEnum):
    """What became of an application."""

    SUBMITTED = "submitted"
    APPROVED = "approved"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    """By the subscription, or by an operator."""
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Application:
    """One application.

    Attributes:
        subscription: In lower case; what is decided counts for all its accounts, those made later too.
        account: The one account it is for, where an operator decided for one; else None.
        filed_by: The account whose key filed it.
        applicant, decided_by: As in the audit log.
        answers: The criteria and the attestations; None where an operator decided without an application.
        expires: When an approval ends.
        reason: Of the decision, a reference.
        is_settled: Whether the accounts are as it says.
        receipts: Of the content that was deleted, by account.
    """

    id: str
    kind: Kind
    subscription: str
    filed_by: str
    applicant: str
    filed: datetime
    answers: Mapping[str, Any] | None
    account: str | None = None
    state: State = State.SUBMITTED
    decided_by: str | None = None
    decided: datetime | None = None
    expires: datetime | None = None
    reason: str | None = None
    is_settled: bool = True
    receipts: Mapping[str, str] | None = None

    def covers(self, account: str) -> bool:
        """Return whether it is approved and for this account of its subscription."""
        return self.state is State.APPROVED and self.concerns(account)

    def concerns(self, account: str) -> bool:
        """Return whether it is for this account of its subscription, whatever became of it."""
        return self.account in (None, account)

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "kind": self.kind,
            "subscription": self.subscription,
            "filed_by": self.filed_by,
            "applicant": self.applicant,
            "filed": self.filed.isoformat(),
            "answers": self.answers,
            "account": self.account,
            "state": self.state,
            "decided_by": self.decided_by,
            "decided": None if self.decided is None else self.decided.isoformat(),
            "expires": None if self.expires is None else self.expires.isoformat(),
            "reason": self.reason,
            "is_settled": self.is_settled,
            "receipts": dict(self.receipts or {}),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Application:
        """Return what :attr:`document` was made of."""
        times = {name: _time(document[name]) for name in ("filed", "decided", "expires")}
        kinds = {"kind": Kind(document["kind"]), "state": State(document["state"])}
        return cls(**{**document, **times, **kinds})


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
