"""Sluicegate: the app behind the triggers, built once per worker and started on the first event."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

from sluicegate import config
from sluicegate.accounts import Accounts
from sluicegate.app_policies import read_app_policies
from sluicegate.audit import Audit
from sluicegate.call import Call
from sluicegate.customer_keys import CustomerVaults, customer_key
from sluicegate.data_keys import DataKeys
from sluicegate.day_layout import day_of, key_name
from sluicegate.deployments import Deployments
from sluicegate.errors import (
    InvalidRequest,
    NotFound,
    PurgeIncomplete,
    SluicegateError,
    StartupError,
    StorageUnavailable,
    Unauthorized,
)
from sluicegate.lease import Lease, LeaseHeld, LeaseLost
from sluicegate.limits import Limits
from sluicegate.pipeline import Pipeline
from sluicegate.plugins import Plugins
from sluicegate.policy_store import Policies
from sluicegate.publishing import WEBHOOK, Publisher, Sink, StoreSink, Webhook
from sluicegate.receipts import Receipts
from sluicegate.requests import Request
from sluicegate.retention import Summary, delete, purge
from sluicegate.rewrapping import Rewrapped, rewrap
from sluicegate.roles import ROLES
from sluicegate.services import KeyService
from sluicegate.tenants import Tenant, Tenants
from sluicegate.types import Chunk, Embeddings, OfAccount, Principal, utc_now
from sluicegate.vault import Vault
from sluicegate.weaknesses import Weaknesses

HEALTH_CACHE_S = 30.0
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
        self._blobs = self.plugins.open_storage(self.deployment.storage)
        self._keys = self.plugins.open_keys(self.deployment.keys)
        self.accounts = Accounts(self._blobs, self._keys)
        vaults = CustomerVaults(self._open_customers_vault)
        self.data_keys = DataKeys(self._keys, accounts=self.accounts, vaults=vaults, clock=now)
        self.deployments = Deployments(self._blobs)
        self.app_policies = read_app_policies(self.deployment)
        self.policies = Policies(self._blobs, self.accounts, self.deployments, self.app_policies)
        self.tenants = Tenants(self._blobs, self.accounts, now)
        self.audit = Audit(self._blobs, self._keys, origin=f"sluicegate/{self.deployment.region}", clock=now)
        self.weaknesses = Weaknesses(self._blobs, self._keys, self.deployment.accepted_weaknesses, clock=now)
        self.receipts = Receipts(self._blobs, self._keys, self.audit, clock=now, weaknesses=self.weaknesses.of_storage)
        self.vault = Vault(
            self._blobs,
            self._keys,
            clock=now,
            ledger=self.receipts,
            data_keys=self.data_keys,
            may_keep=self.accounts.keeps_content,
        )
        self._publisher = Publisher(self.audit, self._blobs, tuple(map(self._sink, self.deployment.checkpoints)), now)
        self.limits = Limits(self._blobs, self.deployment.limits.requests_at_once)
        self.pipeline = Pipeline(self.plugins, self.deployment.pipeline, self.vault, self._keeps_content)
        self.now = now
        self._starting = asyncio.Lock()
        self._started = False
        self._health: tuple[float, list[str]] | None = None

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look whether deletion is final here and run the plugins' ``startup``, once; every event awaits this first.

        Raises:
            StartupError: Something weakens deletion that the operator has not accepted, or a plugin says what the operator must mend; the next event tries again.
            PluginFailed: A plugin failed; likewise.
            ServiceError: Storage or keys cannot be asked; likewise.
        """
        if self._started:
            return
        async with self._starting:
            if self._started:
                return
            # A vault that holds no key says little of itself.
            await self._keys.create(key_name(day_of(self.now())))
            await self.weaknesses.check()
            for name in self._in_use("startup"):
                await self.plugins.call(name, "startup", object)
            self._started = True

    async def shutdown(self) -> None:
        """Finish what is being retained and release everything; for the embedded host and tests."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._keys.close)
            stack.push_async_callback(self.data_keys.close)
            stack.push_async_callback(self._blobs.close)
            stack.push_async_callback(self.limits.close)
            stack.push_async_callback(self._publisher.close)
            for name in self._in_use("shutdown"):
                hook, settings = self.plugins[name].shutdown, self.plugins.config_of(name)
                stack.push_async_callback(hook, config=settings)
            stack.push_async_callback(self.pipeline.drain)

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
            AccountKeyUnavailable: The account's own encryption key cannot be used; ``AccountKeyRevoked`` when it may not.
        """
        account = await self.accounts.get(principal.account)
        found = await self.deployments.get(account.name, deployment) if account else None
        served = self.plugins.models().get(found.model) if found else None
        if account is None or found is None or served is None:
            raise NotFound(
                "The API deployment for this resource does not exist. If you created the deployment within the last "
                "5 minutes, please wait a moment and try again.",
                code="DeploymentNotFound",
            )
        model, plugin = served
        if request.operation not in model.operations:
            raise InvalidRequest(
                f"The {request.operation} operation does not work with the model {model.id!r} of this deployment. "
                "Choose a deployment of another model.",
                code="OperationNotSupported",
            )
        await self.data_keys.check(account.name)
        standing = await self.limits.admit(account.name, found, request)
        policy = await self.policies.resolve(account, found.policy)
        return Call(call_id, principal, account, deployment, model, plugin, request, policy, standing)

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
        return (self.deployment.region,)

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

    async def purge_account(self, tenant: Tenant, *, actor: str) -> None:
        """Delete everything of a deleted account, with a receipt, and leave its name only.

        Args:
            actor: Who asked for it, as the audit log has it.

        Raises:
            PurgeIncomplete: Something is left; run again, it goes on.
        """
        await delete(self.vault, self.plugins, self.receipts, tenant.id, OfAccount(), actor=actor)
        await self.tenants.purge(tenant)

    # --- accounts ----------------------------------------------------------------------------------------------------

    async def set_encryption(self, account: str, encryption: Mapping[str, Any] | None) -> None:
        """Give an account a key of its own, another one, or none, in ARM's shape, once it was seen to work.

        Raises:
            ValueError: It has not that shape, or the key cannot be used; the message names what to change.
            BlobNotFound: There is no such account.
        """
        await self.prove_encryption(encryption)
        await self.accounts.set_encryption(account, encryption)

    async def prove_encryption(self, encryption: Mapping[str, Any] | None) -> None:
        """Refuse a key that an account could not use; raises as ``set_encryption``."""
        key = customer_key(encryption)
        if key is not None:
            await self.data_keys.prove(key)

    async def rewrap(self) -> Rewrapped:
        """Wrap the data keys of all accounts under their own present keys; for the purge timer and the command line."""
        return await rewrap(self._blobs, self.data_keys, self.accounts, now=self.now())

    async def _keeps_content(self, account: str) -> bool:
        found = await self.accounts.get(account)
        return found is not None and found.content_logging

    def _open_customers_vault(self, url: str, identity: str | None) -> KeyService:
        """Open a customer's vault: of the kind that the deployment's own is, so no path of this machine on Azure."""
        own = self.deployment.keys
        if url.partition(":")[0] != own.partition(":")[0] or url.rstrip("/").lower() == own.rstrip("/").lower():
            raise StartupError("a customer's vault must be of the kind of the deployment's own, and another one")
        return self.plugins.open_keys(url, identity)

    # --- timers and health -------------------------------------------------------------------------------------------

    async def purge(self) -> Summary | None:
        """Remove what is due, of all accounts and plugins, and publish the audit log's checkpoint; for the purge timer.

        Returns:
            What went, or None when another process is at it.

        Raises:
            PurgeIncomplete: Something due is left, or a checkpoint was not published; the next tick tries again.
        """
        try:
            return await Lease(self._blobs, "purge", clock=self.now).run(self._purge)
        except LeaseHeld:
            overdue = await self.vault.overdue(self.now())
            if overdue:
                raise PurgeIncomplete(f"{day}: overdue, though another process is purging" for day in overdue) from None
            log.info("another process is purging")
            return None
        except LeaseLost as error:
            raise PurgeIncomplete([str(error)]) from None
        except StorageUnavailable:
            # A full disk takes no lease either, and what is due must go all the same.
            return await self._purge()

    async def _purge(self) -> Summary:
        left = await self._publisher.look()
        summary = None
        try:
            summary = await purge(self.vault, self.plugins, self.accounts, self.receipts, now=self.now())
        except PurgeIncomplete as error:
            left += error.left
        try:
            await self.rewrap()
        except SluicegateError as error:
            left.append(f"wrapping data keys anew ({type(error).__name__})")
        left += await self._reversible()
        left += await self._publisher.publish()
        if summary is None or left:
            raise PurgeIncomplete(left)
        return summary

    def _sink(self, url: str) -> Sink:
        if url.startswith(WEBHOOK):
            return Webhook(url.removeprefix(WEBHOOK))
        return StoreSink(self.plugins.open_storage(url), self.audit.key.origin)

    async def health(self) -> list[str]:
        """Return why this app is degraded, one reason a line; empty when it is not. At most :data:`HEALTH_CACHE_S` old."""
        if self._health is None or time.monotonic() - self._health[0] > HEALTH_CACHE_S:
            self._health = (time.monotonic(), await self._reasons())
        return self._health[1]

    async def _reversible(self) -> list[str]:
        try:
            return [f"deletion is not final here: {sentence}" for sentence in await self.weaknesses.unaccepted()]
        except SluicegateError as error:
            return [f"looking whether deletion is final here ({type(error).__name__})"]

    async def _reasons(self) -> list[str]:
        try:
            overdue = await self.vault.overdue(self.now())
            weaknesses = await self.weaknesses.unaccepted()
        except SluicegateError as error:
            return [f"storage or keys cannot be reached ({type(error).__name__})"]
        return [
            *(f"retained data of {day} is overdue for deletion" for day in overdue),
            *(f"deletion is not final here: {sentence}" for sentence in weaknesses),
        ]
