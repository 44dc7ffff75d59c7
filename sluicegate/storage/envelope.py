"""Sealed batches of records, and the wrapped data keys that open them: the byte layouts.

A batch, version 1; integers are big endian::

    0     4   "RTN1"
    4     1   version, 1
    5     1   cipher, 1: AES-256-GCM
    6     2   flags, 0
    8     4   length n of the header
    12    n   header, canonical JSON: {"account", "commitment", "day", "deletions",
              "index": [[record, position, length, user], ...], "kid", "plugin", "seq"}
    12+n      one frame per entry of the index, in its order: nonce (12 bytes, random) | ciphertext | tag (16 bytes)

``commitment`` is lower-case hex; ``length`` counts a whole frame in bytes; ``deletions`` says how many deletions of its day
the writer knew of. Positions ascend; one that is missing was deleted. The header is not secret, so account, plugin and
record ids must be opaque. ``user`` is an end user's mark, empty for none: the first 16 bytes, in hex, of HMAC-SHA256
under the user's keyed hash of ``["sluicegate/user", 1, account, plugin, day]``. Who reads the storage alone can tell
that two records of one account, plugin and day are of the same user, and nothing across days.

A data key is 32 random bytes. HKDF-SHA256 with salt ``kid`` and info ``["sluicegate/data-key", 1, account, plugin, day]``
yields 64 bytes: the AES key, then the commitment. GCM alone commits to no key, and RSA-OAEP and A256KW take no associated
data, so the derivation is what ties a wrapped key to one account, plugin and day. Each record's associated data is
``["sluicegate/record", 1, account, plugin, day, kid]`` | seq (8 bytes) | position (4 bytes) | deletions (4 bytes) |
user's mark (16 bytes, zero for none) | record id, where ``[...]`` is canonical JSON.

A wrapped data key, in canonical JSON; ``ciphertext`` is base64::

    version 1   {"v": 1, "key_id", "algorithm", "ciphertext"}
    version 2   {"v": 2, "key_id", "algorithm", "ciphertext",
                 "customer": {"vault", "key_id", "algorithm", "ciphertext"}}

Version 1 wraps the data key under the day's key. Version 2 is for an account with a key of its own: the data key is the
exclusive or of two shares of 32 bytes, the first of them random, so that one alone says nothing. The first is wrapped under
the day's key, the second under the customer's, in ``vault``. A new customer's key gets the second share wrapped anew; the
first and all ciphertext stay.

Not promised: who can write to the storage can delete whole records, and who can also wrap keys can forge new ones.

Ciphertext of every version stays readable; ``tests/vectors`` holds one of each.

Source: NIST SP 800-38D §8.2.2 (random 96-bit nonces: at most 2**32 records per data key), RFC 5869 (HKDF).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sluicegate.errors import SealBroken
from sluicegate.services import WrappedKey

SECRET_BYTES = 32
_PREFIX = struct.Struct(">4sBBHI")
_START = (b"RTN1", 1, 1, 0)
_COUNTERS = struct.Struct(">QII16s")
_NONCE = 12
_TAG = 16
_MARK = 16
_HASH = 32

Sealable: TypeAlias = tuple[str, bytes, str]
"""A record's id, its data, and its end user's mark or an empty text."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where sealed bytes belong; they open nowhere else.

    Attributes:
        day: UTC day, ``YYYYMMDD``.
        kid: The data key's identifier.
    """

    account: str
    plugin: str
    day: str
    kid: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A record's line in the index; ``length`` of its frame in bytes, ``user`` the end user's mark or empty."""

    record: str
    position: int
    length: int
    user: str


@dataclass(frozen=True, slots=True)
class Header:
    """What a batch says of itself; nothing of it is proven before ``DataKey.open``.

    Attributes:
        deletions: How many deletions of the day the writer knew of.
        size: Of everything before the first frame, in bytes.
    """

    place: Place
    seq: int
    deletions: int
    commitment: str
    index: tuple[Entry, ...]
    size: int


@dataclass(frozen=True, slots=True)
class CustomerShare:
    """A data key's second share, under a customer's key.

    Attributes:
        vault: URL of the key service that holds the key.
    """

    vault: str
    wrapped: WrappedKey


