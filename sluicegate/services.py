"""The two services that plugins provide: where blobs live, and who holds the keys.

``open_storage`` and ``open_keys`` return them; conformance suites are in :mod:`sluicegate.testing`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_SEGMENT = r"[A-Za-z0-9](?:[A-Za-z0-9._=@+-]{0,198}[A-Za-z0-9_=@+-])?"
_BLOB = re.compile(rf"(?=.{{1,1024}}\Z){_SEGMENT}(?:/{_SEGMENT})*")
_KEY = re.compile(r"[a-z0-9-]{1,100}")
_REFERENCE = re.compile(r"([A-Za-z0-9-]{1,127})(?:/([A-Za-z0-9]{1,64}))?")


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob's bytes and its ETag at the time of reading."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A line of a listing; ``size`` in bytes."""

    name: str
    size: int


class BlobStore(Protocol):
    """Containers of named blobs, strongly consistent, with ETags.

    Container names are 3 to 63 of ``a-z0-9-``, blob names at most 1,024 characters in segments joined by ``/``, each
    ``[A-Za-z0-9][A-Za-z0-9._=@+-]{0,199}`` without a dot at its end; anything else is a ``ValueError`` from
    :func:`check_names`. ``a`` and ``a/b`` are two blobs. A write is durable when the call returns. Every method
    raises ``StorageUnavailable`` when the store cannot be reached, is full or is read-only.
    """

    async def put(
        self, container: str, name: str, data: bytes, *, create: bool = False, if_match: str | None = None
    ) -> str:
        """Write a blob, making its container when there is none, and return the new ETag.

        Args:
            create: Fail with ``BlobExists`` when the name is taken.
            if_match: Fail with ``BlobChanged`` unless the blob has this ETag.
        """
        ...

    async def get(self, container: str, name: str, *, offset: int = 0, length: int | None = None) -> Blob:
        """Read a blob or a range of it; ``BlobNotFound`` when it, or its container, does not exist.

        A range that begins beyond the end is empty.
        """
        ...

    def list(self, container: str, prefix: str = "", *, after: str = "") -> AsyncIterator[BlobInfo]:
        """Yield blobs in name order, those greater than ``after``; nothing when the container does not exist."""
        ...

    async def delete(self, container: str, name: str, *, if_match: str | None = None) -> None:
        """Delete a blob; ``BlobNotFound`` when there is none, ``BlobChanged`` when its ETag differs."""
        ...

    async def containers(self, prefix: str = "") -> tuple[str, ...]:
        """Return the names of the containers that begin with ``prefix``, sorted."""
        ...

    async def drop(self, container: str) -> bool:
        """Delete a container with all its blobs in one call; False when there was none."""
        ...

    async def weaknesses(self) -> tuple[str, ...]:
        """Return what makes a deletion less than final here, a sentence each; see ``KeyService.weaknesses``.

        To find out, a container of its own may be made and dropped.
        """
        ...

    async def close(self) -> None:
        """Release connections. The store is not used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key that only the key service can open.

    Attributes:
        key_id: The wrapping key's identifier; it ends in ``NAME/VERSION``.
        algorithm: ``A256KW`` or ``RSA-OAEP-256``.
        ciphertext: The wrapped bytes.
    """

    key_id: str
    algorithm: str
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that anybody can check with the key's public half.

    Attributes:
        key_id: The signing key's identifier; it ends in ``NAME/VERSION``.
        algorithm: ``ES256``: ECDSA on P-256 over the data's SHA-256.
        value: 64 bytes, r and s (RFC 7518 §3.4).
    """

    key_id: str
    algorithm: str
    value: bytes


class KeyService(Protocol):
    """Named keys that wrap data keys or sign, and never leave the service.

    Names match ``[a-z0-9-]{1,100}``; anything else is a ``ValueError`` from :func:`check_key_name`. A key that somebody
    else made is meant by a reference, ``NAME`` or ``NAME/VERSION``, see :func:`key_reference`. A key is made for
    wrapping or for signing by its first use. Every method raises ``KeyUnavailable`` when the service cannot be reached or
    the key is of the wrong kind, and ``KeyRefused``, which is one, when the service answers that the key may not be used.
    """

    async def create(self, name: str) -> None:
        """Make a key for wrapping; no-op when it exists."""
        ...

    async def wrap(self, name: str, secret: bytes, *, create: bool = True) -> WrappedKey:
        """Wrap a 32-byte data key under a key's latest version, making the key first when there is none.

        Args:
            create: False for a key that somebody else made: ``name`` is then a reference, and nothing is made.

        Raises:
            KeyNotFound: ``create`` is False, and there is no such key or version.
        """
        ...

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Return the data key.

        Raises:
            KeyNotFound: The wrapping key was destroyed, even if a key of the same name was made since.
            SealBroken: The ciphertext was changed.
        """
        ...

    async def sign(self, name: str, data: bytes) -> Signature:
        """Sign under a key's latest version, making the key first when there is none."""
        ...

    async def public_key(self, name: str) -> dict[str, str]:
        """Return the public half of a signing key as a JSON Web Key, for checking signatures without this service.

        Args:
            name: A reference; a signature's ``key_id`` ends in the one for the version that made it.

        Returns:
            ``kty``, ``crv``, ``x``, ``y``, ``alg``, and the key's identifier as ``kid``.

        Raises:
            KeyNotFound: There is no such key or version; none is made.
        """
        ...

    async def destroy(self, name: str) -> bool:
        """Destroy all versions of a key for good; True when it is proven absent, recoverable states included."""
        ...

    async def recoverable_until(self, name: str) -> datetime | None:
        """Return until when a deleted key can be brought back; None when it cannot, or was never deleted."""
        ...

    async def names(self, prefix: str = "") -> tuple[str, ...]:
        """Return the names of the keys that begin with ``prefix``, sorted; deleted ones as long as they are recoverable."""
        ...

    async def weaknesses(self) -> tuple[str, ...]:
        """Return what makes ``destroy`` less than final here, a sentence each, for start-up checks and receipts.

        What comes before a sentence's colon names the weakness; that is what an operator accepts.
        Nothing is made or destroyed to find out, so a service that holds no key yet may know less than later.
        """
        ...

    async def close(self) -> None:
        """Release connections. The service is not used afterwards."""
        ...


