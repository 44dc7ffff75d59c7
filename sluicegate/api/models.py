"""Models on the wire, with OpenAI's fields and Azure's in one object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sluicegate.api.encoding import encode
from sluicegate.fine_tuning.model_catalogue import KnownModel


def render(known: KnownModel) -> bytes:
    """Return one model as JSON."""
    return encode(_fields(known))


def render_list(models: Iterable[KnownModel]) -> bytes:
    """Return the list of models as JSON, in the order given."""
    return encode({"object": "list", "data": [_fields(model) for model in models]})


def _fields(known: KnownModel) -> dict[str, Any]:
    model, tuned = known.model, known.tuned
    fields: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "created_at": model.created,
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "capabilities": {
            "fine_tune": known.tunable,
            "inference": True,
            "completion": "completions" in model.operations,
            "chat_completion": "chat.completions" in model.operations,
            "embeddings": "embeddings" in model.operations,
        },
        "deprecation": {},
    }
    if tuned is None:
        return fields
    created = int(tuned.created_at.timestamp())
    capabilities = {**fields["capabilities"], "inference": bool(tuned.deployable)}
    own = {"id": tuned.id, "created": created, "created_at": created, "owned_by": "organization"}
    return {**fields, **own, "model": tuned.base, "fine_tune": tuned.job, "capabilities": capabilities}
