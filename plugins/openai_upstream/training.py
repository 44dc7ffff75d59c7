"""Fine-tuning at an upstream: each step does one thing there, or looks how far the upstream is.

A job's files go to the upstream under names made from the job's id, a job is created there, and its numbers are copied while
it runs. When it has succeeded, the upstream's copies of the files are deleted, and what is kept here as weights is a note with
the remote model's name.

Nothing but numbers, states and ids is copied: an upstream's messages may quote an example. A crash between two steps repeats
the last one, and each looks first whether it was done already: a file by its name, a job by its training file.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import to_json

from sluicegate import (
    InvalidRequest,
    ModelUnavailable,
    Refused,
    TooManyRequests,
    TrainingFailed,
    UpstreamError,
)
from sluicegate.errors import ApiError
from sluicegate.training import Checkpoint, Hyperparameters, Metrics, TrainingFiles, TrainingJob, TrainingStep
from sluicegate.types import utc_now

from . import failures, remote_metrics
from .remote_training import RemoteJob, RemoteTraining
from .tuned import Tuned, read_tuned
from .upstream import UpstreamModel

POLL = timedelta(seconds=30)
"""How often to look at a job that goes on at its upstream."""
EARLIER = 2
"""How many checkpoints are taken over beside the model itself, the latest ones: as many as can be deployed here."""
MARGIN_S = 2.0
"""How long before its deadline a step gives up."""
_HARM = "(?:hate_fairness|self_harm|sexual|violence)"
_HARMS = re.compile(rf"\[{_HARM}(?:, {_HARM})*\]")
"""How Azure's evaluation of training data says what it found."""
_FILES = ("training", "validation")


async def step(
    job: TrainingJob, files: TrainingFiles, deadline: datetime, model: UpstreamModel, remote: RemoteTraining
) -> TrainingStep:
    """Do the next thing.

    Raises:
        TrainingFailed: The upstream refused the job, or its own job failed.
        ModelUnavailable: The upstream cannot be reached now, is too busy, or took longer than there was.
    """
    try:
        async with asyncio.timeout((deadline - utc_now()).total_seconds() - MARGIN_S):
            return await _next(job, files, model, remote)
    except TimeoutError:
        raise ModelUnavailable("The upstream took longer than a step may.") from None
    except TooManyRequests as error:
        raise ModelUnavailable(error.message, retry_after_s=error.retry_after_s) from None
    except (InvalidRequest, UpstreamError) as error:
        code = error.code or str(error.status)
        raise TrainingFailed(f"The upstream refused the job (code {code}).", code=code, param=_param(error)) from None
    except Refused:
        raise TrainingFailed("The upstream's content filter refused the job.", code="contentFilter") from None


async def forget(job: TrainingJob, remote: RemoteTraining) -> tuple[str, ...]:
    """End a job at its upstream, delete its files there and the models that were not taken over; name what is gone.

    Raises:
        ApiError: Something may be left.
    """
    gone = []
    if "training" not in job.state:
        # A step may have died before its state was kept.
        found = {part: await remote.file_named(_file_name(job, part)) for part in _FILES}
        job = replace(job, state={part: id for part, id in found.items() if id is not None})
    at_work = await _job(job, remote)
    if at_work is not None:
        if not at_work.has_ended:
            await remote.cancel(at_work.id)
            gone.append(f"job {at_work.id}")
        for name in await _models_left(job, at_work.id, remote):
            await remote.delete_model(name)
            gone.append(f"model {name}")
    for id in _files_of(job, at_work):
        await remote.delete_file(id)
        gone.append(f"file {id}")
    return tuple(f"{each} at {remote.upstream.host}" for each in gone)


async def _next(job: TrainingJob, files: TrainingFiles, model: UpstreamModel, remote: RemoteTraining) -> TrainingStep:
    if not model.training_name:
        raise TrainingFailed("The model cannot be fine-tuned at its upstream.", code="fineTuningNotSupported")
    if "training" not in job.state:
        return await _send_files(job, files, remote)
    if "job" not in job.state:
        return await _create(job, files, model, remote)
    at_work = await remote.job(job.state["job"])
    if at_work is None:
        raise TrainingFailed("The upstream no longer has the job.", code="notFound")
    if "model" in job.state:
        return await _finish(job, files, at_work, remote)
    if at_work.status == "succeeded":
        return await _collect(job, files, at_work, remote)
    if at_work.has_ended:
        raise _failure(at_work)
    return await _look(job, at_work, remote)


# --- before it runs --------------------------------------------------------------------------------------------------


async def _send_files(job: TrainingJob, files: TrainingFiles, remote: RemoteTraining) -> TrainingStep:
    state = {"training": await _sent(_file_name(job, "training"), files.training, remote)}
    if files.validation() is not None:
        state["validation"] = await _sent(_file_name(job, "validation"), lambda: _validation(files), remote)
    return TrainingStep(state, False, job.hyperparameters, messages=("Files sent to the upstream.",))


