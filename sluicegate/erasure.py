"""Deleting what there is of an account: what is retained of it, or everything, with receipts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sluicegate.fine_tuning.idle_deployments import IdleDeployments
from sluicegate.fine_tuning.in_region import RegionFineTuning
from sluicegate.monitoring.applications import Applications
from sluicegate.monitoring.in_region import RegionMonitoring
from sluicegate.plugins import Plugins
from sluicegate.regions import Region
from sluicegate.retention.purging import delete
from sluicegate.tenancy.policy_store import Policies
from sluicegate.tenancy.tenants import Tenant, Tenants
from sluicegate.types import OfAccount


async def erase_retained(
    region: Region, plugins: Plugins, tenant: Tenant, actor: str, reason: str | None = None
) -> str:
    """Delete everything that is retained of an account so far, and return the receipt's id; files and models stay.

    Args:
        actor: Who asked for it, as the audit log has it.

    Raises:
        PurgeIncomplete: Something is left; run again, it goes on.
    """
    scope = OfAccount()
    deleted = await delete(region.vault, plugins, region.receipts, tenant.id, scope, actor=actor, reason=reason)
    return deleted.receipt.id


@dataclass(frozen=True, slots=True)
class Erasure:
    """Deletes accounts; one object per process.

    Attributes:
        region: Returns the region of a location, ready for use.
        monitoring: By region.
        fine_tuning: By region.
    """

    region: Callable[[str], Awaitable[Region]]
    plugins: Plugins
    monitoring: Mapping[str, RegionMonitoring]
    fine_tuning: Mapping[str, RegionFineTuning]
    idle_deployments: IdleDeployments
    applications: Applications
    policies: Policies
    tenants: Tenants

    async def account(self, tenant: Tenant, *, actor: str) -> None:
        """Delete everything of a deleted account, and leave its name only.

        Args:
            actor: Who asked for it, as the audit log has it.

        Raises:
            PurgeIncomplete: Something is left; run again, it goes on.
        """
        region, name = await self.region(tenant.location), tenant.id
        await erase_retained(region, self.plugins, tenant, actor)
        await self.fine_tuning[region.name].delete_all(name, actor=actor)
        await self.idle_deployments.forget(name)
        await region.uploads.delete_all(name, actor=actor)
        await region.files.delete_all(name, actor=actor)
        await region.counters.delete(name)
        await self.applications.forget_texts(tenant)
        await self.monitoring[region.name].forget(name)
        await self.policies.purge(name, tenant.location)
        await self.tenants.purge(tenant)
