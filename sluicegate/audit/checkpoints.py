"""Checkpoints: what the audit log was at one size, signed, so that anyone can hold the log to it.

The signed text is the first three lines of a C2SP tlog-checkpoint, in ASCII, each ended by a line feed::

    origin      the log's name, 1 to 200 visible characters
    size        how many entries it has, in decimal
    root        their RFC 9162 Merkle root, in base64

It is signed with ES256 (ECDSA on P-256 over SHA-256, RFC 7518 §3.4) by the key service's key ``audit``. A checkpoint
travels as JSON: ``{"algorithm": "ES256", "key_id", "signature": base64 of r | s, 64 bytes, "text"}``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from sluicegate.audit.merkle import HASH_BYTES
from sluicegate.errors import KeyNotFound, SealBroken
from sluicegate.services import KeyService

KEY_NAME = "audit"
ALGORITHM = "ES256"
_ORIGIN = re.compile(r"[!-~]{1,200}")
_TEXT = re.compile(r"([!-~]{1,200})\n(0|[1-9][0-9]{0,11})\n([A-Za-z0-9+/]{43}=)\n")
_COORDINATE = 32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement of the log's size and root; nothing of it is proven before :func:`check_signature`."""

    origin: str
    size: int
    root: bytes
    key_id: str
    signature: bytes

    @property
    def text(self) -> str:
        return checkpoint_text(self.origin, self.size, self.root)

    @property
    def document(self) -> dict[str, str]:
        """The checkpoint as it travels."""
        return {
            "algorithm": ALGORITHM,
            "key_id": self.key_id,
            "signature": base64.b64encode(self.signature).decode(),
            "text": self.text,
        }


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """Return what is signed."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def read_checkpoint(document: Any) -> Checkpoint:
    """Return what a checkpoint says.

    Raises:
        SealBroken: It is not exactly one well-formed checkpoint.
    """
    if not isinstance(document, Mapping) or set(document) != {"algorithm", "key_id", "signature", "text"}:
        raise SealBroken("a checkpoint has algorithm, key_id, signature and text")
    algorithm, key_id, signature, text = (document[name] for name in ("algorithm", "key_id", "signature", "text"))
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None or not isinstance(key_id, str) or algorithm != ALGORITHM:
        raise SealBroken("the checkpoint cannot be read")
    root = decoded(match[3], HASH_BYTES)
    return Checkpoint(match[1], int(match[2]), root, key_id, decoded(signature, 2 * _COORDINATE))


def check_signature(checkpoint: Checkpoint, jwk: Mapping[str, Any]) -> None:
    """Check who signed a checkpoint.

    Args:
        jwk: The public key, as a JSON Web Key with a ``kid`` (RFC 7517).

    Raises:
        ValueError: The JWK is not a P-256 key with a ``kid``.
        OtherKey: The checkpoint names another key.
        SealBroken: The signature does not fit.
    """
    key = _public_key(jwk)
    if checkpoint.key_id != jwk["kid"]:
        raise OtherKey("the checkpoint was signed with another key")
    r, s = (int.from_bytes(part) for part in (checkpoint.signature[:_COORDINATE], checkpoint.signature[_COORDINATE:]))
    try:
        key.verify(encode_dss_signature(r, s), checkpoint.text.encode(), ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise SealBroken("the checkpoint's signature does not fit its text") from None


class OtherKey(SealBroken):
    """A checkpoint names another key than the one it is checked with."""


class LogKey:
    """Signs checkpoints of one log, and tells its own from others.

    Args:
        origin: The log's name, for ever: 1 to 200 visible ASCII characters.
    """

    def __init__(self, keys: KeyService, origin: str) -> None:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError("a log's origin has 1 to 200 visible ASCII characters and no spaces")
        self.origin = origin
        self._keys = keys
        self._public: dict[str, dict[str, str]] = {}

    async def sign(self, size: int, root: bytes) -> Checkpoint:
        """Sign the log's state; ``KeyUnavailable`` when the key service cannot."""
        signature = await self._keys.sign(KEY_NAME, checkpoint_text(self.origin, size, root).encode())
        if signature.algorithm != ALGORITHM:
            raise ValueError(f"checkpoints are signed with {ALGORITHM}, not {signature.algorithm}")
        return Checkpoint(self.origin, size, root, signature.key_id, signature.value)

    async def check(self, checkpoint: Checkpoint) -> bool:
        """Check a checkpoint that was stored; False when its key is none of the log's, or is no more.

        Raises:
            SealBroken: It is another log's, or its signature does not fit.
        """
        if checkpoint.origin != self.origin:
            raise SealBroken(f"a checkpoint of the log {checkpoint.origin!r} is not one of {self.origin!r}")
        try:
            check_signature(checkpoint, await self.public(checkpoint.key_id))
        except (OtherKey, KeyNotFound):
            return False
        return True

    async def public(self, key_id: str | None = None) -> dict[str, str]:
        """Return the public half of the version that a ``key_id`` names, or of the newest.

        Raises:
            KeyNotFound: There is none; before the first signature there is no key.
        """
        if key_id is None:
            return await self._keys.public_key(KEY_NAME)
        if key_id not in self._public:
            try:
                found = await self._keys.public_key(f"{KEY_NAME}/{key_id.rpartition('/')[2]}")
            except ValueError:
                raise KeyNotFound("no key has such an id") from None
            if found["kid"] != key_id:
                raise KeyNotFound("no key has such an id")
            self._public[key_id] = found
        return self._public[key_id]


def decoded(text: object, size: int) -> bytes:
    """Return ``size`` bytes from base64 in its one canonical form; ``SealBroken`` when it is anything else."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (ValueError, binascii.Error):
        data = b""
    # Python ignores the unused bits of the last character, so several texts would stand for the same bytes.
    if len(data) != size or base64.b64encode(data).decode() != text:
        raise SealBroken(f"not {size} bytes in base64")
    return data


def _public_key(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    try:
        if (jwk["kty"], jwk["crv"]) != ("EC", "P-256") or not jwk["kid"] or not isinstance(jwk["kid"], str):
            raise ValueError("kty")
        x, y = (base64.urlsafe_b64decode(jwk[name] + "=" * (-len(jwk[name]) % 4)) for name in ("x", "y"))
        if (len(x), len(y)) != (_COORDINATE, _COORDINATE):
            raise ValueError("coordinates")
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()
    except (ValueError, KeyError, TypeError):
        raise ValueError("the public key must be a JSON Web Key of type EC on P-256, with kid, x and y") from None
