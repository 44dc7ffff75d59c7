"""Access to content by two people: one asks, another one approves, and what is opened is narrow, short and written down.

A grant opens one case, or one exchange, to the person who asked, for a limited time after somebody else has approved it. It is in
the container ``grants`` of the account's region, ``{account}/{id}``. Everything that happens to it is in the audit log first, and each exchange
that is read under it has an entry of its own before its content is released.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sluicegate.audit.entries import Event
from sluicegate.audit.log import Audit
from sluicegate.errors import Conflict, Forbidden, InvalidRequest, NotFound
from sluicegate.monitoring.types import same_person
from sluicegate.services import BlobStore
from sluicegate.storage.documents import Documents
from sluicegate.types import utc_now

CONTAINER = "grants"
WAITS = timedelta(days=1)
"""How long a grant waits for its approval; then it is asked for again."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Access that was asked for.

    Attributes:
        subject: The case's id, or the exchange's: the only thing it opens.
        reader: Who may read, as the audit log has it; None until an operator accepts a customer's invitation.
        asked_by, approved_by, revoked_by: Likewise.
        expires: When it ends, once it is approved.
        reason: A reference, such as a ticket's number.
    """

    id: str
    account: str
    subject: str
    asked_by: str
    asked: datetime
    reason: str
    reader: str | None
    approved_by: str | None = None
    expires: datetime | None = None
    revoked_by: str | None = None

    @property
    def name(self) -> str:
        """Of its document."""
        return f"{self.account}/{self.id}"

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "account": self.account,
            "subject": self.subject,
            "asked_by": self.asked_by,
            "asked": self.asked.isoformat(),
            "reason": self.reason,
            "reader": self.reader,
            "approved_by": self.approved_by,
            "expires": None if self.expires is None else self.expires.isoformat(),
            "revoked_by": self.revoked_by,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Grant:
        """Return what :attr:`document` was made of."""
        expires = document["expires"]
        parsed = {
            "asked": datetime.fromisoformat(document["asked"]),
            "expires": None if expires is None else datetime.fromisoformat(expires),
        }
        return cls(**{**document, **parsed})

    def watermark(self, at: datetime) -> str:
        """Return what marks a copy of content: who read it, under which grant, and when."""
        return f"{self.reader} {self.id} {at:%Y-%m-%dT%H:%M:%SZ}"


class Access:
    """The grants of one region; one object per process.

    Args:
        minutes: How long a grant lasts from its approval.
    """

    def __init__(self, blobs: BlobStore, audit: Audit, now: Callable[[], datetime] = utc_now, *, minutes: int) -> None:
        self._documents = Documents(blobs, CONTAINER, "")
        self._audit = audit
        self._now = now
        self._lasts = timedelta(minutes=minutes)

    async def ask(self, account: str, subject: str, actor: str, reason: str, *, reader: str | None) -> Grant:
        """Ask for access.

        Raises:
            InvalidRequest: The reason is not one for the log.
        """
        grant = Grant(f"grant-{secrets.token_hex(12)}", account, subject, actor, self._now(), reason, reader)
        await self._log(actor, "access.ask", grant)
        await self._documents.put(grant.name, grant.document, etag=None)
        return grant

    async def approve(self, grant: Grant, actor: str, *, reader: str | None = None) -> Grant:
        """Approve access; it begins now.

        Args:
            reader: Who reads, where a customer has invited whoever accepts.

        Raises:
            Forbidden: Nobody approves what they have asked for.
            Conflict: It is approved or revoked already, or has waited too long.
        """
        if same_person(grant.asked_by, actor):
            raise Forbidden("Whoever asks for access does not approve it: a second person must.")
        if grant.revoked_by or grant.approved_by:
            raise Conflict("The access was revoked." if grant.revoked_by else "The access was approved already.")
        if self._now() - grant.asked >= WAITS:
            raise Conflict("The access was asked for too long ago: ask again.")
        await self._log(actor, "access.approve", grant)
        return await self._write(
            grant, approved_by=actor, expires=self._now() + self._lasts, reader=reader or grant.reader
        )

    async def revoke(self, grant: Grant, actor: str) -> Grant:
        """End access at once; what was not approved can no longer be."""
        if grant.revoked_by:
            return grant
        await self._log(actor, "access.revoke", grant)
        return await self._write(grant, revoked_by=actor)

    async def opened(self, account: str, subject: str, actor: str) -> Grant:
        """Return the grant under which somebody may read now.

        Raises:
            Forbidden: There is none: not asked for, not approved, for something else, revoked, or over.
        """
        for grant in await self.of_account(account):
            if (
                grant.subject == subject
                and grant.reader == actor
                and grant.approved_by is not None
                and grant.revoked_by is None
                and grant.expires is not None
                and self._now() < grant.expires
            ):
                return grant
        raise Forbidden(
            "You have no access to this content now: ask for it with a reason, and have a second person approve it.",
            code="AccessNotGranted",
        )

    async def note_read(self, grant: Grant, exchange: str) -> None:
        """Write down that an exchange is read; nothing is released unless this is durable."""
        await self._audit.append(
            Event(
                grant.reader or "",
                "access.read",
                account=grant.account,
                subject=exchange,
                reason=grant.reason,
                evidence={"grant": grant.id, "for": grant.subject, "approved_by": grant.approved_by},
            )
        )

    async def get(self, id: str) -> Grant:
        """Return a grant of any account of the region; ``NotFound`` when there is none."""
        for name in await self._documents.names():
            if name.endswith(f"/{id}") and (found := await self._documents.get(name)) is not None:
                return Grant.of(found.content)
        raise NotFound("There is no such access.", param="grant")

    async def of_account(self, account: str) -> list[Grant]:
        """Return the grants that concern an account, the newest first."""
        found = await self._documents.all(await self._documents.names(f"{account}/"))
        return sorted((Grant.of(each.content) for each in found), key=lambda grant: grant.asked, reverse=True)

    async def delete(self, account: str) -> None:
        """Delete what is known of access to an account's content here; the audit log keeps who read what."""
        for name in await self._documents.names(f"{account}/"):
            await self._documents.delete(name)

    async def _log(self, actor: str, action: str, grant: Grant) -> None:
        try:
            event = Event(
                actor,
                action,
                account=grant.account,
                subject=grant.subject,
                reason=grant.reason,
                evidence={"grant": grant.id},
            )
        except ValueError:
            raise InvalidRequest(
                "Invalid 'reason' or id: use at most 200 letters, digits, spaces and ._:/#()+-, such as a ticket's number.",
                param="reason",
            ) from None
        await self._audit.append(event)

    async def _write(self, grant: Grant, **fields: Any) -> Grant:
        """Change a grant; a revocation is never undone by what happens at the same time."""

        def update(content: Mapping[str, Any] | None) -> Mapping[str, Any]:
            present = grant if content is None else Grant.of(content)
            if present.revoked_by or (present.approved_by and "revoked_by" not in fields):
                return present.document
            return replace(present, **fields).document

        return Grant.of((await self._documents.change(grant.name, update)).content)
