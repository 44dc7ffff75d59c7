"""Fine-tuning jobs, events and checkpoints as they are sent, in the spelling of the surface that is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sluicegate.api.versions import Surface
from sluicegate.fine_tuning.jobs import Job, Made

_CLASSIC_STATUS = {"validating_files": "pending", "queued": "pending"}
"""Those of the authoring specification 2024-10-21; it has no word for a job that is paused."""
_EVENT_ID_DIGITS = 12
_EVENT_ID = re.compile(f"ftevent-([0-9a-f]{{{_EVENT_ID_DIGITS}}})([0-9a-f]{{20}})")


def render_job(job: Job, metadata: Mapping[str, str] | None, surface: Surface) -> dict[str, Any]:
    """Return a job as JSON's types."""
    hyperparameters = _hyperparameters(job)
    status = "running" if job.status == "pausing" else str(job.status)
    document = {
        "object": "fine_tuning.job",
        "id": job.id,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "status": _CLASSIC_STATUS.get(status, status) if surface == "classic" else status,
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": [job.result_file] if job.has_results else [],
        "trained_tokens": job.trained_tokens if job.trained_tokens else None,
        "estimated_finish": job.estimated_finish,
        "hyperparameters": {name: value for name, value in hyperparameters.items() if name != "beta"},
        "error": job.error,
        "seed": job.seed,
    }
    if surface == "classic":
        return document | ({"suffix": job.suffix} if job.suffix else {})
    return document | {
        "organization_id": job.account,
        "integrations": [],
        "method": {"type": job.method, job.method: {"hyperparameters": hyperparameters}},
        "user_provided_suffix": job.suffix,
        "metadata": metadata,
    }


def render_event(job: Job, event: Mapping[str, Any], surface: Surface) -> dict[str, Any]:
    """Return an event as JSON's types."""
    level = "warning" if event["level"] == "warn" and surface == "classic" else event["level"]
    data = None if event["data"] is None else _measured(event["data"])
    return {
        "object": "fine_tuning.job.event",
        "id": f"ftevent-{event['number']:0{_EVENT_ID_DIGITS}x}{job.id[-20:]}",
        "created_at": event["at"],
        "level": level,
        "message": event["message"],
        "type": "message" if data is None else "metrics",
        "data": data or {},
    }


def event_number(job: Job, id: str) -> int | None:
    """Return the number of an event by its id; None when the job cannot have one of that id."""
    found = _EVENT_ID.fullmatch(id)
    return int(found[1], 16) if found is not None and found[2] == job.id[-20:] else None


def render_checkpoint(job: Job, made: Made) -> dict[str, Any]:
    """Return a checkpoint as JSON's types."""
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": made.id,
        "created_at": made.created_at,
        "fine_tuned_model_checkpoint": job.model_of(made),
        "step_number": made.step,
        "metrics": _measured(made.metrics),
        "fine_tuning_job_id": job.id,
    }


def _hyperparameters(job: Job) -> dict[str, Any]:
    known = {name: value for name, value in job.used.items() if value is not None}
    shown = {name: "auto" if value is None else value for name, value in {**job.hyperparameters, **known}.items()}
    if job.method != "dpo":
        shown.pop("beta", None)
    return shown


def _measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if value is not None}
