"""What the runner does for a job, stage by stage: one bounded step each, whose result is a change of the job.

A stage does nothing to the job itself. What it returns is applied to the job as it is then, so a pause that was asked for
meanwhile is not lost; and a step whose process dies is done again, because everything it does here can be.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from sluicegate.errors import ModelUnavailable, NotFound, QuotaExceeded, TrainingFailed
from sluicegate.fine_tuning.job_files import JobFiles, read_upload, turn_of
from sluicegate.fine_tuning.job_removal import JobRemoval
from sluicegate.fine_tuning.job_store import JobStore
from sluicegate.fine_tuning.jobs import Job
from sluicegate.fine_tuning.results import Results
from sluicegate.fine_tuning.safety import Evaluation, SafetyEvaluation
from sluicegate.fine_tuning.tuned_models import StoredWeights, TunedModel, TunedModels
from sluicegate.plugins import Plugins
from sluicegate.retention.receipts import Receipts
from sluicegate.retention.removals import Kind
from sluicegate.storage.uploaded_files import UploadedFiles
from sluicegate.training import TrainingStep
from sluicegate.training_data import CODES, FileReport, Severity, validate_async
from sluicegate.training_data.rows import Format

Change: TypeAlias = Callable[[Job], Job]
JudgeModel: TypeAlias = Callable[[TunedModel, datetime], Awaitable["Verdict | None"]]
"""Evaluates a model for harm until a deadline, and returns the verdict; None when it is not finished and goes on next time."""
ACTOR = "timer/fine_tune"
"""Who deletes what a job needs no more, in the audit log."""
NAMED_LINES = 5
"""How many lines of a file a failed job's error names."""
_PARTS: tuple[Literal["training", "validation"], ...] = ("training", "validation")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evaluation of a model says.

    Attributes:
        harms: The categories in which it is above the bar; none when it may be deployed.
    """

    harms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What the stages of a region's jobs work with.

    Attributes:
        judge: Evaluates models; None where nobody does, and a model may then be deployed when it is trained.
        is_served: Returns whether an account is there; the jobs of one that is deleted rest, as it may be restored.
        deployed: Returns the models that an account has deployed.
        longest: How long a job may take from its start.
    """

    store: JobStore
    uploads: UploadedFiles
    models: TunedModels
    receipts: Receipts
    plugins: Plugins
    safety: SafetyEvaluation
    judge: JudgeModel | None
    is_served: Callable[[str], Awaitable[bool]]
    deployed: Callable[[str], Awaitable[set[str]]]
    longest: timedelta
    clock: Callable[[], datetime]

    async def step(self, job: Job, files: JobFiles, deadline: datetime) -> Change:
        """Take one step of a job and return what becomes of the job.

        Raises:
            TrainingFailed: The job cannot succeed.
            ApiError, ServiceError: Not now.
        """
        match job.stage:
            case "check":
                return await self._check(job)
            case "evaluate":
                return await self._evaluate(job, deadline)
            case "train":
                return await self._train(job, files, deadline)
            case "judge":
                return await self._judge(job, deadline)
            case "publish":
                return await self._publish(job)
            case "clean":
                return await self._clean(job)
            case "rest":
                return lambda job: job

    # --- before training ---------------------------------------------------------------------------------------------

    async def _check(self, job: Job) -> Change:
        training = read_upload(self.uploads, job.account, job.training_file, "training_file")
        validation = job.validation_file and read_upload(
            self.uploads, job.account, job.validation_file, "validation_file"
        )
        report = await validate_async(training, validation or None)
        told: list[tuple[str, Literal["info", "warn"]]] = []
        for part, of_file in zip(_PARTS, (report.training, report.validation), strict=True):
            if of_file is None:
                continue
            check_report(of_file, part, job)
            told.append((f"The {part} file has {of_file.examples} examples.", "info"))
            if warnings := _warnings(of_file):
                told.append((f"The {part} file has warnings: {warnings}.", "warn"))

        def change(job: Job) -> Job:
            for message, level in told:
                job = job.told(message, self.clock(), level=level)
            return replace(job, stage="evaluate")

        return change

    async def _evaluate(self, job: Job, deadline: datetime) -> Change:
        checks = dict(job.checks)
        for part in _PARTS:
            id = job.training_file if part == "training" else job.validation_file
            before = Evaluation(**checks[part]) if part in checks else None
            if id is None or (before is not None and before.finished):
                continue
            reading = _Reading(self.uploads, job.account, id, f"{part}_file")
            done = await self.safety.evaluate_examples(reading, before, deadline=deadline, clock=self.clock)
            checks[part] = done.document()
            if not done.finished:
                return lambda job: replace(job, checks=checks)
            done.check(part)
        skipped = any(each.get("skipped") for each in checks.values())

        def change(job: Job) -> Job:
            words = "Training data was not evaluated for harm: the operator has switched that off."
            if not skipped:
                words = "Training data has passed the safety evaluation."
            job = job.told(words, self.clock(), level="warn" if skipped else "info")
            job = replace(job, checks={}, status="queued", stage="train")
            return job.told("Job enqueued. Waiting for jobs ahead to complete.", self.clock())

        return change

    # --- training ----------------------------------------------------------------------------------------------------

    async def _train(self, job: Job, files: JobFiles, deadline: datetime) -> Change:
        if job.started_at is not None and self.clock().timestamp() > job.started_at + self.longest.total_seconds():
            hours = self.longest.total_seconds() / 3600
            raise TrainingFailed(f"The job took longer than {hours:g} hours.", code="timeout")
        try:
            step: TrainingStep = await self.plugins.call(
                self.trainer_of(job), "fine_tune", TrainingStep, job=job.for_plugin(), files=files, deadline=deadline
            )
        except NotFound:
            raise TrainingFailed("The model that the job goes on from was deleted.", code="notFound") from None
        weights = [checkpoint.weights for checkpoint in step.checkpoints]
        if not set(weights) <= files.names.keys() or (step.finished and not weights):
            raise ValueError("a step has written the weights that it names, and the last step has made some")
        knew_of_pause = job.status == "pausing"
        return lambda job: job.stepped(step, files.names, self.clock(), knew_of_pause=knew_of_pause)

    async def _judge(self, job: Job, deadline: datetime) -> Change:
        made = next((each for each in job.made if not each.judged), None)
        if made is None:
            return self._after_judging(job)
        model = job.tuned_model(made)
        verdict = Verdict() if self.judge is None else await self.judge(model, deadline)
        if verdict is None:
            return lambda job: job
        is_final = job.is_trained and made is job.made[-1]
        try:
            await self.models.judge(job.account, model.id, deployable=not verdict.harms)
        except NotFound:
            # Its owner has deleted it; of the model itself nothing is left then.
            if is_final:
                raise TrainingFailed("The fine-tuned model was deleted.", code="notFound") from None
        if verdict.harms and is_final:
            raise TrainingFailed(
                f"The fine-tuned model failed the safety evaluation for: {', '.join(verdict.harms)}.",
                code="modelSafetyEvaluationFailed",
            )

        def change(job: Job) -> Job:
            job = replace(
                job, made=tuple(replace(each, judged=True) if each.id == made.id else each for each in job.made)
            )
            if self.judge is None:
                return job
            if verdict.harms:
                failed = f"The checkpoint at step {made.step} cannot be deployed: it failed the safety evaluation for: "
                return job.told(f"{failed}{', '.join(verdict.harms)}.", self.clock(), level="warn")
            what = "The fine-tuned model" if is_final else f"The checkpoint at step {made.step}"
            return job.told(f"{what} has passed the safety evaluation.", self.clock())

        return change

    def _after_judging(self, job: Job) -> Change:
        if job.is_trained:
            file = self.uploads.new_id()
            return lambda job: replace(job, stage="publish", status="running", result_file=file)
        if job.status == "pausing":
            return lambda job: job.paused(self.clock())
        return lambda job: replace(job, stage="train")

    # --- when it is over ---------------------------------------------------------------------------------------------

    async def _publish(self, job: Job) -> Change:
        """Write the results file under the id that the job has noted, so that there is one whatever happens."""
        file = job.result_file or self.uploads.new_id()
        try:
            if await self.uploads.get(job.account, file) is None:
                await self.uploads.erase(job.account, file)
                await self.uploads.create(job.account, Results(self.store.rows(job)), id=file)
        except QuotaExceeded as error:
            why = error.message

            def without(job: Job) -> Job:
                words = f"There is no results file: {why} The metrics are among the job's events."
                return job.told(words, self.clock(), level="warn").succeeded(self.clock())

            return without
        return lambda job: replace(
            job.told(f"Completed results file: {file}", self.clock()), has_results=True
        ).succeeded(self.clock())

    async def _clean(self, job: Job) -> Change:
        removal = self.removal(Kind.DELETE_JOB_FILES, job.account, job.id)
        found = await removal.found()
        if found.blobs or job.status != "succeeded":
            await self.receipts.certify(removal, found, actor=ACTOR)
        return lambda job: replace(
            job, stage="rest", files={}, state={}, made=job.made if job.status == "succeeded" else ()
        )

    def removal(self, kind: Kind, account: str, id: str, *, with_models: bool = False) -> JobRemoval:
        """Return the removal of a job, or of what it needs no more."""
        return JobRemoval(
            self.store, self.models, self.forget, self.delete_model, kind, account, id, with_models=with_models
        )

    # --- plugins -----------------------------------------------------------------------------------------------------

    def trainer_of(self, job: Job) -> str:
        """Return the plugin that trains a job.

        Raises:
            TrainingFailed: The deployment has the base model no more, or does not fine-tune it any more.
        """
        served = self.plugins.models().get(job.base)
        if served is None or served[1] not in self.plugins.implementing("fine_tune"):
            raise TrainingFailed("The base model is not fine-tuned here any more.", code="fineTuningNotSupported")
        return served[1]

    async def forget(self, job: Job) -> tuple[str, ...]:
        """Have the plugin that trains a job end and delete what is elsewhere."""
        served = self.plugins.models().get(job.base)
        if served is None or served[1] not in self.plugins.implementing("forget_training"):
            return ()
        gone: tuple[str, ...] = await self.plugins.call(served[1], "forget_training", tuple, job=job.for_plugin())
        return gone

    async def forget_model(self, model: TunedModel) -> tuple[str, ...]:
        """Delete a model where it is elsewhere, and return names of what is gone.

        Raises:
            ApiError: It may still be there.
        """
        if model.elsewhere is None:
            return ()
        served = self.plugins.models().get(model.base)
        if served is None:
            raise ModelUnavailable("The model is at an upstream that this deployment does not have any more.")
        gone: tuple[str, ...] = await self.plugins.call(
            served[1], "forget_model", tuple, name=model.elsewhere, model=served[0]
        )
        return gone

    async def delete_model(self, model: TunedModel) -> tuple[str, ...]:
        """Delete a model, elsewhere first."""
        gone = await self.forget_model(model)
        await self.models.delete(model.account, model.id)
        return gone

    async def register(self, job: Job) -> tuple[set[str], set[str]]:
        """See to it that the account has what training has made, and not what was dropped, unless that is deployed.

        Returns:
            The ids of the checkpoints that it has, and of the models that it has no more.
        """
        dropped = set(job.dropped)
        if dropped:
            dropped -= await self.deployed(job.account)
        for id in sorted(dropped):
            model = await self.models.get(job.account, id)
            if model is not None:
                await self.delete_model(model)
        for made in job.made:
            if not made.registered:
                await self.models.add(job.tuned_model(made))
        return {made.id for made in job.made}, dropped

    async def starting_weights(self, job: Job) -> StoredWeights | None:
        """Return the weights of the fine-tuned model that a job goes on from, or None.

        Raises:
            TrainingFailed: It was deleted.
        """
        if job.model == job.base:
            return None
        model = await self.models.get(job.account, job.model)
        if model is None:
            raise TrainingFailed("The model that the job goes on from was deleted.", code="notFound")
        return self.models.weights(model)

    async def sweep(self, job: Job) -> None:
        """Delete what attempts before this one have written that does not count, or is needed no more.

        What a later attempt has written stays, because this one may be late without knowing it.
        """
        kept = {*job.files.values(), *(made.file for made in job.made)}
        kept |= {model.weights_file for model in await self.models.list(job.account) if model.job == job.id}
        await self.store.erase_files(job.account, job.id, kept=lambda file: file in kept or turn_of(file) >= job.turn)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads an uploaded file from an offset on."""

    uploads: UploadedFiles
    account: str
    id: str
    param: str

    def __call__(self, offset: int) -> Any:
        return read_upload(self.uploads, self.account, self.id, self.param, offset)


def check_report(report: FileReport, part: str, job: Job) -> None:
    """Refuse a file that training cannot use.

    Raises:
        TrainingFailed: It names codes and lines.
    """
    if report.errors:
        raise TrainingFailed(
            f"The {part} file has errors: {_counted(report, Severity.ERROR)}. 'python -m sluicegate validate' says what to change.",
            code="invalidTrainingFile" if part == "training" else "invalidValidationFile",
            param=f"{part}_file",
        )
    if (report.format is Format.PREFERENCE) != (job.method == "dpo"):
        raise TrainingFailed(
            f"The {part} file has the format {report.format!s}, which the method {job.method} does not learn from.",
            code="invalidTrainingFile" if part == "training" else "invalidValidationFile",
            param=f"{part}_file",
        )


def _warnings(report: FileReport) -> str:
    return _counted(report, Severity.WARNING)


def _counted(report: FileReport, severity: Severity) -> str:
    """Return codes with how many findings each has, and the first lines of them."""
    lines: dict[str, list[int]] = {}
    for finding in report.findings:
        if finding.line is not None:
            lines.setdefault(finding.code, []).append(finding.line)
    return "; ".join(
        _of_code(code, count, lines.get(code, []))
        for code, count in sorted(report.counts.items())
        if CODES[code].severity is severity
    )


def _of_code(code: str, count: int, lines: list[int]) -> str:
    if not lines:
        return code
    shown = ", ".join(map(str, lines[:NAMED_LINES])) + (", …" if count > NAMED_LINES else "")
    return f"{code} ({count}; {'line' if count == 1 else 'lines'} {shown})"
