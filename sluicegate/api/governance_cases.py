"""Cases: a reviewer reads what was counted, asks for access, reads content once a second person has approved, and decides.

A reviewer reviews the region that their own account is in, and no other.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import StringConstraints
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sluicegate.api.governance import Incoming, governed
from sluicegate.api.governance_requests import Body, Reference, actor_of, body_of
from sluicegate.app import Sluicegate
from sluicegate.errors import Conflict, Forbidden, InvalidRequest
from sluicegate.monitoring.access import Grant
from sluicegate.monitoring.cases import Case, Decision, Status
from sluicegate.monitoring.reviewing import read_flagged
from sluicegate.monitoring.types import same_person

MARK = "x-sluicegate-watermark"
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class AskBody(Body):
    """Why somebody wants to read content."""

    reason: Reference


class DecisionBody(Body):
    """What a reviewer decides; ``category`` and ``guideline`` are for a confirmation."""

    decision: Literal["confirm", "dismiss", "escalate"]
    reason: Reference
    category: _Name | None = None
    guideline: _Name | None = None


_STATUS = {"confirm": Status.CONFIRMED, "dismiss": Status.DISMISSED, "escalate": Status.ESCALATED}


async def list_cases(gate: Sluicegate, http: HttpRequest) -> Response:
    """List the cases of the reviewer's region, newest first: ``account``, ``status``, ``limit``, ``after`` (a ``last_id``)."""

    async def work(incoming: Incoming) -> Response:
        account, status, after = (incoming.query(name) for name in ("account", "status", "after"))
        if status is not None and status not in list(Status):
            raise InvalidRequest(f"Invalid 'status': expected one of {', '.join(Status)}.", param="status")
        found = [
            case
            for case in sorted(await incoming.monitoring.cases.every(), key=lambda case: case.opened, reverse=True)
            if account in (None, case.account) and status in (None, case.status)
        ]
        if after is not None:
            ids = [case.id for case in found]
            if after not in ids:
                raise InvalidRequest("Invalid 'after': expected a last_id of an earlier page.", param="after")
            found = found[ids.index(after) + 1 :]
        limit = incoming.limit()
        page = found[:limit]
        return JSONResponse(
            {
                "object": "list",
                "data": [_shown(case) for case in page],
                "has_more": len(found) > limit,
                "last_id": page[-1].id if page else None,
            }
        )

    return await governed(gate, http, "cases.list", work)


async def get(gate: Sluicegate, http: HttpRequest) -> Response:
    """Return a case, with who asked for access to it; no content."""

    async def work(incoming: Incoming) -> Response:
        case = await _case(incoming)
        grants = await incoming.monitoring.access.of_account(case.account)
        return JSONResponse(
            {**_shown(case), "access": [shown_grant(each) for each in grants if each.subject == case.id]}
        )

    return await governed(gate, http, "cases.read", work)


async def ask(gate: Sluicegate, http: HttpRequest) -> Response:
    """Ask for access to the content of a case."""

    async def work(incoming: Incoming) -> Response:
        body, case, actor = await body_of(AskBody, http), await _case(incoming), actor_of(incoming.principal)
        if await gate.retained(case.account) is None:
            raise Conflict("Content of this account is not kept, and nobody reviews it: decide by what was counted.")
        grant = await incoming.monitoring.access.ask(case.account, case.id, actor, body.reason, reader=actor)
        return JSONResponse(shown_grant(grant), status_code=201)

    return await governed(gate, http, "access.ask", work)


async def approve(gate: Sluicegate, http: HttpRequest) -> Response:
    """Approve access that another reviewer has asked for; it begins now."""

    async def work(incoming: Incoming) -> Response:
        grant = await _grant(incoming)
        approved = await incoming.monitoring.access.approve(grant, actor_of(incoming.principal))
        return JSONResponse(shown_grant(approved))

    return await governed(gate, http, "access.approve", work)


async def revoke(gate: Sluicegate, http: HttpRequest) -> Response:
    """End access at once."""

    async def work(incoming: Incoming) -> Response:
        grant = await _grant(incoming)
        revoked = await incoming.monitoring.access.revoke(grant, actor_of(incoming.principal))
        return JSONResponse(shown_grant(revoked))

    return await governed(gate, http, "access.revoke", work)


async def content(gate: Sluicegate, http: HttpRequest) -> Response:
    """Return the flagged exchanges of a case, decrypted, newest first: ``limit``, ``after`` (an exchange's id).

    Each is an entry in the audit log before it is read, and carries the watermark of who read it.
    """

    async def work(incoming: Incoming) -> Response:
        case, access = await _case(incoming), incoming.monitoring.access
        grant = await access.opened(case.account, case.id, actor_of(incoming.principal))
        ids = [each.id for each in case.flagged]
        after = incoming.query("after")
        if after is not None and after not in ids:
            raise InvalidRequest("Invalid 'after': expected the id of an exchange of the case.", param="after")
        start = 0 if after is None else ids.index(after) + 1
        page = case.flagged[start : start + incoming.limit()]
        mark = grant.watermark(gate.now())
        data = []
        for flagged in page:
            await access.note_read(grant, flagged.id)
            store = await gate.retained(case.account)
            record = None if store is None else await read_flagged(store, flagged)
            exchange = None if record is None else json.loads(record.data)
            data.append({**flagged.document, "exchange": exchange, "watermark": mark})
        body = {"object": "list", "data": data, "has_more": start + len(page) < len(ids), "watermark": mark}
        return JSONResponse(body, headers={MARK: mark, "cache-control": "no-store"})

    return await governed(gate, http, "cases.content", work)


async def decide(gate: Sluicegate, http: HttpRequest) -> Response:
    """Decide a case: ``confirm``, ``dismiss`` or ``escalate``.

    Whoever confirms has had access to its content, unless there is none; whoever has escalated it does not decide it in the end.
    """

    async def work(incoming: Incoming) -> Response:
        body, case, actor = await body_of(DecisionBody, http), await _case(incoming), actor_of(incoming.principal)
        status = _STATUS[body.decision]
        if status is Status.CONFIRMED:
            if body.category is None or body.guideline is None:
                raise InvalidRequest("A confirmation needs a 'category' and a 'guideline'.", param="category")
            if await gate.retained(case.account) is not None:
                await incoming.monitoring.access.opened(case.account, case.id, actor)
        if case.status is Status.ESCALATED and same_person(case.decisions[-1].by, actor):
            raise Forbidden("Whoever has escalated a case does not decide it: another reviewer must.")
        decision = Decision(status, actor, gate.now(), body.reason, body.category, body.guideline)
        return JSONResponse(_shown(await incoming.monitoring.cases.decide(case, decision)))

    return await governed(gate, http, "cases.decide", work)


async def _case(incoming: Incoming) -> Case:
    return await incoming.monitoring.cases.get(incoming.http.path_params["case"])


async def _grant(incoming: Incoming) -> Grant:
    case = await _case(incoming)
    grant = await incoming.monitoring.access.get(incoming.http.path_params["grant"])
    if grant.subject != case.id:
        raise InvalidRequest("The access is not to this case.", param="grant")
    return grant


def shown_grant(grant: Grant) -> dict[str, Any]:
    """Return a grant as answers hold it."""
    return {"object": "access", **grant.document}


def _shown(case: Case) -> dict[str, Any]:
    shown = {name: value for name, value in case.document.items() if name != "is_told"}
    return {"object": "case", **shown}
