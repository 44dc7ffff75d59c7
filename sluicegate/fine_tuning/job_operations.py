"""What callers do with fine-tuning jobs, and the purge timer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sluicegate.config import FineTuning
from sluicegate.errors import Conflict, InvalidRequest, NotFound, PurgeIncomplete, QuotaExceeded, SluicegateError
from sluicegate.fine_tuning.job_store import JobStore, NoSuchJob, nothing
from sluicegate.fine_tuning.jobs import Job, Made, created
from sluicegate.fine_tuning.model_catalogue import is_tunable
from sluicegate.fine_tuning.runner import Runner
from sluicegate.fine_tuning.stages import Work
from sluicegate.retention.receipts import Receipt
from sluicegate.retention.removals import TIMER, Kind
from sluicegate.storage.upload_checks import TRAINING
from sluicegate.storage.uploaded_files import UploadedFiles
from sluicegate.training import Hyperparameters, Method

ABANDONED = timedelta(days=1)
"""How old what never came to be a job is when it goes."""
_KINDS = (Kind.DELETE_JOB, Kind.DELETE_JOB_FILES)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks for: a job."""

    model: str
    training_file: str
    validation_file: str | None
    method: Method
    hyperparameters: Hyperparameters
    seed: int | None
    suffix: str | None
    metadata: Mapping[str, str] | None


