"""Takes the steps of fine-tuning jobs, in one process of a region at a time.

A step is begun and ended by a change of the job's document. Between the two it does what can be done again, so a process may
be killed anywhere: its step is begun anew, by whoever holds the lease then. A step that comes to its end after the job was
cancelled, deleted or taken over finds that it is not the one that was begun last, and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sluicegate.config import FineTuning
from sluicegate.errors import (
    ApiError,
    BlobNotFound,
    InvalidRequest,
    KeyNotFound,
    NotFound,
    PluginFailed,
    SealBroken,
    ServiceError,
    SluicegateError,
    TrainingFailed,
)
from sluicegate.fine_tuning.job_files import JobFiles
from sluicegate.fine_tuning.job_store import NoSuchJob
from sluicegate.fine_tuning.jobs import Job
from sluicegate.fine_tuning.stages import Change, Work
from sluicegate.fine_tuning.turns import is_running, next_job
from sluicegate.plugins import log_failure
from sluicegate.services import BlobStore
from sluicegate.storage.lease import Lease, LeaseHeld, LeaseLost

LEASE = "fine-tuning"
RUN_TIME = timedelta(minutes=5)
"""For how long one run takes up steps; the timer begins the next."""
CHECK_TIMES = 5
"""How many times as long as a step the check of the files may take, which cannot be left off: they may have 512 MiB each."""
GRACE = timedelta(seconds=30)
"""How much longer than its deadline a step may take before it is cancelled."""
LONGEST = timedelta(minutes=20)
"""What a step may take at the most, however often it was not done in time; Azure ends a function after 30 minutes."""
MOST_ATTEMPTS = 5
"""How often a step is begun that fails, or takes its process with it, until the job fails."""
RETRY_S = 5.0
"""How long after a step that failed the next attempt is; twice as long each time."""
WAIT_S = 30.0
"""How long a job waits for what cannot be reached, where nobody knows better."""
LOOK_S = 5.0
"""How often a lane that has nothing to do looks again while another one works: a job may be new, or have waited long enough."""
WATCH_S = 2.0
"""How often a step looks whether its job was cancelled."""
CHECKS = "checks"
"""The lane of all stages but training."""
log = logging.getLogger(__name__)


_NOT_PASSING = (InvalidRequest, PluginFailed, NotFound, BlobNotFound, SealBroken, KeyNotFound)
"""What waiting does not mend: an attempt that has failed."""
_TOO_LONG = (
    f"A step of the job was not done in the time that it has, {MOST_ATTEMPTS} times in a row. Choose a smaller 'batch_size', "
    "or shorter examples."
)
T = TypeVar("T")


class _Superseded(SluicegateError):
    """The step that was begun is not the job's any more."""


