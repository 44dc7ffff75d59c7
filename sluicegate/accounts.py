"""Accounts: the tenants' resources, as documents in the blob store.

An account is shaped like ARM's ``Microsoft.CognitiveServices/accounts``: it has keys, of which only hashes are stored, and
deployments, which give a model a name. Reads are cached for ``CACHE_S``, so a change is seen everywhere within that.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, ServiceError
from sluicegate.monitoring.penalties import Penalty, with_penalty
from sluicegate.services import BlobStore, KeyService, WrappedKey
from sluicegate.storage.customer_keys import CustomerKey, customer_key
from sluicegate.storage.day_layout import CEILING_DAYS
from sluicegate.storage.documents import CACHE_ENTRIES, Cache
from sluicegate.types import Principal, Role

CONTAINER = "accounts"
KEY_NAME = "accounts"
"""The key that wraps each account's own secret."""
NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9_-])?")
"""ARM's pattern for account names, in lower case and without a dot at the end."""
API_KEYS = ("key1", "key2")
_READS_AT_ONCE = 16
IDENTITY = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")


@dataclass(frozen=True, slots=True)
class Account:
    """One tenant.

    Attributes:
        location: The region its data lives in, such as ``local`` or ``westeurope``.
        user_key: 32 secret bytes; end users are kept only as hashes under it.
        retention_days: After how many days its retained content is gone at the latest, 1 to 30; a plugin's settings may
            say less.
        has_local_auth: Whether API keys get in; tokens always may.
        modified_filters: Whether its policies may switch harms off, or to annotate only.
        content_logging: Whether content may be kept at all.
        customer_key: Its own encryption key, or None.
        vaults: Every vault that it has named, with the identity that opens it: what was wrapped there still opens.
        penalties: What it, or an end user, may not do, those that have ended included.
    """

    name: str
    location: str
    user_key: bytes
    retention_days: int = CEILING_DAYS
    has_local_auth: bool = True
    modified_filters: bool = False
    content_logging: bool = True
    customer_key: CustomerKey | None = None
    vaults: Mapping[str, str | None] = field(default_factory=dict)
    penalties: tuple[Penalty, ...] = ()

    def user_hash(self, user: str | None) -> str | None:
        """Return the keyed hash that stands for an end user in everything that is kept."""
        return None if not user else hmac.digest(self.user_key, user.encode(), "sha256").hex()

    def attribution_hash(self, kind: str, value: str | None) -> str | None:
        """Return the keyed hash that stands for something else that names who is behind a request.

        Args:
            kind: Such as ``source_ip``; equal values of two kinds have two hashes.
        """
        if not value:
            return None
        key = hmac.digest(self.user_key, f"sluicegate/attribution/{kind}".encode(), "sha256")
        return hmac.digest(key, value.encode(), "sha256").hex()


@dataclass(frozen=True, slots=True)
class Resident:
    """What the purge timer must know of an account, one that is deleted too.

    Attributes:
        location: The region that has its data; empty where nobody knows any more.
        retention_days: As ``Accounts.retention_days``.
        customer_key, vaults: As in :class:`Account`.
        signal_days: After how many days what is counted of it goes, though no content is kept.
    """

    location: str
    retention_days: int
    is_deleted: bool
    customer_key: CustomerKey | None
    vaults: Mapping[str, str | None]
    signal_days: int = CEILING_DAYS


