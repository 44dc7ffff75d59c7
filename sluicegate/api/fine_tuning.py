"""The operations on fine-tuning jobs, from an HTTP request to a response, with Azure's differences between the two surfaces."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sluicegate.api import body
from sluicegate.api.data_plane import MAX_BODY_BYTES, Incoming, handled, read_body
from sluicegate.api.encoding import encode
from sluicegate.api.fine_tuning_objects import event_number, render_checkpoint, render_event, render_job
from sluicegate.api.fine_tuning_requests import CreateJob
from sluicegate.api.versions import Surface
from sluicegate.app import Sluicegate
from sluicegate.errors import AccountKeyUnavailable, ApiError, InvalidRequest, NotFound, PurgeIncomplete
from sluicegate.fine_tuning.job_operations import Jobs
from sluicegate.fine_tuning.jobs import Job

MAX_PAGE = 100
JOBS_A_PAGE = EVENTS_A_PAGE = 20
CHECKPOINTS_A_PAGE = 10
SUFFIX: dict[Surface, int] = {"classic": 40, "v1": 64}
"""Characters of a suffix; source: the specifications."""
_METADATA = re.compile(r"metadata\[(.{1,64})\]")
_JOB_ID = re.compile(r"ftjob-[0-9a-f]{32}")

_Work: TypeAlias = Callable[["_Request"], Awaitable[Response]]


class _Request:
    """A request of a caller whose account is known."""

    def __init__(self, incoming: Incoming, account: str, jobs: Jobs) -> None:
        self.http = incoming.http
        self.surface = incoming.version.surface
        self.version = incoming.version.name
        self.account = account
        self.actor = f"{account}/{incoming.principal.name}"
        self.jobs = jobs

    async def job(self) -> Job:
        """Return the job that the path names."""
        return await self.jobs.get(self.account, self.id)

    @property
    def id(self) -> str:
        """The id in the path."""
        return str(self.http.path_params["job"])

    def limit(self, default: int) -> int:
        """Return how many are asked for."""
        limit = self.http.query_params.get("limit") or str(default)
        if not re.fullmatch("[0-9]{1,4}", limit) or not 1 <= int(limit) <= MAX_PAGE:
            raise InvalidRequest(
                f"Invalid 'limit': expected a whole number from 1 to {MAX_PAGE}.", code="invalid_value", param="limit"
            )
        return int(limit)

    @property
    def after(self) -> str | None:
        """The id that the page follows."""
        return self.http.query_params.get("after") or None

    @property
    def metadata(self) -> dict[str, str] | None:
        """What must be attached to the jobs that are asked for; None when nothing may be."""
        if (given := self.http.query_params.get("metadata")) not in (None, "", "null"):
            raise InvalidRequest(
                "Invalid 'metadata': expected 'metadata[key]=value', or 'metadata=null' for jobs without any.",
                code="invalid_value",
                param="metadata",
            )
        if given == "null":
            return None
        query = self.http.query_params.items()
        return {found[1]: value for name, value in query if (found := _METADATA.fullmatch(name))}

    async def rendered(self, job: Job) -> dict[str, Any]:
        """Return a job as it is sent."""
        return render_job(job, await self.jobs.store.metadata(job), self.surface)


async def create(gate: Sluicegate, http: HttpRequest) -> Response:
    """Make a job."""

    async def work(request: _Request) -> Response:
        await gate.admission.check_access(request.account)
        asked = body.parse(CreateJob, await read_body(http, MAX_BODY_BYTES)).asked(SUFFIX[request.surface])
        await gate.admission.check_training(request.account, asked.model)
        job = await request.jobs.create(request.account, asked)
        document = render_job(job, asked.metadata, request.surface)
        if request.surface == "v1":
            return _json(document)
        location = f"{http.url.path.rstrip('/')}/{job.id}?api-version={request.version}"
        return _json(document, 201, {"location": location})

    return await _served(gate, http, "fine_tuning.jobs.create", work)


async def list_jobs(gate: Sluicegate, http: HttpRequest) -> Response:
    """List the account's jobs, the newest first: ``after`` (an id), ``limit``, ``metadata[key]`` or ``metadata=null``."""

    async def work(request: _Request) -> Response:
        if request.after is not None and not _JOB_ID.fullmatch(request.after):
            raise InvalidRequest("Invalid 'after': expected the id of a job.", code="invalid_value", param="after")
        jobs, has_more = await request.jobs.store.page(
            request.account, after=request.after, limit=request.limit(JOBS_A_PAGE), metadata=request.metadata
        )
        return _page([await request.rendered(job) for job in jobs], has_more)

    return await _served(gate, http, "fine_tuning.jobs.list", work)


