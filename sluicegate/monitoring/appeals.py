"""Appeals: the customer's answers to what followed from a case, and the rulings on them.

An answer says what was done about it (``remediation``) or that it was no violation (``appeal``). Until somebody who did not decide the case has ruled
on it, no further step is taken. What the customer writes is sealed as uploaded files are, under a key of its own that the account's key wraps; what
else is known of an answer is in the container ``appeals`` of the account's region, ``{account}/{id}``, without the text.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from sluicegate.abuse import Notice
from sluicegate.audit.entries import Event
from sluicegate.audit.log import Audit
from sluicegate.errors import (
    BlobChanged,
    Conflict,
    Forbidden,
    InvalidRequest,
    MonitoringIncomplete,
    NotFound,
    SluicegateError,
)
from sluicegate.monitoring.actions import Actions, Standing, Step
from sluicegate.monitoring.notices import Notices
from sluicegate.monitoring.types import same_person
from sluicegate.services import BlobStore
from sluicegate.storage.documents import Documents
from sluicegate.storage.files import Files
from sluicegate.types import utc_now

CONTAINER = "appeals"
KIND = "appeals"
"""The sealed files' kind."""
MOST = 3
"""Answers to one case."""

AnswerKind: TypeAlias = Literal["remediation", "appeal"]


class Ruling(StrEnum):
    """What came of an answer."""

    LIFT = "lift"
    """It was no violation, or is made good: what followed is over."""
    ACCEPT = "accept"
    """No further step follows; a penalty in force ends by itself."""
    UPHOLD = "uphold"
    """The steps go on, not before the customer has had as long to answer as at first."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, without its text.

    Attributes:
        filed_by, ruled_by: As in the audit log.
        ruling: None while it waits.
        is_done: Whether everything that the ruling changes is changed.
    """

    id: str
    account: str
    case: str
    kind: AnswerKind
    filed: datetime
    filed_by: str
    ruling: Ruling | None = None
    ruled: datetime | None = None
    ruled_by: str | None = None
    reason: str | None = None
    is_done: bool = True

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "account": self.account,
            "case": self.case,
            "kind": self.kind,
            "filed": self.filed.isoformat(),
            "filed_by": self.filed_by,
            "ruling": self.ruling,
            "ruled": None if self.ruled is None else self.ruled.isoformat(),
            "ruled_by": self.ruled_by,
            "reason": self.reason,
            "is_done": self.is_done,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Answer:
        """Return what :attr:`document` was made of."""
        ruled = document["ruled"]
        parsed = {
            "filed": datetime.fromisoformat(document["filed"]),
            "ruled": None if ruled is None else datetime.fromisoformat(ruled),
            "ruling": None if document["ruling"] is None else Ruling(document["ruling"]),
        }
        return cls(**{**document, **parsed})