class Accounts:
    """Reads and writes accounts; one object per worker."""

    def __init__(self, blobs: BlobStore, keys: KeyService) -> None:
        self._blobs = blobs
        self._keys = keys
        self._accounts: Cache[Account | None] = Cache()
        self._secrets: OrderedDict[str, tuple[Mapping[str, str], bytes]] = OrderedDict()
        self._principals: Cache[Principal | None] = Cache()
        self._roles: Cache[Mapping[str, frozenset[Role]]] = Cache()

    async def get(self, name: str) -> Account | None:
        """Return the account, at most ``CACHE_S`` old, or None."""
        return await self._accounts.get(name, lambda: self._read(name))

    async def by_key(self, api_key: str) -> Principal | None:
        """Return whose key this is, or None; only a hash of the key is looked up or remembered."""
        digest = _digest(api_key)
        return await self._principals.get(digest, lambda: self._read_key(digest))

    def forget(self, name: str) -> None:
        """Read an account anew next time, because somebody changed its document."""
        self._accounts.forget(name)

    async def names(self) -> tuple[str, ...]:
        """Return every account's name, sorted; those of deleted ones too."""
        return tuple([blob.name.removeprefix("account/") async for blob in self._blobs.list(CONTAINER, "account/")])

    async def census(self) -> dict[str, Resident | Exception]:
        """Return every account by name, sorted, as it is stored now, deleted ones too; or why one cannot be read.

        Raises:
            ServiceError: They cannot be listed.
        """
        census: dict[str, Resident | Exception] = {}
        names = await self.names()
        for start in range(0, len(names), _READS_AT_ONCE):
            some = names[start : start + _READS_AT_ONCE]
            census |= zip(some, await asyncio.gather(*map(self._resident, some)), strict=True)
        return census

    async def create(
        self,
        name: str,
        *,
        location: str,
        retention_days: int = CEILING_DAYS,
        resource: Mapping[str, Any] | None = None,
        etag: str | None = None,
    ) -> str:
        """Write a new account, with two API keys, and return its ETag.

        Args:
            retention_days: 1 to 30.
            resource: What the control plane knows of it.
            etag: Of the document that a purged account of that name has left, to take its place.

        Raises:
            ValueError: The name is not 1 to 64 lower-case letters, digits and ``_.-``, or the days are out of range.
            BlobExists: There is an account of that name, or was.
        """
        if not NAME.fullmatch(name):
            raise ValueError(f"account name {name!r}: use lower-case letters, digits and _.-, at most 64")
        _check_days(retention_days)
        secret = secrets.token_bytes(32)
        wrapped = await self._keys.wrap(KEY_NAME, secret)
        document = {
            "name": name,
            "location": location,
            "retention_days": retention_days,
            "api_keys": dict.fromkeys(API_KEYS, 1),
            "resource": dict(resource or {}),
            "user_key": {
                "key_id": wrapped.key_id,
                "algorithm": wrapped.algorithm,
                "ciphertext": base64.b64encode(wrapped.ciphertext).decode(),
            },
        }
        data = json.dumps(document).encode()
        written = await self._blobs.put(CONTAINER, f"account/{name}", data, create=etag is None, if_match=etag)
        self._accounts.forget(name)
        for slot in API_KEYS:
            await self._store_key(name, slot, 1, secret)
        return written

    async def set_retention_days(self, name: str, days: int) -> None:
        """Change how long an account's content is kept; what is there already goes by it from the next purge on.

        Raises:
            ValueError: ``days`` is not 1 to 30.
            BlobNotFound: There is no such account.
        """
        _check_days(days)
        await self._change(name, lambda _: {"retention_days": days})

    async def shorten_retention(self, name: str, days: int) -> None:
        """Let an account's content go earlier, as the customer wishes; what the operator allows stays the most.

        Raises:
            ValueError: ``days`` is not 1 to 30.
            BlobNotFound: There is no such account.
        """
        _check_days(days)
        await self._change(name, lambda _: {"customer_days": days})

    async def set_modified_filters(self, name: str, approved: bool) -> None:
        """Approve an account for modified content filters, or withdraw that; see :mod:`sluicegate.cli.modified_filters`.

        Raises:
            BlobNotFound: There is no such account.
        """
        await self._change(name, lambda _: {"modified_filters": approved})

    async def set_content_logging(self, name: str, may_be_kept: bool) -> None:
        """Say whether content of an account may be kept at all; for who approves applications, not for the account.

        Without it nothing more is kept, and each purge takes what is there. A process that is keeping something at that
        moment may not know yet; deleting the account's content after this call hides and removes what it writes.

        Raises:
            BlobNotFound: There is no such account.
        """
        await self._change(name, lambda _: {"content_logging": may_be_kept})

    async def penalise(self, name: str, penalty: Penalty) -> None:
        """Give an account a penalty, in place of the one of the same case; in other processes within ``CACHE_S``.

        Raises:
            BlobNotFound: There is no such account.
        """
        await self._change(name, lambda found: {"penalties": with_penalty(found.get("penalties", ()), penalty)})

    async def lift_penalty(self, name: str, case: str) -> None:
        """Take the penalty of a case away, in other processes within ``CACHE_S``; no-op where there is none.

        Raises:
            BlobNotFound: There is no such account.
        """
        await self._change(
            name,
            lambda found: {"penalties": [each for each in found.get("penalties", ()) if each["case"] != case]},
        )

    async def set_encryption(self, name: str, encryption: Mapping[str, Any] | None) -> None:
        """Give an account a key of its own, another one, or none, in ARM's shape; see :mod:`sluicegate.storage.customer_keys`.

        What is written from now on is under it, in other processes within ``CACHE_S``; what is there follows with
        :func:`sluicegate.storage.rewrapping.rewrap`. ``Sluicegate.prove_encryption`` tells before whether the key can be used.

        Raises:
            ValueError: It has not that shape.
            BlobNotFound: There is no such account.
        """
        key = customer_key(encryption)

        def change(document: Mapping[str, Any]) -> Mapping[str, Any]:
            vaults = dict(document.get("vaults", {}))
            if key is not None:
                vaults[key.vault] = key.identity
            return {"encryption": None if key is None else key.document, "vaults": vaults}

        await self._change(name, change)

    async def retention_days(self, name: str) -> int:
        """Return how long an account's content is kept, as it is stored now.

        It is 0 when none may be kept, and when the account is deleted or unknown.
        """
        document = await self._document(f"account/{name}")
        return _retention_days(document) if _keeps_content(document) else 0

    async def keeps_content(self, name: str) -> bool:
        """Return whether content of an account may be kept, as it is stored now; not that of a deleted or unknown one."""
        return _keeps_content(await self._document(f"account/{name}"))

    async def issue_key(self, account: str, role: Role, name: str) -> str:
        """Make an API key, store its hash and return it; it cannot be shown again."""
        api_key = secrets.token_urlsafe(48)
        document = {"account": account, "role": role.value, "name": name}
        await self._blobs.put(CONTAINER, f"key/{_digest(api_key)}", json.dumps(document).encode(), create=True)
        self._principals.forget(_digest(api_key))
        return api_key

    async def api_keys(self, name: str) -> Mapping[str, str]:
        """Return an account's two API keys, which are stored nowhere: they are derived from its secret.

        Raises:
            BlobNotFound: There is no such account.
        """
        document, secret = await self._with_secret(name)
        # Whoever made or replaced a key may have been stopped before this.
        for slot, generation in document["api_keys"].items():
            await self._store_key(name, slot, generation, secret)
        return {slot: _derived(secret, slot, generation) for slot, generation in document["api_keys"].items()}

    async def regenerate_key(self, name: str, slot: str) -> None:
        """Replace one of an account's API keys; the old one ends here at once and elsewhere within ``CACHE_S``.

        Raises:
            BlobNotFound: There is no such account.
        """
        document, secret = await self._with_secret(name)
        old = document["api_keys"][slot]
        # Known before it counts, and the old one forgotten after: whatever is interrupted, one of the two gets in.
        await self._store_key(name, slot, old + 1, secret)
        await self._change(name, lambda found: {"api_keys": {**found["api_keys"], slot: old + 1}})
        with suppress(BlobNotFound):
            await self._blobs.delete(CONTAINER, f"key/{_digest(_derived(secret, slot, old))}")
        self._principals.forget(_digest(_derived(secret, slot, old)))

    async def _store_key(self, account: str, slot: str, generation: int, secret: bytes) -> None:
        digest = _digest(_derived(secret, slot, generation))
        document = {"account": account, "role": Role.CALLER.value, "name": slot, "generation": generation}
        with suppress(BlobExists):
            await self._blobs.put(CONTAINER, f"key/{digest}", json.dumps(document).encode(), create=True)
        self._principals.forget(digest)

    async def _with_secret(self, name: str) -> tuple[dict[str, Any], bytes]:
        document = json.loads((await self._blobs.get(CONTAINER, f"account/{name}")).data)
        if document.get("deleted"):
            raise BlobNotFound(f"account/{name}")
        return document, await self._secret(name, document["user_key"])

    async def assign_role(self, account: str, identity: str, role: Role) -> None:
        """Let somebody from a directory act in an account.

        Args:
            identity: The object id of a user, an application or a group.

        Raises:
            ValueError: The identity is not 1 to 64 letters, digits and hyphens.
        """
        await self._set_roles(account, identity, lambda roles: roles | {role})

    async def withdraw_role(self, account: str, identity: str, role: Role) -> None:
        """Undo ``assign_role``, in other processes within ``CACHE_S``; no-op where there is nothing to undo."""
        await self._set_roles(account, identity, lambda roles: roles - {role})

    async def roles_of(self, identity: str) -> Mapping[str, frozenset[Role]]:
        """Return what somebody from a directory may do, by account; at most ``CACHE_S`` old."""
        return await self._roles.get(identity, lambda: self._read_roles(identity))

    async def roles_in(self, account: str) -> Mapping[str, frozenset[Role]]:
        """Return who of a directory may do what in an account, by identity, as it is stored now; reads all assignments' names."""
        found = {}
        names = [blob.name async for blob in self._blobs.list(CONTAINER, "role/")]
        for name in names:
            _, identity, held_in = name.split("/")
            if held_in == account and (document := await self._document(name)) and document["roles"]:
                found[identity] = frozenset(map(Role, document["roles"]))
        return found

    async def _set_roles(
        self, account: str, identity: str, change: Callable[[frozenset[Role]], frozenset[Role]]
    ) -> None:
        if not IDENTITY.fullmatch(identity):
            raise ValueError(f"identity {identity!r}: use an object id, letters, digits and hyphens, at most 64")
        name = f"role/{identity}/{account}"
        while True:
            try:
                blob = await self._blobs.get(CONTAINER, name)
                etag, roles = blob.etag, frozenset(map(Role, json.loads(blob.data)["roles"]))
            except BlobNotFound:
                etag, roles = None, frozenset()
            document = json.dumps({"roles": sorted(change(roles))}).encode()
            with suppress(BlobChanged, BlobExists):
                await self._blobs.put(CONTAINER, name, document, create=etag is None, if_match=etag)
                self._roles.forget(identity)
                return

    async def _read_roles(self, identity: str) -> Mapping[str, frozenset[Role]]:
        if not IDENTITY.fullmatch(identity):
            return {}
        prefix = f"role/{identity}/"
        names = [blob.name async for blob in self._blobs.list(CONTAINER, prefix)]
        documents = {name.removeprefix(prefix): await self._document(name) for name in names}
        return {account: frozenset(map(Role, each["roles"])) for account, each in documents.items() if each}

    async def _read(self, name: str) -> Account | None:
        if not NAME.fullmatch(name):
            return None
        document = await self._document(f"account/{name}")
        if document is None or document.get("deleted"):
            self._secrets.pop(name, None)
            return None
        user_key = await self._secret(name, document["user_key"])
        properties = document.get("resource", {}).get("properties", {})
        return Account(
            name,
            document["location"],
            user_key,
            _retention_days(document),
            has_local_auth=not properties.get("disableLocalAuth", False),
            modified_filters=document.get("modified_filters") is True,
            content_logging=_keeps_content(document),
            customer_key=customer_key(document.get("encryption")),
            vaults=document.get("vaults", {}),
            penalties=tuple(map(Penalty.of, document.get("penalties", ()))),
        )

    async def _resident(self, name: str) -> Resident | Exception:
        try:
            document = await self._document(f"account/{name}") or {"deleted": True}
            return Resident(
                document.get("location", ""),
                _retention_days(document) if _keeps_content(document) else 0,
                bool(document.get("deleted")),
                customer_key(document.get("encryption")),
                document.get("vaults", {}),
                _retention_days(document),
            )
        except (ServiceError, ValueError) as error:
            return error

    async def _secret(self, name: str, wrapped: Mapping[str, str]) -> bytes:
        """Return an account's secret, unwrapped once per process, so that the key service may be away afterwards."""
        known = self._secrets.get(name)
        if known is not None and known[0] == wrapped:
            return known[1]
        secret = await self._keys.unwrap(
            WrappedKey(wrapped["key_id"], wrapped["algorithm"], base64.b64decode(wrapped["ciphertext"]))
        )
        self._secrets[name] = wrapped, secret
        if len(self._secrets) > CACHE_ENTRIES:
            self._secrets.popitem(last=False)
        return secret

    async def _change(self, name: str, fields: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        while True:
            blob = await self._blobs.get(CONTAINER, f"account/{name}")
            found = json.loads(blob.data)
            document = json.dumps({**found, **fields(found)}).encode()
            try:
                await self._blobs.put(CONTAINER, f"account/{name}", document, if_match=blob.etag)
            except BlobChanged:
                continue
            self._accounts.forget(name)
            return

    async def _read_key(self, digest: str) -> Principal | None:
        document = await self._document(f"key/{digest}")
        if document is None:
            return None
        account = await self._document(f"account/{document['account']}")
        if "generation" in document:
            account = account or {"deleted": True}
            if account.get("deleted") or account["api_keys"].get(document["name"]) != document["generation"]:
                return None
        elif account is not None and account.get("deleted") and document["role"] != Role.OPERATOR.value:
            # An operator may restore or purge it.
            return None
        return Principal(document["account"], Role(document["role"]), document["name"])

    async def _document(self, name: str) -> Any:
        try:
            return json.loads((await self._blobs.get(CONTAINER, name)).data)
        except BlobNotFound:
            return None


def _keeps_content(document: Mapping[str, Any] | None) -> bool:
    return document is not None and not document.get("deleted") and document.get("content_logging", True) is True


def _retention_days(document: Mapping[str, Any]) -> int:
    days: list[int] = [document.get(name, CEILING_DAYS) for name in ("retention_days", "customer_days")]
    for each in days:
        _check_days(each)
    return min(days)


def _check_days(days: object) -> None:
    if type(days) is not int or not 1 <= days <= CEILING_DAYS:
        raise ValueError(
            f"retention_days must be a whole number from 1 to {CEILING_DAYS}, not {days!r}; keeping nothing takes an approved "
            "application"
        )


def _derived(secret: bytes, slot: str, generation: int) -> str:
    """Return an API key: 384 bits that nobody can tell without the account's secret, which the key service holds wrapped."""
    label = json.dumps(["sluicegate/api-key", 1, slot, generation], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hmac.digest(secret, label, "sha384")).decode()


def _digest(api_key: str) -> str:
    # Keys are 384 random bits, so a plain hash cannot be searched; a slow one would only slow every request.
    return hashlib.sha256(api_key.encode()).hexdigest()