async def get(gate: Sluicegate, http: HttpRequest) -> Response:
    """Tell how a job stands."""

    async def work(request: _Request) -> Response:
        return _json(await request.rendered(await request.job()))

    return await _served(gate, http, "fine_tuning.jobs.read", work)


async def cancel(gate: Sluicegate, http: HttpRequest) -> Response:
    """End a job; no key is needed for that."""

    async def work(request: _Request) -> Response:
        job = await request.jobs.cancel(request.account, request.id)
        try:
            return _json(await request.rendered(job))
        except AccountKeyUnavailable:
            # What is cancelled is so, whether or not its metadata can be read.
            return _json(render_job(job, None, request.surface))

    return await _served(gate, http, "fine_tuning.jobs.cancel", work, needs_key=False)


async def pause(gate: Sluicegate, http: HttpRequest) -> Response:
    """Have a job rest."""

    async def work(request: _Request) -> Response:
        return _json(await request.rendered(await request.jobs.pause(request.account, request.id)))

    return await _served(gate, http, "fine_tuning.jobs.pause", work)


async def resume(gate: Sluicegate, http: HttpRequest) -> Response:
    """Have a paused job go on."""

    async def work(request: _Request) -> Response:
        return _json(await request.rendered(await request.jobs.resume(request.account, request.id)))

    return await _served(gate, http, "fine_tuning.jobs.resume", work)


async def delete(gate: Sluicegate, http: HttpRequest) -> Response:
    """Delete a job that is over; no key is needed for that."""

    async def work(request: _Request) -> Response:
        try:
            receipt = await request.jobs.delete(request.account, request.id, actor=request.actor)
        except PurgeIncomplete:
            raise ApiError(
                "The deletion is not complete. The purge timer goes on with the rest and issues the receipt.",
                code="DeletionIncomplete",
            ) from None
        if request.surface == "classic":
            return Response(status_code=204, headers={"x-sluicegate-receipt": receipt.id})
        return _json({"object": "fine_tuning.job", "id": request.id, "deleted": True, "receipt": receipt.id})

    return await _served(gate, http, "fine_tuning.jobs.delete", work, needs_key=False)


async def list_events(gate: Sluicegate, http: HttpRequest) -> Response:
    """List a job's events, the newest first."""

    async def work(request: _Request) -> Response:
        job = await request.job()
        before = job.said if request.after is None else event_number(job, request.after)
        if before is None:
            raise InvalidRequest(
                "Invalid 'after': expected the id of an event of the job.", code="invalid_value", param="after"
            )
        limit = request.limit(EVENTS_A_PAGE)
        found = await request.jobs.store.events(job, before=before, limit=limit + 1)
        return _page([render_event(job, event, request.surface) for event in found[:limit]], len(found) > limit)

    return await _served(gate, http, "fine_tuning.jobs.events", work)


async def list_checkpoints(gate: Sluicegate, http: HttpRequest) -> Response:
    """List the checkpoints of a job that are still there, the newest first."""

    async def work(request: _Request) -> Response:
        job = await request.job()
        made = [each for each in reversed(job.made) if await request.jobs.has_model(job, each)]
        ids = [each.id for each in made]
        if request.after is not None:
            if request.after not in ids:
                raise InvalidRequest(
                    "Invalid 'after': expected the id of a checkpoint of the job.", code="invalid_value", param="after"
                )
            made = made[ids.index(request.after) + 1 :]
        limit = request.limit(CHECKPOINTS_A_PAGE)
        shown = [render_checkpoint(job, each) for each in made[:limit]]
        return _page(shown, len(made) > limit, with_ends=True)

    return await _served(gate, http, "fine_tuning.jobs.checkpoints", work)


async def _served(
    gate: Sluicegate, http: HttpRequest, operation: str, work: _Work, *, needs_key: bool = True
) -> Response:
    async def for_account(incoming: Incoming) -> Response:
        account = await gate.accounts.get(incoming.principal.account)
        if account is None:
            raise NotFound("The account does not exist.")
        region = await gate.region(account.location)
        if needs_key:
            await region.data_keys.check(account.name)
        return await work(_Request(incoming, account.name, gate.fine_tuning[region.name].jobs))

    return await handled(gate, http, operation, for_account)


def _page(data: list[dict[str, Any]], has_more: bool, *, with_ends: bool = False) -> Response:
    document: dict[str, Any] = {"object": "list", "data": data, "has_more": has_more}
    if with_ends:
        document |= {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return _json(document)


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(document), status, headers=headers, media_type="application/json")
