"""Whose turn it is: one step at a time, fair between accounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sluicegate.fine_tuning.jobs import Job


def next_job(
    jobs: Iterable[Job], *, running: Mapping[str, int], most_running: int, served: Mapping[str, float], now: float
) -> Job | None:
    """Return the job that a step is taken of now; None when each must wait.

    The account that was served least recently comes first, whatever it has in the queue. Of its jobs those that are over come
    before those that run, these before those that wait, and the oldest first.

    Args:
        running: How many jobs of each account run.
        most_running: Jobs of one account that may.
        served: When a step was last begun for an account.
    """
    due = [
        job for job in jobs if job.not_before <= now and (not _waits(job) or running.get(job.account, 0) < most_running)
    ]
    return min(due, key=lambda job: (served.get(job.account, 0.0), job.account, _rank(job), job.id), default=None)


def is_running(job: Job) -> bool:
    """Return whether a job counts as one of those that run."""
    return job.status in ("running", "pausing")


def _waits(job: Job) -> bool:
    return job.status == "queued"


def _rank(job: Job) -> int:
    if job.has_ended:
        return 0
    return 2 if _waits(job) else 1
