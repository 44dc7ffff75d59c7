"""What there is to choose from: models, SKUs, content filters, and how much of the capacity is used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from sluicegate.api.arm.deployments import MAX_CAPACITY
from sluicegate.api.arm.incoming import PROVIDER, Incoming
from sluicegate.policies import CATEGORIES
from sluicegate.types import Model

KIND = "OpenAI"


async def list_models(incoming: Incoming) -> Response:
    """List the models that a location offers."""
    return JSONResponse({"value": [{"kind": KIND, "skuName": "S0", "model": model} for model in _models(incoming)]})


async def list_account_models(incoming: Incoming) -> Response:
    """List the models that an account can deploy: those of everybody, and its own fine-tuned ones."""
    tenant = await incoming.tenant()
    own = [
        {
            **_model(known.model),
            "name": known.name,
            "baseModel": {"format": "OpenAI", "name": known.model.id, "version": "1"},
        }
        for known in await incoming.gate.models.tuned(tenant.id, tenant.location)
        if known.tuned is not None and known.tuned.deployable
    ]
    return JSONResponse({"value": [*_models(incoming), *own]})


async def list_account_skus(incoming: Incoming) -> Response:
    """List the SKUs that an account could have."""
    await incoming.tenant()
    return JSONResponse(
        {"value": [{"resourceType": f"{PROVIDER}/accounts", "sku": {"name": "S0", "tier": "Standard"}}]}
    )


async def list_usages(incoming: Incoming) -> Response:
    """List how much capacity an account's deployments of each model have."""
    tenant = await incoming.tenant()
    documents = incoming.gate.deployments.documents(tenant.id)
    used: dict[str, int] = dict.fromkeys(incoming.gate.plugins.models(), 0)
    after, more = "", True
    while more:
        page, more = await documents.page(after=after, limit=100)
        for each in page:
            used[each.content["model"]] = used.get(each.content["model"], 0) + (each.content["capacity"] or 0)
        after = page[-1].name if page else ""
        more = more and bool(page)
    return JSONResponse({"value": [_usage(model, capacity) for model, capacity in sorted(used.items())]})


async def list_content_filters(incoming: Incoming) -> Response:
    """List what a policy's filters can be called."""
    return JSONResponse({"value": [_filter(incoming, *each) for each in _filters()]})


async def get_content_filter(incoming: Incoming) -> Response:
    """Read one of them."""
    wanted = incoming.params["filter"].lower()
    for name, source, has_severity in _filters():
        if name.lower() == wanted:
            return JSONResponse(_filter(incoming, name, source, has_severity))
    raise incoming.not_found("locations/raiContentFilters", incoming.params["filter"])


def _models(incoming: Incoming) -> list[dict[str, Any]]:
    return [_model(model) for model, _ in incoming.gate.plugins.models().values()]


def _model(model: Model) -> dict[str, Any]:
    names = {"chat.completions": "chatCompletion", "completions": "completion", "embeddings": "embeddings"}
    return {
        "format": "OpenAI",
        "name": model.id,
        "version": "1",
        "isDefaultVersion": True,
        "lifecycleStatus": "GenerallyAvailable",
        "capabilities": {names[operation]: "true" for operation in sorted(model.operations)},
        "skus": [{"name": "Standard", "capacity": {"minimum": 1, "maximum": MAX_CAPACITY, "step": 1, "default": 1}}],
        "systemData": {"createdAt": datetime.fromtimestamp(model.created, UTC).isoformat()},
    }


def _usage(model: str, capacity: int) -> dict[str, Any]:
    name = {"value": f"OpenAI.Standard.{model}", "localizedValue": f"Thousands of tokens a minute, {model}"}
    return {"name": name, "currentValue": capacity, "limit": MAX_CAPACITY, "unit": "Count", "status": "Included"}


def _filters() -> list[tuple[str, str, bool]]:
    return [
        (category.name, source.value, category.has_severity)
        for category in CATEGORIES.values()
        for source in sorted(category.sources, reverse=True)
    ]


def _filter(incoming: Incoming, name: str, source: str, has_severity: bool) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{incoming.params['subscription']}/providers/{PROVIDER}"
        f"/locations/{incoming.params['location']}/raiContentFilters/{name}",
        "name": name,
        "type": f"{PROVIDER}/locations/raiContentFilters",
        "properties": {"name": name, "isMultiLevelFilter": has_severity, "source": source},
    }
