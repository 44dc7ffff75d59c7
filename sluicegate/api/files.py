"""The operations on uploaded files, from an HTTP request to a response, with Azure's differences between the two surfaces."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from sluicegate.api.data_plane import Incoming, handled
from sluicegate.api.encoding import encode
from sluicegate.api.multipart import Form
from sluicegate.api.versions import Surface
from sluicegate.app import Sluicegate
from sluicegate.errors import ApiError, InvalidRequest, NotFound, PayloadTooLarge, PurgeIncomplete
from sluicegate.regions import Region
from sluicegate.storage.uploaded_files import Details, UploadedFile

MAX_FILE_BYTES = 512 << 20
MAX_PAGE = 10_000
PURPOSES: dict[Surface, tuple[str, ...]] = {
    "classic": ("fine-tune", "fine-tune-results", "assistants", "assistants_output", "batch"),
    "v1": ("assistants", "batch", "fine-tune", "evals"),
}
"""Of uploads; source: the authoring specification 2024-10-21, and v1's."""
LIFETIMES_S = (3_600, 2_592_000)
BATCH_LIFETIMES_S = (1_209_600, 2_592_000)
"""Of files of purpose ``batch`` that expire. Source: Azure OpenAI's documentation of batches."""
_FORM_BYTES = 1 << 20
"""What a form may have around its file."""
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\]{1,255}")
_FILE_ID = re.compile(r"file-[0-9a-f]{32}")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")

Work: TypeAlias = Callable[[Incoming, str, Region], Awaitable[Response]]


async def create(gate: Sluicegate, http: HttpRequest) -> Response:
    """Take a file in."""

    async def work(incoming: Incoming, account: str, region: Region) -> Response:
        await gate.admission.check_access(account)
        await region.data_keys.check(account)
        if http.headers.get("content-length", "0").isdecimal():
            size = int(http.headers.get("content-length", "0"))
            if size > MAX_FILE_BYTES + _FORM_BYTES:
                raise PayloadTooLarge(f"The file exceeds {MAX_FILE_BYTES >> 20} MiB.")
        upload = _Upload(http, incoming.version.surface)
        try:
            file = await region.files.create(account, upload)
        except ApiError:
            await upload.form.drain()
            raise
        file = await region.files.examine(account, file)
        if incoming.version.surface == "v1":
            return as_json(file_fields(file))
        location = f"{http.url.path.rstrip('/')}/{file.id}?api-version={incoming.version.name}"
        return as_json(file_fields(file), 201, {"location": location})

    return await served(gate, http, "files.create", work)


async def list_files(gate: Sluicegate, http: HttpRequest) -> Response:
    """List the account's files: ``purpose``, ``after`` (an id), ``limit``, ``order``."""

    async def work(_: Incoming, account: str, region: Region) -> Response:
        await region.data_keys.check(account)
        query = http.query_params
        after, order, limit = query.get("after") or None, query.get("order") or "desc", query.get("limit") or ""
        if order not in ("asc", "desc"):
            raise InvalidRequest("Invalid 'order': expected 'asc' or 'desc'.", code="invalid_value", param="order")
        if limit and not (re.fullmatch("[0-9]{1,5}", limit) and 1 <= int(limit) <= MAX_PAGE):
            raise InvalidRequest(
                f"Invalid 'limit': expected a whole number from 1 to {MAX_PAGE}.", code="invalid_value", param="limit"
            )
        if after and not _FILE_ID.fullmatch(after):
            raise InvalidRequest("Invalid 'after': expected the id of a file.", code="invalid_value", param="after")
        files, has_more = await region.files.page(
            account,
            purpose=query.get("purpose") or None,
            after=after,
            limit=int(limit or MAX_PAGE),
            newest_first=order == "desc",
        )
        data = [file_fields(file) for file in files]
        first, last = (files[0].id, files[-1].id) if files else (None, None)
        return as_json({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})

    return await served(gate, http, "files.list", work)


