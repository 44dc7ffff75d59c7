"""The data keys of accounts: wrapped under the deployment's key and, where an account has one, under the account's own.

Everything that seals content goes through here, so that one rule holds for all of it: when the owner of an account's key
disables or deletes it, or takes this service's access away, nothing of the account can be opened or written any more, within
:data:`WITHIN` in every process. A data key that was opened is remembered for :data:`OPENED` at most, and each use first looks
whether the account's key may still be used, an answer that is asked for again after :data:`ASKED` and never believed for longer
than :data:`BELIEVED`. What is added to that is the time for which accounts are remembered.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Generic, Protocol, TypeVar

from sluicegate.errors import (
    AccountKeyRevoked,
    AccountKeyUnavailable,
    KeyNotFound,
    KeyRefused,
    KeyUnavailable,
    SealBroken,
    ServiceError,
    StartupError,
)
from sluicegate.services import KeyService, WrappedKey
from sluicegate.storage.customer_keys import CustomerKey, CustomerVaults
from sluicegate.storage.envelope import (
    SECRET_BYTES,
    CustomerShare,
    RingEntry,
    joined,
    read_ring_entry,
    ring_entry,
    split,
)
from sluicegate.types import utc_now

WITHIN = timedelta(minutes=5)
OPENED = timedelta(minutes=4)
ASKED = timedelta(minutes=1)
BELIEVED = timedelta(minutes=4)
PAUSE = timedelta(seconds=10)
"""So long nobody asks again for a key that could not be used."""
REMEMBERED = 1000

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Account(Protocol):
    """The part of :class:`sluicegate.accounts.Account` that this needs."""

    @property
    def customer_key(self) -> CustomerKey | None: ...

    @property
    def vaults(self) -> Mapping[str, str | None]: ...


class Accounts(Protocol):
    """The part of :class:`sluicegate.accounts.Accounts` that this needs."""

    async def get(self, name: str) -> Account | None: ...


class DataKeys:
    """Wraps and opens the data keys of all accounts; one object per process, used from one event loop.

    Args:
        accounts: Says which accounts have keys of their own; None for none.
        vaults: Opens those keys.
        clock: Returns the present, aware.
    """

    def __init__(
        self,
        keys: KeyService,
        *,
        accounts: Accounts | None = None,
        vaults: CustomerVaults | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._keys = keys
        self._accounts = accounts
        self._vaults = vaults or CustomerVaults(_no_vault)
        self._clock = clock
        self._opened: _Remembered[bytes] = _Remembered(OPENED, clock)
        self._usable: _Remembered[None] = _Remembered(ASKED, clock)
        self._proven: OrderedDict[CustomerKey, datetime] = OrderedDict()
        self._failed: OrderedDict[CustomerKey, tuple[datetime, KeyUnavailable | KeyNotFound]] = OrderedDict()

    async def wrap(self, account: str, name: str, secret: bytes) -> bytes:
        """Return a data key as it is stored, wrapped under the deployment's key ``name`` and the account's own.

        Raises:
            AccountKeyUnavailable: The account's own key cannot be used.
            KeyUnavailable: The deployment's cannot.
        """
        await self.check(account)
        key = await self._key_of(account)
        if key is None:
            return ring_entry(await self._keys.wrap(name, secret))
        first, second = split(secret)
        return ring_entry(await self._keys.wrap(name, first), await self._share(account, key, second))

    async def open(self, account: str, entry: bytes) -> bytes:
        """Return the data key that an entry of an account wraps; its caller knows by the commitment whether it is the right one.

        Raises:
            AccountKeyUnavailable: The account's own key cannot be used.
            KeyNotFound: The deployment's key was destroyed, or the account is deleted.
            KeyUnavailable: The deployment's key cannot be used.
            SealBroken: It is not such an entry, or was changed.
        """
        await self.check(account)
        name = sha256(account.encode() + b"\0" + entry).hexdigest()
        return await self._opened.get(name, lambda: self._open(account, read_ring_entry(entry)))

    async def check(self, account: str) -> None:
        """Return if nothing keeps this account's data from being used.

        Raises:
            AccountKeyRevoked: Its own key is disabled, expired, deleted or closed to this service.
            AccountKeyUnavailable: Its own key cannot be reached, and was last used too long ago.
        """
        key = await self._key_of(account)
        if key is None:
            return
        now = self._clock()
        failed = self._failed.get(key)
        if failed is None or not timedelta() <= now - failed[0] < PAUSE:
            await self._ask(key)
            failed = self._failed.get(key)
        if failed is None:
            return
        async with _of_account(account, key):
            if not isinstance(failed[1], KeyUnavailable) or isinstance(failed[1], KeyRefused):
                raise failed[1]
            proven = self._proven.get(key)
            # Its vault may have a bad minute; what it said last holds for a while.
            if proven is None or not timedelta() <= now - proven < BELIEVED:
                raise failed[1]

    async def prove(self, key: CustomerKey) -> None:
        """Try whether a key can be used, before an account depends on it.

        Raises:
            ValueError: It cannot; the message says why, to whoever may name keys.
        """
        try:
            await self._probe(key)
        except (ServiceError, StartupError) as error:
            raise ValueError(f"encryption.keyVaultProperties: the key {key.label} cannot be used: {error}") from None

    async def rewrapped(self, account: str, entry: bytes, newest: str | None) -> bytes | None:
        """Return an entry wrapped under the account's present key, or None when it is.

        The deployment's part changes only when an account gets its first key or gives its last one up.

        Args:
            newest: What ``newest`` returned.

        Raises:
            ServiceError: As for ``open``; the entry is as good as before.
        """
        key = await self._key_of(account)
        ring = read_ring_entry(entry)
        if ring.customer is None and key is None:
            return None
        if ring.customer and key and (ring.customer.vault, ring.customer.wrapped.key_id) == (key.vault, newest):
            return None
        if ring.customer is None:
            secret = await self._keys.unwrap(ring.wrapped)
            first, second = split(secret)
            wrapped = await self._keys.wrap(_reference(ring.wrapped), first, create=False)
        else:
            wrapped, second = ring.wrapped, await self._second(account, ring.customer)
        if key is None:
            secret = joined(await self._keys.unwrap(wrapped), second)
            return ring_entry(await self._keys.wrap(_reference(wrapped), secret, create=False))
        share = await self._share(account, key, second)
        if await self._second(account, share) != second:
            raise SealBroken("the customer's key does not open what it wrapped")
        return ring_entry(wrapped, share)

    async def renewed(self, entry: bytes, name: str) -> bytes:
        """Return an entry whose deployment's part is wrapped under the present version of the key ``name``."""
        ring = read_ring_entry(entry)
        return ring_entry(await self._keys.wrap(name, await self._keys.unwrap(ring.wrapped)), ring.customer)

    async def newest(self, account: str) -> str | None:
        """Return the identifier of the version that the account's own key wraps under now, or None when it has no key."""
        key = await self._key_of(account)
        return None if key is None else (await self._share(account, key, os.urandom(SECRET_BYTES))).wrapped.key_id

    def forget(self) -> None:
        """Drop every data key that was opened."""
        self._opened.forget()

    async def close(self) -> None:
        """Close the customers' vaults."""
        await self._vaults.close()

    async def _account(self, account: str) -> Account | None:
        return None if self._accounts is None else await self._accounts.get(account)

    async def _key_of(self, account: str) -> CustomerKey | None:
        found = await self._account(account)
        return None if found is None else found.customer_key

    async def _open(self, account: str, ring: RingEntry) -> bytes:
        secret = await self._keys.unwrap(ring.wrapped)
        if ring.customer is not None:
            return joined(secret, await self._second(account, ring.customer))
        if len(secret) != SECRET_BYTES:
            raise SealBroken("a wrapped key has the wrong length")
        return secret

    async def _share(self, account: str, key: CustomerKey, second: bytes) -> CustomerShare:
        async with _of_account(account, key), self._vaults.using(key.vault, key.identity) as keys:
            return CustomerShare(key.vault, await keys.wrap(key.reference, second, create=False))

    async def _second(self, account: str, share: CustomerShare) -> bytes:
        found = await self._account(account)
        if found is None:
            raise KeyNotFound("there is no such account")
        if share.vault not in found.vaults:
            # Whoever can write to the storage must not choose whom this service talks to. An account that was changed
            # in another process a moment ago knows the vault soon.
            raise KeyUnavailable("a data key is under a customer's key in a vault that the account does not name")
        name, _, version = _reference(share.wrapped).partition("/")
        key = CustomerKey(share.vault, name, version, found.vaults[share.vault])
        async with _of_account(account, key), self._vaults.using(key.vault, key.identity) as keys:
            return await keys.unwrap(share.wrapped)

    async def _ask(self, key: CustomerKey) -> None:
        """Note whether a key can wrap and unwrap."""
        try:
            await self._usable.get(repr(key), lambda: self._probe(key))
        except (KeyUnavailable, KeyNotFound) as error:
            _remember(self._failed, key, (self._clock(), error))
            self._usable.forget(repr(key))
        except StartupError as error:
            _remember(self._failed, key, (self._clock(), KeyRefused(str(error))))
        else:
            self._failed.pop(key, None)

    async def _probe(self, key: CustomerKey) -> None:
        now = self._clock()
        secret = os.urandom(SECRET_BYTES)
        async with self._vaults.using(key.vault, key.identity) as keys:
            # A wrap alone needs no vault and would go on under a key that is no longer to be used.
            if await keys.unwrap(await keys.wrap(key.reference, secret, create=False)) != secret:
                raise KeyRefused("the key does not open what it wrapped")
        _remember(self._proven, key, now)