@dataclass(frozen=True, slots=True)
class RingEntry:
    """A data key that only the key services can open: ``wrapped`` is all of it, or its first share beside a customer's."""

    wrapped: WrappedKey
    customer: CustomerShare | None = None


class DataKey:
    """One data key, bound to its place.

    Args:
        secret: 32 random bytes, used for one place only.
    """

    def __init__(self, secret: bytes, place: Place) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a data key has {SECRET_BYTES} bytes")
        info = canonical(["sluicegate/data-key", 1, place.account, place.plugin, place.day])
        derived = HKDF(SHA256(), 64, place.kid.encode(), info).derive(secret)
        self.place = place
        self._commitment = derived[32:].hex()
        self._aead = AESGCM(derived[:32])
        self._context = canonical(["sluicegate/record", 1, place.account, place.plugin, place.day, place.kid])

    def seal(self, seq: int, records: Sequence[Sealable], deletions: int = 0) -> bytes:
        """Return the records as one batch; ``seq`` must not repeat under this key."""
        nonces = os.urandom(_NONCE * len(records))
        index: list[Entry] = []
        frames: list[bytes] = []
        for position, (record, data, user) in enumerate(records):
            nonce = nonces[position * _NONCE : (position + 1) * _NONCE]
            associated_data = self._associated_data(seq, position, deletions, user, record)
            frames += (nonce, self._aead.encrypt(nonce, data, associated_data))
            index.append(Entry(record, position, _NONCE + len(frames[-1]), user))
        return b"".join((_beginning(self.place, seq, deletions, self._commitment, index), *frames))

    def open(self, seq: int, batch: bytes) -> tuple[Header, list[bytes]]:
        """Return the batch that was sealed here as number ``seq``: its header, and the data of each entry of its index.

        Raises:
            SealBroken: It is another batch, another key's, or a byte of it was changed, added or lost.
        """
        header = read_header(batch)
        if header.place != self.place or header.seq != seq:
            raise SealBroken("the batch belongs elsewhere")
        if header.commitment != self._commitment:
            raise SealBroken("the batch was sealed under another key")
        opened = []
        start = header.size
        for entry in header.index:
            nonce = batch[start : start + _NONCE]
            sealed = batch[start + _NONCE : start + entry.length]
            associated_data = self._associated_data(seq, entry.position, header.deletions, entry.user, entry.record)
            try:
                opened.append(self._aead.decrypt(nonce, sealed, associated_data))
            except InvalidTag:
                raise SealBroken("a record was changed or moved") from None
            start += entry.length
        return header, opened

    def _associated_data(self, seq: int, position: int, deletions: int, user: str, record: str) -> bytes:
        return self._context + _COUNTERS.pack(seq, position, deletions, bytes.fromhex(user)) + record.encode()


def without(batch: bytes, positions: Collection[int]) -> bytes | None:
    """Return the batch without the records at these positions, or None when none is left; needs no key."""
    header = read_header(batch)
    index: list[Entry] = []
    frames: list[bytes] = []
    start = header.size
    for entry in header.index:
        if entry.position not in positions:
            index.append(entry)
            frames.append(batch[start : start + entry.length])
        start += entry.length
    if not index:
        return None
    return b"".join((_beginning(header.place, header.seq, header.deletions, header.commitment, index), *frames))


def user_mark(user: str, account: str, plugin: str, day: str) -> str:
    """Return what stands for an end user in the batches of one day.

    Args:
        user: The account's keyed hash of the user, 64 hexadecimal digits.
    """
    key = bytes.fromhex(user)
    if len(key) != _HASH:
        raise ValueError("an end user is known by the account's keyed hash: 64 hexadecimal digits")
    context = canonical(["sluicegate/user", 1, account, plugin, day])
    return hmac.digest(key, context, "sha256")[:_MARK].hex()


def header_size(beginning: bytes) -> int:
    """Return how many bytes of a batch come before its first frame; at least 12 bytes of it are needed."""
    try:
        *start, length = _PREFIX.unpack_from(beginning)
    except struct.error:
        raise SealBroken("not a batch") from None
    if tuple(start) != _START:
        raise SealBroken("not a batch, or of a version that this release does not know")
    return _PREFIX.size + int(length)


