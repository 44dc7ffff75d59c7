"""Content-filter policies of the control plane: an account's own, and the operator's and built-in ones, which it may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field
from starlette.responses import JSONResponse, Response

from sluicegate.api.arm.incoming import PAGE, PROVIDER, Body, Incoming, Tags, shown_etag, validated
from sluicegate.errors import InvalidRequest
from sluicegate.policies import BUILT_IN, CATEGORIES, Policy
from sluicegate.storage.documents import Document
from sluicegate.tenancy.tenants import Tenant

READ_ONLY = frozenset({"id", "name", "type", "etag", "systemData"})
_HAS_SEVERITY = {category.name: category.has_severity for category in CATEGORIES.values()}


async def put(incoming: Incoming) -> Response:
    """Create or replace a policy."""
    tenant = await incoming.tenant()
    found = await _find(incoming, tenant)
    incoming.check_condition(None if found is None else found.etag)
    properties, tags = sent(await incoming.json())
    await incoming.note("policy.write", f"{tenant.id}/{incoming.params['policy']}", at=tenant.location)
    written = await incoming.gate.policies.put_policy(
        tenant.id, incoming.params["policy"], properties, tags, etag=None if found is None else found.etag
    )
    return JSONResponse(_shown(incoming, tenant, written), status_code=201 if found is None else 200)


async def get(incoming: Incoming) -> Response:
    """Read a policy."""
    tenant = await incoming.tenant()
    if (offered := incoming.gate.app_policies.policies.get(incoming.params["policy"].lower())) is not None:
        return JSONResponse(_offered(incoming, tenant, offered))
    found = await _find(incoming, tenant)
    if found is None:
        raise incoming.not_found("accounts/raiPolicies", f"{incoming.params['account']}/{incoming.params['policy']}")
    return JSONResponse(_shown(incoming, tenant, found))


async def list_policies(incoming: Incoming) -> Response:
    """List the policies that an account's deployments may use: on the first page the operator's, then the account's own."""
    tenant = await incoming.tenant()
    found, more = await (await incoming.gate.policies.policies(tenant.id)).page(after=incoming.cursor, limit=PAGE)
    offered = [] if incoming.cursor else incoming.gate.app_policies.policies.values()
    shown = [_offered(incoming, tenant, each) for each in offered] + [_shown(incoming, tenant, each) for each in found]
    return JSONResponse(incoming.page(shown, found[-1].name if more and found else ""))


async def delete(incoming: Incoming) -> Response:
    """Delete a policy that no deployment uses."""
    tenant = await incoming.tenant()
    if incoming.params["policy"].lower() in incoming.gate.app_policies.policies:
        raise InvalidRequest("This policy is the operator's: it cannot be deleted.", code="InvalidResourceName")
    found = await _find(incoming, tenant)
    incoming.check_condition(None if found is None else found.etag)
    if found is not None:
        await incoming.note("policy.delete", f"{tenant.id}/{found.name}", at=tenant.location)
        await incoming.gate.policies.delete_policy(tenant.id, incoming.params["policy"], etag=found.etag)
    # What the client takes for done at once, whether there was something to delete or not.
    return Response(status_code=204)


class Sent(NamedTuple):
    """What a caller sent of a resource; its properties are still to be read."""

    properties: Any
    tags: Mapping[str, str]


class _Sent(Body):
    properties: Any = None
    tags: Tags = Field(default_factory=dict)


def sent(document: dict[str, Any]) -> Sent:
    """Return what a caller sent, without what only answers hold.

    Raises:
        InvalidRequest: There is something else, or the tags cannot be used.
    """
    given = {name: value for name, value in document.items() if name not in READ_ONLY and value is not None}
    body = validated(_Sent, given)
    properties = body.properties
    if isinstance(properties, dict):
        properties = {name: value for name, value in properties.items() if name != "type" and value is not None}
    return Sent(properties, body.tags)


async def _find(incoming: Incoming, tenant: Tenant) -> Document | None:
    return await incoming.gate.policies.policy(tenant.id, incoming.params["policy"])


def _shown(incoming: Incoming, tenant: Tenant, found: Document) -> dict[str, Any]:
    shown = _resource(incoming, tenant, found.content["name"], found.content["properties"])
    return {**shown, "etag": shown_etag(found.etag), "tags": found.content.get("tags", {})}


def _offered(incoming: Incoming, tenant: Tenant, policy: Policy) -> dict[str, Any]:
    properties = {
        "type": "SystemManaged" if policy.name in BUILT_IN else "UserManaged",
        "mode": policy.mode.value,
        "contentFilters": [
            {
                "name": each.name,
                "enabled": each.enabled,
                "blocking": each.blocking,
                "source": each.source.value,
                **({"severityThreshold": each.severity_threshold.value} if _HAS_SEVERITY[each.name] else {}),
            }
            for each in policy.filters
        ],
        "customBlocklists": [
            {"blocklistName": use.blocklist.name, "blocking": use.blocking, "source": use.source.value}
            for use in policy.blocklists
        ],
    }
    return _resource(incoming, tenant, policy.name, properties)


def _resource(incoming: Incoming, tenant: Tenant, name: str, properties: Any) -> dict[str, Any]:
    return {
        "id": f"{incoming.account_id(tenant)}/raiPolicies/{name}",
        "name": name,
        "type": f"{PROVIDER}/accounts/raiPolicies",
        "properties": properties,
    }
