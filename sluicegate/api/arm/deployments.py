"""Deployments of the control plane: a model under a name, with a content-filter policy and a capacity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from starlette.responses import JSONResponse, Response

from sluicegate.admission import check_retention
from sluicegate.api.arm.incoming import PAGE, PROVIDER, Body, Incoming, Tags, merged, shown_etag, validated
from sluicegate.errors import InvalidRequest
from sluicegate.fine_tuning.tuned_models import base_of
from sluicegate.storage.documents import Document
from sluicegate.tenancy.deployments import NAME, Deployment
from sluicegate.tenancy.tenants import Tenant

MAX_CAPACITY = 1_000_000
"""Units of one deployment."""
TOKENS_PER_UNIT = 1000
"""A minute; and one request in ten seconds."""
READ_ONLY = frozenset({"provisioningState", "capabilities", "callRateLimit", "rateLimits", "currentCapacity"})
_SKUS = Literal[
    "Standard", "GlobalStandard", "DataZoneStandard", "ProvisionedManaged", "GlobalProvisionedManaged", "DeveloperTier"
]


class Sku(Body):
    name: _SKUS
    capacity: int = Field(1, ge=1, le=MAX_CAPACITY)
    tier: str | None = None


class DeployedModel(Body):
    format: Literal["OpenAI"]
    name: str = Field(min_length=1, max_length=200)
    version: str | None = None
    publisher: str | None = None


class Properties(Body):
    model: DeployedModel
    rai_policy_name: str | None = None
    version_upgrade_option: Literal["OnceNewDefaultVersionAvailable", "OnceCurrentVersionExpired", "NoAutoUpgrade"] = (
        "OnceNewDefaultVersionAvailable"
    )
    dynamic_throttling_enabled: Literal[False] = False


class DeploymentBody(Body):
    sku: Sku
    properties: Properties
    tags: Tags = Field(default_factory=dict)


async def put(incoming: Incoming) -> Response:
    """Create or replace a deployment."""
    tenant = await incoming.tenant()
    found = await _find(incoming, tenant)
    incoming.check_condition(None if found is None else found.etag)
    body = _read(await incoming.json())
    written = await _write(incoming, tenant, body, found)
    return JSONResponse(shown(incoming, tenant, written), status_code=201 if found is None else 200)


async def patch(incoming: Incoming) -> Response:
    """Change a deployment's capacity or tags; what is null goes back to its default."""
    tenant = await incoming.tenant()
    found = await _existing(incoming, tenant)
    incoming.check_condition(found.etag)
    sent = await incoming.json()
    if unknown := sent.keys() - {"sku", "tags"}:
        raise InvalidRequest(
            f"A PATCH changes 'sku' and 'tags' only, not {', '.join(sorted(map(repr, unknown)))}: use PUT.",
            code="InvalidRequestContent",
        )
    body = validated(DeploymentBody, merged(_sent(found.content), sent))
    return JSONResponse(shown(incoming, tenant, await _write(incoming, tenant, body, found)))


async def get(incoming: Incoming) -> Response:
    """Read a deployment."""
    tenant = await incoming.tenant()
    return JSONResponse(shown(incoming, tenant, await _existing(incoming, tenant)))


async def list_deployments(incoming: Incoming) -> Response:
    """List an account's deployments."""
    tenant = await incoming.tenant()
    documents = incoming.gate.deployments.documents(tenant.id)
    found, more = await documents.page(after=incoming.cursor, limit=PAGE)
    cursor = found[-1].name if more and found else ""
    return JSONResponse(incoming.page([shown(incoming, tenant, each) for each in found], cursor))


async def delete(incoming: Incoming) -> Response:
    """Delete a deployment."""
    tenant = await incoming.tenant()
    found = await _find(incoming, tenant)
    incoming.check_condition(None if found is None else found.etag)
    if found is None:
        return Response(status_code=204)
    await incoming.note("deployment.delete", f"{tenant.id}/{found.name}", at=tenant.location)
    await incoming.gate.deployments.delete(tenant.id, found.name, etag=found.etag)
    await incoming.gate.idle_deployments.forget(tenant.id, found.name)
    return Response(status_code=200)


async def list_skus(incoming: Incoming) -> Response:
    """List how a deployment could be scaled."""
    tenant = await incoming.tenant()
    found = await _existing(incoming, tenant)
    capacity = {"minimum": 1, "maximum": MAX_CAPACITY, "step": 1, "default": 1}
    sku = {
        "resourceType": f"{PROVIDER}/accounts/deployments",
        "sku": {"name": found.content["sku"]["name"]},
        "capacity": capacity,
    }
    return JSONResponse({"value": [sku]})


