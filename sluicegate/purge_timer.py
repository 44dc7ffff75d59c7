"""What the timer ``purge`` does: in every region by itself, everything that is due; what fails holds up nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sluicegate.accounts import Accounts, Resident
from sluicegate.erasure import Erasure
from sluicegate.errors import PurgeIncomplete, SluicegateError
from sluicegate.fine_tuning.idle_deployments import IdleDeployments
from sluicegate.fine_tuning.in_region import RegionFineTuning
from sluicegate.plugins import Plugins
from sluicegate.regions import Region, Regions, Residents
from sluicegate.retention.purging import Summary
from sluicegate.retention.removals import TIMER
from sluicegate.tenancy.tenants import Tenants


@dataclass(frozen=True, slots=True)
class PurgeTimer:
    """Removes what is due; one object per process.

    Attributes:
        fine_tuning: By region.
    """

    regions: Regions
    plugins: Plugins
    accounts: Accounts
    tenants: Tenants
    fine_tuning: Mapping[str, RegionFineTuning]
    idle_deployments: IdleDeployments
    erasure: Erasure

    async def run(self, now: datetime) -> dict[str, Summary]:
        """Remove what is due, of all accounts and plugins.

        Returns:
            What went, by region, without those that another process is at.

        Raises:
            PurgeIncomplete: Something due is left somewhere, or a checkpoint was not published; the next tick tries again.
        """
        left: list[str] = []
        census: dict[str, Resident | Exception] | SluicegateError
        try:
            census = await self.accounts.census()
            left += self.regions.strangers(census)
        except SluicegateError as error:
            census = error
        summaries: dict[str, Summary] = {}

        async def purge(region: Region) -> None:
            try:
                summary = await region.purge(self.plugins, Residents(region, census))
                if summary is not None:
                    summaries[region.name] = summary
            except PurgeIncomplete as error:
                left.extend(self.regions.told(region, line) for line in error.left)
            except SluicegateError as error:
                left.append(self.regions.told(region, f"storage or keys cannot be reached ({type(error).__name__})"))
            left.extend(self.regions.told(region, line) for line in await self._do_rest(region, now))

        await asyncio.gather(*map(purge, self.regions))
        left += await self._purge_deleted(now)
        if left:
            raise PurgeIncomplete(left)
        return summaries

    async def _do_rest(self, region: Region, now: datetime) -> list[str]:
        """Purge what is not retained content, check training data whose check was interrupted, and return what is left."""
        fine_tuning = self.fine_tuning[region.name]
        left: list[str] = []
        for what, work in (
            ("uploads in parts", region.uploads.purge(now)),
            ("fine-tuning jobs", fine_tuning.jobs.purge(now)),
            ("fine-tuned models", fine_tuning.model_deletions.purge()),
            ("idle deployments", self.idle_deployments.delete(region.tuned_models, region.audit)),
            ("checks of training data", region.files.examine_left()),
        ):
            try:
                await work
            except PurgeIncomplete as error:
                left += error.left
            except SluicegateError as error:
                left.append(f"{what} ({type(error).__name__})")
        return left

    async def _purge_deleted(self, now: datetime) -> list[str]:
        """Purge the accounts that can no longer be restored, and return which are not gone."""
        try:
            due = await self.tenants.due(now)
        except SluicegateError as error:
            return [f"deleted accounts ({type(error).__name__})"]
        left: list[str] = []
        for tenant in due:
            try:
                await self.erasure.account(tenant, actor=TIMER)
            except PurgeIncomplete as error:
                left += error.left
            except SluicegateError as error:
                left.append(f"deleted account {tenant.id!r} ({type(error).__name__})")
        return left
