"""Removals: what a receipt says of one, and what it says that it cannot prove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from sluicegate.audit.entries import timestamp
from sluicegate.errors import PurgeIncomplete

NOT_PROVEN = (
    "A receipt shows what this deployment did and saw. It cannot show that the providers of storage and keys, or anyone "
    "who copied data before, kept nothing.",
    "All times are by this deployment's own clocks.",
    "That the log is whole shows only against a checkpoint of it which somebody else holds.",
)
WITH_KEYS = (
    "A copy that was made before, of data and wrapped keys, stays unreadable only as long as AES-256 and the algorithm that "
    "wrapped the keys are not broken."
)
WITHOUT_KEYS = (
    "No key was destroyed: a copy of the storage that was made before stays readable, to whoever may use its day's key, "
    "until that key is destroyed with the day."
)
TIMER = "timer/purge"
"""Who purges, in the audit log."""
LATE = (
    "What other processes were writing meanwhile may have arrived after the listing: no reader shows it, and the next purge "
    "removes it."
)
OF_A_FILE = (
    "The file's own key went, and no key above it: a copy of the storage that was made before stays readable, to whoever may use "
    "the key that wraps the keys of files."
)
RECOVERABLE = "Until {until}, whoever may recover deleted keys can make copies of the data readable again."


class Kind(StrEnum):
    """What a removal was."""

    PURGE_DAY = "purge.day"
    """A day of all accounts; the subject is the day, ``YYYYMMDD``, and the account None."""
    PURGE_ACCOUNT_DAY = "purge.account-day"
    """What one plugin kept of one account on one day; the subject is ``{day}/{plugin}``."""
    DELETE_RECORD = "delete.record"
    """One record; the subject is its id."""
    DELETE_USER = "delete.user"
    """Everything of one end user; the subject is the keyed hash."""
    DELETE_ACCOUNT = "delete.account"
    """Everything of one account; the subject is its name."""
    DELETE_FILE = "delete.file"
    """One uploaded file; the subject is its id."""
    DELETE_UPLOAD = "delete.upload"
    """What came of an upload in parts that did not become a file; the subject is its id."""
    DELETE_MODEL = "delete.model"
    """One fine-tuned model or checkpoint; the subject is its id."""
    DELETE_JOB = "delete.job"
    """One fine-tuning job with its events and files; the subject is its id. Models that it has made stay."""
    DELETE_JOB_FILES = "delete.job-files"
    """What a fine-tuning job that is over needs no more, and all that one has made which did not succeed; the subject is its id."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was there before the first thing went.

    Attributes:
        names_sha256: From :class:`~sluicegate.storage.day_layout.Tally`; names themselves may say more than a receipt should.
        records: How many records, where that is known.
    """

    blobs: int
    bytes: int
    names_sha256: str
    records: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was done and seen, once nothing is left.

    Attributes:
        keys: Keys that were destroyed, and whether ``KeyService.destroy`` proved them absent.
        checked: What was listed afterwards, in words, and how many were found: only zeros get a receipt.
        weaknesses: What makes this removal less than final beyond what the key service says of itself, a sentence each.
    """

    keys: Mapping[str, bool]
    checked: Mapping[str, int]
    weaknesses: Sequence[str] = ()


class Removal(Protocol):
    """Something that is to go: how to count it, and how to remove it and look whether anything is left."""

    @property
    def kind(self) -> Kind: ...

    @property
    def account(self) -> str | None:
        """Whose it is, or None for all accounts."""
        ...

    @property
    def subject(self) -> str: ...

    async def found(self) -> Found:
        """Count what is there; nothing is changed."""
        ...

    async def carry_out(self) -> Evidence:
        """Remove it, keys first, then look for it. Stopped anywhere and run again, it goes on.

        Raises:
            PurgeIncomplete: Something could not be removed; it names what.
        """
        ...


class Ledger(Protocol):
    """Who sees to it that nothing goes without a trace: :class:`sluicegate.retention.receipts.Receipts`."""

    async def certify(self, removal: Removal, found: Found, *, actor: str, reason: str | None = None) -> object:
        """Carry a removal out, and state that it is complete."""
        ...


class Unrecorded:
    """A ledger that keeps no trace, and still lets nothing pass that is not complete: for tests and benchmarks."""

    async def certify(self, removal: Removal, found: Found, *, actor: str, reason: str | None = None) -> None:
        evidence = await removal.carry_out()
        fates = [KeyFate(name, is_absent, None) for name, is_absent in evidence.keys.items()]
        check_complete(removal.kind, removal.subject, evidence, fates)


@dataclass(frozen=True, slots=True)
class KeyFate:
    """What became of a key.

    Attributes:
        is_absent: ``KeyService.destroy`` proved it absent.
        recoverable_until: Until when it can be brought back, or None.
    """

    name: str
    is_absent: bool
    recoverable_until: datetime | None

    @property
    def document(self) -> dict[str, Any]:
        """The key's line in a receipt."""
        until = self.recoverable_until
        return {
            "name": self.name,
            "destroyed": self.is_absent and until is None,
            "recoverable_until": None if until is None else timestamp(until),
        }


def attempt(found: Found, time: str) -> dict[str, Any]:
    """Return what one attempt found, as a receipt has it."""
    return {
        "time": time,
        "blobs": found.blobs,
        "bytes": found.bytes,
        "records": found.records,
        "names_sha256": found.names_sha256,
    }


def check_complete(kind: Kind, subject: str, evidence: Evidence, fates: Sequence[KeyFate]) -> None:
    """Refuse a removal that cannot have a receipt.

    Raises:
        ValueError: Nothing was checked, or a whole day went and no key with it.
        PurgeIncomplete: Something is left, or a key is neither proven absent nor sure to go.
    """
    if not evidence.checked:
        raise ValueError("a removal is checked by listing what is left")
    if kind is Kind.PURGE_DAY and not fates:
        raise ValueError("a day is purged by destroying its key")
    left = [f"{subject}: {what}" for what, count in evidence.checked.items() if count]
    left += [f"{subject}: key {fate.name}" for fate in fates if not fate.is_absent and fate.recoverable_until is None]
    if left:
        raise PurgeIncomplete(left)


def conclusion(kind: Kind, evidence: Evidence, fates: Sequence[KeyFate], weaknesses: Sequence[str]) -> dict[str, Any]:
    """Return the part of a receipt that says how complete the removal is, and what that cannot prove."""
    until = max((fate.recoverable_until for fate in fates if fate.recoverable_until is not None), default=None)
    without_keys = (
        OF_A_FILE
        if kind in (Kind.DELETE_FILE, Kind.DELETE_UPLOAD, Kind.DELETE_MODEL, Kind.DELETE_JOB, Kind.DELETE_JOB_FILES)
        else WITHOUT_KEYS
    )
    sentences = [*NOT_PROVEN, WITH_KEYS if fates else without_keys]
    if kind in (Kind.DELETE_RECORD, Kind.DELETE_USER, Kind.DELETE_ACCOUNT):
        sentences.append(LATE)
    if until is not None:
        sentences.append(RECOVERABLE.format(until=timestamp(until)))
    return {
        "keys": [fate.document for fate in fates],
        "checked": dict(evidence.checked),
        "recoverable_until": None if until is None else timestamp(until),
        "weaknesses": [*weaknesses, *evidence.weaknesses],
        "not_proven": sentences,
    }
