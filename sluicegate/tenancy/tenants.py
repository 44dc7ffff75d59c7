"""Accounts as Azure Resource Manager knows them: where each belongs, its life from creation to purge, and lists of them.

Beside an account's own document, in the container ``accounts``::

    scope/{subscription}/{resource group}/{account}      it exists there
    deleted/{subscription}/{resource group}/{account}    it was deleted, and can be restored until it is purged

Both are empty, in lower case, and only for lists: what counts is the account's document, so one that is left over after an
interruption shows nothing. A purged account leaves its name, which nobody gets before the last day is gone on which
anything of it could be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sluicegate.accounts import CONTAINER, NAME, Accounts
from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound
from sluicegate.monitoring.penalties import Penalty
from sluicegate.services import BlobStore
from sluicegate.storage.day_layout import CEILING_DAYS
from sluicegate.storage.documents import Document, Documents
from sluicegate.types import utc_now

RECOVERABLE = timedelta(hours=48)
"""How long a deleted account can be restored. Source: Microsoft Learn, "Recover or purge deleted Foundry resources"."""
RESERVED = timedelta(days=CEILING_DAYS + 1)
"""How long nobody gets a purged account's name."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A resource group, or a whole subscription when ``group`` is empty; in lower case."""

    subscription: str
    group: str = ""

    @property
    def prefix(self) -> str:
        return f"{self.subscription}/{self.group}/" if self.group else f"{self.subscription}/"


@dataclass(frozen=True, slots=True)
class Tenant:
    """An account as it is stored.

    Attributes:
        id: Its name in lower case, by which everything of it is stored.
        resource: What the control plane knows of it: ``name``, ``subscription``, ``group``, ``kind``, ``sku``, ``tags``,
            ``properties``, ``created``, ``changed``.
        encryption: Its own encryption key in ARM's shape, or None.
        has_content_logging: Whether content may be kept at all.
        has_modified_filters: Whether its policies may switch harms off.
        penalties: As ``Account.penalties``.
        deleted: When it was deleted, or None.
        is_purged: Whether only its name is left.
    """

    id: str
    location: str
    retention_days: int
    resource: Mapping[str, Any]
    encryption: Mapping[str, Any] | None
    has_content_logging: bool
    has_modified_filters: bool
    penalties: tuple[Penalty, ...]
    deleted: datetime | None
    is_purged: bool
    etag: str

    @property
    def scope(self) -> Scope:
        """The resource group it belongs to."""
        return Scope(self.resource.get("subscription", "").lower(), self.resource.get("group", "").lower())

    @property
    def purge_date(self) -> datetime | None:
        """When it is purged, unless it is restored before; None while it is not deleted."""
        return None if self.deleted is None else self.deleted + RECOVERABLE


