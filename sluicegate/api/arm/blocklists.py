"""Blocklists of the control plane, and their items, one by one or many at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.responses import JSONResponse, Response

from sluicegate.api.arm.incoming import MAX_BODY_BYTES, PAGE, PROVIDER, Body, Incoming, shown_etag
from sluicegate.api.arm.policies import sent
from sluicegate.api.data_plane import read_body
from sluicegate.errors import InvalidRequest, NotFound
from sluicegate.storage.documents import Document
from sluicegate.tenancy.policy_documents import MAX_ITEMS
from sluicegate.tenancy.tenants import Tenant


class BulkItem(Body):
    name: str
    properties: dict[str, Any]


_ITEMS = TypeAdapter(list[BulkItem])
_NAMES = TypeAdapter(list[str])


async def put(incoming: Incoming) -> Response:
    """Create a blocklist, or change its description."""
    tenant = await incoming.tenant()
    found = await _find(incoming, tenant)
    incoming.check_condition(None if found is None else found.etag)
    properties, tags = sent(await incoming.json())
    await incoming.note("blocklist.write", f"{tenant.id}/{incoming.params['blocklist']}", at=tenant.location)
    written = await incoming.gate.policies.put_list(
        tenant.id, incoming.params["blocklist"], properties or {}, tags, etag=None if found is None else found.etag
    )
    return JSONResponse(_shown(incoming, tenant, written), status_code=201 if found is None else 200)


async def get(incoming: Incoming) -> Response:
    """Read a blocklist, without its items."""
    tenant = await incoming.tenant()
    return JSONResponse(_shown(incoming, tenant, await _existing(incoming, tenant)))


async def list_blocklists(incoming: Incoming) -> Response:
    """List an account's blocklists."""
    tenant = await incoming.tenant()
    found, more = await (await incoming.gate.policies.lists(tenant.id)).page(after=incoming.cursor, limit=PAGE)
    shown = [_shown(incoming, tenant, each) for each in found]
    return JSONResponse(incoming.page(shown, found[-1].name if more and found else ""))


async def delete(incoming: Incoming) -> Response:
    """Delete a blocklist with its items, unless a policy uses it."""
    tenant = await incoming.tenant()
    found = await _find(incoming, tenant)
    incoming.check_condition(None if found is None else found.etag)
    if found is not None:
        await incoming.note("blocklist.delete", f"{tenant.id}/{found.name}", at=tenant.location)
        await incoming.gate.policies.delete_list(tenant.id, incoming.params["blocklist"], etag=found.etag)
    return Response(status_code=204)


async def put_item(incoming: Incoming) -> Response:
    """Create or replace one item."""
    tenant = await incoming.tenant()
    found = await _existing(incoming, tenant)
    name = incoming.params["item"]
    incoming.check_condition(found.etag if name in found.content["items"] else None)
    properties, tags = sent(await incoming.json())
    if tags:
        raise InvalidRequest("The items of a blocklist have no tags: leave 'tags' out.", code="InvalidRequestContent")
    written = await _change(incoming, tenant, found, put={name: properties})
    return JSONResponse(_item(incoming, tenant, written, name))


async def get_item(incoming: Incoming) -> Response:
    """Read one item."""
    tenant = await incoming.tenant()
    found = await _existing(incoming, tenant)
    if incoming.params["item"] not in found.content["items"]:
        raise _no_item(incoming)
    return JSONResponse(_item(incoming, tenant, found, incoming.params["item"]))


async def list_items(incoming: Incoming) -> Response:
    """List the items of a blocklist."""
    tenant = await incoming.tenant()
    found = await _existing(incoming, tenant)
    following = (name for name in sorted(found.content["items"]) if name > incoming.cursor)
    names = list(islice(following, PAGE + 1))
    shown = [_item(incoming, tenant, found, name) for name in names[:PAGE]]
    return JSONResponse(incoming.page(shown, names[PAGE - 1] if len(names) > PAGE else ""))


