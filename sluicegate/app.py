"""Sluicegate: the app behind the triggers, built once per worker and started on the first event."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sluicegate import config
from sluicegate.abuse import FlaggedContent, Notice, ReviewVerdict, Signal
from sluicegate.accounts import Account, Accounts, Resident
from sluicegate.audit.publishing import WEBHOOK, Sink, StoreSink, Webhook
from sluicegate.call import Call
from sluicegate.config import is_same
from sluicegate.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    PluginFailed,
    PurgeIncomplete,
    ServiceError,
    SluicegateError,
    StartupError,
    Unauthorized,
)
from sluicegate.fine_tuning.idle_deployments import IdleDeployments
from sluicegate.fine_tuning.job_operations import Jobs
from sluicegate.fine_tuning.model_catalogue import ModelCatalogue
from sluicegate.fine_tuning.model_removal import ModelDeletions
from sluicegate.fine_tuning.model_safety import ModelSafety
from sluicegate.fine_tuning.runner import Runner
from sluicegate.fine_tuning.safety import SafetyEvaluation
from sluicegate.fine_tuning.stages import Work
from sluicegate.fine_tuning.tuned_models import TunedModels
from sluicegate.monitoring.access import Access
from sluicegate.monitoring.actions import Actions
from sluicegate.monitoring.appeals import Appeals
from sluicegate.monitoring.applications import Applications
from sluicegate.monitoring.cases import Case, Cases
from sluicegate.monitoring.notices import Notices
from sluicegate.monitoring.observing import Observer
from sluicegate.monitoring.patterns import Patterns
from sluicegate.monitoring.penalties import Penalty, admit
from sluicegate.monitoring.reviewing import Review
from sluicegate.monitoring.signals import signal_of
from sluicegate.monitoring.timer import Step, monitor
from sluicegate.pipeline import Pipeline
from sluicegate.plugins import Plugins, log_failure
from sluicegate.regions import Region, Regions, Residents
from sluicegate.requests import Request
from sluicegate.retention.purging import Summary, delete
from sluicegate.retention.removals import TIMER
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
from sluicegate.types import Chunk, Embeddings, Model, OfAccount, Principal, utc_now

HEALTH_CACHE_S = 30.0
OBSERVE_S = 10.0
REVIEW_S = 20.0
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
        self.applications = Applications(blobs, self.accounts, self.tenants, self.region, self.erase, now)
        self.limits = Limits(blobs, self.deployment.limits.requests_at_once)
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
        self.notices = {region.name: self._notices(region) for region in self.regions}
        self.actions = {region.name: self._actions(region) for region in self.regions}
        self.appeals = {region.name: self._appeals(region) for region in self.regions}
        self.cases = {region.name: self._cases(region) for region in self.regions}
        self.access = {region.name: self._access(region) for region in self.regions}
        self._reviews = {region.name: self._review(region) for region in self.regions}
        self._patterns: dict[str, Patterns] = {}
        self.monitoring: dict[str, Step] = {
            "patterns": self._report_patterns,
            "reviews": lambda region: self._reviews[region.name].advance(),
            "cases": lambda region: self.cases[region.name].advance(),
            "applications": self._advance_applications,
            # Before the penalties: an answer that has just come keeps the next step waiting.
            "appeals": lambda region: self.appeals[region.name].advance(),
            "penalties": lambda region: self.actions[region.name].advance(),
            "notices": lambda region: self.notices[region.name].deliver(),
        }
        work = {region.name: self._work(region) for region in self.regions}
        self._jobs = {region.name: self._jobs_of(region, work[region.name]) for region in self.regions}
        self._model_deletions = {
            region.name: ModelDeletions(
                region.tuned_models, self.models, self.deployments, region.receipts, work[region.name].forget_model
            )
            for region in self.regions
        }
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
            for jobs in self._jobs.values():
                stack.push_async_callback(jobs.runner.stop)

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

    async def call(self, principal: Principal, deployment: str, request: Request, call_id: str) -> Call:
        """Return a call of one of the account's deployments, ready for the pipeline.

        Raises:
            NotFound: The account has no such deployment, or the deployment's policy does not exist.
            InvalidRequest: The deployment's model does not serve this operation.
            RegionNotConfigured: The account is in a region that the deployment file no longer has.
            AccountKeyUnavailable: The account's own encryption key cannot be used; ``AccountKeyRevoked`` when it may not.
            Forbidden: The model's provider keeps content, and the account's may not be kept.
            AccessBlocked: A penalty shuts the account or the end user out.
        """
        account = await self.accounts.get(principal.account)
        found = await self.deployments.get(account.name, deployment) if account else None
        served = await self.models.get(account.name, account.location, found.model) if account and found else None
        if account is None or found is None or served is None:
            raise NotFound(
                "The API deployment for this resource does not exist. If you created the deployment within the last "
                "5 minutes, please wait a moment and try again.",
                code="DeploymentNotFound",
            )
        model, tuned = served.model, served.tuned
        if request.operation not in model.operations:
            raise InvalidRequest(
                f"The {request.operation} operation does not work with the model {model.id!r} of this deployment. "
                "Choose a deployment of another model.",
                code="OperationNotSupported",
            )
        check_retention(model, account.content_logging)
        region = await self.region(account.location)
        await region.data_keys.check(account.name)
        throttles = self._admit(account, request)
        standing = await self.limits.admit(account.name, found, request, throttles)
        policy = await self.policies.resolve(account, found.policy)
        weights = None
        if tuned is not None:
            weights = region.tuned_models.weights(tuned)
            await self.idle_deployments.note(account.name, found.name)
        return Call(
            call_id,
            principal,
            account,
            deployment,
            model,
            served.plugin,
            request,
            policy,
            standing,
            tuned,
            weights,
        )

    def _admit(self, account: Account, request: Request) -> list[Penalty]:
        """Return the throttles that a request goes by; ``AccessBlocked`` when it is shut out."""
        if not account.penalties:
            return []
        return admit(account.penalties, account.user_hash(request.end_user), self.now())

    async def check_access(self, name: str) -> None:
        """Refuse an account that a penalty shuts out, for operations that name no end user and make something new.

        Raises:
            AccessBlocked: It says why, until when, and how to appeal.
        """
        account = await self.accounts.get(name)
        if account is not None:
            admit(account.penalties, None, self.now())

    async def check_training(self, name: str, model: str) -> None:
        """Refuse to send training data to a model whose provider keeps content, where the account's may not be kept.

        Raises:
            Forbidden: It says what to do.
        """
        account = await self.accounts.get(name)
        known = await self.models.get(name, account.location, model) if account else None
        if account is not None and known is not None:
            check_retention(known.model, account.content_logging)

    async def region(self, location: str) -> Region:
        """Return the region in which an account's data is, ready for use.

        Raises:
            RegionNotConfigured: The deployment file no longer has it.
            StartupError, ServiceError: As for ``Region.start``, until it has started once.
        """
        region = self.regions.of(location)
        await region.start()
        return region

    def jobs(self, region: Region) -> Jobs:
        """Return the fine-tuning jobs of the accounts in a region."""
        return self._jobs[region.name]

    def model_deletions(self, region: Region) -> ModelDeletions:
        """Return what deletes the fine-tuned models of the accounts in a region."""
        return self._model_deletions[region.name]

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

    async def erase(self, tenant: Tenant, actor: str, reason: str) -> str:
        """Delete everything that is retained of an account so far, and return the receipt's id; files and models stay.

        Raises:
            PurgeIncomplete: Something is left; run again, it goes on.
        """
        region = await self.region(tenant.location)
        deleted = await delete(
            region.vault, self.plugins, region.receipts, tenant.id, OfAccount(), actor=actor, reason=reason
        )
        return deleted.receipt.id

    async def purge_account(self, tenant: Tenant, *, actor: str) -> None:
        """Delete everything of a deleted account, with a receipt, and leave its name only.

        Args:
            actor: Who asked for it, as the audit log has it.

        Raises:
            PurgeIncomplete: Something is left; run again, it goes on.
        """
        region = await self.region(tenant.location)
        await delete(region.vault, self.plugins, region.receipts, tenant.id, OfAccount(), actor=actor)
        await self.jobs(region).delete_all(tenant.id, actor=actor)
        await self.model_deletions(region).delete_all(tenant.id, actor=actor)
        await self.idle_deployments.forget(tenant.id)
        await region.uploads.delete_all(tenant.id, actor=actor)
        await region.files.delete_all(tenant.id, actor=actor)
        await region.counters.delete(tenant.id)
        await self.applications.forget_texts(tenant)
        await self.cases[region.name].delete(tenant.id)
        await self.access[region.name].delete(tenant.id)
        await self.appeals[region.name].delete(tenant.id)
        await self.actions[region.name].delete(tenant.id)
        await self.notices[region.name].delete(tenant.id)
        await self.policies.purge(tenant.id, tenant.location)
        await self.tenants.purge(tenant)

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
        await monitor(self.regions, self.monitoring, self.now)

    async def _report_patterns(self, region: Region) -> None:
        patterns = self._patterns.setdefault(region.name, Patterns(region.counters, self.deployment.abuse, self.now))
        names = await Residents(region, await self.accounts.census()).names()
        async for pattern in patterns.found(names):
            subject = "the account" if pattern.user is None else "an end user"
            log.warning("abuse pattern: account %s, %s, score %.2f", pattern.account, subject, pattern.score.value)
            await self.cases[region.name].report(pattern)

    def _cases(self, region: Region) -> Cases:
        async def tell(case: Case) -> None:
            await self.actions[region.name].decided(case)

        settings, reviews = self.deployment.review, bool(self.deployment.pipeline.review)
        return Cases(region.blobs, region.audit, tell, self.now, keep_days=settings.keep_days, is_reviewed=reviews)

    def _access(self, region: Region) -> Access:
        return Access(region.blobs, region.audit, self.now, minutes=self.deployment.review.access_minutes)

    def _review(self, region: Region) -> Review:
        async def ask(flagged: FlaggedContent) -> ReviewVerdict:
            [step] = self.deployment.pipeline.review
            async with asyncio.timeout(REVIEW_S):
                verdict: ReviewVerdict = await self.plugins.call(step.plugin, "review", ReviewVerdict, flagged=flagged)
            return verdict

        return Review(self.cases[region.name], self.retained, ask)

    async def retained(self, account: str) -> Store | None:
        """Return where exchanges of an account are retained, or None where none are, or nobody may look at them."""
        found = await self.accounts.get(account)
        steps = self.deployment.pipeline.retain
        if found is None or not found.content_logging or not steps:
            return None
        return (await self.region(found.location)).vault.store(account, steps[0].plugin)

    def _notices(self, region: Region) -> Notices:
        def deliver(plugin: str, notice: Notice) -> Awaitable[object]:
            return self.plugins.call(plugin, "notify", object, notice=notice)

        def give_up(plugin: str, notice: Notice) -> None:
            log.error("plugin %r could not deliver notice %s to account %s", plugin, notice.id, notice.account)

        plugins = [step.plugin for step in self.deployment.pipeline.notify]
        return Notices(region.blobs, plugins, deliver, give_up, self.now)

    def _actions(self, region: Region) -> Actions:
        return Actions(
            region.blobs,
            region.audit,
            self.accounts,
            self.notices[region.name],
            self.deployment.penalties,
            self.now,
        )

    def _appeals(self, region: Region) -> Appeals:
        actions, notices = self.actions[region.name], self.notices[region.name]
        return Appeals(region.blobs, region.large_files, region.audit, actions, notices, self.now)

    async def _advance_applications(self, region: Region) -> None:
        # They are the home region's, whatever regions their accounts are in.
        if region is self.regions.home:
            await self.applications.advance()

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
        left: list[str] = []
        census: dict[str, Resident | Exception] | SluicegateError
        try:
            census = await self.accounts.census()
            left += self.regions.strangers(census)
        except SluicegateError as error:
            census = error
        summaries: dict[str, Summary] = {}

        async def purge_one(region: Region) -> None:
            try:
                summary = await region.purge(self.plugins, Residents(region, census))
                if summary is not None:
                    summaries[region.name] = summary
            except PurgeIncomplete as error:
                left.extend(self.regions.told(region, line) for line in error.left)
            except SluicegateError as error:
                left.append(self.regions.told(region, f"storage or keys cannot be reached ({type(error).__name__})"))
            for what, purging in (
                ("uploads in parts", region.uploads.purge(self.now())),
                ("fine-tuning jobs", self.jobs(region).purge(self.now())),
                ("fine-tuned models", self.model_deletions(region).purge()),
                ("idle deployments", self.idle_deployments.delete(region.tuned_models, region.audit)),
            ):
                try:
                    await purging
                except PurgeIncomplete as error:
                    left.extend(self.regions.told(region, line) for line in error.left)
                except SluicegateError as error:
                    left.append(self.regions.told(region, f"{what} ({type(error).__name__})"))

        await asyncio.gather(*map(purge_one, self.regions))
        left += await self._purge_deleted()
        if left:
            raise PurgeIncomplete(left)
        return summaries

    async def fine_tune(self) -> None:
        """Take the steps of fine-tuning jobs, in every region by itself; for the timer.

        Raises:
            ServiceError: Storage or keys of a region cannot be reached; the others are done, and the next tick tries again.
        """
        await self.start()

        async def run(region: Region) -> None:
            await region.start()
            await self.jobs(region).runner.run()

        for found in await asyncio.gather(*map(run, self.regions), return_exceptions=True):
            if isinstance(found, BaseException):
                raise found

    async def _purge_deleted(self) -> list[str]:
        """Purge the accounts that can no longer be restored, and return which are not gone."""
        try:
            due = await self.tenants.due(self.now())
        except SluicegateError as error:
            return [f"deleted accounts ({type(error).__name__})"]
        left: list[str] = []
        for tenant in due:
            try:
                await self.purge_account(tenant, actor=TIMER)
            except PurgeIncomplete as error:
                left += error.left
            except SluicegateError as error:
                left.append(f"deleted account {tenant.id!r} ({type(error).__name__})")
        return left

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

    def _work(self, region: Region) -> Work:
        return Work(
            region.jobs,
            region.files,
            region.tuned_models,
            region.receipts,
            self.plugins,
            self.safety,
            judge=ModelSafety(self.plugins, region.tuned_models, self.safety, self.now).judge,
            is_served=self._is_served,
            deployed=self._deployed_models,
            longest=timedelta(hours=self.deployment.fine_tuning.job_hours),
            clock=self.now,
        )

    async def _is_served(self, account: str) -> bool:
        return await self.accounts.get(account) is not None

    async def _deployed_models(self, account: str) -> set[str]:
        return {str(each.content["model"]) for each in await self.deployments.documents(account).every()}

    def _jobs_of(self, region: Region, work: Work) -> Jobs:
        settings = self.deployment.fine_tuning
        runner = Runner(region.blobs, work, settings, self.now)
        return Jobs(region.jobs, region.files, work, runner, settings, self.now)

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


def check_retention(model: Model, content_logging: bool) -> None:
    """Refuse a model whose provider keeps content to an account whose content may not be kept.

    Raises:
        Forbidden: It says what to do.
    """
    if model.keeps_content and not content_logging:
        raise Forbidden(
            f"The provider of the model {model.id!r} keeps prompts or answers, and the content of this resource may not be kept: "
            "it is approved for modified abuse monitoring. Use a deployment of another model, or have the operator declare the "
            "model exempt from retention.",
            code="ModelRetainsContent",
        )
