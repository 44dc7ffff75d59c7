"""What applications do to accounts: every account of a subscription is made to be what is approved for it, again and again until it is.

All accounts are switched before anything of any is deleted, so that a large subscription waits no longer than a small one until nothing more is kept;
what fails for one account holds up no other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from sluicegate.accounts import Accounts
from sluicegate.audit.entries import Event
from sluicegate.audit.log import Audit
from sluicegate.errors import InvalidRequest, PurgeIncomplete, SluicegateError
from sluicegate.monitoring.application import Application
from sluicegate.monitoring.questions import Kind
from sluicegate.monitoring.types import TIMER
from sluicegate.storage.files import Files
from sluicegate.tenancy.tenants import Scope, Tenant, Tenants

_PAGE = 100


class Region(Protocol):
    """The part of :class:`sluicegate.regions.Region` that this needs."""

    @property
    def audit(self) -> Audit: ...
    @property
    def large_files(self) -> Files: ...


class Settling:
    """Changes the accounts; one object per worker.

    Args:
        region: Returns the region of a location, ready for use.
        erase: Deletes what is retained of an account, and returns the receipt's id: ``erase(tenant, actor, reason)``.
        deleted: Notes the receipt of an account's deletion: ``deleted(application, account, receipt)``.
    """

    def __init__(
        self,
        accounts: Accounts,
        tenants: Tenants,
        region: Callable[[str], Awaitable[Region]],
        erase: Callable[[Tenant, str, str], Awaitable[str]],
        deleted: Callable[[Application, str, str], Awaitable[object]],
    ) -> None:
        self._accounts = accounts
        self._tenants = tenants
        self._region = region
        self._erase = erase
        self._deleted = deleted

    async def settle(self, application: Application, of_subscription: Sequence[Application]) -> None:
        """Let the accounts that an application concerns be as all of their subscription's applications say.

        Raises:
            PurgeIncomplete: Some are not, or what was kept of some is not all gone; all others are.
        """
        tenants = [each async for each in self._tenants_of(application.subscription) if application.concerns(each.id)]
        left = [
            *await _each(tenants, lambda tenant: self.switch(tenant, of_subscription)),
            *await _each(tenants, lambda tenant: self.clear(tenant, of_subscription)),
        ]
        if left:
            raise PurgeIncomplete(left)

    async def switch(self, tenant: Tenant, applications: Iterable[Application]) -> None:
        """Let one account have what is approved for it, and no more."""
        for kind in Kind:
            concerning = [each for each in applications if each.kind is kind and each.concerns(tenant.id)]
            if not concerning:
                continue
            covering = [each for each in concerning if each.covers(tenant.id)]
            cause, is_approved = (covering or concerning)[0], bool(covering)
            by = cause.decided_by or TIMER
            if kind is Kind.ABUSE_MONITORING and tenant.has_content_logging is is_approved:
                await self.note(tenant, by, f"content-logging.{'off' if is_approved else 'on'}", cause.id)
                await self._accounts.set_content_logging(tenant.id, not is_approved)
            elif kind is Kind.CONTENT_FILTERS and tenant.has_modified_filters is not is_approved:
                await self.note(tenant, by, f"modified-filters.{'on' if is_approved else 'off'}", cause.id)
                await self._accounts.set_modified_filters(tenant.id, is_approved)

    async def clear(self, tenant: Tenant, applications: Iterable[Application]) -> None:
        """Delete what was kept of one account that is let off, once for each approval; after ``switch``."""
        for each in applications:
            if each.kind is Kind.ABUSE_MONITORING and each.covers(tenant.id):
                if tenant.id not in (each.receipts or {}):
                    receipt = await self._erase(tenant, each.decided_by or TIMER, each.id)
                    await self._deleted(each, tenant.id, receipt)
                return

    async def note(
        self, tenant: Tenant | None, actor: str, action: str, subject: str, reason: str | None = None
    ) -> None:
        if tenant is None or not tenant.location:
            return
        account = tenant.id
        try:
            event = Event(actor, action, account=account, subject=subject, reason=reason)
        except ValueError:
            raise InvalidRequest(
                "Invalid 'reason': use at most 200 letters, digits, spaces and ._:/#()+-, such as a ticket's number.",
                param="reason",
            ) from None
        await (await self._region(tenant.location)).audit.append(event)

    async def _tenants_of(self, subscription: str) -> AsyncIterator[Tenant]:
        cursor = ""
        while True:
            found, cursor = await self._tenants.page(Scope(subscription), after=cursor, limit=_PAGE)
            for tenant in found:
                yield tenant
            if not cursor:
                return


async def _each(tenants: Iterable[Tenant], work: Callable[[Tenant], Awaitable[None]]) -> list[str]:
    """Do some work for each account, and return for which it failed."""
    left: list[str] = []
    for tenant in tenants:
        try:
            await work(tenant)
        except PurgeIncomplete as error:
            left += error.left
        except SluicegateError as error:
            left.append(f"account {tenant.id!r} ({type(error).__name__})")
    return left