async def get(gate: Sluicegate, http: HttpRequest) -> Response:
    """Tell what is known of a file."""

    async def work(_: Incoming, account: str, region: Region) -> Response:
        await region.data_keys.check(account)
        file = await region.files.get(account, http.path_params["file"])
        if file is None:
            raise _no_such_file()
        return as_json(file_fields(await region.files.examine(account, file)))

    return await served(gate, http, "files.read", work)


async def content(gate: Sluicegate, http: HttpRequest) -> Response:
    """Stream a file, or the range of it that is asked for."""

    async def work(_: Incoming, account: str, region: Region) -> Response:
        await region.data_keys.check(account)
        id = http.path_params["file"]
        file = await region.files.open(account, id)
        if file is None:
            raise _no_such_file()
        etag = f'"{id}"'
        headers = {"accept-ranges": "bytes", "cache-control": "no-store", "etag": etag}
        asked = _range(http.headers.get("range", ""), file.size)
        if asked is None or http.headers.get("if-range", etag) != etag:
            begin, end, status = 0, file.size, 200
        elif not asked:
            raise _RangeNotSatisfiable(file.size)
        else:
            begin, end, status = asked.start, asked.stop, 206
            headers["content-range"] = f"bytes {begin}-{end - 1}/{file.size}"
        headers["content-length"] = str(end - begin)
        pieces = file.read(begin, end - begin)
        # The first piece decides the status: what fails after it can only cut the answer short of its length.
        first = await anext(pieces, b"")
        return StreamingResponse(_all_of(first, pieces), status, headers, media_type="application/octet-stream")

    return await served(gate, http, "files.content", work)


async def report(gate: Sluicegate, http: HttpRequest) -> Response:
    """Return what was found in a file of training data when it came: lines, fields and what to do, and no word of it."""

    async def work(_: Incoming, account: str, region: Region) -> Response:
        await region.data_keys.check(account)
        found = await region.files.report(account, http.path_params["file"])
        if found is None:
            raise NotFound("There is no report on such a file, or none yet.", code="notFound", param="file")
        return Response(found, media_type="application/json")

    return await served(gate, http, "files.report", work)


async def delete(gate: Sluicegate, http: HttpRequest) -> Response:
    """Delete a file; no key is needed for that."""

    async def work(incoming: Incoming, account: str, region: Region) -> Response:
        id = http.path_params["file"]
        try:
            receipt = await region.files.delete(account, id, actor=f"{account}/{incoming.principal.name}")
        except PurgeIncomplete:
            raise ApiError(
                "The deletion is not complete. Nobody can read the file any more; the purge timer goes on with the rest and "
                "issues the receipt.",
                code="DeletionIncomplete",
            ) from None
        if receipt is None:
            raise _no_such_file()
        return as_json({"object": "file", "id": id, "deleted": True, "receipt": receipt.id})

    return await served(gate, http, "files.delete", work)


