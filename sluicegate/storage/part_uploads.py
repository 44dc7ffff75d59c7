"""Uploads in parts: a file that is announced, arrives piece by piece, and is there whole once it is completed, or not at all.

::

    container    pending-uploads  {account}/{upload}             sizes, times, purpose, state: JSON
    large files  pending-names    {account}/…/{upload}           the file's name, until the upload is over
    large files  upload-parts     {account}/…/{upload}.{part}    a part's content

Completing reads the parts and writes the file as every upload is written, under the file's own key, whose head comes last: so a process
that dies leaves the parts and no file, and completing can be tried again. That costs reading and sealing each byte once more,
in bounded memory; a file that is a list of parts would cost a second layout, and as many keys as parts, for as long as the file lives.

The document stays for a day after an upload's end, so that a part which was arriving at its end is found and goes too.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from sluicegate.errors import (
    BlobChanged,
    BlobNotFound,
    Conflict,
    InvalidRequest,
    PurgeIncomplete,
    QuotaExceeded,
    SluicegateError,
)
from sluicegate.retention.receipts import Receipts
from sluicegate.retention.removals import TIMER, Evidence, Found, Kind
from sluicegate.services import BlobStore
from sluicegate.storage.day_layout import Gone, Tally
from sluicegate.storage.documents import Document, Documents
from sluicegate.storage.file_reading import OpenFile
from sluicegate.storage.files import LONGEST, Files, FileStore
from sluicegate.storage.uploaded_files import Details, UploadedFile, UploadedFiles

CONTAINER = "pending-uploads"
NAMES = "pending-names"
PARTS = "upload-parts"
LIVES_FOR = timedelta(hours=2)
"""Source: Azure OpenAI's documentation of uploads."""
MOST_PARTS = 2_000
_GRACE = timedelta(minutes=30)
"""For completing what was asked for in time, before the timer takes the parts away."""
_OVERHEAD = 4096
"""Bytes that a stored part, and a name, may have beside its content."""
_ID = re.compile(r"upload_[0-9a-f]{32}")
_PART = re.compile(r"part_[0-9a-f]{32}")

