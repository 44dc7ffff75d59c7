"""Policies and blocklists of accounts: documents guarded by their ETags, and the policy that a call goes by.

A policy is stored as ARM's ``properties``, a blocklist with all of its items, so a change of either is seen whole. A
policy is resolved at most once in ``CACHE_S``; a blocklist that has not changed since stays the same object, so what a
plugin compiled of it stays good.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any
from weakref import WeakValueDictionary

from sluicegate.accounts import Account, Accounts
from sluicegate.errors import BlobNotFound, Conflict, FilterUnavailable, InvalidRequest, NotFound
from sluicegate.policies import Blocklist, BlocklistItem, Policy
from sluicegate.services import BlobStore
from sluicegate.storage.documents import Cache, Document, Documents
from sluicegate.tenancy.app_policies import AppPolicies
from sluicegate.tenancy.deployments import NAME, Deployments
from sluicegate.tenancy.policy_documents import PolicyDocument, check_items, item_properties, read_item, read_policy

CONTAINER = "accounts"


class Policies:
    """Reads, writes and resolves; one object per worker.

    Args:
        blobs_of: Returns the storage of a location, where the policies and blocklists of the accounts there are.
        app: What every account may use beside its own.
    """

    def __init__(
        self, blobs_of: Callable[[str], BlobStore], accounts: Accounts, deployments: Deployments, app: AppPolicies
    ) -> None:
        self._blobs_of = blobs_of
        self._accounts = accounts
        self._deployments = deployments
        self._app = app
        self._policies: Cache[Policy | None] = Cache()
        self._lists: WeakValueDictionary[tuple[str, str], Blocklist] = WeakValueDictionary()

    async def resolve(self, account: Account, name: str | None) -> Policy:
        """Return the policy a deployment goes by, at most ``CACHE_S`` old.

        An account that is not, or no longer, approved for modified filters gets it with all four harms blocking.

        Args:
            name: Of the app, built in, or the account's own; None for the app's default.

        Raises:
            NotFound: There is no such policy; nothing passes.
            FilterUnavailable: A blocklist that it uses, or the policy it is based on, is gone.
        """
        key = name.lower() if name is not None else ""
        policy = self._app.default if name is None else self._app.policies.get(key)
        if policy is None:
            policy = await self._policies.get(f"{account.name}/{key}", lambda: self._read(account.name, key))
        if policy is None:
            raise NotFound("The content-filter policy of this deployment does not exist.", code="RaiPolicyNotFound")
        return policy if account.modified_filters or not policy.weakened else policy.strengthened()

    async def policy(self, account: str, name: str) -> Document | None:
        """Return an account's own policy as it is stored, or None."""
        return await (await self.policies(account)).get(name.lower()) if NAME.fullmatch(name) else None

    async def blocklist(self, account: str, name: str) -> Document | None:
        """Return an account's own blocklist as it is stored, or None."""
        return await (await self.lists(account)).get(name.lower()) if NAME.fullmatch(name) else None

    async def exists(self, account: str, name: str) -> bool:
        """Return whether deployments of an account may use a policy of that name."""
        return name.lower() in self._app.policies or await self.policy(account, name) is not None

    # --- policies ----------------------------------------------------------------------------------------------------

    async def policies(self, account: str) -> Documents:
        """Return the documents of an account's policies, ``{"name", "tags", "properties"}``, by name in lower case."""
        return Documents(await self._blobs(account), CONTAINER, f"raipolicy/{account}/")

    async def put_policy(
        self, account: str, name: str, properties: object, tags: Mapping[str, str] | None = None, *, etag: str | None
    ) -> Document:
        """Write a policy.

        Args:
            properties: As in ARM, see :mod:`sluicegate.tenancy.policy_documents`.
            etag: Of the document that is replaced; None when there is none yet.

        Raises:
            InvalidRequest: ``param`` names the property to change, or ``name``.
            BlobExists, BlobChanged: As for ``Documents.put``.
        """
        key = _key(name, self._app.policies)
        document = read_policy(properties)
        resolved = document.resolved(name, self._base(document), await self._lists_of(account, document))
        found = await self._accounts.get(account)
        if resolved.weakened and not (found and found.modified_filters):
            raise InvalidRequest(
                f"Invalid 'properties.contentFilters': {', '.join(resolved.weakened)} would not block; switching a harm "
                "off, or to annotate only, needs an approved application for modified content filters.",
                code="ModifiedFiltersNotApproved",
                param="properties.contentFilters",
            )
        try:
            content = {"name": name, "tags": tags or {}, "properties": document.properties}
            return await (await self.policies(account)).put(key, content, etag=etag)
        finally:
            self._policies.forget(f"{account}/{key}")

    async def delete_policy(self, account: str, name: str, *, etag: str | None = None) -> bool:
        """Delete a policy; False when there was none.

        Raises:
            Conflict: A deployment uses it.
            BlobChanged: It is not the one of ``etag``.
        """
        key = name.lower()
        deployments = self._deployments.documents(account)
        for deployment in await deployments.every():
            if (deployment.content["policy"] or "").lower() == key:
                raise Conflict(f"The deployment {deployment.content['name']!r} uses this policy: change it first.")
        try:
            return bool(NAME.fullmatch(name)) and await (await self.policies(account)).delete(key, etag=etag)
        finally:
            self._policies.forget(f"{account}/{key}")

    # --- blocklists --------------------------------------------------------------------------------------------------

    async def lists(self, account: str) -> Documents:
        """Return the documents of an account's blocklists, by name in lower case.

        Each is ``{"name", "tags", "properties": {"description"}, "items": {NAME: {"pattern", "isRegex"}}}``.
        """
        return Documents(await self._blobs(account), CONTAINER, f"raiblocklist/{account}/")

    async def put_list(
        self, account: str, name: str, properties: object, tags: Mapping[str, str] | None = None, *, etag: str | None
    ) -> Document:
        """Write a blocklist's ``properties``; its items stay.

        Raises:
            InvalidRequest, BlobExists, BlobChanged: As for ``put_policy``.
        """
        key = _key(name, self._app.lists)
        kept = await (await self.lists(account)).get(key) if etag is not None else None
        items = kept.content["items"] if kept else {}
        content = {"name": name, "tags": tags or {}, "properties": _description(properties), "items": items}
        return await (await self.lists(account)).put(key, content, etag=etag)

    async def delete_list(self, account: str, name: str, *, etag: str | None = None) -> bool:
        """Delete a blocklist with its items; False when there was none.

        Raises:
            Conflict: A policy uses it.
            BlobChanged: It is not the one of ``etag``.
        """
        policies = await self.policies(account)
        for policy in await policies.every():
            used = read_policy(policy.content["properties"]).list_names
            if name.lower() in {each.lower() for each in used}:
                raise Conflict(f"The policy {policy.content['name']!r} uses this blocklist: change it first.")
        return bool(NAME.fullmatch(name)) and await (await self.lists(account)).delete(name.lower(), etag=etag)

    async def change_items(
        self,
        account: str,
        name: str,
        *,
        put: Mapping[str, object] | None = None,
        delete: Collection[str] = (),
        etag: str | None = None,
    ) -> Document:
        """Write items of a blocklist, ``{NAME: properties}``, and delete others, all at once; done when it returns.

        Args:
            etag: Of the blocklist that is changed; None for whichever is there.

        Raises:
            InvalidRequest: ``param`` names the item and property to change.
            NotFound: There is no such blocklist.
            BlobChanged: It is not the one of ``etag``.
        """
        changed = {}
        for item, properties in (put or {}).items():
            if not NAME.fullmatch(item):
                raise _bad_name(f"items.{item}"[:80])
            changed[item] = item_properties(read_item(properties, "properties" if len(put or {}) == 1 else item))

        def update(content: Mapping[str, Any] | None) -> Mapping[str, Any]:
            if content is None:
                raise NotFound("There is no blocklist of that name.", code="RaiBlocklistNotFound")
            kept = {item: value for item, value in content["items"].items() if item not in delete}
            items = {**kept, **changed}
            check_items([_item(value) for value in items.values()], "properties.pattern")
            return {**content, "items": items}

        if not NAME.fullmatch(name):
            update(None)
        return await (await self.lists(account)).change(name.lower(), update, etag=etag)

    async def purge(self, account: str, location: str) -> None:
        """Delete all policies and blocklists of an account that is being purged."""
        for kind in ("raipolicy", "raiblocklist"):
            documents = Documents(self._blobs_of(location), CONTAINER, f"{kind}/{account}/")
            for name in await documents.names():
                await documents.delete(name)

    async def _blobs(self, account: str) -> BlobStore:
        found = await self._accounts.get(account)
        if found is None:
            raise NotFound("The account does not exist.")
        return self._blobs_of(found.location)

    # --- resolving ---------------------------------------------------------------------------------------------------

    async def _read(self, account: str, key: str) -> Policy | None:
        found = await (await self.policies(account)).get(key) if NAME.fullmatch(key) else None
        if found is None:
            return None
        try:
            document = read_policy(found.content["properties"])
            lists = await self._lists_of(account, document)
            return document.resolved(found.content["name"], self._base(document), lists)
        except InvalidRequest:
            # Not the caller's request: a blocklist is gone, or the base policy is no longer in the deployment file.
            raise FilterUnavailable("What the policy of this deployment refers to does not exist.") from None

    def _base(self, document: PolicyDocument) -> Policy:
        base = self._app.policies.get(document.base.lower())
        if base is None:
            raise InvalidRequest(
                "Invalid 'properties.basePolicyName': there is no such policy; use Microsoft.DefaultV2.",
                code="InvalidResourceProperties",
                param="properties.basePolicyName",
            )
        return base

    async def _lists_of(self, account: str, document: PolicyDocument) -> dict[str, Blocklist]:
        return {name: await self._list(account, name) for name in sorted(document.list_names)}

    async def _list(self, account: str, name: str) -> Blocklist:
        key = name.lower()
        if key in self._app.lists:
            return self._app.lists[key]
        path = f"raiblocklist/{account}/{key}"
        try:
            if not NAME.fullmatch(name):
                raise BlobNotFound
            blob = await (await self._blobs(account)).get(CONTAINER, path)
        except BlobNotFound:
            raise InvalidRequest(
                "Invalid 'properties.customBlocklists': it names a blocklist that does not exist.",
                code="InvalidResourceProperties",
                param="properties.customBlocklists",
            ) from None
        known = self._lists.get((path, blob.etag))
        if known is None:
            # Ten thousand items of a thousand characters take a tenth of a second to parse.
            known = await asyncio.to_thread(_blocklist, blob.data)
            self._lists[path, blob.etag] = known
        return known


