"""Fine-tuning jobs: what is known of one, and how each thing that happens changes it.

A job is a value; :mod:`sluicegate.fine_tuning.job_store` keeps it as one document, so a change is there as a whole or not at
all. ``status`` is what its owner sees, ``stage`` is what the runner does next::

    stage      status
    check      validating_files                the files are checked as training data
    evaluate   validating_files                their examples are evaluated for harm
    train      queued, running, pausing        the plugin trains, a step at a time; one of ``pausing`` leads to ``judge``
    judge      running, pausing                models that training has made are evaluated for harm
    publish    running                         results.csv is written
    clean      succeeded, failed, cancelled    what is needed no more is deleted
    rest       paused, and those of clean      nothing

No text of an example is in a job, its events or its errors.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeAlias

from sluicegate.errors import TrainingFailed
from sluicegate.fine_tuning.tuned_models import TunedModel
from sluicegate.training import Checkpoint, Hyperparameters, Method, TrainingJob, TrainingStep

Status: TypeAlias = Literal[
    "validating_files", "queued", "running", "pausing", "paused", "succeeded", "failed", "cancelled"
]
Stage: TypeAlias = Literal["check", "evaluate", "train", "judge", "publish", "clean", "rest"]
Level: TypeAlias = Literal["info", "warn", "error"]
ENDED = frozenset({"succeeded", "failed", "cancelled"})
KEPT_CHECKPOINTS = 3
"""How many of the latest checkpoints can be deployed. Source: Azure OpenAI's documentation of checkpoints."""