class Appeals:
    """The answers of the accounts in one region; one object per process."""

    def __init__(
        self,
        blobs: BlobStore,
        files: Files,
        audit: Audit,
        actions: Actions,
        notices: Notices,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._documents = Documents(blobs, CONTAINER, "")
        self._files = files
        self._audit = audit
        self._actions = actions
        self._notices = notices
        self._now = now

    async def file(self, account: str, case: str, kind: AnswerKind, text: str, actor: str) -> Answer:
        """Take an answer; nothing further follows from the case before it is ruled on.

        Raises:
            NotFound: Nothing followed from a case of that id in this account.
            Conflict: It is over, an answer waits already, or there were as many as may be.
        """
        standing = await self._standing(account, case)
        if standing.step in (Step.EXPIRED, Step.LIFTED):
            raise Conflict(f"What followed from the case is over: it is {standing.step}.")
        earlier = [each for each in await self.of_account(account) if each.case == case]
        if any(each.ruling is None for each in earlier):
            raise Conflict("An answer to this case waits for a ruling.")
        if len(earlier) >= MOST:
            raise Conflict(f"There have been {MOST} answers to this case, and all were ruled on.")
        answer = Answer(f"answer-{secrets.token_hex(12)}", account, case, kind, self._now(), actor)
        await self._audit.append(
            Event(actor, "appeal.file", account=account, subject=answer.id, evidence={"case": case, "kind": kind})
        )
        # Before the document, so that there is none without a text.
        await self._files.store(account, KIND).write(answer.id, _once(text.encode()))
        await self._documents.put(f"{account}/{answer.id}", answer.document, etag=None)
        await self._actions.wait(standing)
        return answer

    async def rule(self, account: str, id: str, ruling: Ruling, actor: str, reason: str) -> Answer:
        """Rule on an answer; in effect when this returns.

        Raises:
            NotFound: The account has no such answer.
            Forbidden: Whoever decided the case rules on the answer to it.
            Conflict: It was ruled on already.
            InvalidRequest: The reason is not one for the log.
        """
        found = await self._documents.get(f"{account}/{id}")
        if found is None:
            raise _no_such()
        answer = Answer.of(found.content)
        standing = await self._standing(account, answer.case)
        if same_person(actor, standing.decided_by):
            raise Forbidden("Whoever decided a case does not rule on the answer to it: another reviewer must.")
        if answer.ruling is not None:
            raise Conflict(f"It was ruled on already: {answer.ruling}.")
        evidence = {"case": answer.case, "ruling": ruling}
        try:
            event = Event(actor, "appeal.rule", account=account, subject=id, reason=reason, evidence=evidence)
        except ValueError:
            raise InvalidRequest(
                "Invalid 'reason': use at most 200 letters, digits, spaces and ._:/#()+-, such as a ticket's number.",
                param="reason",
            ) from None
        await self._audit.append(event)
        ruled = replace(answer, ruling=ruling, ruled=self._now(), ruled_by=actor, reason=reason, is_done=False)
        try:
            await self._documents.put(found.name, ruled.document, etag=found.etag)
        except BlobChanged:
            raise Conflict("Somebody else has just ruled on it: read it again.") from None
        return await self._do(ruled)

    async def text(self, answer: Answer) -> str:
        """Return what the customer wrote.

        Raises:
            AccountKeyUnavailable: The account's own key cannot be used.
        """
        opened = await self._files.store(answer.account, KIND).open(answer.id)
        return b"".join([piece async for piece in opened.read()]).decode()

    async def waiting(self) -> list[Answer]:
        """Return the answers that wait for a ruling, the oldest first."""
        found = [Answer.of(each.content) for each in await self._documents.every()]
        return sorted((each for each in found if each.ruling is None), key=lambda answer: answer.filed)

    async def get(self, id: str) -> Answer:
        """Return an answer of any account of the region; ``NotFound`` when there is none."""
        for name in await self._documents.names():
            if name.endswith(f"/{id}") and (found := await self._documents.get(name)) is not None:
                return Answer.of(found.content)
        raise _no_such()

    async def of_account(self, account: str) -> list[Answer]:
        """Return an account's answers, the newest first."""
        found = await self._documents.all(await self._documents.names(f"{account}/"))
        return sorted((Answer.of(each.content) for each in found), key=lambda answer: answer.filed, reverse=True)

    async def advance(self) -> None:
        """Finish what was interrupted; for the timer.

        Raises:
            MonitoringIncomplete: Something failed; the rest is done.
        """
        left: list[str] = []
        for document in await self._documents.every():
            answer = Answer.of(document.content)
            try:
                if answer.ruling is None:
                    await self._actions.wait(await self._standing(answer.account, answer.case))
                elif not answer.is_done:
                    await self._do(answer)
            except SluicegateError as error:
                left.append(f"answer {answer.id} ({type(error).__name__})")
        if left:
            raise MonitoringIncomplete(left)

    async def delete(self, account: str) -> None:
        """Delete an account's answers."""
        files = self._files.store(account, KIND)
        for id in [id async for id in files.names()]:
            await files.erase(id)
        for name in await self._documents.names(f"{account}/"):
            await self._documents.delete(name)

    async def _do(self, answer: Answer) -> Answer:
        standing, by = await self._standing(answer.account, answer.case), answer.ruled_by or ""
        match answer.ruling:
            case Ruling.LIFT:
                await self._actions.lift(standing, by)
            case Ruling.ACCEPT:
                accepted = await self._actions.accept(standing, by)
                told = "Your answer was accepted: nothing further follows."
                await self._notices.send(_notice(answer, accepted, "answer.accepted", told))
            case _:
                denied = await self._actions.deny(standing)
                told = "Your answer was not accepted: the case stands, and further steps follow unless it is made good."
                await self._notices.send(_notice(answer, denied, "appeal.denied", told))
        done = replace(answer, is_done=True)
        await self._documents.change(f"{answer.account}/{answer.id}", lambda _: done.document)
        return done

    async def _standing(self, account: str, case: str) -> Standing:
        standing = await self._actions.get(account, case)
        if standing is None:
            raise NotFound("Nothing has followed from a case of this id for this resource.", param="case")
        return standing


def _notice(answer: Answer, standing: Standing, kind: str, told: str) -> Notice:
    at = answer.ruled or answer.filed
    text = f"{told} (Case {answer.case}, category {standing.category}.)"
    return Notice(
        answer.id, answer.account, at, kind, answer.case, standing.category, standing.user, standing.due, text
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _no_such() -> NotFound:
    return NotFound("There is no such answer.", param="appeal")
