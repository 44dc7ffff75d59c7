"""Large files as sealed segments, and the wrapped data key that opens them: the byte layouts.

A file is cut into pieces of ``segment_bytes``, the last one of what is left; it has at least one, which is empty if the
file is. Segment ``n``, counted from 0, is AES-256-GCM of its piece without associated data: ciphertext | tag (16 bytes).
Its nonce, which is not stored, is STREAM's::

    0     7   prefix, random, the same for all segments of a file
    7     4   n, big endian
    11    1   1 for the last segment, 0 for the others

so that a segment opens in its own place only, and a file that is cut short or goes on beyond its end does not open.

What belongs to the file as a whole is its head, canonical JSON, version 1::

    {"account", "file", "key", "kid", "kind", "prefix", "seal", "segment_bytes", "size", "v": 1}

``size`` counts the bytes of the file in plain, ``prefix`` and ``seal`` are lower-case hex, and ``key`` is the wrapped data key
as in :mod:`sluicegate.storage.envelope`. Account, kind, file and kid are not secret, so they must be opaque.

A data key is 32 random bytes and seals one file. HKDF-SHA256 with salt ``kid`` and info
``["sluicegate/file-key", 1, account, kind, file]`` yields 64 bytes: the AES key, then the key of the seal, which is
HMAC-SHA256 of ``["sluicegate/file", 1, account, kind, file, kid, prefix, segment_bytes, size]``, where ``[...]`` is canonical
JSON. The seal proves the head before anything is read by it, so that a range says the truth about the whole: its end cannot
be brought forward. It also commits to the data key, which GCM alone does not. It does not cover ``key``, so that the data key
can be wrapped anew without being known to have changed.

Not promised: who can write to the storage can delete files, put back what was deleted while its wrapping key lives, and,
if they can also wrap keys, forge new ones.

Ciphertext of every version stays readable; ``tests/vectors`` holds one of each.

Source: Tink, "AES-GCM-HKDF streaming AEAD"; Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance" (2015), STREAM; NIST SP 800-38D §8.2.1 (deterministic nonces); RFC 5869 (HKDF).
"""

from __future__ import annotations

import hmac
import json
import os
import re
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sluicegate.errors import SealBroken
from sluicegate.storage.envelope import SECRET_BYTES, canonical

TAG_BYTES = 16
PREFIX_BYTES = 7
MAX_SEGMENT_BYTES = 64 << 20
"""What opens a file holds a segment in memory."""
_COUNTER = struct.Struct(">IB")
_MOST = 2**32
_KID = re.compile(r"[0-9a-f]{24}")
_SEAL = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FilePlace:
    """Which file sealed bytes belong to; they open nowhere else.

    Attributes:
        kind: What the file is for, such as ``fine-tune`` or ``weights``: one segment of a name.
        kid: The data key's identifier.
    """

    account: str
    kind: str
    file: str
    kid: str


@dataclass(frozen=True, slots=True)
class Shape:
    """How a file is cut.

    Attributes:
        prefix: The beginning of every segment's nonce, 7 bytes.
        segment_bytes: Of every segment but the last, in plain.
        size: Of the whole file in plain, in bytes.
    """

    prefix: bytes
    segment_bytes: int
    size: int

    @property
    def segments(self) -> int:
        """How many there are, 1 at least."""
        return max(1, -(-self.size // self.segment_bytes))

    def sealed_bytes(self, number: int) -> int:
        """Return how long a segment is as it is stored."""
        return min(self.segment_bytes, self.size - number * self.segment_bytes) + TAG_BYTES


class FileKey:
    """One data key, bound to its file.

    Args:
        secret: 32 random bytes, used for one file only.
    """

    def __init__(self, secret: bytes, place: FilePlace) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a data key has {SECRET_BYTES} bytes")
        info = canonical(["sluicegate/file-key", 1, place.account, place.kind, place.file])
        derived = HKDF(SHA256(), 64, place.kid.encode(), info).derive(secret)
        self.place = place
        self._aead = AESGCM(derived[:32])
        self._seal_key = derived[32:]

    def seal(self, prefix: bytes, number: int, piece: bytes, *, is_last: bool) -> bytes:
        """Return a segment; no number may repeat under one prefix."""
        return self._aead.encrypt(_nonce(prefix, number, is_last), piece, None)

    def open(self, shape: Shape, number: int, segment: bytes) -> bytes:
        """Return the piece that was sealed as this segment of a file of this shape.

        Raises:
            SealBroken: It is another segment, another file's, or a byte of it was changed, added or lost.
        """
        if not 0 <= number < shape.segments or len(segment) != shape.sealed_bytes(number):
            raise SealBroken("a segment is not as long as its file's head says")
        try:
            return self._aead.decrypt(_nonce(shape.prefix, number, number == shape.segments - 1), segment, None)
        except InvalidTag:
            raise SealBroken("a segment was changed or moved") from None

    def seal_of(self, shape: Shape) -> str:
        """Return what proves, to holders of the data key, that the file has this shape."""
        place = self.place
        shaped = [shape.prefix.hex(), shape.segment_bytes, shape.size]
        message = canonical(["sluicegate/file", 1, place.account, place.kind, place.file, place.kid, *shaped])
        return hmac.digest(self._seal_key, message, "sha256").hex()


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says of itself; nothing of it is proven before ``check``.

    Attributes:
        key: The wrapped data key, as stored.
    """

    place: FilePlace
    shape: Shape
    seal: str
    key: bytes

    def check(self, file_key: FileKey) -> None:
        """Raise ``SealBroken`` unless this file has this shape, and was sealed under this key."""
        if self.place != file_key.place or not hmac.compare_digest(self.seal, file_key.seal_of(self.shape)):
            raise SealBroken("a file's head was changed, or belongs to another file")


def new_prefix() -> bytes:
    """Return a new file's nonce prefix."""
    return os.urandom(PREFIX_BYTES)


def written_head(head: Head) -> bytes:
    """Return a head as it is stored: canonical JSON, version 1."""
    return canonical(
        {
            "account": head.place.account,
            "file": head.place.file,
            "key": json.loads(head.key),
            "kid": head.place.kid,
            "kind": head.place.kind,
            "prefix": head.shape.prefix.hex(),
            "seal": head.seal,
            "segment_bytes": head.shape.segment_bytes,
            "size": head.shape.size,
            "v": 1,
        }
    )


def read_head(data: bytes) -> Head:
    """Return a stored head.

    Raises:
        SealBroken: It is not exactly one well-formed head of a known version.
    """
    try:
        fields = json.loads(data)
        if fields["v"] != 1:
            raise SealBroken("a file of a version that this release does not know")
        place = FilePlace(*(_text(fields[name]) for name in ("account", "kind", "file", "kid")))
        size, segment_bytes = _count(fields["size"]), _count(fields["segment_bytes"])
        shape = Shape(bytes.fromhex(_text(fields["prefix"])), segment_bytes, size)
        head = Head(place, shape, _text(fields["seal"]), canonical(fields["key"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SealBroken("a file's head cannot be read") from None
    if len(shape.prefix) != PREFIX_BYTES or not 0 < segment_bytes <= MAX_SEGMENT_BYTES or shape.segments > _MOST:
        raise SealBroken("a file's head describes no file")
    if not (_KID.fullmatch(place.kid) and _SEAL.fullmatch(head.seal)) or written_head(head) != data:
        raise SealBroken("a file's head is not written as it must be")
    return head


def _nonce(prefix: bytes, number: int, is_last: bool) -> bytes:
    return prefix + _COUNTER.pack(number, is_last)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a lone surrogate is no text either
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("not a count")
    return value