class Tenants:
    """Creates, changes, lists and ends accounts."""

    def __init__(self, blobs: BlobStore, accounts: Accounts, now: Callable[[], datetime] = utc_now) -> None:
        self._blobs = blobs
        self._accounts = accounts
        self._now = now
        self._documents = Documents(blobs, CONTAINER, "account/")

    async def get(self, name: str) -> Tenant | None:
        """Return an account by its name, whatever its case, also one that is deleted or purged."""
        found = await self._documents.get(name.lower()) if NAME.fullmatch(name.lower()) else None
        return None if found is None else _tenant(found)

    async def create(
        self, scope: Scope, location: str, resource: Mapping[str, Any], retention_days: int, *, instead: Tenant | None
    ) -> Tenant:
        """Write a new account.

        Args:
            instead: A purged account whose name is free again.

        Raises:
            ValueError: As ``Accounts.create``.
            BlobExists, BlobChanged: Somebody else was faster.
        """
        name = str(resource["name"]).lower()
        await self._note("scope", scope, name)
        times = dict.fromkeys(("created", "changed"), self._now().isoformat())
        await self._accounts.create(
            name,
            location=location,
            retention_days=retention_days,
            resource={**resource, **times},
            etag=None if instead is None else instead.etag,
        )
        created = await self.get(name)
        if created is None:
            raise BlobChanged(name)
        return created

    async def update(self, tenant: Tenant, resource: Mapping[str, Any], retention_days: int) -> Tenant:
        """Replace what the control plane knows of an account.

        Raises:
            BlobChanged: It is not the one that was read.
        """
        changed = {**resource, "created": tenant.resource.get("created"), "changed": self._now().isoformat()}
        return await self._put(tenant, {"resource": changed, "retention_days": retention_days})

    async def delete(self, tenant: Tenant) -> Tenant:
        """Delete an account: it is not found from now on, in other processes within ``CACHE_S``.

        Each purge then takes all retained content that is left of it.

        Raises:
            BlobChanged: It is not the one that was read.
        """
        await self._note("deleted", tenant.scope, tenant.id)
        deleted = await self._put(tenant, {"deleted": True, "deleted_at": self._now().isoformat()})
        await self._forget("scope", tenant)
        return deleted

    async def restore(self, tenant: Tenant, resource: Mapping[str, Any], retention_days: int) -> Tenant:
        """Bring back a deleted account, its keys and its deployments; retained content may be gone.

        Raises:
            BlobChanged: It is not the one that was read.
        """
        await self._note("scope", tenant.scope, tenant.id)
        changed = {**resource, "created": tenant.resource.get("created"), "changed": self._now().isoformat()}
        fields = {"deleted": False, "deleted_at": None, "resource": changed, "retention_days": retention_days}
        restored = await self._put(tenant, fields)
        await self._forget("deleted", tenant)
        return restored

    async def purge(self, tenant: Tenant) -> None:
        """Leave nothing of a deleted account here but its name; what it keeps elsewhere is the caller's to delete first.

        Raises:
            BlobChanged: It was restored meanwhile.
        """
        left = {
            "name": tenant.id,
            "location": tenant.location,
            "deleted": True,
            "purged_at": self._now().isoformat(),
        }
        await self._documents.put(tenant.id, left, etag=tenant.etag)
        self._accounts.forget(tenant.id)
        await self._remove(f"deployment/{tenant.id}/")
        await self._remove("key/", lambda document: document.get("account") == tenant.id)
        await self._remove("role/", ends=f"/{tenant.id}")
        await self._forget("deleted", tenant)

    async def due(self, now: datetime) -> list[Tenant]:
        """Return the deleted accounts whose time for being restored is over."""
        found = [await self.get(name.rpartition("/")[2]) for name in await self._index("deleted").names()]
        return [tenant for tenant in found if tenant and tenant.purge_date and tenant.purge_date <= now]

    def is_free(self, tenant: Tenant) -> bool:
        """Return whether a purged account's name may be used again."""
        purged = tenant.resource.get("purged_at")
        return purged is not None and datetime.fromisoformat(purged) + RESERVED <= self._now()

    async def page(self, scope: Scope, *, after: str, limit: int, deleted: bool = False) -> tuple[list[Tenant], str]:
        """Return accounts of a scope, by resource group and name, and the cursor of the next page, empty at the end.

        A page may hold less than ``limit``, or nothing, before the end.
        """
        index = self._index("deleted" if deleted else "scope")
        names = await index.names(scope.prefix, after=after, limit=limit + 1)
        found = await self._documents.all([name.rpartition("/")[2] for name in names[:limit]])
        tenants = [tenant for tenant in map(_tenant, found) if _is_listed(tenant, scope, deleted)]
        return tenants, names[limit - 1] if len(names) > limit else ""

    async def _put(self, tenant: Tenant, fields: Mapping[str, Any]) -> Tenant:
        found = await self._documents.get(tenant.id)
        if found is None:
            raise BlobChanged(tenant.id)
        written = await self._documents.put(tenant.id, {**found.content, **fields}, etag=tenant.etag)
        self._accounts.forget(tenant.id)
        return _tenant(written)

    def _index(self, kind: str) -> Documents:
        return Documents(self._blobs, CONTAINER, f"{kind}/")

    async def _note(self, kind: str, scope: Scope, name: str) -> None:
        with suppress(BlobExists):
            await self._index(kind).put(scope.prefix + name, {}, etag=None)

    async def _forget(self, kind: str, tenant: Tenant) -> None:
        await self._index(kind).delete(tenant.scope.prefix + tenant.id)

    async def _remove(
        self, prefix: str, covers: Callable[[Mapping[str, Any]], bool] | None = None, ends: str = ""
    ) -> None:
        kind = Documents(self._blobs, CONTAINER, prefix)
        for name in await kind.names():
            if not name.endswith(ends):
                continue
            document = await kind.get(name) if covers is not None else None
            if covers is None or (document is not None and covers(document.content)):
                with suppress(BlobNotFound):
                    await kind.delete(name)


def _is_listed(tenant: Tenant, scope: Scope, deleted: bool) -> bool:
    is_there = tenant.scope.subscription == scope.subscription and scope.group in ("", tenant.scope.group)
    return is_there and not tenant.is_purged and (tenant.deleted is not None) is deleted


def _tenant(found: Document) -> Tenant:
    content = found.content
    is_purged = "purged_at" in content
    deleted = content.get("deleted_at") if content.get("deleted") else None
    resource = {"purged_at": content["purged_at"]} if is_purged else content.get("resource", {})
    return Tenant(
        found.name,
        content.get("location", ""),
        content.get("retention_days", CEILING_DAYS),
        resource,
        content.get("encryption"),
        content.get("content_logging", True),
        content.get("modified_filters") is True,
        tuple(map(Penalty.of, content.get("penalties", ()))),
        None if deleted is None else datetime.fromisoformat(deleted),
        is_purged,
        found.etag,
    )
