"""What every object in a request is, and how one says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Part(BaseModel):
    """Base of every object in a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
    opaque: ClassVar[frozenset[str]] = frozenset({"type", "role"})
    keywords: ClassVar[frozenset[str]] = frozenset()

    def readable(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and value of each field that may hold text."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name not in self.opaque and not (name in self.keywords and isinstance(value, str)):
                yield name, value


def problem(param: str, message: str) -> PydanticCustomError:
    """Return an error whose text is ours, so safe to show; ``api.body`` reads ``param`` from its context."""
    return PydanticCustomError("sluicegate", cast(Any, "{message}"), {"message": message, "param": param})
