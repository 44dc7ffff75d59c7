"""The operations for officers: read, export and delete what is retained of their account, and see who did.

Whatever touches content is an entry in the audit log before it does anything, and is done only for a stated reason: the query
parameter ``reason``, a reference such as a ticket's number. Audit log, receipts and checkpoints hold no content.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from sluicegate.accounts import Account
from sluicegate.api.data_plane import answered
from sluicegate.app import Sluicegate
from sluicegate.audit.entries import Event
from sluicegate.errors import ApiError, BlobNotFound, InvalidRequest, NotFound, PurgeIncomplete
from sluicegate.monitoring.in_region import RegionMonitoring
from sluicegate.plugins import log_failure
from sluicegate.regions import Region
from sluicegate.retention import purging
from sluicegate.retention.export import export as export_lines
from sluicegate.storage.day_layout import is_day
from sluicegate.store import Record, Store
from sluicegate.types import OfAccount, OfRecord, OfUser, Principal

PAGE = 20
MAX_PAGE = 100
PARAMETERS = frozenset(
    {"account", "after", "all", "api-version", "before", "day", "limit", "plugin", "reason", "since", "status", "user"}
)
"""What requests may ask by; any other name is refused, since a misspelt ``user`` would mean everybody."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request about the caller's account, whose region is ready."""

    gate: Sluicegate
    http: HttpRequest
    principal: Principal
    account: Account
    region: Region

    @property
    def monitoring(self) -> RegionMonitoring:
        """Abuse monitoring of the account's region."""
        return self.gate.monitoring[self.region.name]

    def query(self, name: str) -> str | None:
        return self.http.query_params.get(name) or None

    def limit(self) -> int:
        text = self.query("limit") or str(PAGE)
        if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MAX_PAGE:
            raise InvalidRequest(f"Invalid 'limit': expected a whole number from 1 to {MAX_PAGE}.", param="limit")
        return int(text)

    def day(self) -> str | None:
        text = self.query("day")
        if text is not None and not is_day(text):
            raise InvalidRequest("Invalid 'day': expected a day of the calendar as YYYYMMDD.", param="day")
        return text

    def user(self) -> str | None:
        if self.http.query_params.get("user") == "":
            raise InvalidRequest("Invalid 'user': it names nobody; leave it out to mean everybody.", param="user")
        return self.account.user_hash(self.query("user"))

    def store(self) -> tuple[str, Store]:
        """Return the plugin whose records are meant, by default the first that retains, and its store."""
        steps = self.gate.deployment.pipeline.retain
        name = self.query("plugin") or (steps[0].plugin if steps else "")
        if name not in self.gate.plugins.configured("retain"):
            raise InvalidRequest("No plugin of this deployment retains under that name.", param="plugin")
        return name, self.region.vault.store(self.account.name, name)

    async def note(self, action: str, subject: str | None) -> Event:
        """Write who does what, to what, and why; nothing happens unless this is durable."""
        reason = self.query("reason")
        if not reason:
            raise InvalidRequest(
                "Missing required parameter: 'reason'.", code="missing_required_parameter", param="reason"
            )
        actor = f"{self.principal.account}/{self.principal.name}"
        try:
            event = Event(actor, action, account=self.account.name, subject=subject, reason=reason)
        except ValueError:
            raise InvalidRequest(
                "Invalid 'reason' or id: use at most 200 letters, digits, spaces and ._:/#()+-, such as a ticket's number.",
                param="reason",
            ) from None
        await self.region.audit.append(event)
        return event


_Work: TypeAlias = Callable[[Incoming], Awaitable[Response]]


async def list_retained(gate: Sluicegate, http: HttpRequest) -> Response:
    """List retained exchanges, decrypted, oldest day first: ``user``, ``day``, ``limit``, ``after``, ``plugin``, ``reason``."""

    async def work(incoming: Incoming) -> Response:
        plugin, store = incoming.store()
        limit, user, day = incoming.limit(), incoming.user(), incoming.day()
        await incoming.note("retained.list", user or day)
        try:
            found = store.records(day, user=user, limit=limit + 1, after=incoming.query("after"))
            records = [record async for record in found]
        except ValueError:
            raise InvalidRequest("Invalid 'after': expected a last_id of an earlier page.", param="after") from None
        page = records[:limit]
        return JSONResponse(
            {
                "object": "list",
                "data": [_shown(plugin, record) for record in page],
                "has_more": len(records) > limit,
                "last_id": page[-1].cursor if page else None,
            }
        )

    return await governed(gate, http, "retained.list", work)


