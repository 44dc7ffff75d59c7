"""Entries of the audit log: what may stand in one, and their bytes.

An entry is one line of canonical JSON (RFC 8785: keys sorted, no spaces; ASCII and whole numbers only)::

    {"account", "action", "actor", "evidence": {…}, "id": 32 hex digits, random, "prev": 64 hex digits,
     "reason", "seq", "subject", "time": "2026-01-01T12:00:00.000Z"}

``prev`` is the RFC 9162 leaf hash of the entry before, 64 zeros in the first; ``seq`` counts from 0. The leaf is the line
without its line feed. A page is 1 to 256 entries, each line ended by a line feed.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sluicegate.audit.merkle import HASH_BYTES, leaf_hash
from sluicegate.errors import SealBroken

PAGE_ENTRIES = 256
MAX_EVIDENCE_BYTES = 14 << 10
_MAX_INT = 2**53
_FIRST_PREV = "0" * 64
_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/=+-]{0,254}[A-Za-z0-9_=+-])?")
_REASON = re.compile(r"[A-Za-z0-9#](?:[A-Za-z0-9 ._:/#()+-]{0,198}[A-Za-z0-9.)])?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


class LogBroken(SealBroken):
    """The operator sees it: the audit log is not what was written.

    Args:
        seq: The first entry that is not what, or not where, it should be; where only the link between two is broken, the
            later one.
    """

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(f"audit log, entry {seq}: {why}")
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, to be appended.

    Names are opaque ids and keyed hashes, 1 to 256 of ``A-Za-z0-9._:/=+-``: an ``@`` is not among them, so that no e-mail
    address gets in.

    Attributes:
        actor: Who did it, such as ``contoso/key1`` or ``timer/purge``.
        action: What was done, such as ``retained.read``.
        account: Whose data it was, or None when it was not one account's.
        subject: What it was done to: a record's id, an end user's keyed hash, a day.
        reason: Why, as a reference such as a ticket's number, at most 200 characters; never a name or a text of a user's.
        evidence: Whole numbers, booleans, None, names as above, and lists and mappings of these.
        id: Random; an event that is appended again is the same event.

    Raises:
        ValueError: A field is of another form; the message names the field and not its value.
    """

    actor: str
    action: str
    account: str | None = None
    subject: str | None = None
    reason: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        _expect("actor", _NAME, self.actor)
        _expect("action", _NAME, self.action)
        _expect("id", _ID, self.id)
        for name, value in (("account", self.account), ("subject", self.subject)):
            if value is not None:
                _expect(name, _NAME, value)
        if self.reason is not None:
            _expect("reason", _REASON, self.reason)
        if not isinstance(self.evidence, Mapping):
            raise ValueError("evidence: not a mapping")
        # A copy: what the caller goes on changing must not change what is hashed.
        object.__setattr__(self, "evidence", _plain(self.evidence))
        if len(canonical(self.evidence)) > MAX_EVIDENCE_BYTES:
            raise ValueError("evidence: too long")


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in its place in the log.

    Attributes:
        seq: Its number, from 0.
        time: UTC, to the millisecond, by the writer's clock.
        line: The canonical bytes, which are hashed.
    """

    seq: int
    time: str
    event: Event
    line: bytes

    @property
    def leaf(self) -> bytes:
        """The RFC 9162 leaf hash."""
        return leaf_hash(self.line)

    @property
    def document(self) -> dict[str, Any]:
        """The entry as JSON."""
        found: dict[str, Any] = json.loads(self.line)
        return found


def opaque(text: str) -> str:
    """Return an id that an entry can hold: the text itself, or ``sha256:`` and its hash when it has another form."""
    return text if _NAME.fullmatch(text) else f"sha256:{sha256(text.encode()).hexdigest()}"


def canonical(value: object) -> bytes:
    """Return JSON in its one canonical form; for ASCII and whole numbers, that of RFC 8785."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def timestamp(moment: datetime) -> str:
    """Return an aware time as entries have it, such as ``2026-01-01T12:00:00.000Z``."""
    if moment.tzinfo is None:
        raise ValueError("a time must be aware")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def entry_of(seq: int, time: str, event: Event, prev: bytes | None) -> Entry:
    """Return an event as entry ``seq``, after the one whose leaf hash is ``prev``."""
    line = canonical(
        {
            "account": event.account,
            "action": event.action,
            "actor": event.actor,
            "evidence": event.evidence,
            "id": event.id,
            "prev": _FIRST_PREV if prev is None else prev.hex(),
            "reason": event.reason,
            "seq": seq,
            "subject": event.subject,
            "time": time,
        }
    )
    return Entry(seq, time, event, line)


def page_bytes(page: Iterable[Entry]) -> bytes:
    """Return a page as it is stored."""
    return b"".join(entry.line + b"\n" for entry in page)


def read_page(data: bytes, start: int, prev: bytes | None) -> list[Entry]:
    """Return the entries of a page that begins with number ``start``.

    Args:
        prev: The leaf hash of the entry before, or None where there is none or it is not known.

    Raises:
        LogBroken: A number, a link or the form of an entry is not what was written.
    """
    *lines, rest = data.split(b"\n")
    if rest or not 1 <= len(lines) <= PAGE_ENTRIES:
        raise LogBroken(start, "its page is damaged")
    page: list[Entry] = []
    for seq, line in enumerate(lines, start):
        entry, link = _read_entry(seq, line)
        if prev is not None and link != prev:
            raise LogBroken(seq, "it does not follow the entry before it")
        page.append(entry)
        prev = entry.leaf
    return page


def _read_entry(seq: int, line: bytes) -> tuple[Entry, bytes]:
    try:
        fields = json.loads(line)
        prev = bytes.fromhex(fields.pop("prev"))
        time = fields.pop("time")
        _expect("time", _TIME, time)
        del fields["seq"]
        entry = entry_of(seq, time, Event(**fields), prev)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise LogBroken(seq, "it cannot be read") from None
    if entry.line != line or len(prev) != HASH_BYTES or (prev == bytes(HASH_BYTES)) != (seq == 0):
        raise LogBroken(seq, "it has another number, or another form than entries are written in")
    return entry, prev


def _expect(name: str, form: re.Pattern[str], value: object) -> None:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{name}: not a name or id without content")


def _plain(value: object) -> object:
    """Return a copy of evidence; ``ValueError`` when it holds anything but whole numbers, names and the like."""
    if isinstance(value, Mapping):
        for key in value:
            _expect("evidence", _NAME, key)
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if type(value) is int:
        if abs(value) >= _MAX_INT:
            raise ValueError("evidence: a number beyond 53 bits")
    elif value is not None and not isinstance(value, bool):
        _expect("evidence", _NAME, value)
    return value
