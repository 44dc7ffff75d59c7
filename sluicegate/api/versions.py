"""The ``api-version`` query parameter: which values each surface knows and what they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Surface: TypeAlias = Literal["classic", "v1"]
"""``classic``: ``/openai/deployments/{deployment}/…`` and ``/openai/…``; ``v1``: ``/openai/v1/…``."""


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
    raise NotImplementedError