async def get_retained(gate: Sluicegate, http: HttpRequest) -> Response:
    """Return one retained exchange, decrypted."""

    async def work(incoming: Incoming) -> Response:
        plugin, store = incoming.store()
        record_id, day = http.path_params["record"], incoming.day()
        await incoming.note("retained.read", record_id)
        try:
            record = await store.get(record_id, day=day)
        except ValueError:
            raise InvalidRequest("Invalid record id: expected the x-request-id of an answer.", param="record") from None
        if record is None:
            raise NotFound("There is no such record; it may have been deleted or purged.", param="record")
        return JSONResponse(_shown(plugin, record))

    return await governed(gate, http, "retained.read", work)


async def delete_retained(gate: Sluicegate, http: HttpRequest, operation: str = "retained.delete") -> Response:
    """Delete one record (path), an end user's (``user``), or all of the account (``all=true``)."""

    async def work(incoming: Incoming) -> Response:
        scope = _scope(incoming)
        subject = scope.id if isinstance(scope, OfRecord) else scope.user if isinstance(scope, OfUser) else None
        event = await incoming.note("retained.delete", subject)
        try:
            deleted = await purging.delete(
                incoming.region.vault,
                gate.plugins,
                incoming.region.receipts,
                incoming.account.name,
                scope,
                actor=event.actor,
                reason=event.reason,
            )
        except ValueError:
            raise InvalidRequest("Invalid record id.", param="record") from None
        except PurgeIncomplete:
            raise ApiError(
                "The deletion is not complete. What is recorded of it is shown to nobody any more; the purge timer goes on "
                "with the rest and issues the receipt.",
                code="DeletionIncomplete",
            ) from None
        plugins = {name: asdict(each) for name, each in deleted.plugins.items()}
        return JSONResponse({"deleted": True, "receipt": deleted.receipt.id, "plugins": plugins})

    return await governed(gate, http, operation, work)


async def export(gate: Sluicegate, http: HttpRequest, operation: str = "retained.export") -> Response:
    """Stream everything retained of the account, or of ``user``, as JSON lines."""

    async def work(incoming: Incoming) -> Response:
        user = incoming.user()
        await incoming.note("retained.export", user)
        lines = _to_its_end(export_lines(incoming.region.vault, incoming.account.name, user=user))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    return await governed(gate, http, operation, work)


async def list_audit(gate: Sluicegate, http: HttpRequest) -> Response:
    """List the audit entries about the account, newest first: ``limit``, ``before`` (a ``seq``)."""

    async def work(incoming: Incoming) -> Response:
        limit, before = incoming.limit(), incoming.query("before")
        if before is not None and not (before.isascii() and before.isdecimal()):
            raise InvalidRequest("Invalid 'before': expected the 'seq' of an entry.", param="before")
        entries: list[dict[str, Any]] = []
        async for entry in incoming.region.audit.newest(int(before) if before else None):
            if entry.event.account == incoming.account.name:
                entries.append(entry.document)
            if len(entries) > limit:
                break
        return JSONResponse({"object": "list", "data": entries[:limit], "has_more": len(entries) > limit})

    return await governed(gate, http, "audit.list", work)


async def list_receipts(gate: Sluicegate, http: HttpRequest, operation: str = "receipts.list") -> Response:
    """List the receipts of the account and those of all accounts, newest first: ``limit``, ``after`` (a ``last_id``)."""

    async def work(incoming: Incoming) -> Response:
        limit, after = incoming.limit(), incoming.query("after") or ""
        of_both = [
            await incoming.region.receipts.list(account, limit=limit + 1, after=after)
            for account in (incoming.account.name, None)
        ]
        found = sorted((receipt for receipts in of_both for receipt in receipts), key=lambda receipt: receipt.id)
        page = found[:limit]
        return JSONResponse(
            {
                "object": "list",
                "data": [receipt.document for receipt in page],
                "has_more": len(found) > limit,
                "last_id": page[-1].id if page else None,
            }
        )

    return await governed(gate, http, operation, work)