async def _sent(name: str, read: Callable[[], AsyncIterator[bytes]], remote: RemoteTraining) -> str:
    return await remote.file_named(name) or await remote.upload(name, read)


async def _validation(files: TrainingFiles) -> AsyncIterator[bytes]:
    if (pieces := files.validation()) is not None:
        async for piece in pieces:
            yield piece


async def _create(job: TrainingJob, files: TrainingFiles, model: UpstreamModel, remote: RemoteTraining) -> TrainingStep:
    for part in _FILES:
        if part not in job.state:
            continue
        file = await remote.file(job.state[part])
        if file.is_refused:
            raise TrainingFailed("The upstream does not accept the file.", code="invalidFile", param=f"{part}_file")
        if not file.is_checked:
            return TrainingStep(job.state, False, job.hyperparameters, not_before=utc_now() + POLL)
    created = await remote.job_of(job.state["training"])
    if created is None:
        weights = files.starting_weights()
        base = model.training_name if weights is None else (await read_tuned(weights)).model
        created = await remote.create_job(_body(job, base, model, remote))
    state = {**job.state, "job": created.id, "status": "", "step": 0}
    return TrainingStep(
        state, False, job.hyperparameters, messages=(f"The upstream has taken the job as {created.id}.",)
    )


def _body(job: TrainingJob, base: str, model: UpstreamModel, remote: RemoteTraining) -> dict[str, Any]:
    chosen = {name: value for name, value in asdict(job.hyperparameters).items() if value is not None}
    body: dict[str, Any] = {"model": base, "training_file": job.state["training"], "seed": job.seed}
    if "validation" in job.state:
        body["validation_file"] = job.state["validation"]
    if job.suffix is not None:
        body["suffix"] = job.suffix
    if model.training_type is not None:
        body["trainingType"] = model.training_type
    if remote.upstream.api_version is not None and job.method == "supervised":
        # The dated surface that is generally available knows no other method, nor the field.
        return {**body, "hyperparameters": chosen}
    return {**body, "method": {"type": job.method, job.method: {"hyperparameters": chosen}}}


# --- while it runs ---------------------------------------------------------------------------------------------------


async def _look(job: TrainingJob, at_work: RemoteJob, remote: RemoteTraining) -> TrainingStep:
    rows = await _rows_since(job.state["step"], at_work.id, remote)
    status = failures.plain_name(at_work.status)
    messages = [f"The upstream says that the job is {status}."] if status != job.state["status"] else []
    finish = at_work.estimated_finish
    return TrainingStep(
        {**job.state, "status": status, "step": rows[-1].step if rows else job.state["step"]},
        False,
        _used(job, at_work),
        tuple(rows),
        trained_tokens=at_work.trained_tokens or 0,
        messages=tuple(messages),
        estimated_finish=datetime.fromtimestamp(finish, UTC) if finish else None,
        not_before=utc_now() + POLL,
    )


async def _rows_since(last: int, id: str, remote: RemoteTraining) -> list[Metrics]:
    """Return the steps that follow ``last`` without a gap, from the job's events; the results file has them all later."""
    found: dict[int, Metrics] = {}
    async for page in remote.event_pages(id):
        rows = [row for event in page if (row := remote_metrics.metrics(event.data))]
        found.update((row.step, row) for row in rows if row.step > last)
        newest_first = page[0].created_at >= page[-1].created_at
        if newest_first and any(row.step <= last for row in rows):
            break
    follow = []
    while (row := found.get(last + 1)) is not None:
        follow.append(row)
        last += 1
    return follow


# --- when it has ended -----------------------------------------------------------------------------------------------


async def _collect(job: TrainingJob, files: TrainingFiles, at_work: RemoteJob, remote: RemoteTraining) -> TrainingStep:
    """Take over the numbers and all models but the last."""
    if at_work.fine_tuned_model is None:
        raise failures.malformed(remote.upstream.host)
    rows = await _results(at_work, remote)
    last = max(rows, default=max(job.state["step"], 1))
    of_final = rows.get(last)
    earlier = []
    for found in await remote.checkpoints(at_work.id):
        step = found.step_number
        measured = remote_metrics.merged(rows.get(step), remote_metrics.metrics(found.metrics, step))
        if found.fine_tuned_model_checkpoint == at_work.fine_tuned_model or step >= last:
            of_final = remote_metrics.merged(of_final, measured)
            continue
        weights = f"step-{step}"
        name = found.fine_tuned_model_checkpoint
        await files.write(weights, _note(Tuned.of(job, name, remote.upstream, step)))
        earlier.append(Checkpoint(measured or Metrics(step, None, None), weights, elsewhere=name))
    of_final = of_final or Metrics(last, None, None)
    earlier.sort(key=lambda checkpoint: checkpoint.metrics.step)
    spare = [checkpoint.elsewhere for checkpoint in earlier[:-EARLIER]]
    return TrainingStep(
        {**job.state, "model": at_work.fine_tuned_model, "spare": spare, "metrics": asdict(of_final)},
        False,
        _used(job, at_work),
        tuple(row for step, row in sorted(rows.items()) if step > job.state["step"]),
        tuple(earlier[-EARLIER:]),
        trained_tokens=at_work.trained_tokens or 0,
        messages=("The upstream's job has succeeded.",),
    )


