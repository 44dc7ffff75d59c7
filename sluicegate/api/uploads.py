"""Uploads in parts: announce a file, send it in pieces, complete it or give it up; of Azure's two surfaces, which differ by a header."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sluicegate.api import body
from sluicegate.api.data_plane import MAX_BODY_BYTES, Incoming, read_body
from sluicegate.api.files import as_json, check_details, file_fields, lifetime, served
from sluicegate.api.multipart import Form
from sluicegate.app import Sluicegate
from sluicegate.errors import ApiError, InvalidRequest, NotFound, PayloadTooLarge, PurgeIncomplete
from sluicegate.regions import Region
from sluicegate.requests import Part
from sluicegate.storage.part_uploads import MOST_PARTS, PartUpload
from sluicegate.storage.uploaded_files import Details

MAX_UPLOAD_BYTES = 8 << 30
MAX_PART_BYTES = 64 << 20
_FORM_BYTES = 1 << 20


class ExpiresAfter(Part):
    """When the file that the upload becomes expires."""

    anchor: Literal["created_at"]
    seconds: int


class CreateBody(Part):
    """What is announced."""

    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    purpose: str
    bytes: int = Field(ge=1, le=MAX_UPLOAD_BYTES)
    mime_type: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    expires_after: ExpiresAfter | None = None


class CompleteBody(Part):
    """Which parts make the file, in order."""

    part_ids: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_PARTS)]
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{32}$")] | None = None


async def create(gate: Sluicegate, http: HttpRequest) -> Response:
    """Announce a file."""

    async def work(incoming: Incoming, account: str, region: Region) -> Response:
        await gate.admission.check_access(account)
        await region.data_keys.check(account)
        asked = body.parse(CreateBody, await read_body(http, MAX_BODY_BYTES))
        check_details(asked.filename, asked.purpose, incoming.version.surface)
        lives_for = None if asked.expires_after is None else lifetime(asked.purpose, asked.expires_after.seconds)
        upload = await region.uploads.create(account, Details(asked.filename, asked.purpose, lives_for), asked.bytes)
        if incoming.version.surface == "v1":
            return as_json(_fields(upload))
        location = f"{http.url.path.rstrip('/')}/{upload.id}?api-version={incoming.version.name}"
        return as_json(_fields(upload), 200, {"location": location})

    return await served(gate, http, "uploads.create", work)


async def add(gate: Sluicegate, http: HttpRequest) -> Response:
    """Take a part in."""

    async def work(_: Incoming, account: str, region: Region) -> Response:
        await gate.admission.check_access(account)
        await region.data_keys.check(account)
        length = http.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_PART_BYTES + _FORM_BYTES:
            raise PayloadTooLarge(f"The part exceeds {MAX_PART_BYTES >> 20} MiB.")
        form = Form(
            http.headers.get("content-type", ""),
            aiter(http.stream()),
            file="data",
            max_bytes=MAX_PART_BYTES,
            check=_refuse_field,
        )
        try:
            part = await region.uploads.add(account, http.path_params["upload"], _content(form))
        except ApiError:
            await form.drain()
            raise
        if part is None:
            await form.drain()
            raise _no_such_upload()
        created = int(part.created_at.timestamp())
        return as_json({"id": part.id, "object": "upload.part", "created_at": created, "upload_id": part.upload})

    return await served(gate, http, "uploads.add", work)


async def complete(gate: Sluicegate, http: HttpRequest) -> Response:
    """Make a file of the parts."""

    async def work(_: Incoming, account: str, region: Region) -> Response:
        await gate.admission.check_access(account)
        await region.data_keys.check(account)
        asked = body.parse(CompleteBody, await read_body(http, MAX_BODY_BYTES))
        upload = await region.uploads.complete(account, http.path_params["upload"], asked.part_ids, asked.md5)
        if upload is None:
            raise _no_such_upload()
        if upload.file is not None:
            upload = replace(upload, file=await region.files.examine(account, upload.file))
        return as_json(_fields(upload))

    return await served(gate, http, "uploads.complete", work)


async def cancel(gate: Sluicegate, http: HttpRequest) -> Response:
    """Give an upload up; what has come of it is removed."""

    async def work(incoming: Incoming, account: str, region: Region) -> Response:
        try:
            upload = await region.uploads.cancel(
                account, http.path_params["upload"], actor=f"{account}/{incoming.principal.name}"
            )
        except PurgeIncomplete:
            raise ApiError(
                "The removal is not complete. Nobody can read the parts any more; the purge timer goes on with the rest.",
                code="DeletionIncomplete",
            ) from None
        if upload is None:
            raise _no_such_upload()
        return as_json(_fields(upload))

    return await served(gate, http, "uploads.cancel", work)


async def _content(form: Form) -> AsyncIterator[bytes]:
    async for piece in form.content():
        yield piece


def _refuse_field(name: str, _: str) -> None:
    shown = name if len(name) <= 64 else f"{name[:64]}…"
    raise InvalidRequest(f"Unrecognized request argument supplied: {shown}", code="unknown_parameter", param=shown)


def _fields(upload: PartUpload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": int(upload.created_at.timestamp()),
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": upload.state,
        "expires_at": int(upload.expires_at.timestamp()),
        "file": None if upload.file is None else file_fields(upload.file),
    }


def _no_such_upload() -> NotFound:
    return NotFound(
        "There is no such upload; it may have been completed or cancelled long ago.", code="notFound", param="upload_id"
    )
