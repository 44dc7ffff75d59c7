"""Where fine-tuning jobs are kept.

::

    container    fine-tuning-jobs      {account}/{job}             the job, a document
    container    fine-tuning-queue     {account}/{job}             there until nothing is to be done for the job any more; empty
    container    fine-tuning-events    {account}/{job}/{page}      earlier events, a list; never changed
    large files  job-metadata          {account}/…/{job}           what its owner attached, sealed like the names of files
    large files  {job}                 {account}/…                 its own files, see :mod:`sluicegate.fine_tuning.job_files`

A job is there exactly while its document is. It joins the queue before that and leaves it when it is over and cleaned up, so
nothing that is to be done is forgotten; what never came to be a job is taken out of the queue by the purge timer.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, SluicegateError
from sluicegate.fine_tuning.jobs import Job
from sluicegate.services import BlobStore
from sluicegate.storage.day_layout import Gone
from sluicegate.storage.documents import Documents
from sluicegate.storage.file_layout import HEADS, SEGMENTS
from sluicegate.storage.files import Files, FileStore

JOBS = "fine-tuning-jobs"
QUEUE = "fine-tuning-queue"
EVENTS = "fine-tuning-events"
METADATA = "job-metadata"
EVENTS_A_PAGE = 100
Kept: TypeAlias = Callable[[str], bool]
"""Whether a file of a job's own stays, by its id."""
_ID = re.compile(r"ftjob-[0-9a-f]{32}")


def nothing(_: str) -> bool:
    """Keep nothing."""
    return False


class NoSuchJob(SluicegateError):
    """The account has no job of that id, or has it no more."""


