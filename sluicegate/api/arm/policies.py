"""Content-filter policies of the control plane: an account's own, and the operator's and built-in ones, which it may read."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from sluicegate.api.arm.incoming import PAGE, PROVIDER, Incoming, shown_etag
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
    properties = properties_of(await incoming.json())
    await incoming.note("policy.write", f"{tenant.id}/{incoming.params['policy']}", at=tenant.location)
    written = await incoming.gate.policies.put_policy(
        tenant.id, incoming.params["policy"], properties, etag=None if found is None else found.etag
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
    found = await _find(incoming, tenant)
    incoming.check_condition(None if found is None else found.etag)
    if found is not None:
        await incoming.note("policy.delete", f"{tenant.id}/{found.name}", at=tenant.location)
        await incoming.gate.policies.delete_policy(tenant.id, incoming.params["policy"], etag=found.etag)
    # What the client takes for done at once, whether there was something to delete or not.
    return Response(status_code=204)


def properties_of(document: dict[str, Any]) -> Any:
    """Return the ``properties`` of what a caller sent, without what only answers hold.

    Raises:
        InvalidRequest: There is something else beside them.
    """
    if unknown := sorted(document.keys() - READ_ONLY - {"properties", "tags"}):
        raise InvalidRequest(
            f"The request content was invalid: {unknown[0][:80]}: unknown property.", code="InvalidRequestContent"
        )
    properties = document.get("properties")
    if isinstance(properties, dict):
        return {name: value for name, value in properties.items() if name != "type" and value is not None}
    return properties


async def _find(incoming: Incoming, tenant: Tenant) -> Document | None:
    return await incoming.gate.policies.policy(tenant.id, incoming.params["policy"])


def _shown(incoming: Incoming, tenant: Tenant, found: Document) -> dict[str, Any]:
    shown = _resource(incoming, tenant, found.content["name"], found.content["properties"])
    return {**shown, "etag": shown_etag(found.etag)}


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