class _Upload:
    """The file of a form, with what the form says of it."""

    def __init__(self, http: HttpRequest, surface: Surface) -> None:
        self._surface = surface
        self._fields: dict[str, str] = {}
        self.form = Form(
            http.headers.get("content-type", ""),
            aiter(http.stream()),
            file="file",
            max_bytes=MAX_FILE_BYTES,
            check=self._check,
        )

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the file, after which ``details`` are known; raises as ``Form.content`` does."""
        async for piece in self.form.content():
            yield piece
        self.details()

    def details(self) -> Details:
        """Return what the form says of the file; ``InvalidRequest`` when that is not enough, or wrong."""
        name = self.form.file_name
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                "Invalid 'file': its name must have 1 to 255 characters, no slashes and no control characters among them.",
                param="file",
            )
        if "purpose" not in self._fields:
            raise _missing("purpose")
        return Details(name, self._fields["purpose"], self._lives_for())

    def _check(self, name: str, value: str) -> None:
        """Take a field; what is wrong is told before the whole file has come."""
        field = re.sub(r"expires_after(?:\.(\w+)|\[(\w+)\])", lambda match: match[1] or match[2], name)
        if field not in ("purpose", "anchor", "seconds") or name in ("anchor", "seconds"):
            shown = name if len(name) <= 64 else f"{name[:64]}…"
            raise InvalidRequest(
                f"Unrecognized request argument supplied: {shown}", code="unknown_parameter", param=shown
            )
        if field == "purpose" and value not in PURPOSES[self._surface]:
            raise _no_purpose(self._surface)
        if field == "anchor" and value != "created_at":
            raise InvalidRequest(
                "Invalid value: supported values are: 'created_at'.", code="invalid_value", param="expires_after.anchor"
            )
        if field == "seconds":
            lifetime(self._fields.get("purpose", ""), int(value) if re.fullmatch("[0-9]{1,9}", value) else 0)
        if field in self._fields:
            raise InvalidRequest("Send one 'expires_after' only.", param="expires_after")
        self._fields[field] = value

    def _lives_for(self) -> timedelta | None:
        given = {"anchor", "seconds"} & self._fields.keys()
        if not given:
            return None
        for field in ("anchor", "seconds"):
            if field not in given:
                raise _missing(f"expires_after.{field}")
        return lifetime(self._fields["purpose"], int(self._fields["seconds"]))


class _RangeNotSatisfiable(ApiError):
    """The range begins beyond the end of the file."""

    status = 416
    type = "invalid_request_error"

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size} bytes, and the range begins after them.", code="416", param="Range")


def check_details(name: str, purpose: str, surface: Surface) -> None:
    """Refuse a name or a purpose that a file cannot have, where JSON says them in ``filename`` and ``purpose``."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest("Invalid 'filename': no slashes and no control characters.", param="filename")
    if purpose not in PURPOSES[surface]:
        raise _no_purpose(surface)


def lifetime(purpose: str, seconds: int) -> timedelta:
    """Return how long a file lives; ``InvalidRequest`` when one of this purpose does not live so long, or so short."""
    least, most = BATCH_LIFETIMES_S if purpose == "batch" else LIFETIMES_S
    if not least <= seconds <= most:
        what = " of a batch file" if purpose == "batch" else ""
        raise InvalidRequest(
            f"Invalid 'expires_after.seconds'{what}: expected a whole number from {least} to {most}.",
            code="invalid_value",
            param="expires_after.seconds",
        )
    return timedelta(seconds=seconds)


async def served(gate: Sluicegate, http: HttpRequest, operation: str, work: Work) -> Response:
    """Do the work for the caller's account, whose region is ready; for whatever concerns files."""

    async def for_account(incoming: Incoming) -> Response:
        account = await gate.accounts.get(incoming.principal.account)
        if account is None:
            raise NotFound("The account does not exist.")
        return await work(incoming, account.name, await gate.region(account.location))

    return await handled(gate, http, operation, for_account)


async def _all_of(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _range(header: str, size: int) -> range | None:
    """Return the bytes that are asked for, none where there are none of them; None when the header is to be ignored.

    Source: RFC 9110, 14.1.2 and 14.2; several ranges at once are not served, which it allows.
    """
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return range(max(0, size - int(match[2])), size)
    begin, last = int(match[1]), int(match[2] or size)
    return None if match[2] and last < begin else range(begin, min(last + 1, size))


def file_fields(file: UploadedFile) -> dict[str, Any]:
    """Return a file as answers hold it."""
    fields = {
        "object": "file",
        "id": file.id,
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.name,
        "purpose": file.purpose,
        "status": file.status,
    }
    if file.status_details is not None:
        fields["status_details"] = file.status_details
    return fields if file.expires_at is None else fields | {"expires_at": int(file.expires_at.timestamp())}


def as_json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a document as an answer."""
    return Response(encode(document), status, headers=headers, media_type="application/json")


def _no_purpose(surface: Surface) -> InvalidRequest:
    supported = ", ".join(f"'{each}'" for each in PURPOSES[surface])
    return InvalidRequest(f"Invalid value: supported values are: {supported}.", code="invalid_value", param="purpose")


def _no_such_file() -> NotFound:
    return NotFound("There is no such file; it may have been deleted, or have expired.", code="notFound", param="file")


def _missing(name: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)
