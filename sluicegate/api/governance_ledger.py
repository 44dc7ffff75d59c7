"""The ledger: what a customer sees and does of their own account, with a caller's key of it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sluicegate.api import governance, governance_notices
from sluicegate.api.governance import Incoming, governed
from sluicegate.api.governance_applications import shown as shown_application
from sluicegate.api.governance_requests import Body, actor_of, body_of
from sluicegate.app import Sluicegate
from sluicegate.audit.entries import Event
from sluicegate.errors import Forbidden
from sluicegate.monitoring import ledger
from sluicegate.storage.day_layout import CEILING_DAYS


class Retention(Body):
    """How long the customer wants content kept."""

    retention_days: Annotated[int, Field(ge=1, le=CEILING_DAYS)]


async def read(gate: Sluicegate, http: HttpRequest) -> Response:
    """Show what is held of the account, its abuse score with its parts, and what followed from its cases.

    With ``user``, what is about that end user alone, and the keyed hash by which cases and notices name them.
    """

    async def work(incoming: Incoming) -> Response:
        # It reads much of the storage, so it counts among the account's requests that run at once.
        with gate.limits.running(incoming.account.name):
            return JSONResponse(await _ledger(incoming))

    return await governed(gate, http, "ledger.read", work)


async def export(gate: Sluicegate, http: HttpRequest) -> Response:
    """Stream what is retained of the account, or of ``user``, as an officer's export does."""
    return await governance.export(gate, http, "ledger.export")


async def delete(gate: Sluicegate, http: HttpRequest) -> Response:
    """Delete one record (path), an end user's (``user``), or all (``all=true``), as an officer does; with a receipt."""
    return await governance.delete_retained(gate, http, "ledger.delete")


async def list_receipts(gate: Sluicegate, http: HttpRequest) -> Response:
    """List the receipts of the account, as an officer does."""
    return await governance.list_receipts(gate, http, "ledger.receipts")


async def get_receipt(gate: Sluicegate, http: HttpRequest) -> Response:
    """Return one receipt, as an officer gets it."""
    return await governance.get_receipt(gate, http, "ledger.receipt")


async def shorten(gate: Sluicegate, http: HttpRequest) -> Response:
    """Let content go earlier; never later than the operator lets it."""

    async def work(incoming: Incoming) -> Response:
        body = await body_of(Retention, http)
        tenant = await gate.tenants.get(incoming.account.name)
        most = incoming.account.retention_days if tenant is None else tenant.retention_days
        if body.retention_days > most:
            raise Forbidden(f"The operator lets content of this resource be kept for {most} days: ask them for more.")
        actor, evidence = actor_of(incoming.principal), {"days": body.retention_days}
        await incoming.region.audit.append(
            Event(actor, "retention.change", account=incoming.account.name, evidence=evidence)
        )
        await gate.accounts.shorten_retention(incoming.account.name, body.retention_days)
        return JSONResponse({"retention_days": body.retention_days, "most": most})

    return await governed(gate, http, "ledger.retention", work)


async def _ledger(incoming: Incoming) -> dict[str, Any]:
    gate, region, account = incoming.gate, incoming.region, incoming.account
    now, name, user, monitoring = gate.now(), account.name, incoming.user(), incoming.monitoring
    cases = [each for each in await monitoring.cases.of_account(name) if user in (None, each.user)]
    standings = [each for each in await monitoring.actions.of_account(name) if user in (None, each.user)]
    answered = {each.case for each in standings}
    answers = [each for each in await monitoring.appeals.of_account(name) if each.case in answered]
    notices = [each for each in await monitoring.notices.of_account(name) if user in (None, each.notice.user)]
    tenant = await gate.tenants.get(name)
    has_subscription = tenant is not None and bool(tenant.scope.subscription)
    applications = await gate.applications.of_account(name) if has_subscription else []
    return {
        "object": "ledger",
        "account": name,
        "user": user,
        "region": region.name,
        "at": now.isoformat(),
        "content_logging": account.content_logging,
        "retention_days": account.retention_days,
        "held": (await ledger.held(region, name)).document,
        "score": await ledger.abuse_scores(region, account, gate.deployment.abuse, now, user),
        "cases": [ledger.looked_into(each) for each in cases],
        "consequences": [ledger.consequence(each, account, now) for each in standings],
        "appeals": [ledger.answered(each) for each in answers],
        "notices": [governance_notices.shown(each) for each in notices],
        "applications": [shown_application(each, to_customer=True) for each in applications],
    }
