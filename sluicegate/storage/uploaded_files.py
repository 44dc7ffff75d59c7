"""Files that callers upload, list, read and delete: what is known of each, and where that is.

::

    container    uploaded-files   {account}/{id}           purpose, size, times, status: JSON, as they must be read without a key
    large files  uploads          {account}/…/{id}         content, see :mod:`sluicegate.storage.file_layout`
    large files  upload-names     {account}/…/{id}         the file's name, which may say as much as its content
    large files  upload-reports   {account}/…/{id}         of training data, what was found in it, without a word of it: JSON

A file is there exactly while its content's head is: that is written last and deleted first. What an interrupted upload has
left is shown to nobody and goes with a purge. An id begins with the time, so ids are in the order of creation; none is
used twice.

Training data is checked by whoever brings it; a check that was interrupted is made by the next reader, or by the timer
(:mod:`sluicegate.storage.upload_checks`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sluicegate.errors import (
    BlobNotFound,
    InvalidRequest,
    PurgeIncomplete,
    QuotaExceeded,
    ServiceError,
    SluicegateError,
    TooManyRequests,
)
from sluicegate.retention.receipts import Receipt, Receipts
from sluicegate.retention.removals import TIMER, Evidence, Found, Kind
from sluicegate.services import BlobStore
from sluicegate.storage.day_layout import Gone, Tally
from sluicegate.storage.documents import Documents
from sluicegate.storage.file_reading import OpenFile
from sluicegate.storage.files import LONGEST, Files, FileStore
from sluicegate.storage.upload_checks import CONTENT, REPORTS, UploadChecks, first_status, status_of
from sluicegate.training_data.decoding import BOM

CONTAINER = "uploaded-files"
NAMES = "upload-names"
CHECKING_TIME = timedelta(minutes=5)
"""For how long one run of the timer takes up checks."""
UPLOADS_AT_ONCE = 4
"""Of one account in one process; each takes the memory of about ten segments."""
_ABANDONED = 2 * LONGEST
_READS_AT_ONCE = 16
log = logging.getLogger(__name__)
_ID = re.compile(r"file-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Details:
    """What an upload says of its file; ``lives_for`` is None for one that does not expire."""

    name: str
    purpose: str
    lives_for: timedelta | None


class Upload(Protocol):
    """A file on its way in."""

    def content(self) -> AsyncIterator[bytes]:
        """Yield it; when this ends, everything of it is there and right."""
        ...

    def details(self) -> Details:
        """Return what is said of it, once ``content`` has ended."""
        ...


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file; times are whole seconds.

    Attributes:
        status: ``processed``; of training data ``pending`` and ``running`` until it is checked, and ``error`` if it is no JSON Lines.
        status_details: What is wrong with it then, without a word of it.
    """

    id: str
    name: str
    purpose: str
    bytes: int
    created_at: datetime
    expires_at: datetime | None
    status: str = "processed"
    status_details: str | None = None


