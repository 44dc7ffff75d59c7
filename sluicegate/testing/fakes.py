"""Stand-ins that keep everything in memory: a blob store, a key service, a clock."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, KeyNotFound, KeyUnavailable, SealBroken
from sluicegate.services import Blob, BlobInfo, Signature, WrappedKey, check_key_name, check_names, key_reference


class MemoryStorage:
    """A ``BlobStore`` that holds to the whole contract and forgets everything with the process."""

    def __init__(self) -> None:
        self._containers: dict[str, dict[str, Blob]] = {}
        self._writes = 0

    async def put(
        self, container: str, name: str, data: bytes, *, create: bool = False, if_match: str | None = None
    ) -> str:
        check_names(container, name)
        old = self._containers.get(container, {}).get(name)
        if create and old is not None:
            raise BlobExists(f"{container}/{name}")
        if if_match is not None and (old is None or old.etag != if_match):
            raise BlobChanged(f"{container}/{name}")
        self._writes += 1
        blob = Blob(bytes(data), f"{self._writes:x}")
        self._containers.setdefault(container, {})[name] = blob
        return blob.etag

    async def get(self, container: str, name: str, *, offset: int = 0, length: int | None = None) -> Blob:
        check_names(container, name)
        blob = self._containers.get(container, {}).get(name)
        if blob is None:
            raise BlobNotFound(f"{container}/{name}")
        return Blob(blob.data[offset : None if length is None else offset + length], blob.etag)

    async def list(self, container: str, prefix: str = "", *, after: str = "") -> AsyncIterator[BlobInfo]:
        check_names(container)
        for name, blob in sorted(self._containers.get(container, {}).items()):
            if name.startswith(prefix) and name > after:
                yield BlobInfo(name, len(blob.data))

    async def delete(self, container: str, name: str, *, if_match: str | None = None) -> None:
        check_names(container, name)
        blob = self._containers.get(container, {}).get(name)
        if blob is None:
            raise BlobNotFound(f"{container}/{name}")
        if if_match is not None and blob.etag != if_match:
            raise BlobChanged(f"{container}/{name}")
        del self._containers[container][name]

    async def containers(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(name for name in self._containers if name.startswith(prefix)))

    async def drop(self, container: str) -> bool:
        check_names(container)
        return self._containers.pop(container, None) is not None

    async def weaknesses(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        """Keep everything: another test may look at it."""


class MemoryKeys:
    """A ``KeyService`` whose keys live in this object only."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[str, bytes | ec.EllipticCurvePrivateKey]] = {}

    async def create(self, name: str) -> None:
        check_key_name(name)
        self._keys.setdefault(name, (f"{name}/{secrets.token_hex(8)}", os.urandom(32)))

    async def wrap(self, name: str, secret: bytes, *, create: bool = True) -> WrappedKey:
        if len(secret) != 32:
            raise ValueError("a data key has 32 bytes")
        if create:
            await self.create(name)
        key_id, key = self._found(name)
        if not isinstance(key, bytes):
            raise KeyUnavailable(f"key {name!r} is for signing")
        return WrappedKey(key_id, "A256KW", aes_key_wrap(key, secret))

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        key_id, key = self._keys.get(wrapped.key_id.partition("/")[0], ("", b""))
        if key_id != wrapped.key_id or not isinstance(key, bytes):
            raise KeyNotFound(wrapped.key_id)
        try:
            return aes_key_unwrap(key, wrapped.ciphertext)
        except InvalidUnwrap:
            raise SealBroken("a wrapped key was changed") from None

    async def sign(self, name: str, data: bytes) -> Signature:
        check_key_name(name)
        self._keys.setdefault(name, (f"{name}/{secrets.token_hex(8)}", ec.generate_private_key(ec.SECP256R1())))
        key_id, key = self._found(name)
        if isinstance(key, bytes):
            raise KeyUnavailable(f"key {name!r} is for wrapping")
        halves = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
        return Signature(key_id, "ES256", b"".join(half.to_bytes(32) for half in halves))

    async def public_key(self, name: str) -> dict[str, str]:
        key_id, key = self._found(name)
        if isinstance(key, bytes):
            raise KeyUnavailable(f"key {name!r} is for wrapping")
        point = key.public_key().public_numbers()
        x, y = (base64.urlsafe_b64encode(part.to_bytes(32)).rstrip(b"=").decode() for part in (point.x, point.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256", "kid": key_id}

    async def destroy(self, name: str) -> bool:
        check_key_name(name)
        self._keys.pop(name, None)
        return True

    async def recoverable_until(self, name: str) -> datetime | None:
        check_key_name(name)
        return None

    async def names(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(name for name in self._keys if name.startswith(prefix)))

    async def weaknesses(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        """Keep everything: another test may look at it."""

    def _found(self, reference: str) -> tuple[str, bytes | ec.EllipticCurvePrivateKey]:
        name, version = key_reference(reference)
        key_id, key = self._keys.get(name, ("", b""))
        if not key_id or version not in ("", key_id.partition("/")[2]):
            raise KeyNotFound(reference)
        return key_id, key


class FrozenClock:
    """A clock that moves when told to: pass it wherever a ``clock`` is asked for.

    Args:
        now: Aware; 2026-01-01 12:00 UTC unless given.
    """

    def __init__(self, now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> datetime:
        """Move on, and return the new time."""
        self.now += by
        return self.now
