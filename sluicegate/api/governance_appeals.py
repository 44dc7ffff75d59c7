"""Appeals: the customer answers to what followed from a case; a reviewer who did not decide it reads the answer and rules on it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import StringConstraints
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sluicegate.api.governance import Incoming, governed
from sluicegate.api.governance_requests import Body, Reference, actor_of, body_of
from sluicegate.app import Sluicegate
from sluicegate.audit.entries import Event
from sluicegate.monitoring.appeals import Answer, Ruling
from sluicegate.monitoring.ledger import answered

MOST_CHARACTERS = 8000


class AnswerBody(Body):
    """What a customer sends."""

    case: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
    kind: Literal["remediation", "appeal"]
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_CHARACTERS)]


class RulingBody(Body):
    """What a reviewer decides."""

    ruling: Ruling
    reason: Reference


async def file(gate: Sluicegate, http: HttpRequest) -> Response:
    """Answer to what followed from a case of the caller's account."""

    async def work(incoming: Incoming) -> Response:
        body = await body_of(AnswerBody, http)
        appeals = incoming.monitoring.appeals
        filed = await appeals.file(incoming.account.name, body.case, body.kind, body.text, actor_of(incoming.principal))
        return JSONResponse({"object": "appeal", **answered(filed)}, status_code=201)

    return await governed(gate, http, "appeals.create", work)


async def list_waiting(gate: Sluicegate, http: HttpRequest) -> Response:
    """List the answers of the reviewer's region that wait for a ruling, oldest first, without their text."""

    async def work(incoming: Incoming) -> Response:
        found = [_shown(each) for each in await incoming.monitoring.appeals.waiting()]
        return JSONResponse({"object": "list", "data": found, "has_more": False})

    return await governed(gate, http, "appeals.list", work)


async def get(gate: Sluicegate, http: HttpRequest) -> Response:
    """Read an answer, decrypted; an entry in the audit log."""

    async def work(incoming: Incoming) -> Response:
        appeals = incoming.monitoring.appeals
        found = await appeals.get(http.path_params["appeal"])
        actor = actor_of(incoming.principal)
        await incoming.region.audit.append(Event(actor, "appeal.read", account=found.account, subject=found.id))
        return JSONResponse({**_shown(found), "text": await appeals.text(found)})

    return await governed(gate, http, "appeals.read", work)


async def rule(gate: Sluicegate, http: HttpRequest) -> Response:
    """Rule on an answer: ``lift``, ``accept`` or ``uphold``."""

    async def work(incoming: Incoming) -> Response:
        body = await body_of(RulingBody, http)
        appeals = incoming.monitoring.appeals
        found = await appeals.get(http.path_params["appeal"])
        ruled = await appeals.rule(found.account, found.id, body.ruling, actor_of(incoming.principal), body.reason)
        return JSONResponse(_shown(ruled))

    return await governed(gate, http, "appeals.rule", work)


def _shown(answer: Answer) -> dict[str, Any]:
    return {"object": "appeal", **answer.document}