class Jobs:
    """The fine-tuning jobs of a region; one object per process.

    Attributes:
        store: Where they are kept.
        runner: Takes their steps.
    """

    def __init__(
        self,
        store: JobStore,
        uploads: UploadedFiles,
        work: Work,
        runner: Runner,
        settings: FineTuning,
        clock: Callable[[], datetime],
    ) -> None:
        self.store = store
        self.runner = runner
        self._uploads = uploads
        self._work = work
        self._settings = settings
        self._clock = clock

    # --- for callers -------------------------------------------------------------------------------------------------

    async def create(self, account: str, asked: Asked) -> Job:
        """Make a job, and have its first step taken soon.

        Raises:
            InvalidRequest: The model or a file does not exist or is not for fine-tuning; ``param`` names which.
            QuotaExceeded: The account has as many jobs as it may.
            ServiceError: Storage or keys failed.
        """
        base = await self._base(account, asked.model)
        files = (asked.training_file, asked.validation_file)
        for id, param in zip(files, ("training_file", "validation_file"), strict=True):
            if id is not None:
                await self._check_file(account, id, param)
        job = created(
            account,
            model=asked.model,
            base=base,
            method=asked.method,
            hyperparameters=asked.hyperparameters,
            seed=asked.seed,
            training_file=asked.training_file,
            validation_file=asked.validation_file,
            suffix=asked.suffix,
            has_metadata=bool(asked.metadata),
            now=self._clock(),
        )
        await self.store.reserve(job)
        try:
            await self._check_room(account)
            await self.store.create(job, asked.metadata)
        except BaseException:
            with suppress(SluicegateError):
                await self.store.erase(account, job.id, kept=nothing)
            raise
        self.runner.wake()
        return job

    async def get(self, account: str, id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: The account has none of that id.
        """
        job = await self.store.get(account, id)
        if job is None:
            raise no_such_job()
        return job

    async def cancel(self, account: str, id: str) -> Job:
        """End a job; what it has made goes with the next step of the runner.

        Raises:
            NotFound: The account has none of that id.
            Conflict: It is over.
        """

        def cancelled(job: Job) -> Job:
            if job.has_ended:
                raise _wrong_state(job, "cancelled")
            return job.cancelled(self._clock())

        return await self._changed(account, id, cancelled)

    async def pause(self, account: str, id: str) -> Job:
        """Have a job rest after the step that it is at, with a checkpoint that can be deployed.

        Raises:
            NotFound: The account has none of that id.
            Conflict: It does not run, or has not taken a step of training yet.
        """

        def pausing(job: Job) -> Job:
            if job.status != "running" or job.is_trained:
                raise _wrong_state(job, "paused")
            if not job.step:
                raise Conflict(
                    "The job cannot be paused before its first step of training.", code="unexpectedEntityState"
                )
            return job.pausing(self._clock())

        return await self._changed(account, id, pausing)

    async def resume(self, account: str, id: str) -> Job:
        """Have a paused job go on.

        Raises:
            NotFound: The account has none of that id.
            Conflict: It is not paused.
        """

        def resumed(job: Job) -> Job:
            if job.status != "paused":
                raise _wrong_state(job, "resumed")
            return job.resumed(self._clock())

        return await self._changed(account, id, resumed)

    async def delete(self, account: str, id: str, *, actor: str) -> Receipt:
        """Delete a job that is over, with its events and files; models and results files that it has made stay.

        Raises:
            NotFound: The account has none of that id.
            Conflict: It is not over.
            PurgeIncomplete, ApiError, ServiceError: Something of it is left; the timer goes on.
        """
        job = await self.get(account, id)
        if not job.has_ended:
            raise _wrong_state(job, "deleted")
        removal = self._work.removal(Kind.DELETE_JOB, account, id)
        return await self._work.receipts.certify(removal, await removal.found(), actor=actor)

    async def has_model(self, job: Job, made: Made) -> bool:
        """Return whether the account still has what training has made, as a model."""
        return await self._work.models.get(job.account, job.model_of(made)) is not None

    async def _changed(self, account: str, id: str, update: Callable[[Job], Job]) -> Job:
        try:
            job = await self.store.change(await self.get(account, id), update)
        except NoSuchJob:
            raise no_such_job() from None
        self.runner.wake()
        return job

    async def _base(self, account: str, model: str) -> str:
        tuned = await self._work.models.get(account, model)
        base = model if tuned is None else tuned.base
        served = self._work.plugins.models().get(base)
        if served is None:
            raise InvalidRequest("The model to fine-tune does not exist.", code="model_not_found", param="model")
        if not is_tunable(self._work.plugins, *served):
            raise InvalidRequest(
                "The model cannot be fine-tuned: choose another one.", code="OperationNotSupported", param="model"
            )
        if tuned is not None and tuned.deployable is False:
            raise InvalidRequest(
                "The model has failed the safety evaluation: nothing goes on from it.",
                code="invalid_value",
                param="model",
            )
        return base

    async def _check_file(self, account: str, id: str, param: str) -> None:
        file = await self._uploads.get(account, id)
        if file is None:
            raise InvalidRequest(f"Invalid '{param}': there is no such file.", code="invalid_value", param=param)
        if file.purpose != TRAINING:
            raise InvalidRequest(
                f"Invalid '{param}': its purpose is not '{TRAINING}'.", code="invalid_value", param=param
            )

    async def _check_room(self, account: str) -> None:
        """Refuse a job too many, those counted that have joined the queue."""
        queued = {job.id: job for job in await self.store.queued(account)}
        ids = [id for _, id in await self.store.in_queue(account)]
        over = sum(job.has_ended for job in queued.values())
        most = self._settings.running_jobs + self._settings.queued_jobs
        if len(ids) - over > most:
            raise QuotaExceeded(
                f"This resource may have {most} jobs that run, wait or are paused: let one end, or cancel it."
            )
        if len({*ids, *await self.store.ids(account)}) > self._settings.stored_jobs:
            raise QuotaExceeded(f"This resource may have {self._settings.stored_jobs} jobs: delete some first.")

    # --- for the timers, and when an account goes --------------------------------------------------------------------

    async def delete_all(self, account: str, *, actor: str) -> int:
        """Delete every job of an account and what it has made, each with its receipt, and return how many there were."""
        known = sorted(await self.store.known(account))
        for _, id in known:
            removal = self._work.removal(Kind.DELETE_JOB, account, id, with_models=True)
            await self._work.receipts.certify(removal, await removal.found(), actor=actor)
        return len(known)

    async def purge(self, now: datetime) -> None:
        """Finish deletions that were interrupted, and take away what never came to be a job, or came too late.

        Raises:
            PurgeIncomplete: Something that is due is left; the rest is done.
        """
        left: list[str] = []
        try:
            async for owed in self._work.receipts.owed():
                if owed.kind in _KINDS and owed.account is not None:
                    await self._attempt(left, owed.kind, owed.account, owed.subject)
        except SluicegateError as error:
            left.append(f"interrupted deletions of jobs ({type(error).__name__})")
        for account, id in sorted(await self.store.strays()):
            try:
                await self._look_at(account, id, now)
            except (SluicegateError, ValueError, KeyError, TypeError) as error:
                # One document that is damaged must not keep what is left of others.
                left.append(f"job {id} of account {account!r} ({type(error).__name__})")
        if left:
            raise PurgeIncomplete(left)

    async def _attempt(self, left: list[str], kind: Kind, account: str, id: str) -> None:
        removal = self._work.removal(kind, account, id)
        try:
            await self._work.receipts.certify(removal, await removal.found(), actor=TIMER)
        except SluicegateError as error:
            left.append(f"job {id} of account {account!r} ({type(error).__name__})")

    async def _look_at(self, account: str, id: str, now: datetime) -> None:
        if _made_at(id) + ABANDONED <= now and await self.store.get(account, id) is None:
            models = await self._work.models.list(account)
            weights = frozenset(model.weights_file for model in models if model.job == id)
            await self.store.erase(account, id, kept=weights.__contains__)


def no_such_job() -> NotFound:
    """Return the error for a job that the account does not have."""
    return NotFound("There is no such fine-tuning job; it may have been deleted.", code="notFound")


def _made_at(id: str) -> datetime:
    return datetime.fromtimestamp(int(id.removeprefix("ftjob-")[:12], 16) / 1000, UTC)


def _wrong_state(job: Job, wanted: str) -> Conflict:
    return Conflict(f"The job is {job.status}: it cannot be {wanted}.", code="unexpectedEntityState")
