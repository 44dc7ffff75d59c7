"""Cases: patterns of abuse that are looked into, from the first automated look to somebody's decision.

::

    automated_review --all harmless--> dismissed
       |
       +--> open --decision--> confirmed | dismissed | escalated --decision--> confirmed | dismissed

A case lists the exchanges that were flagged, by reference, and what was found of each; content is read when somebody reads it, and never
stored here (container ``cases`` of the account's region, ``{account}/{id}``). A pattern feeds the open case of its subject; what an
earlier case of the subject has settled opens no other. A decision is in the audit log before it is in the case, and what follows from it is told
again until it is done.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sluicegate.abuse import ReviewVerdict
from sluicegate.audit.entries import Event
from sluicegate.audit.log import Audit
from sluicegate.errors import Conflict, InvalidRequest, MonitoringIncomplete, NotFound, SluicegateError
from sluicegate.monitoring.types import TIMER, FlaggedExchange, Pattern, Score
from sluicegate.services import BlobStore
from sluicegate.storage.documents import Documents
from sluicegate.types import utc_now

CONTAINER = "cases"
MOST_FLAGGED = 200
"""Exchanges that a case lists; the newest."""


class Status(StrEnum):
    """Where a case stands."""

    AUTOMATED_REVIEW = "automated_review"
    """A plugin looks at a sample first."""
    OPEN = "open"
    """Waits for a reviewer."""
    ESCALATED = "escalated"
    """A reviewer has passed it on to another one."""
    CONFIRMED = "confirmed"
    DISMISSED = "dismissed"


CLOSED = frozenset({Status.CONFIRMED, Status.DISMISSED})


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody has decided.

    Attributes:
        status: ``confirmed``, ``dismissed`` or ``escalated``.
        by: As the audit log has it.
        category: Of a confirmed case, what it is, such as ``violence``.
        guideline: Of a confirmed case, which rule it is against.
        reason: A reference, such as a ticket's number.
    """

    status: Status
    by: str
    at: datetime
    reason: str
    category: str | None = None
    guideline: str | None = None

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "status": self.status,
            "by": self.by,
            "at": self.at.isoformat(),
            "reason": self.reason,
            "category": self.category,
            "guideline": self.guideline,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Decision:
        """Return what :attr:`document` was made of."""
        parsed = {"status": Status(document["status"]), "at": datetime.fromisoformat(document["at"])}
        return cls(**{**document, **parsed})


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        user: Keyed hash of the end user it is about; None for the account as a whole.
        score: The highest there was.
        flagged: Newest first.
        verdicts: Of the automated review, by exchange.
        decisions: Oldest first; the last one counts.
        is_told: Whether what follows from the last decision is done.
    """

    id: str
    account: str
    user: str | None
    status: Status
    opened: datetime
    updated: datetime
    score: Score
    flagged: tuple[FlaggedExchange, ...]
    verdicts: Mapping[str, ReviewVerdict]
    decisions: tuple[Decision, ...] = ()
    is_told: bool = True

    @property
    def name(self) -> str:
        """Of its document."""
        return f"{self.account}/{self.id}"

    @property
    def category(self) -> str:
        """What was confirmed; empty unless something was."""
        return (self.decisions[-1].category or "") if self.decisions else ""

    @property
    def decided_by(self) -> str:
        """Who decided last, as the audit log has it; empty while nobody has."""
        return self.decisions[-1].by if self.decisions else ""

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "account": self.account,
            "user": self.user,
            "status": self.status,
            "opened": self.opened.isoformat(),
            "updated": self.updated.isoformat(),
            "score": self.score.document,
            "flagged": [each.document for each in self.flagged],
            "verdicts": {id: verdict.document for id, verdict in self.verdicts.items()},
            "decisions": [each.document for each in self.decisions],
            "is_told": self.is_told,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Case:
        """Return what :attr:`document` was made of."""
        parsed = {
            "status": Status(document["status"]),
            "opened": datetime.fromisoformat(document["opened"]),
            "updated": datetime.fromisoformat(document["updated"]),
            "score": Score.of(document["score"]),
            "flagged": tuple(map(FlaggedExchange.of, document["flagged"])),
            "verdicts": {id: ReviewVerdict(**verdict) for id, verdict in document["verdicts"].items()},
            "decisions": tuple(map(Decision.of, document["decisions"])),
        }
        return cls(**{**document, **parsed})


class Cases:
    """The cases of the accounts in one region; one object per process.

    Args:
        tell: Does what follows from a decision; called again after an interruption, so twice must be as once.
        keep_days: How long after its last change a closed case is kept.
        is_reviewed: Whether a plugin looks at new cases first.
    """

    def __init__(
        self,
        blobs: BlobStore,
        audit: Audit,
        tell: Callable[[Case], Awaitable[None]],
        now: Callable[[], datetime] = utc_now,
        *,
        keep_days: int,
        is_reviewed: bool,
    ) -> None:
        self._documents = Documents(blobs, CONTAINER, "")
        self._audit = audit
        self._tell = tell
        self._now = now
        self._keep = timedelta(days=keep_days)
        self._first = Status.AUTOMATED_REVIEW if is_reviewed else Status.OPEN

    # --- patterns ----------------------------------------------------------------------------------------------------

    async def report(self, pattern: Pattern) -> Case | None:
        """Open a case for a pattern, or feed the one that is open.

        Returns:
            None where there is nothing new to look into: no exchange that may be read, or only such as earlier cases of the
            subject have settled.
        """
        of_subject = [case for case in await self.of_account(pattern.account) if case.user == pattern.user]
        running = next((case for case in of_subject if case.status not in CLOSED), None)
        settled = {each.id for case in of_subject if case is not running for each in case.flagged}
        new = [each for each in pattern.flagged if each.id not in settled]
        if running is not None:
            return await self._feed(running, new, pattern.score)
        if not new:
            return None
        now = self._now()
        id = f"case-{secrets.token_hex(12)}"
        case = Case(
            id, pattern.account, pattern.user, self._first, now, now, pattern.score, tuple(new[:MOST_FLAGGED]), {}
        )
        evidence = {"user": pattern.user, "score": round(100 * pattern.score.value), "flagged": len(case.flagged)}
        await self._audit.append(Event(TIMER, "case.open", account=case.account, subject=id, evidence=evidence))
        await self._documents.put(case.name, case.document, etag=None)
        return case

    async def _feed(self, running: Case, new: list[FlaggedExchange], score: Score) -> Case:
        def fed(content: Mapping[str, Any] | None) -> Mapping[str, Any]:
            case = running if content is None else Case.of(content)
            known = {each.id for each in case.flagged}
            more = [each for each in new if each.id not in known]
            if case.status in CLOSED or (not more and score.value <= case.score.value):
                return case.document
            listed = sorted([*case.flagged, *more], key=lambda each: each.at, reverse=True)[:MOST_FLAGGED]
            worst = max(case.score, score, key=lambda each: each.value)
            return replace(case, flagged=tuple(listed), score=worst, updated=self._now()).document

        return Case.of((await self._documents.change(running.name, fed)).content)

    async def judge(self, case: Case, verdicts: Mapping[str, ReviewVerdict]) -> Case:
        """Keep what the automated review has said, and send the case on: home where all is harmless, else to a reviewer.

        It never confirms: what costs a customer access is decided by a person.
        """
        is_harmless = bool(verdicts) and all(each.verdict == "benign" for each in verdicts.values())
        judged = await self._write(case, status=Status.OPEN, verdicts=dict(verdicts))
        if not is_harmless or judged.status is not Status.OPEN:
            return judged
        return await self.decide(judged, Decision(Status.DISMISSED, TIMER, self._now(), "automated review"))

    # --- decisions ---------------------------------------------------------------------------------------------------

    async def decide(self, case: Case, decision: Decision) -> Case:
        """Decide a case; durable, and what follows done, when this returns.

        Raises:
            Conflict: It is decided already, or was just changed by somebody else.
            InvalidRequest: The reason, category or guideline is not one for the log.
        """
        if case.status in CLOSED:
            raise Conflict(f"The case was decided already: it is {case.status}.")
        evidence = {"category": decision.category, "guideline": decision.guideline, "user": case.user}
        try:
            event = Event(
                decision.by,
                f"case.{decision.status}",
                account=case.account,
                subject=case.id,
                reason=decision.reason,
                evidence=evidence,
            )
        except ValueError:
            raise InvalidRequest(
                "Invalid 'reason', 'category' or 'guideline': use at most 200 letters, digits, spaces and ._:/#()+-.",
                param="reason",
            ) from None
        await self._audit.append(event)
        decided = await self._write(
            case, status=decision.status, decisions=(*case.decisions, decision), is_told=decision.status not in CLOSED
        )
        if decided.decisions != (*case.decisions, decision):
            raise Conflict("Somebody else has just decided the case: read it again.")
        return await self._told(decided)

    async def advance(self) -> None:
        """Finish what was interrupted, and drop closed cases whose time is up; for the timer.

        Raises:
            MonitoringIncomplete: Something failed; the rest is done.
        """
        left: list[str] = []
        for case in await self.every():
            try:
                if not case.is_told:
                    case = await self._told(case)
                if case.status in CLOSED and self._now() - case.updated >= self._keep:
                    await self._documents.delete(case.name)
            except SluicegateError as error:
                left.append(f"case {case.id} ({type(error).__name__})")
        if left:
            raise MonitoringIncomplete(left)

    # --- reading and deleting ----------------------------------------------------------------------------------------

    async def get(self, id: str) -> Case:
        """Return a case of any account of the region; ``NotFound`` when there is none."""
        for name in await self._documents.names():
            if name.endswith(f"/{id}") and (found := await self._documents.get(name)) is not None:
                return Case.of(found.content)
        raise NotFound("There is no such case.", param="case")

    async def every(self) -> list[Case]:
        """Return all cases of the region."""
        return [Case.of(each.content) for each in await self._documents.every()]

    async def of_account(self, account: str) -> list[Case]:
        """Return an account's cases, the newest first."""
        found = await self._documents.all(await self._documents.names(f"{account}/"))
        return sorted((Case.of(each.content) for each in found), key=lambda case: case.opened, reverse=True)

    async def delete(self, account: str) -> None:
        """Delete an account's cases."""
        for name in await self._documents.names(f"{account}/"):
            await self._documents.delete(name)

    async def _told(self, case: Case) -> Case:
        if case.is_told:
            return case
        await self._tell(case)
        return await self._write(case, is_told=True)

    async def _write(self, case: Case, **fields: Any) -> Case:
        """Change a case, unless its status has changed meanwhile; return the present one."""

        def update(content: Mapping[str, Any] | None) -> Mapping[str, Any]:
            present = case if content is None else Case.of(content)
            if present.status is not case.status or len(present.decisions) != len(case.decisions):
                return present.document
            return replace(present, updated=self._now(), **fields).document

        return Case.of((await self._documents.change(case.name, update)).content)
