"""Models on the wire, with OpenAI's fields and Azure's in one object."""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.types import Model


def render(model: Model) -> bytes:
    """Return one model as JSON."""
    raise NotImplementedError


def render_list(models: Iterable[Model]) -> bytes:
    """Return the list of models as JSON, in the order given."""
    raise NotImplementedError
