"""Accounts of the control plane: create, read, list, change, delete, restore and purge them, and their keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import Field
from starlette.responses import JSONResponse, Response

from sluicegate.accounts import API_KEYS
from sluicegate.api.arm.incoming import PAGE, PROVIDER, Body, Incoming, Tags, merged, shown_etag, validated
from sluicegate.errors import Conflict, InvalidRequest, StartupError
from sluicegate.monitoring.penalties import worst
from sluicegate.storage.customer_keys import customer_key
from sluicegate.storage.day_layout import CEILING_DAYS
from sluicegate.tenancy.tenants import RESERVED, Tenant

READ_ONLY = {
    "": frozenset({"id", "name", "type", "systemData", "etag"}),
    "properties": frozenset(
        {
            "provisioningState", "endpoint", "endpoints", "internalId", "capabilities", "isMigrated", "skuChangeInfo",
            "privateEndpointConnections", "dateCreated", "callRateLimit", "quotaLimit", "deletionDate",
            "scheduledPurgeDate", "commitmentPlanAssociations", "abusePenalty",
        }
    ),
}  # fmt: skip
"""What answers hold and requests may repeat: clients send back what they read."""
NO_KEY = {"keySource": "Microsoft.CognitiveServices"}
"""The encryption of an account that has no key of its own."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "publicNetworkAccess": ("Enabled",),
    "networkAcls": ({}, {"defaultAction": "Allow"}),
    "userOwnedStorage": ([],),
    "dynamicThrottlingEnabled": (False,),
    "restrictOutboundNetworkAccess": (False,),
    "allowedFqdnList": ([],),
    "storedCompletionsDisabled": (True,),
    "allowProjectManagement": (False,),
}
"""Azure's properties that this deployment does not have, with the values that ask for nothing."""


class Sku(Body):
    name: Literal["S0"]
    tier: str | None = None
    capacity: int | None = None


class Identity(Body):
    type: Literal["None"]


class ApiProperties(Body):
    """What Azure leaves to each kind of account; here, how long content is kept."""

    retention_days: int = Field(CEILING_DAYS, ge=1, le=CEILING_DAYS)


class Properties(Body):
    custom_sub_domain_name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{1,62}$")
    disable_local_auth: bool = False
    encryption: dict[str, Any] | None = None
    api_properties: ApiProperties = ApiProperties()
    restore: bool = False


class AccountBody(Body):
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL

    location: str
    kind: Literal["OpenAI", "AIServices"]
    sku: Sku
    tags: Tags = Field(default_factory=dict)
    identity: Identity | None = None
    properties: Properties = Properties()


async def put(incoming: Incoming) -> Response:
    """Create an account, replace its settings, or restore it as it was but for what the body names."""
    sent = _without_read_only(await incoming.json())
    found = await incoming.gate.tenants.get(incoming.params["account"])
    if found is not None and not found.is_purged and found.scope != incoming.scope:
        raise Conflict(
            "An account of this name exists in another resource group: names are unique in this deployment.",
            code="AccountNameInUse",
        )
    body = _read(sent if found is None or found.deleted is None else merged(_sent(found), sent))
    location = _location(incoming, body)
    if found is None or found.is_purged:
        return await _create(incoming, body, location, found)
    if location != found.location:
        raise Conflict(
            f"The resource already exists in location '{found.location}': it cannot be moved.",
            code="InvalidResourceLocation",
        )
    if found.deleted:
        return await _restore(incoming, body, found)
    incoming.check_condition(found.etag)
    return await _update(incoming, body, found)


async def patch(incoming: Incoming) -> Response:
    """Change some of an account's settings; what is null goes back to its default."""
    found = await incoming.tenant()
    incoming.check_condition(found.etag)
    body = _read(merged(_sent(found), _without_read_only(await incoming.json())))
    if _location(incoming, body) != found.location:
        raise Conflict("The location of a resource cannot be changed.", code="InvalidResourceLocation")
    return await _update(incoming, body, found)


async def get(incoming: Incoming) -> Response:
    """Read an account."""
    return JSONResponse(shown(incoming, await incoming.tenant()))


async def list_accounts(incoming: Incoming) -> Response:
    """List the accounts of a subscription or a resource group."""
    found, cursor = await incoming.gate.tenants.page(incoming.scope, after=incoming.cursor, limit=PAGE)
    return JSONResponse(incoming.page([shown(incoming, tenant) for tenant in found], cursor))


async def delete(incoming: Incoming) -> Response:
    """Delete an account; it can be restored until it is purged."""
    found = await incoming.gate.tenants.get(incoming.params["account"])
    if found is None or found.deleted or found.is_purged or found.scope != incoming.scope:
        incoming.check_condition(None)
        return Response(status_code=204)
    incoming.check_condition(found.etag)
    await incoming.note("account.delete", found.id, at=found.location)
    await incoming.gate.tenants.delete(found)
    return Response(status_code=200)


