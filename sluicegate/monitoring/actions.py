"""Actions: what follows from a confirmed case, step by step, until the customer has answered or access has ended.

::

    notified --remediation_days--> throttled --throttle_days--> blocked --block_days--> ended
       |                              |                            |
       +-- accepted, lifted ----------+----------------------------+-- expired (an end user's, or after an accepted answer)

A severe case begins with ``blocked``. While an answer waits for a ruling no further step is taken, and what is in force stays; an account without an
answer goes on to the next step when one ends, an end user's block only ends. Each step is written down before it is taken (container
``actions`` of the account's region, ``{account}/{case}``), and then are the audit log, the penalty and the notice: whoever finds a step that
is not done does it again, which changes nothing where it was done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, Protocol

from sluicegate.abuse import Notice
from sluicegate.accounts import Accounts
from sluicegate.audit.entries import Event, opaque
from sluicegate.audit.log import Audit
from sluicegate.config import Penalties
from sluicegate.errors import BlobExists, BlobNotFound, MonitoringIncomplete, SluicegateError
from sluicegate.monitoring.notices import Notices
from sluicegate.monitoring.penalties import APPEAL, Action, Penalty
from sluicegate.monitoring.types import TIMER
from sluicegate.services import BlobStore
from sluicegate.storage.documents import Documents
from sluicegate.types import utc_now

CONTAINER = "actions"
UNNAMED = "abuse"
"""The category of a case that was confirmed without one."""
_LOOKED_AT = 1000
"""So many of the newest audit entries are looked through for one that an interrupted step may have written."""


class Step(StrEnum):
    """Where a case stands with its customer."""

    NOTIFIED = "notified"
    THROTTLED = "throttled"
    BLOCKED = "blocked"
    ENDED = "ended"
    """Access has ended; what is kept of the account goes on its schedule."""
    EXPIRED = "expired"
    LIFTED = "lifted"


FINAL = frozenset({Step.ENDED, Step.EXPIRED, Step.LIFTED})
_KINDS = {
    Step.NOTIFIED: "violation.confirmed",
    Step.THROTTLED: "access.throttled",
    Step.BLOCKED: "access.blocked",
    Step.ENDED: "access.ended",
    Step.EXPIRED: "penalty.expired",
    Step.LIFTED: "penalty.lifted",
}


class Case(Protocol):
    """The part of a decided case that this needs: ``category`` is what was confirmed, ``decided_by`` is as in the audit log."""

    @property
    def id(self) -> str: ...
    @property
    def account(self) -> str: ...
    @property
    def user(self) -> str | None: ...
    @property
    def status(self) -> str: ...
    @property
    def category(self) -> str | None: ...
    @property
    def decided_by(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a case stands with its customer.

    Attributes:
        user: Keyed hash of the end user it is about, or None.
        number: Of the step, from 0.
        due: When the next step is taken, or the penalty ends; None when nothing more happens by itself.
        is_done: Whether everything that the step changes is changed.
        is_waiting: Whether an answer waits for a ruling.
        is_answered: Whether an answer was accepted: no further step follows.
        by: Who caused the step, as the audit log has it.
        decided_by: Who decided the case.
    """

    case: str
    account: str
    user: str | None
    category: str
    step: Step
    number: int
    begun: datetime
    due: datetime | None
    is_done: bool = False
    is_waiting: bool = False
    is_answered: bool = False
    by: str = TIMER
    decided_by: str = ""

    @property
    def name(self) -> str:
        """Of its document."""
        return f"{self.account}/{self.case}"

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "case": self.case,
            "account": self.account,
            "user": self.user,
            "category": self.category,
            "step": self.step,
            "number": self.number,
            "begun": self.begun.isoformat(),
            "due": None if self.due is None else self.due.isoformat(),
            "is_done": self.is_done,
            "is_waiting": self.is_waiting,
            "is_answered": self.is_answered,
            "by": self.by,
            "decided_by": self.decided_by,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Standing:
        """Return what :attr:`document` was made of."""
        due = document["due"]
        parsed = {
            "step": Step(document["step"]),
            "begun": datetime.fromisoformat(document["begun"]),
            "due": None if due is None else datetime.fromisoformat(due),
        }
        return cls(**{**document, **parsed})