def shown(incoming: Incoming, tenant: Tenant, found: Document) -> dict[str, Any]:
    """Return a deployment as answers hold it."""
    content = found.content
    capacity = content["capacity"]
    limits = []
    if capacity is not None:
        limits = [
            {"key": "request", "renewalPeriod": 10.0, "count": float(capacity)},
            {"key": "token", "renewalPeriod": 60.0, "count": float(capacity * TOKENS_PER_UNIT)},
        ]
    return {
        "id": f"{incoming.account_id(tenant)}/deployments/{content['name']}",
        "name": content["name"],
        "type": f"{PROVIDER}/accounts/deployments",
        "etag": shown_etag(found.etag),
        "sku": content.get("sku", {"name": "Standard"}),
        "tags": content.get("tags", {}),
        "properties": {
            "model": content.get("deployed", {"format": "OpenAI", "name": content["model"]}),
            "raiPolicyName": content["policy"] or incoming.gate.app_policies.default.name,
            "versionUpgradeOption": content.get("upgrade", "OnceNewDefaultVersionAvailable"),
            "provisioningState": "Succeeded",
            "currentCapacity": capacity,
            "rateLimits": limits,
            "capabilities": _capabilities(incoming, content["model"]),
        },
        "systemData": {"createdAt": content.get("created"), "lastModifiedAt": content.get("changed")},
    }


def _capabilities(incoming: Incoming, model: str) -> dict[str, str]:
    served = incoming.gate.plugins.models().get(base_of(model))
    names = {"chat.completions": "chatCompletion", "completions": "completion", "embeddings": "embeddings"}
    return {names[operation]: "true" for operation in sorted(served[0].operations)} if served else {}


async def _write(incoming: Incoming, tenant: Tenant, body: DeploymentBody, found: Document | None) -> Document:
    name, model = incoming.params["deployment"], body.properties.model
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            "The deployment name is invalid: use 1 to 64 letters, digits and _.-, a letter or digit first, and no dot at the end.",
            code="InvalidResourceName",
        )
    await _check_model(incoming, tenant, model.name)
    if body.properties.rai_policy_name is not None:
        await incoming.gate.check_policy(tenant.id, body.properties.rai_policy_name)
    now = incoming.gate.now().isoformat()
    content = {
        "sku": body.sku.model_dump(mode="json", by_alias=True, exclude_none=True),
        "tags": body.tags,
        "deployed": model.model_dump(mode="json", by_alias=True, exclude_none=True),
        "upgrade": body.properties.version_upgrade_option,
        "created": now if found is None else found.content.get("created", now),
        "changed": now,
    }
    deployment = Deployment(
        name if found is None else found.content["name"],
        model.name,
        body.properties.rai_policy_name,
        body.sku.capacity,
    )
    await incoming.note("deployment.write", f"{tenant.id}/{name}", at=tenant.location)
    return await incoming.gate.deployments.put(
        tenant.id, deployment, content, etag=None if found is None else found.etag
    )


async def _check_model(incoming: Incoming, tenant: Tenant, name: str) -> None:
    """Refuse a model that the account does not have, or may not deploy."""
    known = await incoming.gate.models.read(tenant.id, tenant.location, name)
    if known is None:
        raise InvalidRequest(
            "The model of the account deployment is not supported. There are "
            f"{', '.join(sorted(incoming.gate.plugins.models()))}, and the account's own fine-tuned models.",
            code="DeploymentModelNotSupported",
            param="properties.model.name",
        )
    if known.tuned is not None and not known.tuned.deployable:
        why = (
            "has not passed its safety evaluation" if known.tuned.deployable is False else "has not been evaluated yet"
        )
        raise InvalidRequest(
            f"The fine-tuned model cannot be deployed: it {why}.",
            code="DeploymentModelNotSupported",
            param="properties.model.name",
        )
    check_retention(known.model, tenant.has_content_logging)
    if known.tuned is not None:
        await _check_room(incoming, tenant)


async def _check_room(incoming: Incoming, tenant: Tenant) -> None:
    """Refuse one more deployment of a fine-tuned model than an account may have."""
    most, mine = incoming.gate.deployment.fine_tuning.deployments, incoming.params["deployment"].lower()
    others = [
        each
        for each in await incoming.gate.deployments.documents(tenant.id).every()
        if base_of(each.content["model"]) != each.content["model"] and each.name != mine
    ]
    if len(others) >= most:
        raise InvalidRequest(
            f"An account has at most {most} deployments of fine-tuned models: delete one first.",
            code="InsufficientQuota",
            param="properties.model.name",
        )


def _read(document: Mapping[str, Any]) -> DeploymentBody:
    kept = {name: value for name, value in document.items() if name not in ("id", "name", "type", "etag", "systemData")}
    properties = kept.get("properties")
    if isinstance(properties, dict):
        kept["properties"] = {
            name: value for name, value in properties.items() if name not in READ_ONLY and value is not None
        }
    return validated(DeploymentBody, {name: value for name, value in kept.items() if value is not None})


def _sent(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a PUT that makes this deployment would send."""
    return {
        "sku": content.get("sku", {"name": "Standard"}),
        "tags": content.get("tags", {}),
        "properties": {
            "model": content.get("deployed", {"format": "OpenAI", "name": content["model"]}),
            "raiPolicyName": content["policy"],
            "versionUpgradeOption": content.get("upgrade", "OnceNewDefaultVersionAvailable"),
        },
    }


async def _find(incoming: Incoming, tenant: Tenant) -> Document | None:
    name = incoming.params["deployment"]
    return await incoming.gate.deployments.documents(tenant.id).get(name.lower()) if NAME.fullmatch(name) else None


async def _existing(incoming: Incoming, tenant: Tenant) -> Document:
    found = await _find(incoming, tenant)
    if found is None:
        raise incoming.not_found(
            "accounts/deployments", f"{incoming.params['account']}/{incoming.params['deployment']}"
        )
    return found