async def get_deleted(incoming: Incoming) -> Response:
    """Read a deleted account that can be restored."""
    return JSONResponse(shown(incoming, await _deleted(incoming)))


async def list_deleted(incoming: Incoming) -> Response:
    """List the deleted accounts of a subscription that can be restored."""
    found, cursor = await incoming.gate.tenants.page(incoming.scope, after=incoming.cursor, limit=PAGE, deleted=True)
    return JSONResponse(incoming.page([shown(incoming, tenant) for tenant in found], cursor))


async def purge(incoming: Incoming) -> Response:
    """Purge a deleted account: everything of it is gone when this returns, but its name, which stays reserved."""
    found = await _deleted(incoming)
    await incoming.note("account.purge", found.id, at=found.location)
    await incoming.gate.erasure.account(found, actor=incoming.actor)
    return Response(status_code=200)


async def list_keys(incoming: Incoming) -> Response:
    """Return both API keys."""
    found = await incoming.tenant()
    _check_local_auth(found)
    await incoming.note("account.list-keys", found.id, at=found.location)
    return JSONResponse(await _keys(incoming, found))


class RegenerateKey(Body):
    key_name: Literal["Key1", "Key2"]


async def regenerate_key(incoming: Incoming) -> Response:
    """Replace one API key, and return both."""
    body = validated(RegenerateKey, await incoming.json())
    found = await incoming.tenant()
    _check_local_auth(found)
    slot = body.key_name.lower()
    await incoming.note("account.regenerate-key", f"{found.id}/{slot}", at=found.location)
    await incoming.gate.accounts.regenerate_key(found.id, slot)
    return JSONResponse(await _keys(incoming, found))


def shown(incoming: Incoming, tenant: Tenant) -> dict[str, Any]:
    """Return an account as answers hold it."""
    resource, deleted = tenant.resource, tenant.deleted
    account_id = incoming.account_id(tenant)
    if deleted is not None:
        account_id = (
            f"/subscriptions/{resource['subscription']}/providers/{PROVIDER}/locations/{tenant.location}"
            f"/resourceGroups/{resource['group']}/deletedAccounts/{resource['name']}"
        )
    properties = {
        "provisioningState": "Succeeded",
        "endpoint": incoming.base_url,
        "endpoints": {"OpenAI Language Model Instance API": incoming.base_url},
        "internalId": tenant.id,
        "capabilities": incoming.gate.capabilities(tenant),
        "dateCreated": resource.get("created"),
        "isMigrated": False,
        "privateEndpointConnections": [],
        "publicNetworkAccess": "Enabled",
        **resource.get("properties", {}),
        "encryption": tenant.encryption or NO_KEY,
        "apiProperties": {"retentionDays": tenant.retention_days},
    }
    penalty = worst(tenant.penalties, None, incoming.gate.now())
    if penalty is not None:
        properties["abusePenalty"] = penalty.arm
    if deleted is not None and tenant.purge_date is not None:
        properties |= {"deletionDate": _utc(deleted), "scheduledPurgeDate": _utc(tenant.purge_date)}
    return {
        "id": account_id,
        "name": resource["name"],
        "type": f"{PROVIDER}/{'accounts' if deleted is None else 'deletedAccounts'}",
        "location": tenant.location,
        "kind": resource["kind"],
        "sku": resource["sku"],
        "tags": resource["tags"],
        "etag": shown_etag(tenant.etag),
        "properties": properties,
        "systemData": {"createdAt": resource.get("created"), "lastModifiedAt": resource.get("changed")},
    }


async def _create(incoming: Incoming, body: AccountBody, location: str, left: Tenant | None) -> Response:
    incoming.check_condition(None)
    if left is not None and not incoming.gate.tenants.is_free(left):
        raise Conflict(
            f"An account of this name was purged: nobody gets its name within {RESERVED.days} days. Choose another.",
            code="AccountNameReserved",
        )
    if body.properties.restore:
        raise InvalidRequest("There is no deleted account of this name to restore.", code="CannotRestore")
    await _prove(incoming, body)
    await incoming.note("account.create", incoming.params["account"].lower(), at=location)
    created = await incoming.gate.tenants.create(
        incoming.scope, location, _resource(incoming, body), body.properties.api_properties.retention_days, instead=left
    )
    covered = await incoming.gate.applications.cover(await _encrypted(incoming, body, created))
    return JSONResponse(shown(incoming, covered), status_code=201)


async def _update(incoming: Incoming, body: AccountBody, found: Tenant) -> Response:
    await _prove(incoming, body)
    await incoming.note("account.update", found.id, at=found.location)
    changed = await incoming.gate.tenants.update(
        found, _resource(incoming, body), body.properties.api_properties.retention_days
    )
    return JSONResponse(shown(incoming, await _encrypted(incoming, body, changed)))