class Actions:
    """What follows from the confirmed cases of one region; one object per process."""

    def __init__(
        self,
        blobs: BlobStore,
        audit: Audit,
        accounts: Accounts,
        notices: Notices,
        settings: Penalties,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._documents = Documents(blobs, CONTAINER, "")
        self._audit = audit
        self._accounts = accounts
        self._notices = notices
        self._settings = settings
        self._now = now

    # --- what causes steps -------------------------------------------------------------------------------------------

    async def decided(self, case: Case) -> None:
        """Take the first step of a confirmed case, or lift what followed from one that is dismissed now; called again, it goes on."""
        found = await self.get(case.account, case.id)
        actor, category = case.decided_by or TIMER, case.category or UNNAMED
        if case.status == "dismissed":
            if found is not None:
                await self.lift(found, actor)
            return
        if case.status != "confirmed":
            return
        if found is None:
            step = Step.BLOCKED if category in self._settings.severe else Step.NOTIFIED
            due = self._now() + self._lasts(step)
            found = Standing(
                case.id, case.account, case.user, category, step, 0, self._now(), due, by=actor, decided_by=actor
            )
            try:
                await self._documents.put(found.name, found.document, etag=None)
            except BlobExists:
                return await self.decided(case)
        if not found.is_done:
            await self._do(found)

    async def lift(self, standing: Standing, actor: str) -> Standing:
        """End what follows from a case in the customer's favour; no-op where nothing does any more."""
        if standing.step in (Step.EXPIRED, Step.LIFTED):
            return standing
        return await self._take(standing, Step.LIFTED, actor)

    async def wait(self, standing: Standing) -> Standing:
        """Take no further step until somebody rules on the customer's answer."""
        return await self._write(standing, is_waiting=True)

    async def accept(self, standing: Standing, actor: str) -> Standing:
        """Take no further step: what is in force ends by itself, and a case that has only been notified is over."""
        if standing.step is Step.NOTIFIED:
            return await self.lift(standing, actor)
        return await self._write(standing, is_waiting=False, is_answered=True)

    async def deny(self, standing: Standing) -> Standing:
        """Let the steps go on, not before the customer has had as long to answer as at first."""
        due = standing.due and max(standing.due, self._now() + timedelta(days=self._settings.remediation_days))
        denied = await self._write(standing, is_waiting=False, due=due, is_done=False)
        # A penalty lasts until the next step, so that nothing ends between the two.
        return await self._do(denied)

    async def advance(self) -> None:
        """Finish what was interrupted, and take the steps that are due; for the timer.

        Raises:
            MonitoringIncomplete: Something failed; all other cases are as they should be.
        """
        left: list[str] = []
        for document in await self._documents.every():
            standing = Standing.of(document.content)
            try:
                if not standing.is_done:
                    standing = await self._do(standing)
                following = self._following(standing)
                if following is not None:
                    await self._take(standing, following, TIMER)
            except SluicegateError as error:
                left.append(f"what follows from case {standing.case} ({type(error).__name__})")
        if left:
            raise MonitoringIncomplete(left)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get(self, account: str, case: str) -> Standing | None:
        """Return where a case stands with its customer, or None where nothing followed from it."""
        found = await self._documents.get(f"{account}/{case}")
        return None if found is None else Standing.of(found.content)

    async def of_account(self, account: str) -> list[Standing]:
        """Return what followed from an account's cases, the newest first."""
        found = [
            Standing.of(each.content) for each in await self._documents.all(await self._documents.names(f"{account}/"))
        ]
        return sorted(found, key=lambda standing: standing.begun, reverse=True)

    async def delete(self, account: str) -> None:
        """Delete what is known of an account's cases here."""
        for name in await self._documents.names(f"{account}/"):
            await self._documents.delete(name)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _following(self, standing: Standing) -> Step | None:
        if standing.step in FINAL or standing.due is None or self._now() < standing.due:
            return None
        if standing.is_answered:
            return Step.EXPIRED
        if standing.is_waiting:
            return None
        if standing.step is Step.NOTIFIED:
            return Step.THROTTLED
        if standing.step is Step.THROTTLED:
            return Step.BLOCKED
        return Step.EXPIRED if standing.user is not None else Step.ENDED

    async def _take(self, standing: Standing, step: Step, actor: str) -> Standing:
        lasts = None if step in FINAL else self._now() + self._lasts(step)
        taken = await self._write(
            standing, step=step, number=standing.number + 1, begun=self._now(), due=lasts, is_done=False,
            is_waiting=False, by=actor,
        )  # fmt: skip
        return await self._do(taken) if not taken.is_done else taken

    async def _write(self, standing: Standing, **fields: Any) -> Standing:
        """Change a standing, unless another process has gone on from it meanwhile; return the present one."""

        def update(content: Mapping[str, Any] | None) -> Mapping[str, Any]:
            if content is None or content["number"] != standing.number:
                return content or standing.document
            return replace(Standing.of(content), **fields).document

        return Standing.of((await self._documents.change(standing.name, update)).content)

    async def _do(self, standing: Standing) -> Standing:
        event = Event(
            standing.by,
            f"penalty.{standing.step}",
            account=standing.account,
            subject=standing.case,
            evidence={"user": standing.user, "category": opaque(standing.category)},
            id=sha256(f"{standing.name}/{standing.number}".encode()).hexdigest()[:32],
        )
        if not await self._is_logged(event.id):
            await self._audit.append(event)
        penalty = self._penalty(standing)
        try:
            if penalty is None:
                await self._accounts.lift_penalty(standing.account, standing.case)
            else:
                await self._accounts.penalise(standing.account, penalty)
        except BlobNotFound:
            pass  # Its account is gone, and nobody is left to be told.
        else:
            await self._notices.send(self._notice(standing, penalty))
        return await self._write(standing, is_done=True)

    async def _is_logged(self, id: str) -> bool:
        looked_at = 0
        async for entry in self._audit.newest(None):
            looked_at += 1
            if entry.event.id == id:
                return True
            if looked_at == _LOOKED_AT:
                break
        return False

    def _penalty(self, standing: Standing) -> Penalty | None:
        if standing.step is Step.THROTTLED:
            action, percentage, until = Action.THROTTLE, self._settings.throttle_percentage, standing.due
        elif standing.step in (Step.BLOCKED, Step.ENDED):
            action, percentage, until = Action.BLOCK, 0, standing.due
        else:
            return None
        return Penalty(standing.case, action, standing.category, standing.user, percentage, until)

    def _lasts(self, step: Step) -> timedelta:
        days = {
            Step.NOTIFIED: self._settings.remediation_days,
            Step.THROTTLED: self._settings.throttle_days,
            Step.BLOCKED: self._settings.block_days,
        }
        return timedelta(days=days[step])

    def _notice(self, standing: Standing, penalty: Penalty | None) -> Notice:
        return Notice(
            f"{standing.case}-{standing.number}",
            standing.account,
            standing.begun,
            _KINDS[standing.step],
            standing.case,
            standing.category,
            standing.user,
            standing.due,
            _sentences(standing, penalty),
        )


def _sentences(standing: Standing, penalty: Penalty | None) -> str:
    if penalty is not None:
        ended = " What is kept of it goes on its schedule; its key still reads, exports and deletes it."
        return penalty.told() + (ended if standing.step is Step.ENDED else "")
    whose = "this resource" if standing.user is None else "an end user of this resource"
    if standing.step is Step.NOTIFIED and standing.due is not None:
        return (
            f"A violation of the content policy by {whose} was confirmed (category {standing.category}, case {standing.case}). Say until "
            f"{standing.due:%Y-%m-%d %H:%M} UTC what you have done about it, or appeal: {APPEAL}. Otherwise access will be limited."
        )
    what = "has ended" if standing.step is Step.EXPIRED else "was lifted"
    return f"What followed for {whose} from case {standing.case} (category {standing.category}) {what}."
