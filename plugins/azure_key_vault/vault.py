"""One vault as a ``KeyService``."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from plugins.azure_key_vault.connection import UNWRAP, asking, connect, is_absent
from plugins.azure_key_vault.rules import (
    CURVE,
    RSA_BITS,
    check_signing_key,
    check_wrapping_key,
    is_purge_protected,
    public_jwk,
    weaknesses_of,
)
from sluicegate.errors import KeyNotFound, SealBroken
from sluicegate.services import Signature, WrappedKey, check_key_name, key_reference
from sluicegate.types import utc_now

if TYPE_CHECKING:
    from azure.keyvault.keys import KeyOperation, KeyVaultKey
    from azure.keyvault.keys.aio import KeyClient
    from azure.keyvault.keys.crypto import CryptographyClient
    from azure.keyvault.keys.crypto.aio import CryptographyClient as RemoteClient

    from plugins.azure_key_vault.connection import Credential

ALGORITHM = "RSA-OAEP-256"
SECRET_BYTES = 32
WRAPPED_BYTES = RSA_BITS // 8
FRESH = timedelta(minutes=4)
"""For so long a key's state is taken for what it was when read."""
WITHIN_S = 8
"""Less than the 10 seconds that an answer waits for its record."""
AT_LENGTH_S = 60
"""For what timers do."""
PAUSE_S = 2
ROUNDS = 20
CACHED = 64
_REPEATED: dict[str, Any] = {"retry_on_methods": ("GET", "POST")}
"""All that is posted may be posted again; the most that comes of it is one more version of a new key."""
_SIGNING = "sign with"
_WRAPPING = "wrap with"
_MAY_DELETE = "this identity may not delete keys (vaults/keys/delete): it can destroy none"
_MAY_PURGE = "this identity may not purge keys (vaults/keys/purge/action): a deleted key can be recovered"
_MAY_BACK_UP = "this identity may back keys up (vaults/keys/backup/action): a backup outlives its key"