async def _prove(incoming: Incoming, body: AccountBody) -> None:
    """Refuse an encryption key that cannot be used."""
    try:
        await incoming.gate.prove_encryption(body.properties.encryption)
    except (ValueError, StartupError) as error:
        raise InvalidRequest(
            f"Invalid 'properties.encryption': {error}.", code="InvalidEncryption", param="properties.encryption"
        ) from None


async def _encrypted(incoming: Incoming, body: AccountBody, tenant: Tenant) -> Tenant:
    """Let an account have the encryption key that the body names, or none."""
    wanted = customer_key(body.properties.encryption)
    if wanted == customer_key(tenant.encryption):
        return tenant
    await incoming.note("encryption.change", tenant.id, at=tenant.location)
    await incoming.gate.accounts.set_encryption(tenant.id, body.properties.encryption)
    return await incoming.tenant()


async def _restore(incoming: Incoming, body: AccountBody, found: Tenant) -> Response:
    incoming.check_condition(None)
    if not body.properties.restore:
        raise Conflict(
            "An existing resource of this name has been soft-deleted: set 'properties.restore' to restore it, or purge it first.",
            code="FlagMustBeSetForRestore",
        )
    await _prove(incoming, body)
    await incoming.note("account.restore", found.id, at=found.location)
    restored = await incoming.gate.tenants.restore(
        found, _resource(incoming, body), body.properties.api_properties.retention_days
    )
    covered = await incoming.gate.applications.cover(await _encrypted(incoming, body, restored))
    return JSONResponse(shown(incoming, covered), status_code=201)


async def _deleted(incoming: Incoming) -> Tenant:
    found = await incoming.gate.tenants.get(incoming.params["account"])
    is_there = found is not None and found.scope == incoming.scope
    if found is None or not is_there or not found.deleted or found.location != _normal(incoming.params["location"]):
        raise incoming.not_found("deletedAccounts")
    return found


async def _keys(incoming: Incoming, tenant: Tenant) -> Mapping[str, str]:
    found = await incoming.gate.accounts.api_keys(tenant.id)
    return {slot: found[slot] for slot in API_KEYS}


def _check_local_auth(tenant: Tenant) -> None:
    if tenant.resource["properties"].get("disableLocalAuth"):
        raise InvalidRequest("Failed to list key. disableLocalAuth is set to be true", code="BadRequest")


# --- what callers send -----------------------------------------------------------------------------------------------


def _read(document: Mapping[str, Any]) -> AccountBody:
    document = _without_read_only(document)
    properties = document.get("properties")
    if isinstance(properties, dict):
        asked = {name: value for name, value in properties.items() if name in NEUTRAL and value is not None}
        for name, value in asked.items():
            if not any(_asks_for_nothing(value, neutral) for neutral in NEUTRAL[name]):
                raise InvalidRequest(
                    f"'properties.{name}' is not supported here with this value: leave it out.",
                    code="UnsupportedProperty",
                    param=f"properties.{name}",
                )
        document["properties"] = {
            name: value for name, value in properties.items() if name not in NEUTRAL and value is not None
        }
    return validated(AccountBody, {name: value for name, value in document.items() if value is not None})


def _asks_for_nothing(value: Any, neutral: Any) -> bool:
    if isinstance(value, dict) and isinstance(neutral, dict):
        return {name: each for name, each in value.items() if each not in ([], None)} == neutral
    return bool(value == neutral)


def _without_read_only(document: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in document.items() if name not in READ_ONLY[""]}
    properties = kept.get("properties")
    if isinstance(properties, dict):
        kept["properties"] = {name: value for name, value in properties.items() if name not in READ_ONLY["properties"]}
    return kept


def _sent(tenant: Tenant) -> dict[str, Any]:
    """Return what a PUT that makes this account would send."""
    resource = tenant.resource
    return {
        "location": tenant.location,
        **{name: resource[name] for name in ("kind", "sku", "tags")},
        "properties": {
            **resource["properties"],
            "encryption": tenant.encryption or NO_KEY,
            "apiProperties": {"retentionDays": tenant.retention_days},
        },
    }


def _resource(incoming: Incoming, body: AccountBody) -> dict[str, Any]:
    properties = body.properties.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"api_properties", "encryption", "restore"}
    )
    return {
        "name": incoming.params["account"],
        "subscription": incoming.params["subscription"],
        "group": incoming.params["group"],
        "kind": body.kind,
        "sku": body.sku.model_dump(mode="json", by_alias=True, exclude_none=True),
        "tags": body.tags,
        "properties": properties,
    }


def _location(incoming: Incoming, body: AccountBody) -> str:
    location = _normal(body.location)
    if location not in incoming.gate.locations:
        raise InvalidRequest(
            f"The provided location is not available for resource type '{PROVIDER}/accounts'. "
            f"List of available regions for the resource type is '{','.join(incoming.gate.locations)}'.",
            code="LocationNotAvailableForResourceType",
            param="location",
        )
    return location


def _normal(location: str) -> str:
    """Return a location's name: ``West Europe`` is ``westeurope``."""
    return location.replace(" ", "").lower()


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
