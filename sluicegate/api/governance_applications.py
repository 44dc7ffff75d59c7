"""Applications: a customer files and withdraws them, an operator decides; customers read theirs in the ledger."""

from __future__ import annotations

from typing import Any, Literal

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sluicegate.api.governance import Incoming, governed
from sluicegate.api.governance_requests import Body, Moment, Reference, actor_of, body_of, by_operator
from sluicegate.app import Sluicegate
from sluicegate.errors import InvalidRequest
from sluicegate.monitoring.application import Application
from sluicegate.monitoring.questions import Answers
from sluicegate.types import Principal


class Decision(Body):
    """What an operator decides; ``expires`` is for an approval."""

    decision: Literal["approve", "refuse", "withdraw"]
    expires: Moment | None = None
    reason: Reference


async def file(gate: Sluicegate, http: HttpRequest) -> Response:
    """File an application for the subscription of the caller's account."""

    async def work(incoming: Incoming) -> Response:
        answers = await body_of(Answers, http)
        filed = await gate.applications.file(incoming.account.name, actor_of(incoming.principal), answers)
        return JSONResponse(shown(filed, to_customer=True), status_code=201)

    return await governed(gate, http, "applications.create", work)


async def withdraw(gate: Sluicegate, http: HttpRequest) -> Response:
    """Withdraw an application of the subscription of the caller's account, or give up what was approved."""

    async def work(incoming: Incoming) -> Response:
        tenant = await gate.tenants.get(incoming.account.name)
        subscription = tenant.scope.subscription if tenant is not None else ""
        ended = await gate.applications.withdraw(
            http.path_params["application"], actor_of(incoming.principal), subscription=subscription
        )
        return JSONResponse(shown(ended, to_customer=True))

    return await governed(gate, http, "applications.withdraw", work)


async def list_applications(gate: Sluicegate, http: HttpRequest) -> Response:
    """List all applications without what applicants wrote, the newest first; of one ``state`` where that is given."""

    async def work(_: Principal) -> Response:
        state = http.query_params.get("state")
        found = [each for each in await gate.applications.every() if state in (None, each.state)]
        return JSONResponse({"object": "list", "data": [shown(each) for each in found], "has_more": False})

    return await by_operator(gate, http, "applications.list", work)


async def get(gate: Sluicegate, http: HttpRequest) -> Response:
    """Read an application with what the applicant wrote, decrypted; an entry in the audit log."""

    async def work(principal: Principal) -> Response:
        found, texts = await gate.applications.read(http.path_params["application"], actor_of(principal))
        return JSONResponse({**shown(found), **texts})

    return await by_operator(gate, http, "applications.read", work)


async def decide(gate: Sluicegate, http: HttpRequest) -> Response:
    """Approve an application until ``expires``, refuse it, or withdraw an approval; it is in effect when this answers."""

    async def work(principal: Principal) -> Response:
        body, actor = await body_of(Decision, http), actor_of(principal)
        id = http.path_params["application"]
        if body.decision == "withdraw":
            return JSONResponse(
                shown(await gate.applications.withdraw(id, actor, subscription=None, reason=body.reason))
            )
        if (body.expires is not None) != (body.decision == "approve"):
            raise InvalidRequest("An approval, and nothing else, needs 'expires'.", param="expires")
        return JSONResponse(shown(await gate.applications.decide(id, actor, expires=body.expires, reason=body.reason)))

    return await by_operator(gate, http, "applications.decide", work)


def shown(application: Application, *, to_customer: bool = False) -> dict[str, Any]:
    """Return an application as answers hold it; a customer is not told who decided."""
    hidden = {"decided_by", "applicant"} if to_customer else set()
    fields = {name: value for name, value in application.document.items() if name not in hidden}
    return {"object": "application", **fields}
