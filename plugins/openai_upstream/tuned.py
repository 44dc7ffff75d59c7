"""What is kept here as the weights of a model that was fine-tuned at an upstream: its name there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import TypeAdapter

from sluicegate.training import TrainingJob, Weights

from .upstream import Upstream

KEPT_S = 30.0


@dataclass(frozen=True, slots=True)
class Tuned:
    """A fine-tuned model, or a checkpoint, of an upstream.

    Attributes:
        model: The upstream's name of it.
        deployment: On Azure, under which name it must be deployed there to be used; None where the model's name is enough.
    """

    model: str
    deployment: str | None = None

    @classmethod
    def of(cls, job: TrainingJob, model: str, upstream: Upstream, step: int | None = None) -> Tuned:
        """Return the model of a finished job, or its checkpoint at a step.

        An Azure deployment's name has at most 64 characters of ``a-zA-Z0-9._-``, too few for a model's name.
        """
        if upstream.kind != "azure":
            return cls(model)
        return cls(model, job.id if step is None else f"{job.id}-step-{step}")

    @property
    def name(self) -> str:
        """What a request to the upstream calls it."""
        return self.deployment or self.model


class TunedNames:
    """What lately used models are called, so that a request needs no file. A model that is deleted is forgotten after ``KEPT_S``.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, Tuned]] = {}

    async def get(self, weights: Weights) -> Tuned:
        """Return the note that a job has left as weights; raises as ``Weights.read`` does."""
        now = self._clock()
        read_at, tuned = self._known.get(weights.id, (0.0, None))
        if tuned is None or now - read_at >= KEPT_S:
            self._known = {id: entry for id, entry in self._known.items() if now - entry[0] < KEPT_S}
            tuned = await read_tuned(weights)
            self._known[weights.id] = (now, tuned)
        return tuned


_TUNED = TypeAdapter(Tuned)


async def read_tuned(weights: Weights) -> Tuned:
    """Return the note that a job has left as weights; raises as ``Weights.read`` does."""
    return _TUNED.validate_json(b"".join([piece async for piece in weights.read()]))