class _Remembered(Generic[T]):
    """What was found out a short time ago, asked for once by all who want it at the same time."""

    def __init__(self, ttl: timedelta, clock: Callable[[], datetime]) -> None:
        self._ttl = ttl
        self._clock = clock
        self._found: OrderedDict[str, tuple[datetime, T]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[T]] = {}

    async def get(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        found = self._found.get(name)
        if found is not None and timedelta() <= self._clock() - found[0] < self._ttl:
            return found[1]
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(name, ask))
            task.add_done_callback(lambda task: self._done(name, task))
        # Shielded: one who goes away must not take the answer from the others.
        return await asyncio.shield(task)

    def forget(self, name: str | None = None) -> None:
        for each in [name] if name is not None else list(self._found):
            self._found.pop(each, None)
        if name is None:
            # What is being asked was asked before, so nobody who comes now may have it.
            self._asking.clear()

    async def _ask(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        began = self._clock()
        task = asyncio.current_task()
        found = await ask()
        if self._asking.get(name) is task:
            _remember(self._found, name, (began, found))
        return found

    def _done(self, name: str, task: asyncio.Task[T]) -> None:
        if self._asking.get(name) is task:
            del self._asking[name]
        if not task.cancelled():
            task.exception()  # Whoever asked may be gone, and then nobody else looks at it.


@asynccontextmanager
async def _of_account(account: str, key: CustomerKey) -> AsyncIterator[None]:
    """Raise what a customer's vault says of a key as an error about the account."""
    try:
        yield
    except (KeyNotFound, KeyRefused, StartupError):
        raise AccountKeyRevoked(account, key.label) from None
    except KeyUnavailable:
        raise AccountKeyUnavailable(account, key.label) from None


def _remember(entries: OrderedDict[K, V], name: K, value: V) -> None:
    entries[name] = value
    entries.move_to_end(name)
    if len(entries) > REMEMBERED:
        entries.popitem(last=False)


def _reference(wrapped: WrappedKey) -> str:
    """Return the key and version that wrapped something as a reference."""
    return "/".join(wrapped.key_id.split("/")[-2:])


def _no_vault(url: str, identity: str | None) -> KeyService:
    raise StartupError("customers' vaults are not opened here")
