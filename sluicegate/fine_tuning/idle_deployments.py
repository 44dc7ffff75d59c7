"""Deployments of fine-tuned models that nobody uses are deleted; the models stay.

::

    container    deployment-use    {account}/{deployment}    the day of its last use: JSON

A use is noted once a day by each process. A deployment is idle when neither a use nor a change of it was within
:data:`IDLE`; one of which nothing is known is taken as used when it is first looked at. Source of the rule: Azure OpenAI's
documentation of fine-tuned deployments.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sluicegate.audit.entries import Event
from sluicegate.audit.log import Audit
from sluicegate.errors import BlobChanged, ServiceError
from sluicegate.fine_tuning.tuned_models import TunedModels
from sluicegate.retention.removals import TIMER
from sluicegate.services import BlobStore
from sluicegate.storage.documents import Document, Documents
from sluicegate.tenancy.deployments import Deployments

IDLE = timedelta(days=15)
CONTAINER = "deployment-use"
log = logging.getLogger(__name__)


class IdleDeployments:
    """Knows when deployments of fine-tuned models were used last; one object per process.

    Args:
        blobs: Of the home region, where deployments are.
    """

    def __init__(self, blobs: BlobStore, deployments: Deployments, clock: Callable[[], datetime]) -> None:
        self._deployments = deployments
        self._clock = clock
        self._uses = Documents(blobs, CONTAINER, "")
        self._noted: dict[str, str] = {}

    async def note(self, account: str, deployment: str) -> None:
        """Note a use, durably the first time on a day; a use that cannot be noted is one all the same."""
        name, day = f"{account}/{deployment.lower()}", f"{self._clock():%Y-%m-%d}"
        if self._noted.get(name) == day:
            return
        try:
            await self._uses.change(name, lambda _: {"day": day})
        except ServiceError as error:
            log.warning("the use of a deployment was not noted (%s)", type(error).__name__)
            return
        self._noted = {name: noted for name, noted in self._noted.items() if noted == day} | {name: day}

    async def delete(self, models: TunedModels, audit: Audit) -> int:
        """Delete the idle deployments of the accounts that have fine-tuned models, and return how many there were.

        Args:
            models: Of one region; ``audit`` is its log.
        """
        gone = 0
        for account in await models.accounts():
            own = {model.id for model in await models.list(account)}
            for found in await self._deployments.documents(account).every():
                if found.content["model"] in own and await self._is_idle(account, found):
                    gone += await self._delete(account, found, audit)
        return gone

    async def forget(self, account: str, deployment: str | None = None) -> None:
        """Delete what is known of a deployment that is gone, or of all of an account."""
        if deployment is not None:
            self._noted.pop(f"{account}/{deployment.lower()}", None)
            await self._uses.delete(f"{account}/{deployment.lower()}")
            return
        for name in await self._uses.names(f"{account}/"):
            await self._uses.delete(name)

    async def _is_idle(self, account: str, found: Document) -> bool:
        use = await self._uses.get(f"{account}/{found.name}")
        if use is None:
            await self.note(account, found.name)
            return False
        # The whole day of the last use counts.
        used = datetime.fromisoformat(use.content["day"]).replace(tzinfo=UTC) + timedelta(days=1)
        changed = datetime.fromisoformat(found.content["changed"]) if "changed" in found.content else used
        return max(used, changed) + IDLE <= self._clock()

    async def _delete(self, account: str, found: Document, audit: Audit) -> bool:
        await audit.append(Event(TIMER, "deployment.delete-idle", account=account, subject=f"{account}/{found.name}"))
        try:
            deleted = await self._deployments.delete(account, found.name, etag=found.etag)
        except BlobChanged:
            return False
        await self._uses.delete(f"{account}/{found.name}")
        return deleted
