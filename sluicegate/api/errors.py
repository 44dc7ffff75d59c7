"""Render an error as the caller sees it: status, body and headers, or an event in the middle of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.types import FilterResults


@dataclass(frozen=True, slots=True)
class Rendered:
    """An error on the wire; ``body`` is JSON."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def render(error: Exception, prompt_filter_results: FilterResults | None = None) -> Rendered:
    """Return what the caller gets for ``error``; an error that is not meant for callers becomes a 500 that says nothing.

    Args:
        error: An ``ApiError``, ``Refused`` on a prompt, or anything else.
        prompt_filter_results: Verdicts the request already carried; those of ``Refused`` are merged over them.
    """
    raise NotImplementedError


def event(error: Exception) -> bytes:
    """Return ``error`` as the event that ends a stream in place of ``[DONE]``."""
    raise NotImplementedError
