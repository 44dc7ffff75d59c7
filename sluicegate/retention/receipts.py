"""Receipts: for each removal, a signed statement of what went, how it was checked, and what that cannot prove.

A removal is announced before the first thing goes and stated when nothing is left, so that one which is interrupted still
gets its receipt, with the counts from before, and only one::

    owed = await receipts.begin(Kind.PURGE_DAY, None, "20260101", found, actor="timer/purge")
    ...                                                 # destroy, delete, list what is left
    receipt = await receipts.issue(owed, Evidence(...))
    receipt = await receipts.certify(removal, found, actor="timer/purge")    # all three

    async for owed in receipts.owed(): ...              # begun and not stated: a crash; remove what is left, then issue

Containers::

    receipts-owed    {32 hex digits of what is to go}                a removal that was begun; deleted with its receipt
    receipts         account/{name}/{id}, deployment/{id}            a receipt, see :mod:`sluicegate.retention.receipt_check`

An ``id`` is ``{13 digits}-{32 hex digits}``: 9999999999999 less the milliseconds since 1970 at which the removal began, so
that names are in order newest first; then random digits, which are also the id of the audit log's entry.

At most one removal of a kind, account and subject is open at a time: who begins it again goes on with it. What is stated
stays as it was stated, whatever becomes of the process: the statement is stored first, then its entry is appended, then
the receipt is stored under the id it had from the beginning. Each step is done once or found done.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sluicegate.accounts import NAME
from sluicegate.audit.entries import Entry, Event, canonical, timestamp
from sluicegate.audit.log import Audit
from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, SealBroken, ServiceError, StorageUnavailable
from sluicegate.retention.receipt_check import VERSION, statement_hash, verify_receipt
from sluicegate.retention.removals import Evidence, Found, KeyFate, Kind, Removal, attempt, check_complete, conclusion
from sluicegate.services import BlobStore, KeyService
from sluicegate.types import utc_now

CONTAINER = "receipts"
OWED = "receipts-owed"
_ID = re.compile(r"[0-9]{13}-[0-9a-f]{32}")
_NAME = re.compile(rf"(?:account/(?P<account>{NAME.pattern})|deployment)/(?P<id>{_ID.pattern})")
_LAST_MS = 9_999_999_999_999


@dataclass(frozen=True, slots=True)
class Owed:
    """A removal that was begun; ``id`` is its receipt's."""

    id: str
    kind: Kind
    account: str | None
    subject: str
    began: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as it is stored; ``data`` is what ``verify_receipt`` takes."""

    id: str
    account: str | None
    data: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The receipt as JSON."""
        found: dict[str, Any] = json.loads(self.data)
        return found


