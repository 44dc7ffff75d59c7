"""The ``api-version`` query parameter: which values each surface knows and what they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from sluicegate.errors import InvalidRequest, NotFound

Surface: TypeAlias = Literal["classic", "v1"]
"""``classic``: ``/openai/deployments/{deployment}/…`` and ``/openai/…``; ``v1``: ``/openai/v1/…``."""

WITHOUT_ANNOTATIONS = frozenset({"2023-03-15-preview", "2023-05-15"})
CLASSIC = WITHOUT_ANNOTATIONS | {
    "2023-06-01-preview",
    "2023-07-01-preview",
    "2023-08-01-preview",
    "2023-09-01-preview",
    "2023-10-01-preview",
    "2023-12-01-preview",
    "2024-02-01",
    "2024-02-15-preview",
    "2024-03-01-preview",
    "2024-04-01-preview",
    "2024-05-01-preview",
    "2024-06-01",
    "2024-07-01-preview",
    "2024-08-01-preview",
    "2024-09-01-preview",
    "2024-10-01-preview",
    "2024-10-21",
    "2024-12-01-preview",
    "2025-01-01-preview",
    "2025-02-01-preview",
    "2025-03-01-preview",
    "2025-04-01-preview",
}
"""Azure publishes no dated version after the last of these: ``v1`` took their place."""
V1 = frozenset({"v1", "preview"})


@dataclass(frozen=True, slots=True)
class Version:
    """A checked api-version.

    Attributes:
        name: As given; ``v1`` where it may be left out and was.
        annotations: Whether answers carry content-filter verdicts.
    """

    surface: Surface
    name: str
    annotations: bool


def check(surface: Surface, api_version: str | None) -> Version:
    """Return the version that ``api_version``, the query parameter or None, asks for.

    Raises:
        NotFound: On the classic surface, when it is missing or unknown.
        InvalidRequest: On v1, when it is anything but ``v1`` or ``preview``.
    """
    if surface == "v1":
        name = api_version or "v1"
        if name not in V1:
            raise InvalidRequest("API version not supported", code="BadRequest", param="api-version")
        return Version(surface, name, annotations=True)
    if not api_version:
        raise NotFound("Resource not found: the query parameter 'api-version' is missing.")
    if api_version not in CLASSIC:
        raise NotFound("Resource not found: the value of the query parameter 'api-version' is not known.")
    return Version(surface, api_version, annotations=api_version not in WITHOUT_ANNOTATIONS)
