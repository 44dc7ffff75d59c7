"""Debug access: an operator reads one exchange of a customer's, by its request id, when the customer agrees.

Either the operator asks and the customer approves, or the customer invites and an operator accepts. There is no search: who does not
know the id, which the customer has as ``x-request-id``, reads nothing.
"""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sluicegate.api.governance import Incoming, governed
from sluicegate.api.governance_cases import MARK, shown_grant
from sluicegate.api.governance_requests import Body, Reference, actor_of, body_of, by_operator
from sluicegate.app import Sluicegate
from sluicegate.errors import Conflict, NotFound
from sluicegate.monitoring.access import Access, Grant
from sluicegate.types import Principal

_Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""An ``x-request-id``."""


class InviteBody(Body):
    """Which exchange an operator is to look at, and why."""

    exchange: _Id
    reason: Reference


class AskBody(InviteBody):
    """The same, of whose account."""

    account: Annotated[str, StringConstraints(min_length=1, max_length=100)]


async def ask(gate: Sluicegate, http: HttpRequest) -> Response:
    """Ask a customer for access to one of their exchanges."""

    async def work(principal: Principal) -> Response:
        body, actor = await body_of(AskBody, http), actor_of(principal)
        access = await _access_of(gate, body.account)
        return JSONResponse(
            shown_grant(await access.ask(body.account, body.exchange, actor, body.reason, reader=actor)),
            status_code=201,
        )

    return await by_operator(gate, http, "debug.ask", work)


async def invite(gate: Sluicegate, http: HttpRequest) -> Response:
    """Invite an operator to look at an exchange of the caller's account."""

    async def work(incoming: Incoming) -> Response:
        body, actor = await body_of(InviteBody, http), actor_of(incoming.principal)
        await _refuse_without_content(gate, incoming.account.name)
        access = incoming.monitoring.access
        grant = await access.ask(incoming.account.name, body.exchange, actor, body.reason, reader=None)
        return JSONResponse(shown_grant(grant), status_code=201)

    return await governed(gate, http, "debug.invite", work)


async def list_grants(gate: Sluicegate, http: HttpRequest) -> Response:
    """List who has asked for access to exchanges of the caller's account, who was invited, and what became of it."""

    async def work(incoming: Incoming) -> Response:
        grants = await incoming.monitoring.access.of_account(incoming.account.name)
        # Who reviews a case is not told to its customer.
        shown = [shown_grant(each) for each in grants if not each.subject.startswith("case-")]
        return JSONResponse({"object": "list", "data": shown, "has_more": False})

    return await governed(gate, http, "debug.list", work)


async def approve(gate: Sluicegate, http: HttpRequest) -> Response:
    """Agree to what an operator has asked for; access begins now."""

    async def work(incoming: Incoming) -> Response:
        grant = await _own(incoming)
        approved = await incoming.monitoring.access.approve(grant, actor_of(incoming.principal))
        return JSONResponse(shown_grant(approved))

    return await governed(gate, http, "debug.approve", work)


async def revoke(gate: Sluicegate, http: HttpRequest) -> Response:
    """End access at once."""

    async def work(incoming: Incoming) -> Response:
        grant = await _own(incoming)
        revoked = await incoming.monitoring.access.revoke(grant, actor_of(incoming.principal))
        return JSONResponse(shown_grant(revoked))

    return await governed(gate, http, "debug.revoke", work)


async def accept(gate: Sluicegate, http: HttpRequest) -> Response:
    """Accept a customer's invitation; access begins now, for whoever accepts."""

    async def work(principal: Principal) -> Response:
        access, grant = await _found(gate, http)
        if grant.reader is not None:
            raise Conflict("The customer decides on this access: an operator has asked for it.")
        actor = actor_of(principal)
        return JSONResponse(shown_grant(await access.approve(grant, actor, reader=actor)))

    return await by_operator(gate, http, "debug.accept", work)


async def content(gate: Sluicegate, http: HttpRequest) -> Response:
    """Return the exchange, decrypted; an entry in the audit log before it is read, and watermarked."""

    async def work(principal: Principal) -> Response:
        access, asked = await _found(gate, http)
        grant = await access.opened(asked.account, asked.subject, actor_of(principal))
        await access.note_read(grant, grant.subject)
        store = await gate.retained(grant.account)
        record = None if store is None else await store.get(grant.subject)
        if record is None:
            raise NotFound("There is no such record; it may have been deleted or purged.", param="exchange")
        mark = grant.watermark(gate.now())
        body = {"object": "exchange", "exchange": json.loads(record.data), "watermark": mark}
        return JSONResponse(body, headers={MARK: mark, "cache-control": "no-store"})

    return await by_operator(gate, http, "debug.content", work)


async def _access_of(gate: Sluicegate, account: str) -> Access:
    found = await gate.accounts.get(account)
    if found is None:
        raise NotFound("The account does not exist.", param="account")
    await _refuse_without_content(gate, account)
    return gate.monitoring[(await gate.region(found.location)).name].access


async def _refuse_without_content(gate: Sluicegate, account: str) -> None:
    if await gate.retained(account) is None:
        raise Conflict("Content of this account is not kept: there is nothing to look at.")


async def _own(incoming: Incoming) -> Grant:
    """Return a grant that concerns the caller's account and one exchange; any other is as unknown as one that never was."""
    grant = await incoming.monitoring.access.get(incoming.http.path_params["grant"])
    if grant.account != incoming.account.name or grant.subject.startswith("case-"):
        raise NotFound("There is no such access.", param="grant")
    return grant


async def _found(gate: Sluicegate, http: HttpRequest) -> tuple[Access, Grant]:
    """Return a grant to one exchange, in whichever region it is."""
    for region in gate.regions:
        access = gate.monitoring[(await gate.region(region.name)).name].access
        try:
            grant = await access.get(http.path_params["grant"])
        except NotFound:
            continue
        if not grant.subject.startswith("case-"):
            return access, grant
    raise NotFound("There is no such access.", param="grant")
