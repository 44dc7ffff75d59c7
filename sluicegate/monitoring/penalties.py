"""Penalties: what an account, or one of its end users, may no longer do because of a confirmed violation, and until when.

They stand in the account's document, which every process reads anew within ``CACHE_S``, so that none is asked for on the request path.
On the wire they have the form of ARM's ``abusePenalty``; which case, category and end user they are for is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sluicegate.errors import AccessBlocked

MOST = 500
"""Penalties that an account's document holds; of more, those that end first give way."""
APPEAL = "POST /governance/appeals with the case and your answer, with a key of this resource"


class Action(StrEnum):
    """What a penalty does, as ARM names it."""

    THROTTLE = "Throttle"
    """A part of the limits is left."""
    BLOCK = "Block"


@dataclass(frozen=True, slots=True)
class Penalty:
    """One penalty.

    Attributes:
        case: The id of the case that it follows from; a case has one penalty at a time.
        category: What was confirmed, such as ``violence``.
        user: Keyed hash of the end user it is for; None for the whole account.
        percentage: Of the limits, what is left while throttled; 0 when blocked.
        expiration: When it ends by itself; None when access has ended.
    """

    case: str
    action: Action
    category: str
    user: str | None
    percentage: int
    expiration: datetime | None

    def holds(self, user: str | None, now: datetime) -> bool:
        """Return whether it is for a request of this end user now."""
        return self.user in (None, user) and (self.expiration is None or now < self.expiration)

    @property
    def arm(self) -> dict[str, Any]:
        """As ARM's ``abusePenalty``."""
        shown: dict[str, Any] = {"action": self.action, "rateLimitPercentage": float(self.percentage)}
        if self.expiration is not None:
            shown["expiration"] = _utc(self.expiration)
        return shown

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "case": self.case,
            "action": self.action,
            "category": self.category,
            "user": self.user,
            "percentage": self.percentage,
            "expiration": None if self.expiration is None else self.expiration.isoformat(),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Penalty:
        """Return what :attr:`document` was made of."""
        ends = document["expiration"]
        until = None if ends is None else datetime.fromisoformat(ends)
        return cls(**{**document, "action": Action(document["action"]), "expiration": until})

    def told(self) -> str:
        """Return what a caller is told: why, until when, and what can be done."""
        whose = "this resource" if self.user is None else "this end user of the resource"
        what = "is blocked" if self.action is Action.BLOCK else f"is limited to {self.percentage} % of its rate limits"
        until = "for good" if self.expiration is None else f"until {_utc(self.expiration)}"
        return (
            f"Access of {whose} {what} {until}, because a violation of the content policy was confirmed (category {self.category}, "
            f"case {self.case}). To appeal, or to say what you have done about it: {APPEAL}."
        )

    @property
    def inner(self) -> dict[str, Any]:
        """What the error's ``innererror`` says, for programs."""
        return {
            "code": "AbusePenalty",
            "case": self.case,
            "category": self.category,
            "subject": "account" if self.user is None else "end_user",
            "abusePenalty": self.arm,
            "appeal": "/governance/appeals",
        }


def worst(penalties: Iterable[Penalty], user: str | None, now: datetime) -> Penalty | None:
    """Return the heaviest penalty for requests of an end user now: a block, else the throttle that leaves least."""
    held = [each for each in penalties if each.holds(user, now)]
    return min(held, key=lambda each: (each.percentage, each.expiration is not None), default=None)


def admit(penalties: Iterable[Penalty], user: str | None, now: datetime) -> list[Penalty]:
    """Return the throttles that a request of this end user goes by.

    Raises:
        AccessBlocked: The account, or the end user, is blocked.
    """
    held = [each for each in penalties if each.holds(user, now)]
    if not held:
        return held
    heaviest = worst(held, user, now)
    if heaviest is not None and heaviest.action is Action.BLOCK:
        left_s = None if heaviest.expiration is None else (heaviest.expiration - now).total_seconds()
        raise AccessBlocked(heaviest.told(), inner=heaviest.inner, retry_after_s=left_s)
    return held


def with_penalty(documents: Iterable[Mapping[str, Any]], penalty: Penalty) -> list[dict[str, Any]]:
    """Return an account's penalties with this one in place of the one of its case, if any."""
    others = [dict(each) for each in documents if each["case"] != penalty.case]
    # ISO 8601 of one offset sorts by time; what has no end stays.
    others.sort(key=lambda each: (each["expiration"] is None, each["expiration"] or ""))
    return [*others[max(0, len(others) - MOST + 1) :], penalty.document]


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
