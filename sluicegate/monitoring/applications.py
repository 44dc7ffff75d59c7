"""Applications: by which a subscription is let off storage and human review, or may have filters that do not block.

An applicant, whoever has a caller's key of one of the subscription's accounts, says why and attests; an operator who is not the
applicant approves until a day, or refuses. What was decided is first in the audit log, then in the application's document
(container ``applications`` of the home region, ``{id}``), and then in the accounts of the subscription, whatever is interrupted:
``settle`` goes on where another process stopped. An account that is let off has its ``content_logging`` switched off before
what was kept of it is deleted, so that what is being written meanwhile is hidden by the deletion and goes with it.

What applicants write freely is sealed like an uploaded file of the account whose key filed it, in that account's region, and goes with the account.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sluicegate.accounts import Accounts
from sluicegate.errors import (
    BlobChanged,
    BlobNotFound,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PurgeIncomplete,
    SluicegateError,
)
from sluicegate.monitoring.application import Application, State
from sluicegate.monitoring.questions import Answers, Kind
from sluicegate.monitoring.settling import Region, Settling
from sluicegate.monitoring.types import TIMER, same_person
from sluicegate.services import BlobStore
from sluicegate.storage.documents import Documents
from sluicegate.storage.files import FileStore
from sluicegate.tenancy.tenants import Tenant, Tenants
from sluicegate.types import utc_now

CONTAINER = "applications"
LONGEST = timedelta(days=366)
"""For which an application is approved at most; then it is filed again."""
KIND = "applications"
"""The sealed files' kind."""
_EVENTS = {
    State.APPROVED: "application.approve",
    State.REFUSED: "application.refuse",
    State.WITHDRAWN: "application.withdraw",
    State.EXPIRED: "application.expire",
}


