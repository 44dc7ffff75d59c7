"""Notices: what the caller's account was told of violations and penalties, whether or not it was delivered."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sluicegate.api.governance import Incoming, governed
from sluicegate.app import Sluicegate
from sluicegate.monitoring.notices import Told


async def list_notices(gate: Sluicegate, http: HttpRequest) -> Response:
    """List the account's notices, newest first: ``limit``, ``after`` (a ``last_id``)."""

    async def work(incoming: Incoming) -> Response:
        limit, after = incoming.limit(), incoming.query("after")
        found = [shown(told) for told in await incoming.monitoring.notices.of_account(incoming.account.name)]
        ids = [each["id"] for each in found]
        rest = found[ids.index(after) + 1 :] if after in ids else found
        page = rest[:limit]
        return JSONResponse(
            {
                "object": "list",
                "data": page,
                "has_more": len(rest) > limit,
                "last_id": page[-1]["id"] if page else None,
            }
        )

    return await governed(gate, http, "notices.list", work)


def shown(told: Told) -> dict[str, Any]:
    """Return a notice as answers hold it."""
    return {"object": "notice", **told.notice.document, "deliveries": dict(told.deliveries)}