async def get_receipt(gate: Sluicegate, http: HttpRequest, operation: str = "receipts.read") -> Response:
    """Return one receipt of the account or of all accounts, byte by byte what ``verify-receipt`` takes."""

    async def work(incoming: Incoming) -> Response:
        for account in (incoming.account.name, None):
            with suppress(BlobNotFound):
                receipt = await incoming.region.receipts.get(account, http.path_params["receipt"])
                return Response(receipt.data, media_type="application/json")
        raise NotFound("There is no such receipt.", param="receipt")

    return await governed(gate, http, operation, work)


async def get_checkpoint(gate: Sluicegate, http: HttpRequest) -> Response:
    """Return a checkpoint of the whole audit log of the account's region, signed now, and the public key that checks it and newer receipts.

    With ``since``, the size of an earlier one, ``consistency`` is the path that proves that the log continues it.
    """

    async def work(incoming: Incoming) -> Response:
        since = incoming.query("since")
        checkpoint = await incoming.region.audit.checkpoint()
        answer: dict[str, Any] = {
            "checkpoint": checkpoint.document,
            "public_key": await incoming.region.audit.key.public(checkpoint.key_id),
        }
        if since is not None:
            if not since.isascii() or not since.isdecimal() or not 1 <= int(since) <= checkpoint.size:
                raise InvalidRequest("Invalid 'since': expected the size of an earlier checkpoint.", param="since")
            path = await incoming.region.audit.consistency(int(since), checkpoint.size)
            answer["consistency"] = [b64encode(each).decode() for each in path]
        return JSONResponse(answer)

    return await governed(gate, http, "checkpoint.read", work)


async def governed(gate: Sluicegate, http: HttpRequest, operation: str, work: _Work) -> Response:
    """Authenticate whoever calls, find their account, and do the work.

    Args:
        operation: As :data:`sluicegate.roles.ROLES` has it.
    """

    async def for_account(_: str) -> Response:
        principal = await gate.authenticate(http.headers, operation)
        _check_parameters(http)
        account = await gate.accounts.get(principal.account)
        if account is None:
            raise NotFound("The account does not exist.")
        region = await gate.region(account.location)
        return await work(Incoming(gate, http, principal, account, region))

    return await answered(gate, http, for_account)


def _check_parameters(http: HttpRequest) -> None:
    names = [name for name, _ in http.query_params.multi_items()]
    for name in names:
        if name not in PARAMETERS:
            raise InvalidRequest(f"Unknown parameter: expected one of {', '.join(sorted(PARAMETERS))}.", param=name)
        if names.count(name) > 1:
            raise InvalidRequest(f"Invalid '{name}': expected once.", param=name)


def _scope(incoming: Incoming) -> OfRecord | OfUser | OfAccount:
    record, user = incoming.http.path_params.get("record"), incoming.user()
    is_all = incoming.query("all") == "true"
    if [bool(record), bool(user), is_all].count(True) != 1:
        raise InvalidRequest(
            "Say what to delete, and one thing only: a record by its id, 'user', or all=true for everything of the account.",
            param="user",
        )
    return OfRecord(record) if record else OfUser(user) if user else OfAccount()


def _shown(plugin: str, record: Record) -> dict[str, Any]:
    return {"id": record.id, "day": record.day, "plugin": plugin, "record": json.loads(record.data)}


async def _to_its_end(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines; a failure after the first becomes a last line that says so, since the status is long sent."""
    try:
        async for piece in lines:
            yield piece
    except Exception as error:  # noqa: BLE001 - the edge of a stream
        log_failure("core", "export", error)
        yield b'{"error": {"code": "internalFailure", "message": "The export is not complete."}}\n'
