"""Deleting fine-tuning jobs, and what they need no more: with a receipt, and what lies at an upstream with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from sluicegate.fine_tuning.job_store import JobStore, Kept, nothing
from sluicegate.fine_tuning.jobs import Job
from sluicegate.fine_tuning.tuned_models import TunedModel, TunedModels
from sluicegate.retention.removals import Evidence, Found, Kind
from sluicegate.storage.day_layout import Tally

Forget: TypeAlias = Callable[[Job], Awaitable[tuple[str, ...]]]
"""Has the plugin that trains forget a job, and returns names of what is gone elsewhere."""
DeleteModel: TypeAlias = Callable[[TunedModel], Awaitable[tuple[str, ...]]]
"""Deletes a model here and elsewhere, and returns names of what is gone elsewhere."""


@dataclass(frozen=True, slots=True)
class JobRemoval:
    """The removal of a job (``delete.job``), or of what one that is over needs no more (``delete.job-files``).

    Attributes:
        with_models: Whether the models that it has made go as well, though it has succeeded.
    """

    store: JobStore
    models: TunedModels
    forget: Forget
    delete_model: DeleteModel
    kind: Kind
    account: str
    subject: str
    with_models: bool = False
    gone: list[str] = field(default_factory=list)

    async def found(self) -> Found:
        """Count what is there."""
        job = await self.store.get(self.account, self.subject)
        kept = nothing if self._takes_models(job) else await self._weights()
        tally = Tally()
        if self.kind is Kind.DELETE_JOB:
            stored = self.store.stored(self.account, self.subject, kept=kept)
        else:
            stored = self.store.stored_files(self.account, self.subject, kept=kept)
        async for blob in stored:
            tally.note(blob)
        return tally.found()

    async def carry_out(self) -> Evidence:
        """Remove it: what is elsewhere first, because afterwards nobody knows of it.

        Raises:
            ApiError: Something elsewhere may be left.
        """
        job = await self.store.get(self.account, self.subject)
        if job is not None and (self.kind is Kind.DELETE_JOB or job.status != "succeeded"):
            self.gone.extend(await self.forget(job))
        if self._takes_models(job):
            for model in await self._made():
                self.gone.extend(await self.delete_model(model))
        kept = await self._weights()
        if self.kind is Kind.DELETE_JOB:
            await self.store.erase(self.account, self.subject, kept=kept)
            stored = self.store.stored(self.account, self.subject, kept=kept)
        else:
            await self.store.erase_files(self.account, self.subject, kept=kept)
            stored = self.store.stored_files(self.account, self.subject, kept=kept)
        left = sum([1 async for _ in stored])
        return Evidence({}, {"keys, files and documents of the job": left, **dict.fromkeys(self.gone, 0)})

    def _takes_models(self, job: Job | None) -> bool:
        return self.with_models or (job is not None and job.status in ("failed", "cancelled"))

    async def _made(self) -> Iterable[TunedModel]:
        return [model for model in await self.models.list(self.account) if model.job == self.subject]

    async def _weights(self) -> Kept:
        return frozenset([model.weights_file for model in await self._made()]).__contains__