async def _results(at_work: RemoteJob, remote: RemoteTraining) -> dict[int, Metrics]:
    """Return the rows of the results files, by step. A file that the upstream does not give costs the job its curves only."""
    rows: dict[int, Metrics] = {}
    for id in at_work.result_files or ():
        with suppress(InvalidRequest, UpstreamError):
            rows |= remote_metrics.results(await remote.content(id))
    return rows


async def _finish(job: TrainingJob, files: TrainingFiles, at_work: RemoteJob, remote: RemoteTraining) -> TrainingStep:
    """Delete the upstream's copies of the files, and the models that nobody takes over, and hand the model over."""
    messages = []
    for name in job.state["spare"]:
        await remote.delete_model(name)
    for id in _files_of(job, at_work):
        try:
            await remote.delete_file(id)
            messages.append(f"The upstream's copy {id} is deleted.")
        except (InvalidRequest, UpstreamError):
            messages.append(f"The upstream refuses to delete its copy {id}: delete it there.")
    tuned = Tuned.of(job, job.state["model"], remote.upstream)
    await files.write("model", _note(tuned))
    if tuned.deployment is not None:
        messages.append(
            f"To be used, {tuned.model} must be deployed at the upstream under the name {tuned.deployment}."
        )
    return TrainingStep(
        {**job.state, "finished": True},
        True,
        _used(job, at_work),
        checkpoints=(Checkpoint(Metrics(**job.state["metrics"]), "model", elsewhere=tuned.model),),
        trained_tokens=at_work.trained_tokens or 0,
        messages=tuple(messages),
    )


def _failure(at_work: RemoteJob) -> TrainingFailed:
    """Return why the upstream's job failed, in our words, with its code as far as it is a plain name."""
    if at_work.status == "cancelled":
        return TrainingFailed("The job was cancelled at the upstream.", code="cancelled")
    error = at_work.error if isinstance(at_work.error, Mapping) else {}
    code = failures.plain_code(error) or "trainingFailed"
    param = error["param"] if error.get("param") in ("training_file", "validation_file") else None
    if match := _HARMS.search(str(error.get("message"))):
        return TrainingFailed(
            f"The upstream's safety evaluation found harmful content: {match[0]}.", code=code, param=param
        )
    return TrainingFailed(f"The upstream's job failed (code {code}).", code=code, param=param)


# --- small things ----------------------------------------------------------------------------------------------------


def _file_name(job: TrainingJob, part: str) -> str:
    return f"{job.id}-{part}.jsonl"


async def _job(job: TrainingJob, remote: RemoteTraining) -> RemoteJob | None:
    if "job" in job.state:
        return await remote.job(job.state["job"])
    return await remote.job_of(job.state["training"]) if "training" in job.state else None


async def _models_left(job: TrainingJob, id: str, remote: RemoteTraining) -> list[str]:
    """Return the models of a job that nobody here has taken over; asked after it has ended, so that no more follow."""
    if job.state.get("finished"):
        return []
    if "model" in job.state:
        return [*job.state["spare"], job.state["model"]]
    at_work = await remote.job(id)
    checkpoints = [found.fine_tuned_model_checkpoint for found in await remote.checkpoints(id)] if at_work else []
    last = at_work.fine_tuned_model if at_work else None
    return list(dict.fromkeys([*checkpoints, *([last] if last else [])]))


def _files_of(job: TrainingJob, at_work: RemoteJob | None) -> list[str]:
    sent = [job.state[part] for part in _FILES if part in job.state]
    return sent + list((at_work.result_files or ()) if at_work else ())


def _used(job: TrainingJob, at_work: RemoteJob) -> Hyperparameters:
    of_method = at_work.method.get(job.method) if isinstance(at_work.method, Mapping) else None
    return remote_metrics.hyperparameters(
        at_work.hyperparameters, of_method.get("hyperparameters") if isinstance(of_method, Mapping) else None
    )


def _param(error: ApiError) -> str | None:
    return error.param if error.param in ("training_file", "validation_file") else None


async def _note(tuned: Tuned) -> AsyncIterator[bytes]:
    yield to_json(asdict(tuned))