def check_names(container: str, name: str | None = None) -> None:
    """Raise ``ValueError`` unless every blob store can hold a container, or a blob, of that name.

    Source: Microsoft Learn, "Naming and referencing containers, blobs, and metadata".
    """
    if not _CONTAINER.fullmatch(container):
        raise ValueError(f"container name {container!r}: 3 to 63 lower-case letters, digits and single hyphens")
    if name is not None and not _BLOB.fullmatch(name):
        raise ValueError(f"blob name {name!r}: segments of letters, digits and ._=@+- joined by /")


def check_key_name(name: str) -> None:
    """Raise ``ValueError`` unless every key service can hold a key of that name."""
    if not _KEY.fullmatch(name):
        raise ValueError(f"key name {name!r}: 1 to 100 lower-case letters, digits and hyphens")


def key_reference(reference: str) -> tuple[str, str]:
    """Return name and version of a key that somebody else made; the version is empty for the latest.

    The name of a customer's key in their own vault, ``[A-Za-z0-9-]{1,127}``, alone or with ``/VERSION``: what ARM calls
    ``keyVaultProperties.keyName`` and ``keyVersion``. Raises ``ValueError`` for anything else.

    Source: Microsoft Learn, "Azure Key Vault keys, secrets and certificates overview", object identifiers.
    """
    if match := _REFERENCE.fullmatch(reference):
        return match[1], match[2] or ""
    raise ValueError(f"key reference {reference!r}: a name of letters, digits and hyphens, alone or with /VERSION")