class Applications:
    """Files, decides and ends applications; one object per worker.

    Args:
        blobs: Of the home region.
        region: Returns the region of a location, ready for use.
        erase: Deletes what is retained of an account, and returns the receipt's id: ``erase(tenant, actor, reason)``.
    """

    def __init__(
        self,
        blobs: BlobStore,
        accounts: Accounts,
        tenants: Tenants,
        region: Callable[[str], Awaitable[Region]],
        erase: Callable[[Tenant, str, str], Awaitable[str]],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._documents = Documents(blobs, CONTAINER, "")
        self._tenants = tenants
        self._region = region
        self._settling = Settling(accounts, tenants, region, erase, self._deleted)
        self._now = now

    # --- filing and deciding -----------------------------------------------------------------------------------------

    async def file(self, account: str, actor: str, answers: Answers) -> Application:
        """File an application for an account's subscription.

        Raises:
            Conflict: One of that kind is waiting, or approved.
        """
        tenant = await self._tenant(account)
        subscription = tenant.scope.subscription
        for each in await self.of_subscription(subscription):
            if each.kind is answers.kind and each.account is None and each.state in (State.SUBMITTED, State.APPROVED):
                raise Conflict(
                    f"The subscription has an application of this kind, which is {each.state}: {each.id}. Withdraw it first."
                )
        id, ticked = f"appl-{secrets.token_hex(12)}", answers.ticked()
        application = Application(id, answers.kind, subscription, tenant.id, actor, self._now(), ticked)
        await self._settling.note(tenant, actor, "application.file", id)
        # Before the document, so that there is no application without its texts.
        await (await self._files(tenant)).write(id, _once(json.dumps(answers.texts()).encode()))
        await self._documents.put(application.id, application.document, etag=None)
        return application

    async def decide(self, id: str, actor: str, *, expires: datetime | None, reason: str) -> Application:
        """Approve an application until ``expires``, or refuse it where that is None; in effect when this returns.

        Raises:
            NotFound: There is none.
            Forbidden: Whoever filed it decides on it.
            Conflict: It is decided already.
            InvalidRequest: The end is not in the future, or too far in it; or the reason is not one for the log.
        """
        found, etag = await self._get(id)
        if same_person(found.applicant, actor):
            raise Forbidden("Whoever filed an application does not decide on it: another operator must.")
        if found.state is not State.SUBMITTED:
            raise Conflict(f"The application is {found.state} already.")
        if expires is not None:
            self._check_end(expires)
        state = State.REFUSED if expires is None else State.APPROVED
        return await self._end(found, etag, state, actor, expires, reason)

    async def withdraw(
        self, id: str, actor: str, *, subscription: str | None, reason: str | None = None
    ) -> Application:
        """Withdraw an application that is waiting, or end an approval; in effect when this returns.

        Args:
            subscription: Of the applicant, who withdraws their own only; None for an operator.
        """
        found, etag = await self._get(id)
        if subscription not in (None, found.subscription):
            raise _no_such()
        if found.state not in (State.SUBMITTED, State.APPROVED):
            raise Conflict(f"The application is {found.state} already.")
        return await self._end(found, etag, State.WITHDRAWN, actor, found.expires, reason)

    async def grant(self, account: str, kind: Kind, actor: str, *, expires: datetime, reason: str) -> Application:
        """Approve one account, as an operator does who was asked in another way than by an application."""
        self._check_end(expires)
        tenant = await self._tenant(account)
        draft = Application(
            f"appl-{secrets.token_hex(12)}",
            kind,
            tenant.scope.subscription,
            tenant.id,
            actor,
            self._now(),
            None,
            account=tenant.id,
        )
        return await self._end(draft, None, State.APPROVED, actor, expires, reason)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> Application:
        """Return an application; ``NotFound`` when there is none."""
        return (await self._get(id))[0]

    async def read(self, id: str, actor: str) -> tuple[Application, dict[str, str]]:
        """Return an application with what the applicant wrote, which is an entry in the audit log; nothing where that is gone."""
        application = await self.get(id)
        tenant = await self._tenants.get(application.filed_by)
        if application.answers is None or tenant is None or tenant.is_purged:
            return application, {}
        await self._settling.note(tenant, actor, "application.read", id)
        try:
            opened = await (await self._files(tenant)).open(id)
        except BlobNotFound:
            return application, {}
        texts: dict[str, str] = json.loads(b"".join([piece async for piece in opened.read()]))
        return application, texts

    async def forget_texts(self, tenant: Tenant) -> None:
        """Delete what an account's applicants wrote; for an account that is purged."""
        files = await self._files(tenant)
        for id in [id async for id in files.names()]:
            await files.erase(id)

    async def every(self) -> list[Application]:
        """Return all applications, the newest first."""
        found = [Application.of(each.content) for each in await self._documents.every()]
        return sorted(found, key=lambda application: application.filed, reverse=True)

    async def of_subscription(self, subscription: str) -> list[Application]:
        """Return a subscription's applications, the newest first."""
        return [each for each in await self.every() if each.subscription == subscription]

    async def of_account(self, account: str) -> list[Application]:
        """Return the applications that concern an account, the newest first."""
        tenant = await self._tenant(account)
        return [each for each in await self.of_subscription(tenant.scope.subscription) if each.concerns(tenant.id)]

    # --- taking effect -----------------------------------------------------------------------------------------------

    async def cover(self, tenant: Tenant) -> Tenant:
        """Let a new or restored account have what its subscription is approved for; return it as it is then."""
        found = await self.of_subscription(tenant.scope.subscription)
        if not found:
            return tenant
        await self._settling.switch(tenant, found)
        await self._settling.clear(tenant, found)
        return await self._tenants.get(tenant.id) or tenant

    async def advance(self) -> None:
        """End what has expired, and finish what was interrupted; for the timer.

        Raises:
            PurgeIncomplete: Something is left; the next tick goes on.
        """
        left: list[str] = []
        for each in await self.every():
            try:
                if each.state is State.APPROVED and each.expires is not None and each.expires <= self._now():
                    found, etag = await self._get(each.id)
                    if found == each:
                        await self._end(found, etag, State.EXPIRED, TIMER, found.expires, None)
                elif not each.is_settled:
                    await self.settle(each)
            except PurgeIncomplete as error:
                left += error.left
            except SluicegateError as error:
                left.append(f"application {each.id} ({type(error).__name__})")
        if left:
            raise PurgeIncomplete(left)

    async def settle(self, application: Application) -> Application:
        """Let the accounts that an application concerns be as it, and the others of its subscription, say.

        Raises:
            PurgeIncomplete: Some are not yet, or what was kept of some is not all gone; all others are.
        """
        settled: list[Application] | None = None
        # Whoever decides meanwhile settles too, and the later of the two must not go by the earlier decision.
        while _states(found := await self.of_subscription(application.subscription)) != _states(settled):
            await self._settling.settle(application, found)
            settled = found
        return await self._change(application.id, application.state, {"is_settled": True})

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _end(
        self,
        found: Application,
        etag: str | None,
        state: State,
        actor: str,
        expires: datetime | None,
        reason: str | None,
    ) -> Application:
        was_waiting = found.state is State.SUBMITTED and state is not State.APPROVED
        decided = replace(
            found,
            state=state,
            decided_by=actor,
            decided=self._now(),
            expires=expires,
            reason=reason,
            is_settled=was_waiting,
        )
        await self._settling.note(await self._tenants.get(found.filed_by), actor, _EVENTS[state], found.id, reason)
        try:
            await self._documents.put(found.id, decided.document, etag=etag)
        except BlobChanged:
            raise Conflict("Somebody else has just decided on the application: read it again.") from None
        return decided if was_waiting else await self.settle(decided)

    async def _deleted(self, application: Application, account: str, receipt: str) -> None:
        await self._change(application.id, application.state, {}, receipts={account: receipt})

    async def _change(
        self, id: str, state: State, fields: Mapping[str, Any], receipts: Mapping[str, str] | None = None
    ) -> Application:
        def update(content: Mapping[str, Any] | None) -> Mapping[str, Any]:
            if content is None:
                raise _no_such()
            # Who withdrew it meanwhile has effects of their own to settle.
            mine = fields if content["state"] == state else {}
            return {**content, **mine, "receipts": {**content["receipts"], **(receipts or {})}}

        return Application.of((await self._documents.change(id, update)).content)

    async def _get(self, id: str) -> tuple[Application, str]:
        found = await self._documents.get(id) if id.startswith("appl-") and id.removeprefix("appl-").isalnum() else None
        if found is None:
            raise _no_such()
        return Application.of(found.content), found.etag

    async def _files(self, tenant: Tenant) -> FileStore:
        return (await self._region(tenant.location)).large_files.store(tenant.id, KIND)

    async def _tenant(self, account: str) -> Tenant:
        tenant = await self._tenants.get(account)
        if tenant is None or tenant.deleted is not None or tenant.is_purged:
            raise NotFound(f"There is no account {account!r}.", param="account")
        if not tenant.scope.subscription:
            raise InvalidRequest("The account belongs to no subscription, for which applications are.", param="account")
        return tenant

    def _check_end(self, expires: datetime) -> None:
        if not timedelta() < expires - self._now() <= LONGEST:
            raise InvalidRequest(
                f"An approval ends in the future, within {LONGEST.days} days; then it is filed again.", param="expires"
            )


def _states(applications: Iterable[Application] | None) -> dict[str, State] | None:
    return None if applications is None else {each.id: each.state for each in applications}


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _no_such() -> NotFound:
    return NotFound("There is no such application.", param="id")
