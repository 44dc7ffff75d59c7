"""Deployments: a model under the name that callers use, with its policy and its share of the capacity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluicegate.services import BlobStore
from sluicegate.storage.documents import Cache, Document, Documents

CONTAINER = "accounts"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment of an account.

    Attributes:
        name: As it was created; names differ by more than case.
        model: The model's id.
        policy: The content-filter policy's name, or None for the app's default.
        capacity: In units of a thousand tokens and six requests a minute, or None for no limit.
    """

    name: str
    model: str
    policy: str | None = None
    capacity: int | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The deployment as it is stored."""
        return {"name": self.name, "model": self.model, "policy": self.policy, "capacity": self.capacity}


class Deployments:
    """Reads and writes deployments; one object per worker. A change is seen everywhere within ``CACHE_S``."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._cache: Cache[Deployment | None] = Cache()

    async def get(self, account: str, name: str) -> Deployment | None:
        """Return a deployment by its name, whatever its case, or None."""
        if not NAME.fullmatch(name):
            return None
        key = name.lower()
        return await self._cache.get(f"{account}/{key}", lambda: self._read(account, key))

    async def create(self, account: str, deployment: Deployment) -> None:
        """Write a new deployment.

        Raises:
            ValueError: Its name is not 1 to 64 letters, digits and ``_.-``, or ends with a dot.
            BlobExists: There is one of that name.
        """
        await self.put(account, deployment, deployment.document, etag=None)

    async def put(
        self, account: str, deployment: Deployment, content: Mapping[str, Any], *, etag: str | None
    ) -> Document:
        """Write a deployment's document, which may hold more than :attr:`Deployment.document` does.

        Raises:
            ValueError: As for ``create``.
            BlobExists, BlobChanged: As for ``Documents.put``.
        """
        if not NAME.fullmatch(deployment.name):
            raise ValueError("deployment name: use letters, digits and _.-, at most 64, and no dot at the end")
        key = deployment.name.lower()
        try:
            return await self.documents(account).put(key, {**content, **deployment.document}, etag=etag)
        finally:
            self._cache.forget(f"{account}/{key}")

    async def delete(self, account: str, name: str, *, etag: str | None = None) -> bool:
        """Delete a deployment; False when there was none. ``BlobChanged`` when it is not the one of ``etag``."""
        key = name.lower()
        try:
            return await self.documents(account).delete(key, etag=etag)
        finally:
            self._cache.forget(f"{account}/{key}")

    def documents(self, account: str) -> Documents:
        """Return the documents of an account's deployments, by name in lower case."""
        return Documents(self._blobs, CONTAINER, f"deployment/{account}/")

    async def _read(self, account: str, key: str) -> Deployment | None:
        found = await self.documents(account).get(key)
        return None if found is None else read(found.content)


def read(content: Mapping[str, Any]) -> Deployment:
    """Return the deployment of a stored document."""
    return Deployment(content["name"], content["model"], content["policy"], content["capacity"])
