"""Files, fine-tuning jobs and fine-tuned models of an upstream, over its own API.

Each operation is one request, sent once: what a crash or a lost answer leaves behind is found again by the names of files,
which are made from our job's id.

Source: OpenAI API reference, files, fine-tuning and models; Azure OpenAI authoring specification 2024-10-21 and v1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from secrets import token_hex
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from sluicegate import ModelUnavailable, UpstreamError
from sluicegate.errors import Conflict

from . import failures
from .connection import Answer, Connection, Content
from .upstream import Upstream

PAGE = 100
EVENT_PAGES = 20
"""Of events, that one look at a job reads at most."""
_GONE = frozenset({404, 410})


class RemoteFile(BaseModel):
    """A file of the upstream, as far as we look at it."""

    id: str
    filename: str = ""
    status: str | None = None

    @property
    def is_refused(self) -> bool:
        return self.status in ("error", "deleting", "deleted")

    @property
    def is_checked(self) -> bool:
        """Whether a job can be created with it; an upstream without such a state checks at once."""
        return self.status not in ("pending", "running", "notRunning")


class RemoteJob(BaseModel):
    """A fine-tuning job of the upstream; what may hold text is taken apart in :mod:`.remote_metrics`."""

    id: str
    status: str
    training_file: str
    fine_tuned_model: str | None = None
    result_files: tuple[str, ...] | None = None
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    hyperparameters: Any = None
    method: Any = None
    error: Any = None

    @property
    def has_ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


class RemoteEvent(BaseModel):
    """Something that happened in a job; its message is not read."""

    id: str
    created_at: int
    data: Any = None


class RemoteCheckpoint(BaseModel):
    """A model of the middle of a job."""

    id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: Any = None


class _Listing(BaseModel):
    data: list[dict[str, Any]]
    has_more: bool = False


T = TypeVar("T", bound=BaseModel)


class RemoteTraining:
    """What one upstream offers to whoever trains there.

    Every method raises ``ApiError``: ``ModelUnavailable`` and ``TooManyRequests`` where later may help, ``InvalidRequest``
    and ``UpstreamError`` where it does not.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def upstream(self) -> Upstream:
        return self._connection.upstream

    # --- files -------------------------------------------------------------------------------------------------------

    async def file_named(self, name: str) -> str | None:
        """Return the id of the training file of that name, if there is a usable one."""
        async for page in self._pages(RemoteFile, "files", purpose="fine-tune"):
            for file in page:
                if file.filename == name and not file.is_refused:
                    return file.id
        return None

    async def upload(self, name: str, read: Callable[[], AsyncIterator[bytes]]) -> str:
        """Send a training file and return its id; ``read`` is called twice, as the size goes first."""
        size = sum([len(piece) async for piece in read()])
        boundary = f"sluicegate-{token_hex(16)}"
        before = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        after = f"\r\n--{boundary}--\r\n".encode()

        async def form() -> AsyncIterator[bytes]:
            yield before
            async for piece in read():
                yield piece
            yield after

        content = Content(f"multipart/form-data; boundary={boundary}", len(before) + size + len(after), form())
        return self._read(RemoteFile, await self._ask("POST", "files", content)).id

    async def file(self, id: str) -> RemoteFile:
        return self._read(RemoteFile, await self._ask("GET", f"files/{_quoted(id)}"))

    async def content(self, id: str) -> bytes:
        """Return a whole file; those of results are small."""
        return self._checked(await self._ask("GET", f"files/{_quoted(id)}/content")).body

    async def delete_file(self, id: str) -> None:
        """Delete a file; nothing happens when it is gone."""
        answer = await self._ask("DELETE", f"files/{_quoted(id)}")
        if answer.status not in _GONE:
            self._checked(answer)

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def job_of(self, training_file: str) -> RemoteJob | None:
        """Return the job that trains on a file, if there is one."""
        async for page in self._pages(RemoteJob, "fine_tuning/jobs", limit=PAGE):
            for job in page:
                if job.training_file == training_file:
                    return job
        return None

    async def create_job(self, body: Mapping[str, Any]) -> RemoteJob:
        data = to_json(body)
        content = Content("application/json", len(data), _one(data))
        return self._read(RemoteJob, await self._ask("POST", "fine_tuning/jobs", content))

    async def job(self, id: str) -> RemoteJob | None:
        """Return a job; None when the upstream has it no more."""
        answer = await self._ask("GET", f"fine_tuning/jobs/{_quoted(id)}")
        return None if answer.status in _GONE else self._read(RemoteJob, answer)

    async def cancel(self, id: str) -> None:
        """End a job; one that has ended stays as it is."""
        answer = await self._ask("POST", f"fine_tuning/jobs/{_quoted(id)}/cancel")
        if answer.status in (400, 409, *_GONE):
            job = await self.job(id)
            if job is None or job.has_ended:
                return
        self._checked(answer)

    async def event_pages(self, id: str) -> AsyncIterator[list[RemoteEvent]]:
        """Yield a job's events, in pages, at most ``EVENT_PAGES`` of them; most upstreams begin with the newest."""
        read = 0
        async for page in self._pages(RemoteEvent, f"fine_tuning/jobs/{_quoted(id)}/events", limit=PAGE):
            yield page
            read += 1
            if read == EVENT_PAGES:
                return

    async def checkpoints(self, id: str) -> list[RemoteCheckpoint]:
        pages = self._pages(RemoteCheckpoint, f"fine_tuning/jobs/{_quoted(id)}/checkpoints", limit=PAGE)
        return [checkpoint async for page in pages for checkpoint in page]

    # --- models ------------------------------------------------------------------------------------------------------

    async def delete_model(self, name: str) -> None:
        """Delete a fine-tuned model, and look whether it is gone; nothing happens when it was.

        Raises:
            Conflict: It is deployed there.
            ModelUnavailable: It is still there, for whatever reason.
        """
        path = f"models/{_quoted(name)}"
        answer = await self._ask("DELETE", path)
        if answer.status == 409:
            raise Conflict("The model is deployed at its upstream. That deployment must be deleted first.")
        if answer.status in (200, 204):
            return
        # An upstream may lack the operation, as Azure's v1 surface does, and then answers as if there were no model.
        if answer.status not in (*_GONE, 405):
            self._checked(answer)
        if (await self._ask("GET", path)).status not in _GONE:
            raise ModelUnavailable("The model's upstream does not delete models over its API; its operator can.")

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, content: Content | None = None) -> Answer:
        return await self._connection.ask(method, self.upstream.resource_url(path), content)

    async def _pages(self, kind: type[T], path: str, **query: str | int) -> AsyncIterator[list[T]]:
        """Yield a listing's items, page by page; no page is empty."""
        while True:
            url = self.upstream.resource_url(path, **query)
            listing = self._read(_Listing, await self._connection.ask("GET", url))
            page = [self._valid(kind, item) for item in listing.data]
            if page:
                yield page
            if not (page and listing.has_more):
                return
            query["after"] = listing.data[-1]["id"]

    def _read(self, kind: type[T], answer: Answer) -> T:
        try:
            read = from_json(self._checked(answer).body)
        except ValueError:
            raise failures.malformed(self.upstream.host) from None
        return self._valid(kind, read)

    def _valid(self, kind: type[T], value: Any) -> T:
        try:
            return kind.model_validate(value)
        except ValidationError:
            raise failures.malformed(self.upstream.host) from None

    def _checked(self, answer: Answer) -> Answer:
        if answer.status in (200, 201, 204):
            return answer
        if answer.status in _GONE:
            code = failures.code_of(answer.body) or "notFound"
            raise UpstreamError("The upstream has no such file, job or model.", status=404, code=code)
        raise failures.answered(answer.status, answer.headers, answer.body, self.upstream.host).error


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _quoted(id: str) -> str:
    return quote(id, safe=":")
