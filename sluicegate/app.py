"""Sluicegate: the app behind the triggers, built once per worker and started on the first event."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

from sluicegate import config
from sluicegate.abuse import Signal
from sluicegate.accounts import Accounts
from sluicegate.admission import Admission
from sluicegate.audit.publishing import WEBHOOK, Sink, StoreSink, Webhook
from sluicegate.call import Call
from sluicegate.config import is_same
from sluicegate.erasure import Erasure, erase_retained
from sluicegate.errors import InvalidRequest, PluginFailed, ServiceError, SluicegateError, StartupError, Unauthorized
from sluicegate.fine_tuning.idle_deployments import IdleDeployments
from sluicegate.fine_tuning.in_region import RegionFineTuning
from sluicegate.fine_tuning.model_catalogue import ModelCatalogue
from sluicegate.fine_tuning.safety import SafetyEvaluation
from sluicegate.fine_tuning.tuned_models import TunedModels
from sluicegate.monitoring.applications import Applications
from sluicegate.monitoring.in_region import RegionMonitoring
from sluicegate.monitoring.observing import Observer
from sluicegate.monitoring.signals import signal_of
from sluicegate.monitoring.timer import monitor
from sluicegate.pipeline import Pipeline
from sluicegate.plugins import Plugins, log_failure
from sluicegate.purge_timer import PurgeTimer
from sluicegate.regions import Region, Regions, Residents
from sluicegate.retention.purging import Summary
from sluicegate.roles import ROLES
from sluicegate.services import BlobStore, KeyService
from sluicegate.storage.customer_keys import CustomerVaults, customer_key
from sluicegate.storage.rewrapping import Rewrapped
from sluicegate.store import Store
from sluicegate.tenancy.app_policies import read_app_policies
from sluicegate.tenancy.deployments import Deployments
from sluicegate.tenancy.limits import Limits
from sluicegate.tenancy.policy_store import Policies
from sluicegate.tenancy.tenants import Tenant, Tenants
from sluicegate.types import Chunk, Embeddings, Principal, utc_now

HEALTH_CACHE_S = 30.0
OBSERVE_S = 10.0
"""How long a plugin may take for a batch of signals."""
log = logging.getLogger(__name__)


class Sluicegate:
    """One worker's app.

    Args:
        root: The folder that holds ``function_app.py``, ``plugins/`` and ``config/``.
        environment: App settings.
        now: The clock that decides what day it is.

    Raises:
        StartupError: A plugin, a setting or the deployment file cannot be used.
    """

    def __init__(
        self, root: Path, environment: Mapping[str, str] = os.environ, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.deployment = config.load(root, environment)
        self.plugins = Plugins()
        self.plugins.load_folder(root / "plugins")
        self.plugins.load_installed(self.deployment.installed)
        self.plugins.configure(self.deployment.plugins, self.deployment.pipeline)
        blobs = self.plugins.open_storage(self.deployment.storage)
        keys = self.plugins.open_keys(self.deployment.keys)
        self.accounts = Accounts(blobs, keys)
        self.now = now
        further = [
            self._region(name, self.plugins.open_storage(place.storage), self.plugins.open_keys(place.keys))
            for name, place in self.deployment.regions.items()
        ]
        self.regions = Regions([self._region(self.deployment.region, blobs, keys), *further])
        self.deployments = Deployments(blobs)
        self.idle_deployments = IdleDeployments(blobs, self.deployments, now)
        self.models = ModelCatalogue(self.plugins, self._tuned_models)
        self.app_policies = read_app_policies(self.deployment)
        self.policies = Policies(
            lambda location: self.regions.of(location).blobs, self.accounts, self.deployments, self.app_policies
        )
        self.tenants = Tenants(blobs, self.accounts, now)
        self.applications = Applications(blobs, self.accounts, self.tenants, self.region, self._erase, now)
        self.limits = Limits(blobs, self.deployment.limits.requests_at_once, lambda: now().timestamp())
        self.admission = Admission(
            self.accounts,
            self.deployments,
            self.models,
            self.policies,
            self.limits,
            self.idle_deployments,
            self.region,
            now,
        )
        self.pipeline = Pipeline(
            self.plugins,
            self.deployment.pipeline,
            lambda account: self.regions.of(account.location).vault,
            self._keeps_content,
            self._observe,
        )
        self.safety = SafetyEvaluation(
            self.plugins,
            self._in_use("classify"),
            is_required=self.deployment.fine_tuning.safety_evaluation == "required",
        )
        observing = bool(self.deployment.pipeline.observe)
        self.observer = Observer(
            lambda location: self.regions.of(location).counters, self._hand_over if observing else None, clock=now
        )
        self.monitoring = {region.name: self._monitoring(region) for region in self.regions}
        self.fine_tuning = {
            region.name: RegionFineTuning(
                region,
                self.deployment.fine_tuning,
                self.plugins,
                self.accounts,
                self.deployments,
                self.models,
                self.safety,
                now,
            )
            for region in self.regions
        }
        self.erasure = Erasure(
            self.region,
            self.plugins,
            self.monitoring,
            self.fine_tuning,
            self.idle_deployments,
            self.applications,
            self.policies,
            self.tenants,
        )
        self._purging = PurgeTimer(
            self.regions,
            self.plugins,
            self.accounts,
            self.tenants,
            self.fine_tuning,
            self.idle_deployments,
            self.erasure,
        )
        self._starting = asyncio.Lock()
        self._started = False
        self._health: tuple[float, list[str]] | None = None

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look whether deletion is final here and run the plugins' ``startup``, once; every event awaits this first.

        Raises:
            StartupError: Something weakens deletion that the operator has not accepted, or a plugin says what the operator must mend; the next event tries again.
            PluginFailed: A plugin failed; likewise.
            ServiceError: Storage or keys of the home region cannot be asked; likewise.
        """
        if self._started:
            return
        async with self._starting:
            if self._started:
                return
            await self.regions.home.start()
            for region in self.regions:
                try:
                    await region.start()
                except ServiceError as error:
                    # Its accounts' requests try again; those of other regions are served meanwhile.
                    log.warning("region %s cannot be reached (%s)", region.name, type(error).__name__)
            for name in self._in_use("startup"):
                await self.plugins.call(name, "startup", object)
            self._started = True

    async def shutdown(self) -> None:
        """Finish what is being retained and release everything; for the embedded host and tests."""
        async with AsyncExitStack() as stack:
            for region in self.regions:
                stack.push_async_callback(region.close)
            stack.push_async_callback(self.limits.close)
            for name in self._in_use("shutdown"):
                hook, settings = self.plugins[name].shutdown, self.plugins.config_of(name)
                stack.push_async_callback(hook, config=settings)
            stack.push_async_callback(self.observer.close)
            stack.push_async_callback(self.pipeline.drain)
            for fine_tuning in self.fine_tuning.values():
                stack.push_async_callback(fine_tuning.jobs.runner.stop)

    def _in_use(self, hook: str) -> list[str]:
        implementing = set(self.plugins.configured(hook))
        return [name for name in self.deployment.pipeline.plugins() if name in implementing]

    # --- requests ----------------------------------------------------------------------------------------------------

    async def authenticate(self, headers: Mapping[str, str], operation: str) -> Principal:
        """Return who is calling.

        Args:
            headers: Names in lower case.
            operation: What the caller wants to do, as :data:`sluicegate.roles.ROLES` has it.

        Raises:
            Unauthorized: No plugin knows the caller, or the credential has another role.
        """
        role = ROLES[operation]
        for step in self.deployment.pipeline.authenticate:
            principal: Principal | None = await self.plugins.call(
                step.plugin, "authenticate", Principal | None, headers=headers, role=role, accounts=self.accounts
            )
            if principal is None:
                continue
            if principal.role is not role:
                raise Unauthorized(
                    f"The credential lacks the role {role.value!r} that this operation needs.", code="PermissionDenied"
                )
            return principal
        raise Unauthorized(
            "Access denied due to missing subscription key. "
            "Send it in the 'api-key' header, or as 'Authorization: Bearer …'."
        )

    async def region(self, location: str) -> Region:
        """Return the region in which an account's data is, ready for use.

        Raises:
            RegionNotConfigured: The deployment file no longer has it.
            StartupError, ServiceError: As for ``Region.start``, until it has started once.
        """
        region = self.regions.of(location)
        await region.start()
        return region

    async def _tuned_models(self, location: str) -> TunedModels:
        return (await self.region(location)).tuned_models

    async def chunks(self, call: Call) -> AsyncGenerator[Chunk]:
        """Yield the answer to a chat or completion request, as :meth:`Pipeline.chunks` does.

        Raises:
            ApiError: As there; ``TooManyRequests`` when as many of the account's requests are running as may.
        """
        with self.limits.running(call.account.name):
            async with aclosing(self.pipeline.chunks(call)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def embeddings(self, call: Call) -> Embeddings:
        """Return the vectors of an embedding request, as :meth:`Pipeline.embeddings` does."""
        with self.limits.running(call.account.name):
            return await self.pipeline.embeddings(call)

    # --- the control plane -------------------------------------------------------------------------------------------

    @property
    def locations(self) -> tuple[str, ...]:
        """Where accounts can be: the regions that have storage and keys."""
        return self.regions.names

    def capabilities(self, tenant: Tenant) -> list[dict[str, str]]:
        """Return an account's capabilities, as ARM shows them; ``ContentLogging`` is absent where content may be kept."""
        return [] if tenant.has_content_logging else [{"name": "ContentLogging", "value": "false"}]

    async def check_policy(self, account: str, name: str) -> None:
        """Refuse a content-filter policy that the account does not have.

        Raises:
            InvalidRequest: There is none of that name.
        """
        if not await self.policies.exists(account, name):
            raise InvalidRequest(
                "The content-filter policy of the deployment does not exist: create it first, or use 'Microsoft.DefaultV2'.",
                code="InvalidResourceProperties",
                param="properties.raiPolicyName",
            )

    async def _erase(self, tenant: Tenant, actor: str, reason: str) -> str:
        return await erase_retained(await self.region(tenant.location), self.plugins, tenant, actor, reason)

    # --- accounts ----------------------------------------------------------------------------------------------------

    async def prove_encryption(self, encryption: Mapping[str, Any] | None) -> None:
        """Refuse a key of its own, in ARM's shape, that an account could not use.

        Raises:
            ValueError: It has not that shape, or the key cannot be used; the message names what to change.
        """
        key = customer_key(encryption)
        if key is not None:
            await self.regions.home.data_keys.prove(key)

    async def rewrap(self) -> Rewrapped:
        """Wrap the data keys of all accounts under their own present keys; for the purge timer and the command line."""
        census = await self.accounts.census()
        done = [await region.rewrap(Residents(region, census)) for region in self.regions]
        left = sum((Counter(each.left) for each in done), Counter[str]())
        return Rewrapped(sum(each.wrapped for each in done), dict(left))

    # --- abuse monitoring --------------------------------------------------------------------------------------------

    async def monitor(self) -> None:
        """Look for patterns of abuse in every region, and do what follows; for the timer ``abuse``.

        Raises:
            MonitoringIncomplete: A step failed somewhere; the next tick tries again.
        """
        await self.observer.flush()
        steps = {name: monitoring.steps for name, monitoring in self.monitoring.items()}
        await monitor(self.regions, steps, self.now)

    async def retained(self, account: str) -> Store | None:
        """Return where exchanges of an account are retained, or None where none are, or nobody may look at them."""
        found = await self.accounts.get(account)
        steps = self.deployment.pipeline.retain
        if found is None or not found.content_logging or not steps:
            return None
        return (await self.region(found.location)).vault.store(account, steps[0].plugin)

    def _monitoring(self, region: Region) -> RegionMonitoring:
        # Applications are the home region's, whatever regions their accounts are in.
        applications = self.applications if region is self.regions.home else None
        return RegionMonitoring(
            region, self.deployment, self.plugins, self.accounts, self.retained, applications, self.now
        )

    def _observe(self, call: Call) -> None:
        self.observer.note(call.account.location, signal_of(call, self.now()))

    async def _hand_over(self, signals: Sequence[Signal]) -> None:
        for step in self.deployment.pipeline.observe:
            try:
                async with asyncio.timeout(OBSERVE_S):
                    await self.plugins.call(step.plugin, "observe", object, signals=tuple(signals))
            except (SluicegateError, TimeoutError) as error:
                if not isinstance(error, PluginFailed):
                    log_failure(step.plugin, "observe", error)

    async def _keeps_content(self, account: str) -> bool:
        found = await self.accounts.get(account)
        return found is not None and found.content_logging

    def _open_customers_vault(self, url: str, identity: str | None) -> KeyService:
        """Open a customer's vault: of the kind that the deployment's own is, so no path of this machine on Azure."""
        own = [self.deployment.keys, *(place.keys for place in self.deployment.regions.values())]
        if url.partition(":")[0] != own[0].partition(":")[0] or any(is_same(url, each) for each in own):
            raise StartupError("a customer's vault must be of the kind of the deployment's own, and another one")
        return self.plugins.open_keys(url, identity)

    # --- timers and health -------------------------------------------------------------------------------------------

    async def purge(self) -> dict[str, Summary]:
        """Remove what is due, of all accounts and plugins, in every region by itself; for the purge timer.

        Returns:
            What went, by region, without those that another process is at.

        Raises:
            PurgeIncomplete: Something due is left somewhere, or a checkpoint was not published; the next tick tries again.
        """
        return await self._purging.run(self.now())

    async def fine_tune(self) -> None:
        """Take the steps of fine-tuning jobs, in every region by itself; for the timer.

        Raises:
            ServiceError: Storage or keys of a region cannot be reached; the others are done, and the next tick tries again.
        """
        await self.start()

        async def run(region: Region) -> None:
            await region.start()
            await self.fine_tuning[region.name].jobs.runner.run()

        for found in await asyncio.gather(*map(run, self.regions), return_exceptions=True):
            if isinstance(found, BaseException):
                raise found

    def _region(self, name: str, blobs: BlobStore, keys: KeyService) -> Region:
        return Region(
            name,
            blobs,
            keys,
            accounts=self.accounts,
            vaults=CustomerVaults(self._open_customers_vault),
            sinks=lambda origin: tuple(self._sink(url, origin) for url in self.deployment.checkpoints),
            accepted=self.deployment.accepted_weaknesses,
            limits=self.deployment.limits,
            clock=self.now,
        )

    def _sink(self, url: str, origin: str) -> Sink:
        if url.startswith(WEBHOOK):
            return Webhook(url.removeprefix(WEBHOOK))
        return StoreSink(self.plugins.open_storage(url), origin)

    async def health(self) -> list[str]:
        """Return why this app is degraded, one reason a line; empty when it is not. At most :data:`HEALTH_CACHE_S` old."""
        if self._health is None or time.monotonic() - self._health[0] > HEALTH_CACHE_S:
            self._health = (time.monotonic(), await self._reasons())
        return self._health[1]

    async def _reasons(self) -> list[str]:
        found = await asyncio.gather(*(region.degraded() for region in self.regions))
        return [
            self.regions.told(region, line) for region, lines in zip(self.regions, found, strict=True) for line in lines
        ]
