"""Fine-tuning in one region: the jobs of its accounts, and the deletion of the models that they make."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sluicegate.accounts import Accounts
from sluicegate.config import FineTuning
from sluicegate.fine_tuning.job_operations import Jobs
from sluicegate.fine_tuning.model_catalogue import ModelCatalogue
from sluicegate.fine_tuning.model_removal import ModelDeletions
from sluicegate.fine_tuning.model_safety import ModelSafety
from sluicegate.fine_tuning.runner import Runner
from sluicegate.fine_tuning.safety import SafetyEvaluation
from sluicegate.fine_tuning.stages import Work
from sluicegate.plugins import Plugins
from sluicegate.regions import Region
from sluicegate.tenancy.deployments import Deployments


class RegionFineTuning:
    """Fine-tuning of the accounts in a region; one object per process.

    Attributes:
        jobs: Their jobs.
        model_deletions: Deletes their models.
    """

    def __init__(
        self,
        region: Region,
        settings: FineTuning,
        plugins: Plugins,
        accounts: Accounts,
        deployments: Deployments,
        models: ModelCatalogue,
        safety: SafetyEvaluation,
        clock: Callable[[], datetime],
    ) -> None:
        self._accounts = accounts
        self._deployments = deployments
        work = Work(
            region.jobs,
            region.files,
            region.tuned_models,
            region.receipts,
            plugins,
            safety,
            judge=ModelSafety(plugins, region.tuned_models, safety, clock).judge,
            is_served=self._is_served,
            deployed=self._deployed,
            longest=timedelta(hours=settings.job_hours),
            clock=clock,
        )
        self.jobs = Jobs(region.jobs, region.files, work, Runner(region.blobs, work, settings, clock), settings, clock)
        self.model_deletions = ModelDeletions(
            region.tuned_models, models, deployments, region.receipts, work.forget_model
        )

    async def delete_all(self, account: str, *, actor: str) -> None:
        """Delete the jobs and models of an account, each with its receipt.

        Raises:
            PurgeIncomplete: Something is left; run again, it goes on.
        """
        await self.jobs.delete_all(account, actor=actor)
        await self.model_deletions.delete_all(account, actor=actor)

    async def _is_served(self, account: str) -> bool:
        return await self._accounts.get(account) is not None

    async def _deployed(self, account: str) -> set[str]:
        return {str(each.content["model"]) for each in await self._deployments.documents(account).every()}
