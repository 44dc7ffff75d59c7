"""Keys in a local folder: the embedded default. Each key is a JSON Web Key in a file of its own.

Below ``folder:PATH``::

    {name}.jwk         {"kty": "oct", "k", "kid": "{name}/{version}", "key_ops": ["wrapKey", "unwrapKey"]}, mode 0600,
                       or {"kty": "EC", "crv": "P-256", "d", "x", "y", "kid", "key_ops": ["sign", "verify"]}
    .new               a key that is being made; never used
    .lock              held while keys are made and destroyed

Wrapping is A256KW (RFC 3394) and signing ES256, by azure-keyvault-keys' own ``CryptographyClient``, without any network.
No key is cached, so a key that one process destroyed opens nothing in any other.

Whoever reads the folder reads everything: it protects what leaves it behind, such as copies of the storage. ``destroy``
overwrites, unlinks and flushes; file systems that copy on write, snapshots, backups and worn flash cells may keep the old
bytes, so leave this folder out of backups.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sluicegate import hookimpl
from sluicegate.errors import KeyNotFound, KeyUnavailable, SealBroken, StartupError
from sluicegate.services import KeyService, Signature, WrappedKey, check_key_name, key_reference

if TYPE_CHECKING:
    from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

ALGORITHM = "A256KW"
KEY_BYTES = 32
_SCHEME = "folder:"
_SUFFIX = ".jwk"
_WRAPPING = "oct"
_SIGNING = "EC"
_PARTS = {_WRAPPING: ("k",), _SIGNING: ("d", "x", "y")}
"""Type of key -> its members in bytes, each of ``KEY_BYTES``."""

P = ParamSpec("P")
T = TypeVar("T")


@hookimpl
def open_keys(url: str) -> KeyService | None:
    """Open ``folder:PATH``; the folder is made with the first key."""
    if not url.startswith(_SCHEME):
        return None
    if url == _SCHEME:
        raise StartupError("the key URL 'folder:' names no folder")
    return LocalKeys(Path(url.removeprefix(_SCHEME)).expanduser().absolute())


class LocalKeys:
    """A ``KeyService`` for any number of processes on one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._staged = folder / ".new"

    async def create(self, name: str) -> None:
        check_key_name(name)
        await _run(self._create, name, _WRAPPING)

    async def wrap(self, name: str, secret: bytes, *, create: bool = True) -> WrappedKey:
        if create:
            check_key_name(name)
        else:
            key_reference(name)
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes")
        return await _run(self._wrap, name, secret, create)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        if wrapped.algorithm != ALGORITHM:
            raise SealBroken("a wrapped key names an algorithm that this key service does not have")
        return await _run(self._unwrap, wrapped)

    async def sign(self, name: str, data: bytes) -> Signature:
        check_key_name(name)
        return await _run(self._sign, name, data)

    async def public_key(self, name: str) -> dict[str, str]:
        key_reference(name)
        return await _run(self._public_key, name)

    async def destroy(self, name: str) -> bool:
        check_key_name(name)
        return await _run(self._destroy, name)

    async def recoverable_until(self, name: str) -> datetime | None:
        check_key_name(name)
        return None

    async def names(self, prefix: str = "") -> tuple[str, ...]:
        return await _run(self._names, prefix)

    async def weaknesses(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        """Nothing is held between calls."""

    def _create(self, name: str, kind: str) -> None:
        path = self._path(name)
        if path.exists():
            return
        with self._locked():
            if path.exists():
                return
            _write(self._staged, json.dumps(_new_key(name, kind)).encode())
            self._staged.rename(path)
            _flush(self._folder)

    def _wrap(self, reference: str, secret: bytes, create: bool) -> WrappedKey:
        jwk = self._find(reference, _WRAPPING, create=create)
        wrapped = _client(jwk).wrap_key(_algorithm(), secret)
        return WrappedKey(jwk["kid"], ALGORITHM, wrapped.encrypted_key)

    def _unwrap(self, wrapped: WrappedKey) -> bytes:
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap

        name = wrapped.key_id.partition("/")[0]
        try:
            check_key_name(name)
        except ValueError:
            raise KeyNotFound("no key has such an id") from None
        jwk = self._read(name)
        if jwk is None or jwk["kid"] != wrapped.key_id or jwk["kty"] != _WRAPPING:
            raise KeyNotFound(wrapped.key_id)
        try:
            return _client(jwk).unwrap_key(_algorithm(), wrapped.ciphertext).key
        except InvalidUnwrap:
            raise SealBroken("a wrapped key was changed") from None

    def _sign(self, name: str, data: bytes) -> Signature:
        from azure.keyvault.keys.crypto import SignatureAlgorithm

        jwk = self._find(name, _SIGNING, create=True)
        signed = _client(jwk).sign(SignatureAlgorithm.es256, sha256(data).digest())
        return Signature(jwk["kid"], "ES256", signed.signature)

    def _public_key(self, reference: str) -> dict[str, str]:
        jwk = self._find(reference, _SIGNING, create=False)
        return {"alg": "ES256", **{member: jwk[member] for member in ("kty", "crv", "x", "y", "kid")}}

    def _destroy(self, name: str) -> bool:
        paths = (self._path(name), self._staged)
        with self._locked():
            for path in paths:
                _shred(path)
            _flush(self._folder)
            return not any(path.exists() for path in paths)

    def _names(self, prefix: str) -> tuple[str, ...]:
        names = (path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))
        return tuple(sorted(name for name in names if name.startswith(prefix)))

    def _find(self, reference: str, kind: str, *, create: bool) -> dict[str, Any]:
        name, version = key_reference(reference)
        jwk = self._read(name)
        if jwk is None and create:
            self._create(name, kind)
            jwk = self._read(name)
            if jwk is None:
                raise KeyUnavailable(f"key {name!r} is being destroyed")
        if jwk is None or version not in ("", jwk["kid"].partition("/")[2]):
            raise KeyNotFound(f"there is no key {reference!r} in that folder")
        if jwk["kty"] != kind:
            raise KeyUnavailable(f"key {name!r} is of type {jwk['kty']}, and this needs {kind}: use another name")
        return jwk

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return the key's JWK, or None when there is none or its destruction has begun."""
        try:
            raw = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        if not raw.strip(b"\0"):
            return None
        try:
            jwk: dict[str, Any] = json.loads(raw)
            # Without "k" the SDK would wrap with a random key that nobody keeps.
            sizes = {len(_decoded(jwk[part])) for part in _PARTS[jwk["kty"]]}
            on_curve = jwk["kty"] != _SIGNING or jwk["crv"] == "P-256"
            if sizes == {KEY_BYTES} and on_curve and jwk["kid"].startswith(f"{name}/"):
                return jwk
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise _damaged(name)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, among processes and threads."""
        missing = takewhile(lambda folder: not folder.exists(), (self._folder, *self._folder.parents))
        for folder in reversed(list(missing)):
            # One by one, because what is made on the way is nobody else's either.
            folder.mkdir(0o700, exist_ok=True)
        fd = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


async def _run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await asyncio.to_thread(partial(work, *args, **kwargs))
    except OSError as error:
        # An OSError's own message quotes the path.
        raise KeyUnavailable(f"the key folder: {error.strerror or type(error).__name__}") from None


def _new_key(name: str, kind: str) -> dict[str, Any]:
    kid = f"{name}/{secrets.token_hex(16)}"
    if kind == _WRAPPING:
        return {"kty": kind, "kid": kid, "k": _encoded(os.urandom(KEY_BYTES)), "key_ops": ["wrapKey", "unwrapKey"]}
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    numbers = {"d": private.private_value, "x": private.public_numbers.x, "y": private.public_numbers.y}
    parts = {part: _encoded(number.to_bytes(KEY_BYTES)) for part, number in numbers.items()}
    return {"kty": kind, "crv": "P-256", "kid": kid, **parts, "key_ops": ["sign", "verify"]}


def _client(jwk: dict[str, Any]) -> CryptographyClient:
    # Slow to import, and only some deployments keep their keys here.
    from azure.keyvault.keys.crypto import CryptographyClient

    try:
        return CryptographyClient.from_jwk(jwk | {part: _decoded(jwk[part]) for part in _PARTS[jwk["kty"]]})
    except ValueError:
        raise _damaged(jwk["kid"].partition("/")[0]) from None


def _algorithm() -> KeyWrapAlgorithm:
    from azure.keyvault.keys.crypto import KeyWrapAlgorithm

    return KeyWrapAlgorithm.aes_256


def _damaged(name: str) -> KeyUnavailable:
    return KeyUnavailable(f"the file of key {name!r} is damaged")


def _encoded(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def _shred(path: Path) -> None:
    with suppress(FileNotFoundError):
        with open(path, "r+b", buffering=0) as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            os.fsync(file.fileno())
        path.unlink()


def _flush(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
