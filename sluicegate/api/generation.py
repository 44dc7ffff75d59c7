"""What the answers of chat and of completions share: their metadata, usage and verdicts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every frame of an answer repeats.

    Attributes:
        id: ``chatcmpl-…`` or ``cmpl-…``.
        created: Unix seconds.
        model: The model's name as reported to the caller.
        annotations: Whether verdicts are shown; ``versions.check(…).annotations``.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str | None = None
    annotations: bool = True