class JobStore:
    """The fine-tuning jobs of the accounts in a region; one object per process."""

    def __init__(self, blobs: BlobStore, files: Files) -> None:
        self._blobs = blobs
        self._files = files
        self._jobs = Documents(blobs, JOBS, "")
        self._queue = Documents(blobs, QUEUE, "")

    # --- one job -----------------------------------------------------------------------------------------------------

    async def reserve(self, job: Job) -> None:
        """Have a job join the queue before it is there, so that whoever counts knows of it."""
        await self._queue.put(_name(job), {}, etag=None)

    async def create(self, job: Job, metadata: Mapping[str, str] | None) -> None:
        """Write a job that has joined the queue."""

        async def sealed() -> AsyncIterator[bytes]:
            yield json.dumps(metadata).encode()

        if job.has_metadata:
            await self._files.store(job.account, METADATA).write(job.id, sealed())
        await self._jobs.put(_name(job), job.document(), etag=None)

    async def get(self, account: str, id: str) -> Job | None:
        """Return a job, or None when the account has none of that id."""
        found = await self._jobs.get(f"{account}/{id}") if _ID.fullmatch(id) else None
        return None if found is None else Job.read(found.content)

    async def change(self, job: Job, update: Callable[[Job], Job]) -> Job:
        """Replace a job by what ``update`` makes of it as it is now; done again when somebody else is faster.

        Raises:
            NoSuchJob: It was deleted meanwhile. What ``update`` raises goes through.
        """
        while True:
            found = await self._jobs.get(_name(job))
            if found is None:
                raise NoSuchJob(job.id)
            changed = await self._with_earlier_events_apart(update(Job.read(found.content)))
            try:
                await self._jobs.put(_name(job), changed.document(), etag=found.etag)
            except (BlobChanged, BlobExists):
                continue
            return changed

    async def metadata(self, job: Job) -> Mapping[str, str] | None:
        """Return what the owner attached; None when that is nothing, or the job is deleted meanwhile."""
        if not job.has_metadata:
            return None
        with suppress(BlobNotFound):
            opened = await self._files.store(job.account, METADATA).open(job.id)
            metadata: dict[str, str] = json.loads(b"".join([piece async for piece in opened.read()]))
            return metadata
        return None

    def files(self, job: Job) -> FileStore:
        """Return the job's own files."""
        return self._files.store(job.account, job.id)

    # --- events ------------------------------------------------------------------------------------------------------

    async def events(self, job: Job, *, before: int, limit: int) -> list[Mapping[str, Any]]:
        """Return events, the newest first, with numbers less than ``before``."""
        found = [event for event in reversed(job.events) if event["number"] < before]
        first = job.said - len(job.events)
        for name, count in reversed(job.pages):
            if len(found) >= limit:
                break
            first -= count
            if first < before:
                page = await self._page(job, name)
                found += [event for event in reversed(page) if event["number"] < before]
        return found[:limit]

    async def rows(self, job: Job) -> AsyncIterator[Mapping[str, Any]]:
        """Yield what each step measured, of ``sluicegate.training.Metrics``, in the order of the steps."""
        for name, _ in job.pages:
            for event in await self._page(job, name):
                if event["data"] is not None:
                    yield event["data"]
        for event in job.events:
            if event["data"] is not None:
                yield event["data"]

    async def _page(self, job: Job, name: str) -> list[Mapping[str, Any]]:
        page: list[Mapping[str, Any]] = json.loads((await self._blobs.get(EVENTS, f"{_name(job)}/{name}")).data)
        return page

    async def _with_earlier_events_apart(self, job: Job) -> Job:
        """Write all but the latest events to pages; the job names them, so that they count once it is written."""
        events, pages = list(job.events), list(job.pages)
        while len(events) >= 2 * EVENTS_A_PAGE:
            name = f"{len(pages):08d}-{secrets.token_hex(4)}"
            data = json.dumps(events[:EVENTS_A_PAGE], separators=(",", ":")).encode()
            await self._blobs.put(EVENTS, f"{_name(job)}/{name}", data, create=True)
            pages.append((name, EVENTS_A_PAGE))
            del events[:EVENTS_A_PAGE]
        return replace(job, events=tuple(events), pages=tuple(pages))

    # --- many jobs ---------------------------------------------------------------------------------------------------

    async def ids(self, account: str) -> list[str]:
        """Return the ids of an account's jobs, the oldest first."""
        return [name.rpartition("/")[2] for name in await self._jobs.names(f"{account}/")]

    async def page(
        self, account: str, *, after: str | None, limit: int, metadata: Mapping[str, str] | None
    ) -> tuple[list[Job], bool]:
        """Return jobs, the newest first, and whether more follow.

        Args:
            after: The id of the last one of the page before, which may be gone.
            metadata: What must be attached to them; None for those that have none.
        """
        found: list[Job] = []
        for id in reversed(await self.ids(account)):
            if after is not None and id >= after:
                continue
            job = await self.get(account, id)
            if job is None or not (metadata == {} or await self._has(job, metadata)):
                continue
            if len(found) == limit:
                return found, True
            found.append(job)
        return found, False

    async def _has(self, job: Job, metadata: Mapping[str, str] | None) -> bool:
        attached = await self.metadata(job) or {}
        return not attached if metadata is None else metadata.items() <= attached.items()

    async def queued(self, account: str = "") -> list[Job]:
        """Return the jobs in the queue, of an account or of all."""
        documents = await self._jobs.all(await self._queue.names(account and f"{account}/"))
        return [Job.read(document.content) for document in documents]

    async def in_queue(self, account: str = "") -> list[tuple[str, str]]:
        """Return account and id of what is in the queue, of an account or of all; not each is a job yet, or still."""
        names = await self._queue.names(account and f"{account}/")
        return [(account, id) for account, _, id in (name.partition("/") for name in names)]

    async def leave_queue(self, account: str, id: str) -> None:
        """Have a job leave the queue, for nothing is to be done for it any more."""
        await self._queue.delete(f"{account}/{id}")

    # --- deletion ----------------------------------------------------------------------------------------------------

    async def stored(self, account: str, id: str, *, kept: Kept = nothing) -> AsyncIterator[Gone]:
        """Yield what storage holds of a job, but for the files that are ``kept``."""
        async for blob in self.stored_files(account, id, kept=kept):
            yield blob
        async for blob in self._files.store(account, METADATA).stored(id):
            yield blob
        for container in (EVENTS, QUEUE, JOBS):
            async for info in self._blobs.list(container, f"{account}/{id}"):
                yield Gone(container, info.name, info.size)

    async def stored_files(self, account: str, id: str, *, kept: Kept = nothing) -> AsyncIterator[Gone]:
        """Yield what storage holds of a job's own files, or of what was left of some, but for those that are ``kept``."""
        prefix = f"{account}/{id}/"
        for container in (HEADS, SEGMENTS):
            async for info in self._blobs.list(container, prefix):
                if not kept(info.name.removeprefix(prefix).partition("/")[0]):
                    yield Gone(container, info.name, info.size)

    async def erase_files(self, account: str, id: str, *, kept: Kept) -> None:
        """Delete a job's own files but for those that are ``kept``."""
        prefix = f"{account}/{id}/"
        stored = self.stored_files(account, id, kept=kept)
        found = {blob.name.removeprefix(prefix).partition("/")[0] async for blob in stored}
        for file in sorted(found):
            await self._files.store(account, id).erase(file)

    async def erase(self, account: str, id: str, *, kept: Kept) -> None:
        """Delete a job, the document first: from then on nobody is at it; the place in the queue goes last.

        Args:
            kept: Weights of models, which stay.
        """
        await self._jobs.delete(f"{account}/{id}")
        await self._files.store(account, METADATA).erase(id)
        await self.erase_files(account, id, kept=kept)
        async for info in self._blobs.list(EVENTS, f"{account}/{id}/"):
            with suppress(BlobNotFound):
                await self._blobs.delete(EVENTS, info.name)
        await self.leave_queue(account, id)

    async def known(self, account: str = "") -> set[tuple[str, str]]:
        """Return account and id of whatever storage holds anything of, of an account or of all."""
        return await self._seen(account, (JOBS, QUEUE, EVENTS, HEADS))

    async def strays(self) -> set[tuple[str, str]]:
        """Return account and id of what storage holds something of, but no job."""
        return await self._seen("", (QUEUE, EVENTS, HEADS)) - await self._seen("", (JOBS,))

    async def _seen(self, account: str, containers: Iterable[str]) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        for container in containers:
            async for info in self._blobs.list(container, account and f"{account}/"):
                owner, *path = info.name.split("/")
                found |= {(owner, part) for part in path if _ID.fullmatch(part)}
        return found


def _name(job: Job) -> str:
    return f"{job.account}/{job.id}"
