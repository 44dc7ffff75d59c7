"""Models on the wire, with OpenAI's fields and Azure's in one object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sluicegate.api.encoding import encode
from sluicegate.types import Model


def render(model: Model) -> bytes:
    """Return one model as JSON."""
    return encode(_fields(model))


def render_list(models: Iterable[Model]) -> bytes:
    """Return the list of models as JSON, in the order given."""
    return encode({"object": "list", "data": [_fields(model) for model in models]})


def _fields(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "created_at": model.created,
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "capabilities": {
            "fine_tune": False,
            "inference": True,
            "completion": "completions" in model.operations,
            "chat_completion": "chat.completions" in model.operations,
            "embeddings": "embeddings" in model.operations,
        },
        "deprecation": {},
    }
