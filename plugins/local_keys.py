"""Keys in a local folder: the embedded default. Each key is 256 random bits in a file of its own, as a JSON Web Key.

Below ``folder:PATH``::

    {name}.jwk         {"kty": "oct", "k", "kid": "{name}/{version}", "key_ops": ["wrapKey", "unwrapKey"]}, mode 0600
    .{name}.new        a key that is being made; never used
    .lock              held while keys are made and destroyed

Wrapping is A256KW (RFC 3394) by azure-keyvault-keys' own ``CryptographyClient``, without any network. No key is cached,
so a key that one process destroyed opens nothing in any other.

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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sluicegate import hookimpl
from sluicegate.errors import KeyNotFound, KeyUnavailable, SealBroken, StartupError
from sluicegate.services import KeyService, WrappedKey, check_key_name

if TYPE_CHECKING:
    from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

ALGORITHM = "A256KW"
KEY_BYTES = 32
_SCHEME = "folder:"
_SUFFIX = ".jwk"

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

    async def create(self, name: str) -> None:
        check_key_name(name)
        await _run(self._create, name)

    async def wrap(self, name: str, secret: bytes) -> WrappedKey:
        check_key_name(name)
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes")
        return await _run(self._wrap, name, secret)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        if wrapped.algorithm != ALGORITHM:
            raise SealBroken("a wrapped key names an algorithm that this key service does not have")
        return await _run(self._unwrap, wrapped)

    async def destroy(self, name: str) -> bool:
        check_key_name(name)
        return await _run(self._destroy, name)

    async def names(self, prefix: str = "") -> tuple[str, ...]:
        return await _run(self._names, prefix)

    async def close(self) -> None:
        """Nothing is held between calls."""

    def _create(self, name: str) -> None:
        path = self._path(name)
        if path.exists():
            return
        with self._locked():
            if path.exists():
                return
            staged = self._staged(name)
            _write(staged, json.dumps(_new_key(name)).encode())
            staged.rename(path)
            _flush(self._folder)

    def _wrap(self, name: str, secret: bytes) -> WrappedKey:
        jwk = self._read(name)
        if jwk is None:
            self._create(name)
            jwk = self._read(name)
        if jwk is None:
            raise KeyUnavailable(f"key {name!r} is being destroyed")
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
        if jwk is None or jwk["kid"] != wrapped.key_id:
            raise KeyNotFound(wrapped.key_id)
        try:
            return _client(jwk).unwrap_key(_algorithm(), wrapped.ciphertext).key
        except InvalidUnwrap:
            raise SealBroken("a wrapped key was changed") from None

    def _destroy(self, name: str) -> bool:
        paths = (self._path(name), self._staged(name))
        with self._locked():
            for path in paths:
                _shred(path)
            _flush(self._folder)
            return not any(path.exists() for path in paths)

    def _names(self, prefix: str) -> tuple[str, ...]:
        names = (path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))
        return tuple(sorted(name for name in names if name.startswith(prefix)))

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
            if jwk["kty"] == "oct" and len(_decoded(jwk["k"])) == KEY_BYTES and jwk["kid"].startswith(f"{name}/"):
                return jwk
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise KeyUnavailable(f"the file of key {name!r} is damaged")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    def _staged(self, name: str) -> Path:
        return self._folder / f".{name}.new"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, among processes and threads."""
        self._folder.mkdir(0o700, parents=True, exist_ok=True)
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


def _new_key(name: str) -> dict[str, Any]:
    secret = base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).rstrip(b"=").decode()
    return {"kty": "oct", "kid": f"{name}/{secrets.token_hex(16)}", "k": secret, "key_ops": ["wrapKey", "unwrapKey"]}


def _client(jwk: dict[str, Any]) -> CryptographyClient:
    # Slow to import, and only some deployments keep their keys here.
    from azure.keyvault.keys.crypto import CryptographyClient

    return CryptographyClient.from_jwk({**jwk, "k": _decoded(jwk["k"])})


def _algorithm() -> KeyWrapAlgorithm:
    from azure.keyvault.keys.crypto import KeyWrapAlgorithm

    return KeyWrapAlgorithm.aes_256


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