class UploadedFiles:
    """The uploaded files of all accounts; one object per process.

    Args:
        most_files: How many an account may have.
        most_bytes: How large they may be together.
    """

    def __init__(
        self,
        blobs: BlobStore,
        files: Files,
        receipts: Receipts,
        *,
        clock: Callable[[], datetime],
        most_files: int,
        most_bytes: int,
    ) -> None:
        self._blobs = blobs
        self._files = files
        self._receipts = receipts
        self._clock = clock
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._about = Documents(blobs, CONTAINER, "")
        self._uploading: Counter[str] = Counter()
        self._discarding: set[asyncio.Task[None]] = set()
        self._checks = UploadChecks(self._about, files, clock)
        self._whole: set[str] = set()

    # --- for callers -------------------------------------------------------------------------------------------------

    async def create(self, account: str, upload: Upload, *, id: str | None = None) -> UploadedFile:
        """Take a file in while it arrives, and return it once it is durable; when anything fails nothing stays of it.

        Args:
            id: From ``new_id``, for who must know it before.

        Raises:
            InvalidRequest: It is a batch file that begins with a byte order mark.
            QuotaExceeded: The account has as many files as it may, or would have too large ones.
            TooManyRequests: As many uploads of the account are running as may.
            ServiceError: Storage or keys failed.
        """
        with self.one_more(account):
            await self.check_room(account, files=1)
            created_at = self._clock().replace(microsecond=0)
            id = id or self.new_id()
            content = _Measured(upload.content())

            async def all_of_it() -> AsyncIterator[bytes]:
                async for piece in content:
                    yield piece
                if content.start == BOM and upload.details().purpose == "batch":
                    raise _has_bom()
                await self._describe(account, id, upload.details(), content.size, created_at)

            try:
                await self._store(account, CONTENT).write(id, all_of_it())
            except BaseException:
                await self._discard(account, id)
                raise
        details = upload.details()
        return UploadedFile(
            id,
            details.name,
            details.purpose,
            content.size,
            created_at,
            _end(created_at, details.lives_for),
            first_status(details.purpose),
        )

    async def examine(self, account: str, file: UploadedFile) -> UploadedFile:
        """Check a file that is ``pending``, keep the report beside it, and return it with its status.

        The check goes on when whoever waits goes away. Where storage fails meanwhile the file stays pending; where somebody
        else is at it, or it is deleted, it is returned as it was.
        """
        if file.status != "pending":
            return file
        status, details = await self._checks.check(account, file.id)
        return replace(file, status=status, status_details=details)

    async def report(self, account: str, id: str) -> bytes | None:
        """Return the report on a file of training data, as JSON; None when there is none, or none yet."""
        file = await self.get(account, id)
        if file is None:
            return None
        await self.examine(account, file)
        with suppress(BlobNotFound):
            opened = await self._store(account, REPORTS).open(id)
            return b"".join([piece async for piece in opened.read()])
        return None

    def new_id(self) -> str:
        """Return an id that no file has had."""
        return f"file-{int(self._clock().timestamp() * 1000):012x}{secrets.token_hex(10)}"

    async def get(self, account: str, id: str) -> UploadedFile | None:
        """Return a file, or None when the account has none of that id."""
        about = await self._read_about(account, id)
        if about is None or not await self._store(account, CONTENT).has(id):
            return None
        return await self._named(account, id, about)

    async def open(self, account: str, id: str) -> OpenFile | None:
        """Return a file's content for reading, or None when the account has none of that id.

        Raises:
            KeyNotFound, SealBroken: It cannot be read.
        """
        if await self._read_about(account, id) is None:
            return None
        with suppress(BlobNotFound):
            return await self._store(account, CONTENT).open(id)
        return None

    async def page(
        self, account: str, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[UploadedFile], bool]:
        """Return files in the order of creation, or against it, and whether more follow.

        Args:
            after: The id of the last one of the page before, which may be gone.
        """
        ids = sorted([id async for id in self._store(account, CONTENT).names()], reverse=newest_first)
        if after is not None:
            ids = [id for id in ids if (id < after if newest_first else id > after)]
        now = self._clock()
        found = {
            document.name.rpartition("/")[2]: document.content
            for document in await self._about.all([f"{account}/{id}" for id in ids])
            if _is_live(document.content, now) and purpose in (None, document.content["purpose"])
        }
        page = list(found.items())[:limit]
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def one(id: str, about: Mapping[str, Any]) -> UploadedFile | None:
            async with slots:
                return await self._named(account, id, about)

        files = await asyncio.gather(*(one(id, about) for id, about in page))
        return [file for file in files if file is not None], len(found) > limit

    async def delete(self, account: str, id: str, *, actor: str) -> Receipt | None:
        """Delete a file, its wrapped key first, and return the receipt; None when the account has none of that id.

        Once the key is gone no process opens the file any more; a reader in the middle of it ends within five minutes.

        Raises:
            PurgeIncomplete, ServiceError: Something of it is left, which nobody can read; the timer goes on.
        """
        if not _ID.fullmatch(id):
            return None
        removal = _Removal(self, account, id)
        found = await removal.found()
        return await self._receipts.certify(removal, found, actor=actor) if found.blobs else None

    async def delete_all(self, account: str, *, actor: str) -> int:
        """Delete every file of an account, each with its receipt, and return how many there were."""
        ids = [name.rpartition("/")[2] for name in await self._about.names(f"{account}/")]
        for id in ids:
            await self.delete(account, id, actor=actor)
        return len(ids)

    # --- for the timer -----------------------------------------------------------------------------------------------

    async def purge(self, now: datetime) -> int:
        """Delete the files whose time is up, and finish what was interrupted; return how many files went.

        Raises:
            PurgeIncomplete: Something that is due is left; the rest is done.
        """
        left: list[str] = []
        gone = 0
        try:
            async for owed in self._receipts.owed():
                if owed.kind is Kind.DELETE_FILE and owed.account is not None:
                    gone += await self._attempt(left, owed.account, owed.subject)
        except ServiceError as error:
            left.append(f"interrupted deletions of files ({type(error).__name__})")
        whole, self._whole = self._whole, set()
        async for _ in self._in_batches(lambda name: self._look_at(left, name, whole, now)):
            gone += 1
        try:
            await self._files.finish_changes(now)
        except PurgeIncomplete as error:
            left += error.left
        if left:
            raise PurgeIncomplete(left)
        return gone

    async def examine_left(self) -> None:
        """Check what is pending still, for some minutes at most; the next run goes on."""
        until = self._clock() + CHECKING_TIME
        async for name in self._in_batches(self._is_pending):
            account, _, id = name.partition("/")
            if self._clock() >= until:
                return
            try:
                file = await self.get(account, id)
                if file is not None:
                    await self.examine(account, file)
            except (ServiceError, ValueError, KeyError, TypeError) as error:
                # One description that is damaged, or a key that is away, must not keep the files of others.
                log.warning("uploaded file %s of account %s was not examined (%s)", id, account, type(error).__name__)

    async def _in_batches(self, holds: Callable[[str], Awaitable[bool]]) -> AsyncIterator[str]:
        """Yield of all descriptions' names those for which something holds, asking for some at a time."""
        names = await self._about.names()
        for batch in (names[at : at + _READS_AT_ONCE] for at in range(0, len(names), _READS_AT_ONCE)):
            found = await asyncio.gather(*map(holds, batch))
            for name in (name for name, is_one in zip(batch, found, strict=True) if is_one):
                yield name

    async def _is_pending(self, name: str) -> bool:
        with suppress(ServiceError, ValueError, KeyError, TypeError):
            about = await self._about.get(name)
            return about is not None and status_of(about.content, self._clock()) == "pending"
        return False

    async def drain(self) -> None:
        """End the checks, and wait until what was not finished is removed; for the embedded host and tests."""
        await self._checks.stop()
        await asyncio.gather(*self._discarding)
        await self._files.drain()

    # --- steps -------------------------------------------------------------------------------------------------------

    async def stored(self, account: str, id: str) -> AsyncIterator[Gone]:
        """Yield what storage holds of a file, whole or in part."""
        for kind in (CONTENT, REPORTS, NAMES):
            async for blob in self._store(account, kind).stored(id):
                yield blob
        async for info in self._blobs.list(CONTAINER, f"{account}/{id}"):
            yield Gone(CONTAINER, info.name, info.size)

    async def erase(self, account: str, id: str) -> None:
        """Remove a file, or what there is of it; what is known of it goes last, so that who is stopped can go on."""
        for kind in (CONTENT, REPORTS, NAMES):
            await self._store(account, kind).erase(id)
        await self._about.delete(f"{account}/{id}")

    def _store(self, account: str, kind: str) -> FileStore:
        return self._files.store(account, kind)

    async def _describe(self, account: str, id: str, details: Details, size: int, created_at: datetime) -> None:
        """Write what is known of a file whose content is there but for its head."""
        expires_at = _end(created_at, details.lives_for)
        about = {
            "bytes": size,
            "created_at": int(created_at.timestamp()),
            "expires_at": None if expires_at is None else int(expires_at.timestamp()),
            "purpose": details.purpose,
        }
        await self._about.put(f"{account}/{id}", about, etag=None)
        # Looked at with this one counted, so that uploads at the same time cannot share the same room.
        await self.check_room(account)

        async def name() -> AsyncIterator[bytes]:
            yield details.name.encode()

        await self._store(account, NAMES).write(id, name())

    async def _read_about(self, account: str, id: str) -> Mapping[str, Any] | None:
        if not _ID.fullmatch(id):
            return None
        about = await self._about.get(f"{account}/{id}")
        return about.content if about is not None and _is_live(about.content, self._clock()) else None

    async def _named(self, account: str, id: str, about: Mapping[str, Any]) -> UploadedFile | None:
        """Return a file with its name, or None when it is deleted meanwhile."""
        with suppress(BlobNotFound):
            opened = await self._store(account, NAMES).open(id)
            name = b"".join([piece async for piece in opened.read()]).decode()
            expires_at = None if about["expires_at"] is None else _time(about["expires_at"])
            created_at, status = _time(about["created_at"]), status_of(about, self._clock())
            details = about.get("status_details")
            return UploadedFile(id, name, about["purpose"], about["bytes"], created_at, expires_at, status, details)
        return None

    async def check_room(self, account: str, *, files: int = 0, size: int = 0) -> None:
        """Refuse more than an account may have.

        Args:
            files: How many are to come.
            size: Bytes that are to come.

        Raises:
            QuotaExceeded: They would be too many.
        """
        described = await self._about.all(await self._about.names(f"{account}/"))
        if len(described) + files > self._most_files:
            raise QuotaExceeded(f"This resource may have {self._most_files} files: delete some first.")
        if sum(document.content["bytes"] for document in described) + size > self._most_bytes:
            raise QuotaExceeded(
                f"The files of this resource may have {self._most_bytes >> 20} MiB together: delete some first."
            )

    @contextmanager
    def one_more(self, account: str) -> Iterator[None]:
        """Count an upload while it runs.

        Raises:
            TooManyRequests: As many of the account are running as may.
        """
        if self._uploading[account] >= UPLOADS_AT_ONCE:
            raise TooManyRequests(
                f"{UPLOADS_AT_ONCE} uploads of this resource are running: wait until one is done.", retry_after_s=1
            )
        self._uploading[account] += 1
        try:
            yield
        finally:
            self._uploading[account] -= 1
            if not self._uploading[account]:
                del self._uploading[account]

    async def _discard(self, account: str, id: str) -> None:
        async def discard() -> None:
            with suppress(ServiceError):
                await self.erase(account, id)

        # Shielded: who goes away in the middle of an upload must not leave it behind.
        task = asyncio.create_task(discard())
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)
        await asyncio.shield(task)

    async def _attempt(self, left: list[str], account: str, id: str) -> bool:
        removal = _Removal(self, account, id)
        try:
            await self._receipts.certify(removal, await removal.found(), actor=TIMER)
        except SluicegateError as error:
            left.append(f"file {id} of account {account!r} ({type(error).__name__})")
            return False
        return True

    async def _look_at(self, left: list[str], name: str, whole: set[str], now: datetime) -> bool:
        """Delete a file whose time is up, or what is known of one that never came to be; return whether a file went.

        Args:
            whole: Files that are known to have come to be.
        """
        account, _, id = name.partition("/")
        try:
            about = await self._about.get(name)
            if about is None:
                return False
            if not _is_live(about.content, now):
                return await self._attempt(left, account, id)
            if about.content["created_at"] + _ABANDONED.total_seconds() <= now.timestamp():
                if name in whole or await self._store(account, CONTENT).has(id):
                    self._whole.add(name)
                else:
                    await self.erase(account, id)
        except (ServiceError, ValueError, KeyError, TypeError) as error:
            # One description that is damaged must not keep the files of others.
            left.append(f"file {id} of account {account!r} ({type(error).__name__})")
        return False