@dataclass(frozen=True, slots=True)
class Made:
    """Weights that training has made: a checkpoint, the last of which is the fine-tuned model.

    Attributes:
        id: ``ftchkpt-`` and 32 hexadecimal digits.
        metrics: Of ``sluicegate.training.Metrics``.
        file: Of the weights, among the job's files.
        elsewhere: As of ``sluicegate.training.Checkpoint``.
        registered: Whether the account's models have it, so that it is not added again after its owner has deleted it.
        judged: Whether there is a verdict on it.
    """

    id: str
    created_at: int
    metrics: Mapping[str, Any]
    file: str
    elsewhere: str | None = None
    registered: bool = False
    judged: bool = False

    @property
    def step(self) -> int:
        """After how many steps."""
        return int(self.metrics["step"])


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tuning job. Times are Unix seconds.

    Attributes:
        model: What is trained, as asked: a base model, or a fine-tuned model or checkpoint of the account.
        base: The base model below it.
        name: What the fine-tuned model will be called.
        hyperparameters: As asked; None is ``auto``.
        used: As the plugin uses them, once that is known.
        has_metadata: Whether its owner has attached any; it is sealed, see the store.
        checks: How far the evaluation of the files is.
        state: The plugin's, see ``TrainingJob.state``.
        files: The plugin's own: name -> the file's id.
        made: What training has made and is kept, the oldest first.
        dropped: Models, checkpoints of before, that go next.
        events: The latest events, the oldest first; ``pages`` names blobs of earlier ones with how many each has.
        said: How many events there were.
        attempt: Who is at the next step now; whoever else comes with a result is too late.
        attempts: How many attempts at it were begun and have not ended well.
        turn: How many attempts at any step were begun; the files that one writes are named after it.
        served_at: When a step was last begun.
    """

    id: str
    account: str
    model: str
    base: str
    name: str
    method: Method
    hyperparameters: Mapping[str, Any]
    seed: int
    training_file: str
    validation_file: str | None
    suffix: str | None
    created_at: int
    has_metadata: bool = False
    status: Status = "validating_files"
    stage: Stage = "check"
    started_at: int | None = None
    finished_at: int | None = None
    error: Mapping[str, Any] | None = None
    result_file: str | None = None
    has_results: bool = False
    used: Mapping[str, Any] = field(default_factory=dict)
    trained_tokens: int = 0
    estimated_finish: int | None = None
    step: int = 0
    is_trained: bool = False
    checks: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    made: tuple[Made, ...] = ()
    dropped: tuple[str, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    pages: tuple[tuple[str, int], ...] = ()
    said: int = 0
    attempt: str | None = None
    attempts: int = 0
    turn: int = 0
    waiting: bool = False
    not_before: float = 0.0
    served_at: float = 0.0

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Return the job of a document."""
        made = tuple(Made(**each) for each in document["made"])
        pages = tuple((str(name), int(count)) for name, count in document["pages"])
        lists = {"made": made, "pages": pages}
        return cls(**{**document, **lists, **{name: tuple(document[name]) for name in ("events", "dropped")}})

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return asdict(self)

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.status in ENDED

    @property
    def fine_tuned_model(self) -> str | None:
        """What it has made, once it has succeeded."""
        return self.name if self.status == "succeeded" else None

    def model_of(self, made: Made) -> str:
        """Return what a checkpoint is called as a model."""
        return self.name if self.is_trained and made is self.made[-1] else f"{self.name}:ckpt-step-{made.step}"

    def tuned_model(self, made: Made) -> TunedModel:
        """Return a checkpoint as one of the account's models."""
        is_final = self.is_trained and made is self.made[-1]
        return TunedModel(
            self.model_of(made),
            self.account,
            self.base,
            self.id,
            None if is_final else made.step,
            datetime.fromtimestamp(made.created_at, UTC),
            made.file,
            elsewhere=made.elsewhere,
        )

    def for_plugin(self) -> TrainingJob:
        """Return it as the plugin that trains sees it."""
        chosen = Hyperparameters(**self.hyperparameters)
        return TrainingJob(
            self.id,
            self.base,
            self.method,
            chosen,
            self.seed,
            self.suffix,
            self.state,
            is_pausing=self.status == "pausing",
        )

    # --- what happens ------------------------------------------------------------------------------------------------

    def told(self, message: str, now: datetime, *, level: Level = "info", data: Mapping[str, Any] | None = None) -> Job:
        """Return the job with one more event; ``data`` makes it one of metrics."""
        event = {"number": self.said, "at": int(now.timestamp()), "level": level, "message": message, "data": data}
        return replace(self, events=(*self.events, event), said=self.said + 1)

    def begun(self, attempt: str, at: float) -> Job:
        """Return the job with an attempt at its next step."""
        return replace(self, attempt=attempt, attempts=self.attempts + 1, turn=self.turn + 1, served_at=at)

    def later(self, seconds: float, now: datetime, why: str | None = None) -> Job:
        """Return the job as it waits.

        Args:
            why: What it waits for, told once; that attempt did not count.
        """
        job = replace(self, attempt=None, not_before=now.timestamp() + seconds)
        if why is None:
            return job
        return replace(job if self.waiting else job.told(why, now, level="warn"), waiting=True, attempts=0)

    def started(self, now: datetime) -> Job:
        """Return the job as the plugin begins, or goes on, with it."""
        if self.status != "queued":
            return self
        started = replace(self, status="running", started_at=self.started_at or int(now.timestamp()))
        return started.told("Job resumed." if self.started_at else "Job started.", now)

    def stepped(self, step: TrainingStep, files: Mapping[str, str], now: datetime, *, knew_of_pause: bool) -> Job:
        """Return the job after a step of training.

        Args:
            files: The plugin's, weights of new checkpoints among them.
            knew_of_pause: Whether the plugin was told that the job is paused after this step. If it was not, and has made no
                checkpoint of how far it is, it takes one more.
        """
        rest = dict(files)
        job = replace(
            self,
            state=dict(step.state),
            used=asdict(step.hyperparameters),
            trained_tokens=step.trained_tokens,
            estimated_finish=None if step.estimated_finish is None else int(step.estimated_finish.timestamp()),
            not_before=0.0 if step.not_before is None else step.not_before.timestamp(),
        )
        for message in step.messages:
            job = job.told(message, now)
        for row in step.metrics:
            loss = "" if row.train_loss is None else f": training loss={row.train_loss:.2f}"
            job = replace(job.told(f"Step {row.step}{loss}", now, data=asdict(row)), step=max(job.step, row.step))
        for checkpoint in step.checkpoints:
            job = job._with(checkpoint, rest.pop(checkpoint.weights), now)
        job = replace(job, files=rest)
        if step.finished:
            job = replace(job, is_trained=True, stage="judge", estimated_finish=None, not_before=0.0)
            return job._without_earlier().told(f"Training completed: {job.trained_tokens} tokens.", now)
        job = job._without_earlier()
        has_checkpoint = bool(step.checkpoints) and step.checkpoints[-1].metrics.step >= job.step
        return replace(job, stage="judge") if job.status == "pausing" and (knew_of_pause or has_checkpoint) else job

    def _with(self, checkpoint: Checkpoint, file: str, now: datetime) -> Job:
        made = Made(
            f"ftchkpt-{secrets.token_hex(16)}",
            int(now.timestamp()),
            asdict(checkpoint.metrics),
            file,
            checkpoint.elsewhere,
        )
        job = replace(self, made=(*self.made, made), step=max(self.step, made.step))
        return job.told(f"Checkpoint created at step {made.step}.", now)

    def _without_earlier(self) -> Job:
        """Return the job with its latest checkpoints alone, none of them twice."""
        of_step = {self.model_of(each): each for each in reversed(self.made)}
        kept = tuple(of_step.values())[KEPT_CHECKPOINTS - 1 :: -1]
        dropped = {self.model_of(each) for each in self.made} - {self.model_of(each) for each in kept}
        return replace(self, made=kept, dropped=(*self.dropped, *sorted(dropped)))

    def pausing(self, now: datetime) -> Job:
        """Return the job as it rests after the next step."""
        return replace(self, status="pausing", not_before=0.0).told("Job pausing.", now)

    def paused(self, now: datetime) -> Job:
        """Return the job as it rests until it is resumed."""
        return replace(self, status="paused", stage="rest", estimated_finish=None).told("Job paused.", now)

    def resumed(self, now: datetime) -> Job:
        """Return a paused job as it waits for its turn."""
        job = replace(self, status="queued", stage="train", not_before=0.0)
        return job.told("Job enqueued. Waiting for jobs ahead to complete.", now)

    def succeeded(self, now: datetime) -> Job:
        """Return the job as it has ended well."""
        return self._ended("succeeded", now).told("Job succeeded.", now)

    def failed(self, why: TrainingFailed, now: datetime) -> Job:
        """Return the job as it has failed."""
        error = {"code": why.code, "message": why.message, "param": why.param}
        return replace(self._ended("failed", now), error=error).told(why.message, now, level="error")

    def cancelled(self, now: datetime) -> Job:
        """Return the job as its owner has ended it; whoever is at a step of it is too late."""
        return self._ended("cancelled", now).told("Job cancelled.", now)

    def _ended(self, status: Status, now: datetime) -> Job:
        return replace(
            self,
            status=status,
            stage="clean",
            finished_at=int(now.timestamp()),
            estimated_finish=None,
            attempt=None,
            attempts=0,
            not_before=0.0,
            waiting=False,
        )


def new_id(now: datetime) -> str:
    """Return an id for a job; those of jobs begin with the time, so they are in the order of creation."""
    return f"ftjob-{int(now.timestamp() * 1000):012x}{secrets.token_hex(10)}"


def created(
    account: str,
    *,
    model: str,
    base: str,
    method: Method,
    hyperparameters: Hyperparameters,
    seed: int | None,
    training_file: str,
    validation_file: str | None,
    suffix: str | None,
    has_metadata: bool,
    now: datetime,
) -> Job:
    """Return a new job; one without a seed gets a random one."""
    job = Job(
        id=new_id(now),
        account=account,
        model=model,
        base=base,
        name=f"{base}.ft-{secrets.token_hex(16)}" + (f"-{suffix}" if suffix else ""),
        method=method,
        hyperparameters=asdict(hyperparameters),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        training_file=training_file,
        validation_file=validation_file,
        suffix=suffix,
        created_at=int(now.timestamp()),
        has_metadata=has_metadata,
    )
    job = job.told(f"Created fine-tuning job: {job.id}", now).told(f"Validating training file: {training_file}", now)
    return job if validation_file is None else job.told(f"Validating validation file: {validation_file}", now)