class Runner:
    """The jobs of one region, as one process works on them.

    Training by each plugin, and everything else, go in lanes of their own, so that a job which trains here does not keep one waiting
    that trains elsewhere. In a lane one step is taken at a time.
    """

    def __init__(self, blobs: BlobStore, work: Work, settings: FineTuning, clock: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._work = work
        self._settings = settings
        self._clock = clock
        self._served: dict[str, float] = {}
        self._running: asyncio.Task[None] | None = None
        self._again = False
        self._busy: set[str] = set()
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Take steps until none can be taken now, or for :data:`RUN_TIME`; nothing when somebody else is at it.

        Raises:
            ServiceError: Storage cannot be reached; the next run goes on.
        """
        # Shielded: who waits may go away, whoever else waits may not lose the run.
        await asyncio.shield(self.wake())

    def wake(self) -> asyncio.Task[None]:
        """Have steps taken soon, without waiting for the timer, and return the task that does."""
        self._again = True
        self._moved.set()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
            self._running.add_done_callback(_seen)
        return self._running

    async def stop(self) -> None:
        """End the step in progress; for the embedded host and tests."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        until = self._clock() + RUN_TIME
        while self._again and self._clock() < until:
            self._again = False
            if not await self._work.store.in_queue():
                continue
            try:
                await Lease(self._blobs, LEASE, clock=self._clock).run(lambda: self._rounds(until))
            except LeaseHeld:
                return
            except LeaseLost as error:
                log.warning("fine-tuning stopped: %s", error)
                return

    async def _rounds(self, until: datetime) -> None:
        lanes = (CHECKS, *self._work.plugins.configured("fine_tune"))
        progress = True
        while progress:
            tasks = [asyncio.create_task(self._lane(lane, until)) for lane in lanes]
            try:
                progress = any(await asyncio.gather(*tasks))
            finally:
                # Nobody works on without the lease, where one lane has failed.
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _lane(self, lane: str, until: datetime) -> bool:
        """Take the steps of one lane for as long as there are any, or may come any; return whether there were."""
        progress = False
        while self._clock() < until:
            self._moved.clear()
            job = await self._next(lane)
            if job is not None:
                progress = True
                self._busy.add(lane)
                try:
                    await self.advance(job)
                finally:
                    self._busy.discard(lane)
                    self._moved.set()
            elif self._busy:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), LOOK_S)
            else:
                break
        self._moved.set()
        return progress

    async def _next(self, lane: str) -> Job | None:
        jobs = await self._work.store.queued()
        for job in jobs:
            self._served[job.account] = max(job.served_at, self._served.get(job.account, 0.0))
        running = Counter(job.account for job in jobs if is_running(job))
        here = [job for job in jobs if self._lane_of(job) == lane]
        return next_job(
            [job for job in here if job.has_ended or await self._work.is_served(job.account)],
            running=running,
            most_running=self._settings.running_jobs,
            served=self._served,
            now=self._clock().timestamp(),
        )

    def _lane_of(self, job: Job) -> str | None:
        if job.stage == "rest":
            return None if job.status == "paused" else CHECKS
        if job.stage != "train":
            return CHECKS
        try:
            return self._work.trainer_of(job)
        except TrainingFailed:
            return CHECKS

    # --- one step ----------------------------------------------------------------------------------------------------

    async def advance(self, job: Job) -> None:
        """Take one step of a job, if it is where it was when somebody looked."""
        if job.stage == "rest":
            await self._work.store.leave_queue(job.account, job.id)
            return
        attempt = secrets.token_hex(8)
        # Later than any other, so that turns are in order however coarse the clock is.
        at = max(self._clock().timestamp(), max(self._served.values(), default=0.0) + 1e-6)

        def begin(found: Job) -> Job:
            if (found.stage, found.attempt, found.attempts) != (job.stage, job.attempt, job.attempts):
                raise _Superseded
            return (found.started(self._clock()) if found.stage == "train" else found).begun(attempt, at)

        with suppress(_Superseded, NoSuchJob):
            begun = await self._work.store.change(job, begin)
            self._served[job.account] = begun.served_at
            await self._take(begun, attempt)

    async def _take(self, job: Job, attempt: str) -> None:
        files = JobFiles(job, self._work.uploads, self._work.store.files(job))

        def end(found: Job) -> Job:
            if found.attempt != attempt:
                raise _Superseded
            return change(found)

        try:
            change = await self._outcome(job, attempt, files)
            await self._work.store.change(job, end)
        except (_Superseded, NoSuchJob):
            await self._discard(job, files)
            raise
        except asyncio.CancelledError:
            # The process is asked to end: that is not the step's fault.
            change = _not_begun
            with suppress(SluicegateError):
                await self._work.store.change(job, end)
            raise

    async def _outcome(self, job: Job, attempt: str, files: JobFiles) -> Change:
        """Take the step, and return what becomes of the job whatever happens.

        Raises:
            _Superseded: The job was cancelled, deleted or taken over meanwhile.
        """
        if job.attempts > MOST_ATTEMPTS and not job.has_ended:
            why = TrainingFailed(f"A step of the job failed {MOST_ATTEMPTS} times in a row.", code="internalFailure")
            return lambda found: found.failed(why, self._clock())
        try:
            async with asyncio.timeout((self._time_for(job) + GRACE).total_seconds()):
                (registered, gone), change = await self._watched(self._step(job, files), job, attempt)
        except _Superseded:
            raise
        except TrainingFailed as error:
            if job.has_ended:
                return self._again_later(job, type(error).__name__)
            why = error
            return lambda found: found.failed(why, self._clock())
        except (ApiError, ServiceError) as error:
            cause = files.failure or error
            if isinstance(cause, _NOT_PASSING) or job.has_ended:
                return self._again_later(job, type(cause).__name__)
            reason, seconds = type(cause).__name__, getattr(cause, "retry_after_s", None) or WAIT_S
            words = f"Waiting: something that the job needs cannot be reached ({reason})."
            return lambda found: found.later(seconds, self._clock(), words)
        except TimeoutError as error:
            if job.attempts < MOST_ATTEMPTS or job.has_ended:
                return self._again_later(job, type(error).__name__)
            why = TrainingFailed(_TOO_LONG, code="stepTimedOut")
            return lambda found: found.failed(why, self._clock())
        except Exception as error:  # noqa: BLE001 - whatever fails here, the other jobs go on
            log_failure("core", f"fine-tuning, stage {job.stage}", error)
            return self._again_later(job, type(error).__name__)

        def done(found: Job) -> Job:
            made = tuple(replace(each, registered=each.registered or each.id in registered) for each in found.made)
            dropped = tuple(id for id in found.dropped if id not in gone)
            settled = replace(
                found, made=made, dropped=dropped, attempt=None, attempts=0, waiting=False, not_before=0.0
            )
            return change(settled)

        return done

    async def _step(self, job: Job, files: JobFiles) -> tuple[tuple[set[str], set[str]], Change]:
        models: tuple[set[str], set[str]] = (set(), set())
        deadline = self._clock() + self._time_for(job)
        if job.stage in ("train", "judge"):
            models = await self._work.register(job)
        if job.stage == "train":
            await self._work.sweep(job)
            files.start_from(await self._work.starting_weights(job))
        return models, await self._work.step(job, files, deadline)

    def _time_for(self, job: Job) -> timedelta:
        """Return how long a step may take: with each attempt longer, as the one before may not have been done in time."""
        times = CHECK_TIMES if job.stage == "check" else max(1, job.attempts)
        return min(timedelta(seconds=self._settings.step_s) * times, LONGEST)

    def _again_later(self, job: Job, reason: str) -> Change:
        log.warning("fine-tuning: a step of job %s in stage %s failed with %s", job.id, job.stage, reason)
        seconds = RETRY_S * 2 ** min(job.attempts - 1, 8)
        return lambda found: found.later(seconds, self._clock())

    async def _watched(self, step: Coroutine[Any, Any, T], job: Job, attempt: str) -> T:
        """Take the step, unless the job is cancelled, deleted or taken over meanwhile."""
        working, watching = asyncio.create_task(step), asyncio.create_task(self._superseded(job, attempt))
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise _Superseded
            return await working
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def _superseded(self, job: Job, attempt: str) -> None:
        """Return when the attempt is not the job's any more."""
        while True:
            await asyncio.sleep(WATCH_S)
            with suppress(ServiceError):
                found = await self._work.store.get(job.account, job.id)
                if found is None or found.attempt != attempt:
                    return

    async def _discard(self, job: Job, files: JobFiles) -> None:
        """Delete what a step has written that does not count."""
        for file in set(files.names.values()) - set(job.files.values()):
            await self._work.store.files(job).erase(file)


def _not_begun(job: Job) -> Job:
    return replace(job, attempt=None, attempts=job.attempts - 1)


def _seen(task: asyncio.Task[None]) -> None:
    """Take note of how a run has ended, so that nobody is told that nobody did."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("fine-tuning: a run ended with %s", type(error).__name__)