def read_header(batch: bytes, total: int | None = None) -> Header:
    """Return what a batch says of itself.

    Args:
        batch: All of it, or its beginning, with at least the header.
        total: Of how many bytes it is the beginning.

    Raises:
        SealBroken: It is not exactly one well-formed batch of a known version.
    """
    size = header_size(batch)
    try:
        raw = batch[_PREFIX.size : size]
        header = _read_header(json.loads(raw), size)
        canonical = _beginning(header.place, header.seq, header.deletions, header.commitment, header.index)
    except (struct.error, ValueError, TypeError, KeyError, RecursionError):
        raise SealBroken("the batch's header cannot be read") from None
    content = (len(batch) if total is None else total) - size
    if canonical != batch[:size] or sum(entry.length for entry in header.index) != content:
        raise SealBroken("the batch's header does not describe its content")
    return header


def canonical(value: object) -> bytes:
    """Return canonical JSON: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def split(secret: bytes) -> tuple[bytes, bytes]:
    """Return two shares of a data key; both are needed, and one alone says nothing."""
    first = os.urandom(len(secret))
    return first, joined(first, secret)


def joined(first: bytes, second: bytes) -> bytes:
    """Return the data key of two shares."""
    if len(first) != SECRET_BYTES or len(second) != SECRET_BYTES:
        raise SealBroken("a wrapped key has the wrong length")
    return bytes(left ^ right for left, right in zip(first, second, strict=True))


def ring_entry(wrapped: WrappedKey, customer: CustomerShare | None = None) -> bytes:
    """Return a wrapped data key as it is stored: canonical JSON, version 1 or, with a customer's share, 2."""
    if customer is None:
        return canonical({"v": 1, **_fields(wrapped)})
    return canonical({"v": 2, **_fields(wrapped), "customer": {"vault": customer.vault, **_fields(customer.wrapped)}})


def read_ring_entry(entry: bytes) -> RingEntry:
    """Return a stored wrapped data key; ``SealBroken`` when it is not one."""
    try:
        fields = json.loads(entry)
        version = fields["v"]
        if type(version) is not int or version not in (1, 2):
            raise SealBroken("a wrapped key of a version that this release does not know")
        if version == 1:
            return RingEntry(_read_wrapped(fields))
        share = fields["customer"]
        return RingEntry(_read_wrapped(fields), CustomerShare(_text(share["vault"]), _read_wrapped(share)))
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        raise SealBroken("a wrapped key cannot be read") from None


def _fields(wrapped: WrappedKey) -> dict[str, str]:
    ciphertext = base64.b64encode(wrapped.ciphertext).decode()
    return {"key_id": wrapped.key_id, "algorithm": wrapped.algorithm, "ciphertext": ciphertext}


def _read_wrapped(fields: Any) -> WrappedKey:
    ciphertext = base64.b64decode(fields["ciphertext"], validate=True)
    return WrappedKey(_text(fields["key_id"]), _text(fields["algorithm"]), ciphertext)


def _beginning(place: Place, seq: int, deletions: int, commitment: str, index: Sequence[Entry]) -> bytes:
    header = canonical(
        {
            "account": place.account,
            "commitment": commitment,
            "day": place.day,
            "deletions": deletions,
            "index": [(entry.record, entry.position, entry.length, entry.user) for entry in index],
            "kid": place.kid,
            "plugin": place.plugin,
            "seq": seq,
        }
    )
    return _PREFIX.pack(*_START, len(header)) + header


def _read_header(fields: Any, size: int) -> Header:
    place = Place(_text(fields["account"]), _text(fields["plugin"]), _text(fields["day"]), _text(fields["kid"]))
    index = tuple(
        Entry(_text(record), _count(position, 2**32), _count(length, 2**32), _mark(user))
        for record, position, length, user in fields["index"]
    )
    positions = [entry.position for entry in index]
    if not index or positions != sorted(set(positions)) or min(entry.length for entry in index) < _NONCE + _TAG:
        raise ValueError("index")
    deletions = _count(fields["deletions"], 2**32)
    return Header(place, _count(fields["seq"], 2**64), deletions, _text(fields["commitment"]), index, size)


def _mark(value: object) -> str:
    mark = bytes.fromhex(_text(value))
    if mark.hex() != value or (mark and (len(mark) != _MARK or not any(mark))):
        raise ValueError("not a mark")
    return mark.hex()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a lone surrogate is no text either
    return value


def _count(value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise TypeError("not a count")
    return value