async def delete_item(incoming: Incoming) -> Response:
    """Delete one item."""
    tenant = await incoming.tenant()
    found = await _find(incoming, tenant)
    is_there = found is not None and incoming.params["item"] in found.content["items"]
    incoming.check_condition(found.etag if found is not None and is_there else None)
    if found is not None and is_there:
        await _change(incoming, tenant, found, delete=[incoming.params["item"]])
    return Response(status_code=204)


async def add_items(incoming: Incoming) -> Response:
    """Create or replace many items at once: all of them or, if one cannot be used, none."""
    tenant = await incoming.tenant()
    found = await _existing(incoming, tenant)
    incoming.check_condition(found.etag)
    items = _validated(_ITEMS, await read_body(incoming.http, MAX_BODY_BYTES))
    written = await _change(incoming, tenant, found, put={item.name: item.properties for item in items})
    return JSONResponse(_shown(incoming, tenant, written))


async def delete_items(incoming: Incoming) -> Response:
    """Delete many items at once; those that are not there are left out."""
    tenant = await incoming.tenant()
    found = await _existing(incoming, tenant)
    incoming.check_condition(found.etag)
    names = _validated(_NAMES, await read_body(incoming.http, MAX_BODY_BYTES))
    await _change(incoming, tenant, found, delete=frozenset(names))
    return Response(status_code=204)


async def _change(
    incoming: Incoming,
    tenant: Tenant,
    found: Document,
    *,
    put: Mapping[str, object] | None = None,
    delete: Collection[str] = (),
) -> Document:
    """Change items of a blocklist: whatever else was changed meanwhile stays, unless the caller names a version."""
    await incoming.note("blocklist.write", f"{tenant.id}/{found.name}", at=tenant.location)
    etag = found.etag if incoming.is_conditional else None
    return await incoming.gate.policies.change_items(tenant.id, found.name, put=put, delete=delete, etag=etag)


def _validated(kind: TypeAdapter[Any], raw: bytes) -> Any:
    try:
        found = kind.validate_python(from_json(raw))
    except (ValidationError, ValueError):
        found = None
    if not isinstance(found, list) or len(found) > MAX_ITEMS:
        raise InvalidRequest(
            f"The request content must be an array of at most {MAX_ITEMS:,} items: names to delete, or objects with 'name' and 'properties' to add.",
            code="InvalidRequestContent",
        )
    return found


async def _find(incoming: Incoming, tenant: Tenant) -> Document | None:
    return await incoming.gate.policies.blocklist(tenant.id, incoming.params["blocklist"])


async def _existing(incoming: Incoming, tenant: Tenant) -> Document:
    found = await _find(incoming, tenant)
    if found is None:
        raise incoming.not_found(
            "accounts/raiBlocklists", f"{incoming.params['account']}/{incoming.params['blocklist']}"
        )
    return found


def _no_item(incoming: Incoming) -> NotFound:
    names = (incoming.params["account"], incoming.params["blocklist"], incoming.params["item"])
    return incoming.not_found("accounts/raiBlocklists/raiBlocklistItems", "/".join(names))


def _shown(incoming: Incoming, tenant: Tenant, found: Document) -> dict[str, Any]:
    return {
        "id": f"{incoming.account_id(tenant)}/raiBlocklists/{found.content['name']}",
        "name": found.content["name"],
        "type": f"{PROVIDER}/accounts/raiBlocklists",
        "etag": shown_etag(found.etag),
        "tags": found.content.get("tags", {}),
        "properties": found.content["properties"],
    }


def _item(incoming: Incoming, tenant: Tenant, found: Document, name: str) -> dict[str, Any]:
    return {
        "id": f"{incoming.account_id(tenant)}/raiBlocklists/{found.content['name']}/raiBlocklistItems/{name}",
        "name": name,
        "type": f"{PROVIDER}/accounts/raiBlocklists/raiBlocklistItems",
        "etag": shown_etag(found.etag),
        "properties": found.content["items"][name],
    }