@dataclass(frozen=True, slots=True)
class _Removal:
    """The removal of one file."""

    files: UploadedFiles
    account: str
    subject: str

    @property
    def kind(self) -> Kind:
        return Kind.DELETE_FILE

    async def found(self) -> Found:
        tally = Tally()
        async for blob in self.files.stored(self.account, self.subject):
            tally.note(blob)
        return tally.found()

    async def carry_out(self) -> Evidence:
        await self.files.erase(self.account, self.subject)
        left = sum([1 async for _ in self.files.stored(self.account, self.subject)])
        return Evidence({}, {"key, content, name and description of the file": left})


class _Measured:
    """Passes pieces on, counts their bytes, and keeps as many of the first as a byte order mark has."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.size = 0
        self.start = b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            self.size += len(piece)
            self.start += piece[: len(BOM) - len(self.start)]
            yield piece


def _has_bom() -> InvalidRequest:
    return InvalidRequest(
        "The file begins with a byte order mark, which a batch file must not have: save it as UTF-8 without one.",
        code="jsonlValidationFailed",
        param="file",
    )


def _end(created_at: datetime, lives_for: timedelta | None) -> datetime | None:
    return None if lives_for is None else created_at + lives_for


def _is_live(about: Mapping[str, Any], now: datetime) -> bool:
    expires_at = about["expires_at"]
    return expires_at is None or now.timestamp() < expires_at


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