Outcome: TypeAlias = Literal["done", "absent", "busy", "refused"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A key as it was at ``read_at``, and a client that wraps with it without any network."""

    key: KeyVaultKey
    client: CryptographyClient
    read_at: datetime


class KeyVault:
    """A ``KeyService`` over the SDK's asynchronous client, which is connected on first use.

    Args:
        url: ``https://HOST``, in lower case.
        identity: Client id of the identity that asks; None for the app's own.
        clock: Returns the present, aware.
        within_s: Seconds that a request waits for the vault, retries included.
        pause_s: Seconds between two looks at a key that is being deleted.
    """

    def __init__(
        self,
        url: str,
        *,
        identity: str | None = None,
        clock: Callable[[], datetime] = utc_now,
        within_s: float = WITHIN_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._url = url
        self._identity = identity
        self._clock = clock
        self._within_s = within_s
        self._pause_s = pause_s
        self._key_id = re.compile(re.escape(url) + r"/keys/([A-Za-z0-9-]{1,127})/([0-9a-f]{32})", re.IGNORECASE)
        self._connected: tuple[KeyClient, Credential] | None = None
        self._reading = asyncio.Lock()
        self._seen: dict[str, _Seen] = {}
        self._remote: dict[tuple[str, str], RemoteClient] = {}

    async def create(self, name: str) -> None:
        check_key_name(name)
        async with self._asking("create", name), self._reading:
            await self._get_or_make(name, self._make_wrapping_key)

    async def wrap(self, name: str, secret: bytes, *, create: bool = True) -> WrappedKey:
        from azure.keyvault.keys.crypto import KeyWrapAlgorithm

        if create:
            check_key_name(name)
        else:
            key_reference(name)
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a data key has {SECRET_BYTES} bytes")
        seen = self._fresh(name) or await self._see(name, create)
        check_wrapping_key(seen.key, self._clock())
        wrapped = seen.client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret)
        return WrappedKey(seen.key.id, ALGORITHM, wrapped.encrypted_key)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        from azure.keyvault.keys.crypto import KeyWrapAlgorithm

        if wrapped.algorithm != ALGORITHM or len(wrapped.ciphertext) != WRAPPED_BYTES:
            raise SealBroken(f"a wrapped key is not {ALGORITHM} of {WRAPPED_BYTES} bytes")
        # Whoever can write to the storage chooses the id: it must not choose the host that gets our token.
        match = self._key_id.fullmatch(wrapped.key_id)
        if match is None:
            raise KeyNotFound(f"no key in {self._url} has such an id")
        name, version = match.groups()
        async with self._asking(UNWRAP, name):
            client = self._remotely(name, version)
            unwrapped = await client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped.ciphertext, **_REPEATED)
        return unwrapped.key

    async def sign(self, name: str, data: bytes) -> Signature:
        from azure.keyvault.keys.crypto import SignatureAlgorithm

        check_key_name(name)
        async with self._asking(_SIGNING, name):
            async with self._reading:
                key = await self._get_or_make(name, self._make_signing_key)
            check_signing_key(key)
            client = self._remotely(name, str(key.properties.version))
            signed = await client.sign(SignatureAlgorithm.es256, sha256(data).digest(), **_REPEATED)
        return Signature(str(key.id), "ES256", signed.signature)

    async def public_key(self, name: str) -> dict[str, str]:
        of, version = key_reference(name)
        async with self._asking("read", name):
            return public_jwk(await self._client().get_key(of, version))

    async def destroy(self, name: str) -> bool:
        check_key_name(name)
        self._seen = {each: seen for each, seen in self._seen.items() if key_reference(each)[0] != name}
        async with self._asking("destroy", name, AT_LENGTH_S):
            client = self._client()
            for _ in range(ROUNDS):
                steps = [await _outcome(client.delete_key(name)), await _outcome(client.purge_deleted_key(name))]
                # In this order, so that a key which is recovered meanwhile is seen in one place or the other.
                looks = [await _outcome(client.get_deleted_key(name)), await _outcome(client.get_key(name))]
                # A key that is being deleted is in neither place for a while; that it cannot be purged yet gives it away.
                if looks == ["absent", "absent"] and "busy" not in steps and steps[1] != "refused":
                    return True
                if "refused" in (*steps, *looks):
                    return False
                await asyncio.sleep(self._pause_s)
        return False

    async def recoverable_until(self, name: str) -> datetime | None:
        check_key_name(name)
        try:
            async with self._asking("read deleted", name):
                deleted = await self._client().get_deleted_key(name)
        except KeyNotFound:
            return None
        return deleted.scheduled_purge_date

    async def names(self, prefix: str = "") -> tuple[str, ...]:
        async with asking(self._url, "list", "its keys", AT_LENGTH_S):
            living = [str(key.name) async for key in self._client().list_properties_of_keys()]
            deleted = [str(key.name) async for key in self._client().list_deleted_keys()]
        return tuple(sorted({name for name in (*living, *deleted) if name.startswith(prefix)}))

    async def weaknesses(self) -> tuple[str, ...]:
        # The vault looks at permissions before it looks for the key, so a key that cannot exist tells them.
        nobody = f"nobody-{secrets.token_hex(16)}"
        async with asking(self._url, "show", "its settings", AT_LENGTH_S):
            client = self._client()
            any_key = await anext(client.list_properties_of_keys(max_page_size=1), None)
            found = weaknesses_of(any_key) if any_key else []
            if await _outcome(client.delete_key(nobody)) == "refused":
                found.append(_MAY_DELETE)
            protected = any_key is not None and is_purge_protected(any_key)
            if not protected and await _outcome(client.purge_deleted_key(nobody)) == "refused":
                found.append(_MAY_PURGE)
            if await _outcome(client.backup_key(nobody)) != "refused":
                found.append(_MAY_BACK_UP)
        return tuple(found)

    async def close(self) -> None:
        if self._connected is not None:
            client, credential = self._connected
            await client.close()
            await credential.close()

    def _client(self) -> KeyClient:
        if self._connected is None:
            self._connected = connect(self._url, self._identity)
        return self._connected[0]

    def _asking(self, verb: str, name: str, within_s: float | None = None) -> AbstractAsyncContextManager[None]:
        return asking(self._url, verb, f"key {name!r}", within_s or self._within_s)

    def _fresh(self, reference: str) -> _Seen | None:
        seen = self._seen.get(reference)
        if seen is not None and timedelta(0) <= self._clock() - seen.read_at < FRESH:
            return seen
        return None

    async def _see(self, reference: str, create: bool) -> _Seen:
        """Read a key's state, once for all who wait for it; a key that may not be used is not remembered."""
        from azure.keyvault.keys.crypto import CryptographyClient

        async with self._asking(_WRAPPING, reference), self._reading:
            if (seen := self._fresh(reference)) is not None:
                return seen
            self._seen.pop(reference, None)
            now = self._clock()
            if create:
                key = await self._get_or_make(reference, self._make_wrapping_key)
            else:
                key = await self._client().get_key(*key_reference(reference))
        check_wrapping_key(key, now)
        if len(self._seen) >= CACHED:
            del self._seen[next(iter(self._seen))]
        seen = self._seen[reference] = _Seen(key, CryptographyClient.from_jwk(key.key), now)
        return seen

    async def _get_or_make(self, name: str, make: Callable[[str], Awaitable[KeyVaultKey]]) -> KeyVaultKey:
        from azure.core.exceptions import HttpResponseError, ResourceExistsError

        try:
            return await self._client().get_key(name)
        except HttpResponseError as error:
            if not is_absent(error):
                raise
        try:
            return await make(name)
        except ResourceExistsError:
            if await _outcome(self._client().get_key(name)) != "done":
                raise
            return await self._client().get_key(name)

    async def _make_wrapping_key(self, name: str) -> KeyVaultKey:
        operations: list[str | KeyOperation] = ["wrapKey", "unwrapKey"]
        return await self._client().create_rsa_key(name, size=RSA_BITS, key_operations=operations, **_REPEATED)

    async def _make_signing_key(self, name: str) -> KeyVaultKey:
        operations: list[str | KeyOperation] = ["sign", "verify"]
        return await self._client().create_ec_key(name, curve=CURVE, key_operations=operations, **_REPEATED)

    def _remotely(self, name: str, version: str) -> RemoteClient:
        """Return a client that has the vault work with this version; each looks at its key once."""
        if (name, version) not in self._remote:
            if len(self._remote) >= CACHED:
                del self._remote[next(iter(self._remote))]
            self._remote[name, version] = self._client().get_cryptography_client(name, key_version=version)
        return self._remote[name, version]


async def _outcome(step: Awaitable[object]) -> Outcome:
    """Return how the vault took a step; other failures are raised."""
    from azure.core.exceptions import HttpResponseError

    try:
        await step
    except HttpResponseError as error:
        if is_absent(error):
            return "absent"
        if error.status_code == 409:
            return "busy"
        if error.status_code == 403:
            return "refused"
        raise
    return "done"