State: TypeAlias = Literal["pending", "completed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class PartUpload:
    """An upload in parts.

    Attributes:
        bytes: How long the file is to be.
        file: What it became, once it is completed.
    """

    id: str
    name: str
    purpose: str
    bytes: int
    created_at: datetime
    expires_at: datetime
    state: State
    file: UploadedFile | None = None


@dataclass(frozen=True, slots=True)
class UploadPart:
    """A part that has arrived."""

    id: str
    upload: str
    created_at: datetime


class PartUploads:
    """The uploads in parts of all accounts; one object per process."""

    def __init__(
        self,
        blobs: BlobStore,
        large_files: Files,
        files: UploadedFiles,
        receipts: Receipts,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._large_files = large_files
        self._files = files
        self._receipts = receipts
        self._clock = clock
        self._about = Documents(blobs, CONTAINER, "")

    # --- for callers -------------------------------------------------------------------------------------------------

    async def create(self, account: str, details: Details, size: int) -> PartUpload:
        """Announce a file of ``size`` bytes.

        Raises:
            QuotaExceeded: With the files there are and the uploads that are pending, it would be more than the account may have.
        """
        pending = [each.content for each in await self._all(account) if self._state(each.content) == "pending"]
        await self._files.check_room(
            account, files=len(pending) + 1, size=sum(each["bytes"] for each in pending) + size
        )
        now = self._clock().replace(microsecond=0)
        id = f"upload_{secrets.token_hex(16)}"
        await self._store(account, NAMES).write(id, _once(details.name.encode()))
        about = {
            "bytes": size,
            "created_at": int(now.timestamp()),
            "purpose": details.purpose,
            "lives_for": None if details.lives_for is None else details.lives_for.total_seconds(),
            "state": "pending",
            "file": None,
        }
        await self._about.put(f"{account}/{id}", about, etag=None)
        return self._shown(id, details.name, about)

    async def add(self, account: str, id: str, data: AsyncIterator[bytes]) -> UploadPart | None:
        """Take a part in while it arrives, and return it once it is durable; None when the account has no such upload.

        Raises:
            InvalidRequest: The upload takes no more parts.
            QuotaExceeded: It has too many already, or twice of what was announced.
            TooManyRequests: As many uploads of the account are running as may.
            ServiceError: Storage or keys failed.
        """
        found = await self._get(account, id)
        if found is None:
            return None
        self._check_pending(found.content)
        with self._files.one_more(account):
            await self._check_parts(account, id, found.content["bytes"])
            part = f"part_{secrets.token_hex(16)}"
            parts = self._store(account, PARTS)
            now = self._clock().replace(microsecond=0)
            await parts.write(f"{id}.{part}", data)
            # Whoever ended the upload meanwhile did not see this part.
            found = await self._get(account, id)
            if found is None or found.content["state"] != "pending":
                await parts.erase(f"{id}.{part}")
                raise _ended("ended meanwhile")
        return UploadPart(part, id, now)

    async def complete(self, account: str, id: str, parts: Sequence[str], md5: str | None) -> PartUpload | None:
        """Make a file of parts, in this order, and return the upload with it; None when the account has no such upload.

        Asked for again, a completed upload is returned as it is.

        Args:
            md5: Of the whole file, in hexadecimal digits.

        Raises:
            InvalidRequest: The upload is over, a part is not there, or size or hash are not what was announced.
            Conflict: Another request completes or cancels it.
            QuotaExceeded, TooManyRequests, ServiceError: As for ``UploadedFiles.create``.
        """
        found = await self._get(account, id)
        if found is None:
            return None
        if found.content["file"] is not None:
            file = await self._files.get(account, found.content["file"])
            if file is not None:
                # Written by somebody who was stopped before it could say so, unless this was said before.
                if found.content["state"] == "pending":
                    found = await self._put(found, state="completed")
                await self.erase(account, id)
                return self._shown(id, file.name, found.content, file)
        self._check_pending(found.content)
        joined = await self._joined(account, id, parts, md5, found.content)
        # Announced before it is written: of two who are at it the file of the later one counts, and the earlier one's goes.
        file_id = self._files.new_id()
        found = await self._put(found, file=file_id)
        file = await self._files.create(account, joined, id=file_id)
        try:
            found = await self._put(found, state="completed")
        except SluicegateError:
            await self._files.erase(account, file_id)
            raise
        await self.erase(account, id)
        return self._shown(id, file.name, found.content, file)

    async def cancel(self, account: str, id: str, *, actor: str) -> PartUpload | None:
        """End an upload and remove what has come of it, with a receipt; None when the account has no such upload.

        Raises:
            InvalidRequest: It is over already.
            Conflict: Another request completes it.
            PurgeIncomplete, ServiceError: Something is left, which nobody can read; the timer goes on.
        """
        found = await self._get(account, id)
        if found is None:
            return None
        self._check_pending(found.content)
        name = await self._name(account, id)
        found = await self._put(found, state="cancelled")
        await self._remove(account, id, actor=actor)
        return self._shown(id, name, found.content)

    async def delete_all(self, account: str, *, actor: str) -> None:
        """Delete every upload of an account, each with its receipt."""
        for each in await self._all(account):
            await self._remove(account, _id(each), actor=actor)
            await self._about.delete(each.name)

    # --- for the timer -----------------------------------------------------------------------------------------------

    async def purge(self, now: datetime) -> None:
        """Remove what came of uploads whose time is up, and finish what was interrupted.

        Raises:
            PurgeIncomplete: Something that is due is left; the rest is done.
        """
        left: list[str] = []
        try:
            async for owed in self._receipts.owed():
                if owed.kind is Kind.DELETE_UPLOAD and owed.account is not None:
                    removal = _Removal(self, owed.account, owed.subject)
                    await self._receipts.certify(removal, await removal.found(), actor=TIMER)
        except SluicegateError as error:
            left.append(f"interrupted deletions of uploads ({type(error).__name__})")
        for name in await self._about.names():
            account, _, id = name.partition("/")
            try:
                await self._look_at(account, id, now)
            except (SluicegateError, ValueError, KeyError, TypeError) as error:
                # One document that is damaged must not keep the parts of others.
                left.append(f"upload {id} of account {account!r} ({type(error).__name__})")
        if left:
            raise PurgeIncomplete(left)

    async def _look_at(self, account: str, id: str, now: datetime) -> None:
        found = await self._get(account, id)
        if found is None:
            return
        state, ends = found.content["state"], _expires_at(found.content)
        if state == "pending":
            if now < ends + _GRACE:
                return
            file = found.content["file"]
            is_written = file is not None and await self._files.get(account, file) is not None
            found = await self._put(found, state="completed" if is_written else "expired")
        if found.content["state"] == "completed":
            await self.erase(account, id)
        else:
            await self._remove(account, id, actor=TIMER)
        if now >= ends + LONGEST:
            await self._about.delete(found.name, etag=found.etag)

    # --- steps -------------------------------------------------------------------------------------------------------

    async def stored(self, account: str, id: str) -> AsyncIterator[Gone]:
        """Yield what storage holds of an upload's parts and name, whole or in part."""
        parts = self._store(account, PARTS)
        for part in await parts.starting(f"{id}."):
            async for blob in parts.stored(part):
                yield blob
        async for blob in self._store(account, NAMES).stored(id):
            yield blob

    async def erase(self, account: str, id: str) -> None:
        """Remove an upload's parts and name, or what there is of them."""
        parts = self._store(account, PARTS)
        for part in await parts.starting(f"{id}."):
            await parts.erase(part)
        await self._store(account, NAMES).erase(id)

    async def _remove(self, account: str, id: str, *, actor: str) -> None:
        removal = _Removal(self, account, id)
        found = await removal.found()
        if found.blobs:
            await self._receipts.certify(removal, found, actor=actor)

    def _store(self, account: str, kind: str) -> FileStore:
        return self._large_files.store(account, kind)

    async def _all(self, account: str) -> list[Document]:
        return await self._about.all(await self._about.names(f"{account}/"))

    async def _get(self, account: str, id: str) -> Document | None:
        return await self._about.get(f"{account}/{id}") if _ID.fullmatch(id) else None

    async def _put(self, found: Document, **changes: Any) -> Document:
        try:
            return await self._about.put(found.name, {**found.content, **changes}, etag=found.etag)
        except BlobChanged:
            raise Conflict("Another request completes or cancels this upload: see what became of it.") from None

    async def _name(self, account: str, id: str) -> str:
        with suppress(BlobNotFound):
            opened = await self._store(account, NAMES).open(id)
            return b"".join([piece async for piece in opened.read()]).decode()
        raise _ended("ended meanwhile")

    def _shown(self, id: str, name: str, about: Mapping[str, Any], file: UploadedFile | None = None) -> PartUpload:
        return PartUpload(
            id,
            name,
            about["purpose"],
            about["bytes"],
            _time(about["created_at"]),
            _expires_at(about),
            self._state(about),
            file,
        )

    def _state(self, about: Mapping[str, Any]) -> State:
        state: State = about["state"]
        return "expired" if state == "pending" and self._clock() >= _expires_at(about) else state

    def _check_pending(self, about: Mapping[str, Any]) -> None:
        state = self._state(about)
        if state != "pending":
            raise _ended({"completed": "is completed", "cancelled": "was cancelled"}.get(state, "has expired"))

    async def _check_parts(self, account: str, id: str, announced: int) -> None:
        parts = self._store(account, PARTS)
        ids = await parts.starting(f"{id}.")
        size = sum([blob.bytes async for blob in self.stored(account, id)])
        if len(ids) >= MOST_PARTS or size > 2 * announced + _OVERHEAD * (len(ids) + 1):
            raise QuotaExceeded(
                f"This upload has as many parts as it may, {MOST_PARTS} or twice the bytes that were announced: cancel it."
            )

    async def _joined(
        self, account: str, id: str, parts: Sequence[str], md5: str | None, about: Mapping[str, Any]
    ) -> _Joined:
        if len(set(parts)) != len(parts):
            raise InvalidRequest("Invalid 'part_ids': name each part once.", code="invalid_value", param="part_ids")
        opened = []
        for number, part in enumerate(parts):
            where = f"part_ids[{number}]"
            try:
                if not _PART.fullmatch(part):
                    raise BlobNotFound
                opened.append(await self._store(account, PARTS).open(f"{id}.{part}"))
            except BlobNotFound:
                raise InvalidRequest(
                    f"Invalid '{where}': this upload has no such part.", code="invalid_value", param=where
                ) from None
        size = sum(part.size for part in opened)
        if size != about["bytes"]:
            raise InvalidRequest(
                f"The parts have {size} bytes together, but {about['bytes']} were announced when the upload was created.",
                code="invalid_value",
                param="part_ids",
            )
        lives_for = None if about["lives_for"] is None else timedelta(seconds=about["lives_for"])
        return _Joined(opened, md5, Details(await self._name(account, id), about["purpose"], lives_for))


class _Joined:
    """Parts on their way into one file."""

    def __init__(self, parts: Sequence[OpenFile], md5: str | None, details: Details) -> None:
        self._parts = parts
        self._md5 = md5
        self._details = details

    async def content(self) -> AsyncIterator[bytes]:
        hashed = hashlib.md5(usedforsecurity=False)
        for part in self._parts:
            async for piece in part.read():
                await asyncio.to_thread(hashed.update, piece)
                yield piece
        if self._md5 is not None and hashed.hexdigest() != self._md5.lower():
            raise InvalidRequest(
                "The MD5 hash of the parts is not the one in 'md5': send them again, or in another order.",
                code="invalid_value",
                param="md5",
            )

    def details(self) -> Details:
        return self._details


@dataclass(frozen=True, slots=True)
class _Removal:
    """The removal of an upload that became no file."""

    uploads: PartUploads
    account: str
    subject: str

    @property
    def kind(self) -> Kind:
        return Kind.DELETE_UPLOAD

    async def found(self) -> Found:
        tally = Tally()
        async for blob in self.uploads.stored(self.account, self.subject):
            tally.note(blob)
        return tally.found()

    async def carry_out(self) -> Evidence:
        await self.uploads.erase(self.account, self.subject)
        left = sum([1 async for _ in self.uploads.stored(self.account, self.subject)])
        return Evidence({}, {"keys and content of the parts, and the name of the file": left})


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _id(document: Document) -> str:
    return document.name.rpartition("/")[2]


def _ended(why: str) -> InvalidRequest:
    return InvalidRequest(f"This upload {why}: create another one.", code="unexpectedEntityState", param="upload_id")


def _expires_at(about: Mapping[str, Any]) -> datetime:
    return _time(about["created_at"]) + LIVES_FOR


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