class Receipts:
    """All receipts of the deployment.

    Args:
        weaknesses: Returns what makes removals less than final here, a sentence each, beside what the key service says;
            asked for each receipt.
    """

    def __init__(
        self,
        blobs: BlobStore,
        keys: KeyService,
        audit: Audit,
        *,
        clock: Callable[[], datetime] = utc_now,
        weaknesses: Callable[[], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        self._blobs = blobs
        self._keys = keys
        self._audit = audit
        self._clock = clock
        self._weaknesses = weaknesses

    # --- issuing -----------------------------------------------------------------------------------------------------

    async def certify(self, removal: Removal, found: Found, *, actor: str, reason: str | None = None) -> Receipt:
        """Carry a removal out between :meth:`begin` and :meth:`issue`, and return its receipt; raises what these raise."""

        async def begin() -> Owed:
            return await self.begin(removal.kind, removal.account, removal.subject, found, actor=actor, reason=reason)

        try:
            owed = await begin()
        except StorageUnavailable:
            # What must go goes: a full disk would otherwise keep for ever what fills it.
            evidence = await removal.carry_out()
            owed = await begin()
        else:
            evidence = await removal.carry_out()
        return await self.issue(owed, evidence)

    async def begin(
        self, kind: Kind, account: str | None, subject: str, found: Found, *, actor: str, reason: str | None = None
    ) -> Owed:
        """Announce a removal, durably, before the first thing goes; or go on with one that was interrupted.

        Args:
            found: What is there now. An attempt that finds something else than the one before is added to the receipt; one
                that finds nothing adds nothing, and gets the receipt of what was stated and not yet acknowledged.
            actor, reason: As in :class:`~sluicegate.audit.entries.Event`; those of the first attempt are kept.

        Raises:
            ValueError: The account, the subject, the actor or the reason cannot stand in an entry.
        """
        name = _owed_name(kind, account, subject)
        while True:
            document = self._announcement(kind, account, subject, found, actor, reason)
            try:
                await self._blobs.put(OWED, name, canonical(document), create=True)
                return _owed(document)
            except BlobExists:
                resumed = await self._resume(name, document["removed"][0])
                if resumed is not None:
                    return _owed(resumed)

    async def issue(self, owed: Owed, evidence: Evidence) -> Receipt:
        """State that a removal is complete, and return its receipt; the same one when it was stated before.

        Raises:
            PurgeIncomplete: Something was found afterwards, or a key is neither proven absent nor sure to go.
            ValueError: Nothing was checked, or a whole day went and no key with it.
            ServiceError: Storage or keys failed: issue it again.
            NotVerified: The log's proof does not hold, so there is no receipt.
        """
        name = _owed_name(owed.kind, owed.account, owed.subject)
        while True:
            try:
                document, etag = await self._read_owed(name)
            except BlobNotFound:
                return await self.get(owed.account, owed.id)
            if document["id"] != owed.id:
                return await self.get(owed.account, owed.id)
            if document["statement"] is not None:
                return await self._finish(name, document, etag)
            document["statement"] = await self._statement(document, evidence)
            document["log_size"] = await self._audit.size()
            with suppress(BlobChanged):
                etag = await self._blobs.put(OWED, name, canonical(document), if_match=etag)
                return await self._finish(name, document, etag)

    async def owed(self) -> AsyncIterator[Owed]:
        """Yield the removals that were begun and have no receipt; those that were stated get theirs now.

        Raises:
            ServiceError: A note of one, or the receipt of one, failed; all others were yielded before.
        """
        failed: list[ServiceError] = []
        async for blob in self._blobs.list(OWED):
            try:
                document, etag = await self._read_owed(blob.name)
                if document["statement"] is not None:
                    await self._finish(blob.name, document, etag)
                    continue
            except BlobNotFound:
                continue
            except ServiceError as error:
                failed.append(error)
                continue
            yield _owed(document)
        if failed:
            raise failed[0]

    async def unfinished(self, before: datetime) -> int:
        """Return how many removals were begun by then and have no receipt; nothing is changed."""
        count = 0
        async for blob in self._blobs.list(OWED):
            try:
                document, _ = await self._read_owed(blob.name)
                count += document["began"] <= timestamp(before)
            except BlobNotFound:
                continue
            except SealBroken:
                count += 1
        return count

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get(self, account: str | None, id: str) -> Receipt:
        """Return a receipt of one account, or of the deployment (None); ``BlobNotFound`` when it has none of that id."""
        if not _ID.fullmatch(id) or not (account is None or NAME.fullmatch(account)):
            raise BlobNotFound("no receipt has such an id")
        return Receipt(id, account, (await self._blobs.get(CONTAINER, _prefix(account) + id)).data)

    async def list(self, account: str | None, *, limit: int = 100, after: str = "") -> tuple[Receipt, ...]:
        """Return receipts of one account, or of the deployment (None), newest first.

        Args:
            after: The id of the last one of the page before.
        """
        prefix = _prefix(account)
        ids: list[str] = []
        async for blob in self._blobs.list(CONTAINER, prefix, after=prefix + after):
            if len(ids) == limit:
                break
            if _ID.fullmatch(id := blob.name.removeprefix(prefix)):
                ids.append(id)
        return tuple(await asyncio.gather(*(self.get(account, id) for id in ids)))

    async def every(self) -> AsyncIterator[Receipt]:
        """Yield every receipt, account by account and newest first, then the deployment's."""
        async for blob in self._blobs.list(CONTAINER):
            if match := _NAME.fullmatch(blob.name):
                yield await self.get(match["account"], match["id"])

    async def public_key(self, key_id: str | None = None) -> dict[str, str]:
        """Return the public key of a checkpoint's ``key_id``, or the newest; ``KeyNotFound`` when there is none."""
        return await self._audit.key.public(key_id)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _announcement(
        self, kind: Kind, account: str | None, subject: str, found: Found, actor: str, reason: str | None
    ) -> dict[str, Any]:
        if account is not None and not NAME.fullmatch(account):
            raise ValueError("account: not the name of one")
        now = self._clock()
        random = secrets.token_hex(16)
        # Made only to be checked: what no entry can hold must be refused before anything is removed.
        Event(actor, kind.value, account, subject, reason, id=random)
        return {
            "version": 1,
            "id": f"{_LAST_MS - int(now.timestamp() * 1000):013d}-{random}",
            "kind": kind.value,
            "account": account,
            "subject": subject,
            "actor": actor,
            "reason": reason,
            "began": timestamp(now),
            "removed": [attempt(found, timestamp(now))],
            "statement": None,
            "log_size": 0,
        }

    async def _resume(self, name: str, found: Mapping[str, Any]) -> dict[str, Any] | None:
        """Go on with a removal that is open; None when it is not any more."""
        while True:
            try:
                document, etag = await self._read_owed(name)
            except BlobNotFound:
                return None
            found_nothing = not (found["blobs"] or found["records"])
            if document["statement"] is not None:
                await self._finish(name, document, etag)
                return document if found_nothing else None
            if found_nothing or {**document["removed"][-1], "time": None} == {**found, "time": None}:
                return document
            document["removed"].append(found)
            with suppress(BlobChanged):
                await self._blobs.put(OWED, name, canonical(document), if_match=etag)
                return document

    async def _statement(self, document: Mapping[str, Any], evidence: Evidence) -> dict[str, Any]:
        fates = [
            KeyFate(name, is_absent, await self._keys.recoverable_until(name))
            for name, is_absent in sorted(evidence.keys.items())
        ]
        check_complete(Kind(document["kind"]), document["subject"], evidence, fates)
        weaknesses = [*await self._keys.weaknesses(), *(await self._weaknesses() if self._weaknesses else ())]
        return {
            "version": VERSION,
            **{name: document[name] for name in ("id", "kind", "account", "subject", "began", "removed")},
            "time": timestamp(self._clock()),
            **conclusion(Kind(document["kind"]), evidence, fates, weaknesses),
        }

    async def _finish(self, name: str, document: Mapping[str, Any], etag: str) -> Receipt:
        """Store the receipt of a statement, or find it stored."""
        account, id = document["account"], document["id"]
        receipt = Receipt(id, account, await self._receipt(document))
        try:
            await self._blobs.put(CONTAINER, _prefix(account) + id, receipt.data, create=True)
        except BlobExists:
            receipt = await self.get(account, id)
        # Another process may have done all this, and the next removal of the same may have begun.
        with suppress(BlobNotFound, BlobChanged):
            await self._blobs.delete(OWED, name, if_match=etag)
        return receipt

    async def _receipt(self, document: Mapping[str, Any]) -> bytes:
        entry = await self._entry(document)
        checkpoint = await self._audit.checkpoint()
        path = await self._audit.inclusion(entry.seq, checkpoint.size)
        inclusion = {"leaf_index": entry.seq, "tree_size": checkpoint.size, "path": [_text(each) for each in path]}
        audit = {"entry": entry.line.decode(), "inclusion": inclusion, "checkpoint": checkpoint.document}
        data = json.dumps({**document["statement"], "audit": audit}, indent=2).encode() + b"\n"
        # Nobody is given a receipt that would not hold.
        verify_receipt(data, await self._audit.key.public(checkpoint.key_id))
        return data

    async def _entry(self, document: Mapping[str, Any]) -> Entry:
        """Return the statement's entry, appended now or, by an attempt that was interrupted, before."""
        event = _event(document)
        async for entry in self._audit.entries(document["log_size"]):
            if entry.event.id == event.id:
                return entry
        return await self._audit.append(event)

    async def _read_owed(self, name: str) -> tuple[dict[str, Any], str]:
        blob = await self._blobs.get(OWED, name)
        try:
            document = json.loads(blob.data)
            if document["version"] != 1 or name != _owed_name(
                *(document[each] for each in ("kind", "account", "subject"))
            ):
                raise ValueError("version")
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SealBroken(f"{OWED}/{name} cannot be read") from None
        return document, blob.etag


def _event(document: Mapping[str, Any]) -> Event:
    statement = document["statement"]
    first = statement["removed"][0]
    return Event(
        document["actor"],
        document["kind"],
        document["account"],
        document["subject"],
        document["reason"],
        {"statement": statement_hash(statement), "blobs": first["blobs"], "bytes": first["bytes"]},
        id=document["id"].partition("-")[2],
    )


def _owed(document: Mapping[str, Any]) -> Owed:
    kind = Kind(document["kind"])
    return Owed(document["id"], kind, document["account"], document["subject"], document["began"])


def _owed_name(kind: str, account: str | None, subject: str) -> str:
    return sha256(canonical([kind, account, subject])).hexdigest()[:32]


def _prefix(account: str | None) -> str:
    return "deployment/" if account is None else f"account/{account}/"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