def _blocklist(data: bytes) -> Blocklist:
    content = json.loads(data)
    return Blocklist(content["name"], tuple(_item(value) for value in content["items"].values()))


def _item(properties: Mapping[str, Any]) -> BlocklistItem:
    return BlocklistItem(properties["pattern"], properties["isRegex"])


def _key(name: str, taken: Mapping[str, object]) -> str:
    """Return the key of a name that an account may give."""
    key = name.lower()
    if not NAME.fullmatch(name):
        raise _bad_name("name")
    if key.startswith("microsoft.") or key in taken:
        raise InvalidRequest("Invalid 'name': this name is the operator's.", code="InvalidResourceName", param="name")
    return key


def _bad_name(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': use letters, digits and _.-, at most 64, beginning with a letter or digit, and no dot at the end.",
        code="InvalidResourceName",
        param=param,
    )


def _description(properties: object) -> dict[str, str]:
    given = properties if isinstance(properties, Mapping) else None
    description = (given or {}).get("description") or ""
    if given is None or given.keys() - {"description"} or not isinstance(description, str) or len(description) > 1000:
        raise InvalidRequest(
            "Invalid 'properties': an object with a 'description', a string of at most 1,000 characters, and nothing else.",
            code="InvalidResourceProperties",
            param="properties",
        )
    return {"description": description}
