"""The check of uploaded training data: made once, by one process at a time, and begun anew where it was interrupted.

Whoever is at it has said so in the file's description, until when; the report lies beside the file, and the description has the result.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sluicegate.errors import BlobExists, BlobNotFound, ServiceError
from sluicegate.plugins import log_failure
from sluicegate.storage.documents import Documents
from sluicegate.storage.files import Files
from sluicegate.storage.lease import LeaseHeld
from sluicegate.training_data import UNREADABLE, validate_async

CONTENT = "uploads"
REPORTS = "upload-reports"
TRAINING = "fine-tune"
"""The purpose of files that are checked."""
CHECK_TIME = timedelta(minutes=10)
"""How long a check may take; 512 MiB take about a minute."""
MOST_CHECKS = 5
"""How often a check is begun that takes too long, or its process with it, until that is the result."""
log = logging.getLogger(__name__)


class UploadChecks:
    """Checks training data; one object per process.

    Args:
        about: The descriptions of files, ``{account}/{id}``.
    """

    def __init__(self, about: Documents, files: Files, clock: Callable[[], datetime]) -> None:
        self._about = about
        self._files = files
        self._clock = clock
        self._running: set[asyncio.Task[tuple[str, str | None]]] = set()

    async def check(self, account: str, id: str) -> tuple[str, str | None]:
        """Check a file that is ``pending``, and return its status and what is wrong with it.

        The check goes on when whoever waits goes away.
        """
        task = asyncio.create_task(self._check(account, id))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """End the checks that run; the files stay pending."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _check(self, account: str, id: str) -> tuple[str, str | None]:
        name = f"{account}/{id}"
        try:
            begun = await self._about.change(name, lambda found: _begun(_there(found), self._clock()))
            try:
                status, details = await self._checked(account, id, give_up=begun.content["checks"] > MOST_CHECKS)
            except (ServiceError, asyncio.CancelledError):
                # Neither is the file's fault.
                await self._about.change(name, lambda found: _not_begun(_there(found)))
                raise
            try:
                await self._about.change(
                    name, lambda found: {**_there(found), "status": status, "status_details": details}
                )
            except BlobNotFound:
                # Deleted meanwhile, by somebody who could not see the report.
                await self._files.store(account, REPORTS).erase(id)
                raise
        except LeaseHeld:
            return "running", None
        except (ServiceError, TimeoutError) as error:
            log.warning("uploaded file %s of account %s was not examined (%s)", id, account, type(error).__name__)
            return "pending", None
        except Exception as error:  # noqa: BLE001 - whatever a file does to its check, it is there, and others are checked
            log_failure("core", "a check of training data", error)
            return "pending", None
        return status, details

    async def _checked(self, account: str, id: str, *, give_up: bool) -> tuple[str, str | None]:
        """Check a file, write its report, and return status and details."""
        if give_up:
            return "error", "The file could not be checked in the time there is: split it, and upload the parts."
        async with asyncio.timeout(CHECK_TIME.total_seconds()):
            opened = await self._files.store(account, CONTENT).open(id)
            report = (await validate_async(opened.read())).training
        with suppress(BlobExists):
            # Of a check that was stopped before it could say so: the same file has the same report.
            await self._files.store(account, REPORTS).write(id, _once(json.dumps(report.document()).encode()))
        broken = sum(count for code, count in report.counts.items() if code in UNREADABLE)
        if not broken:
            return "processed", None
        lines = [each.line for each in report.findings if each.code in UNREADABLE and each.line is not None]
        where = f", the first in line {min(lines)}" if lines else ""
        return (
            "error",
            f"jsonlValidationFailed: the file is no JSON Lines; findings: {broken}{where}. GET openai/v1/files/{id}/report has them.",
        )


def first_status(purpose: str) -> str:
    return "pending" if purpose == TRAINING else "processed"


def status_of(about: Mapping[str, Any], now: datetime) -> str:
    """Return a file's status; whoever has checked it for longer than that may take is not at it any more."""
    status: str = about.get("status", first_status(about["purpose"]))
    return "pending" if status == "running" and now.timestamp() >= about["checked_until"] else status


def _begun(about: Mapping[str, Any], now: datetime) -> Mapping[str, Any]:
    """Return what is known of a file once its check has begun.

    Raises:
        LeaseHeld: Somebody is at it, or it is checked.
    """
    if status_of(about, now) != "pending":
        raise LeaseHeld("another process checks the file")
    # A little longer than the check itself is given, which ends first therefore.
    until = now + CHECK_TIME + timedelta(minutes=1)
    return {
        **about,
        "status": "running",
        "checked_until": int(until.timestamp()),
        "checks": about.get("checks", 0) + 1,
    }


def _not_begun(about: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**about, "status": "pending", "checks": about["checks"] - 1}


def _there(about: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if about is None:
        raise BlobNotFound("the file was deleted meanwhile")
    return about


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
