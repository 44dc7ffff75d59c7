"""Whether a request may be served: the deployment and its model, penalties, limits, keys, and who keeps content."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from sluicegate.accounts import Account, Accounts
from sluicegate.call import Call
from sluicegate.errors import Forbidden, InvalidRequest, NotFound
from sluicegate.fine_tuning.idle_deployments import IdleDeployments
from sluicegate.fine_tuning.model_catalogue import ModelCatalogue
from sluicegate.monitoring.penalties import Penalty, admit
from sluicegate.regions import Region
from sluicegate.requests import Request
from sluicegate.tenancy.deployments import Deployments
from sluicegate.tenancy.limits import Limits
from sluicegate.tenancy.policy_store import Policies
from sluicegate.types import Model, Principal


class Admission:
    """Lets requests in; one object per process.

    Args:
        region: Returns the region of a location, ready for use.
    """

    def __init__(
        self,
        accounts: Accounts,
        deployments: Deployments,
        models: ModelCatalogue,
        policies: Policies,
        limits: Limits,
        idle_deployments: IdleDeployments,
        region: Callable[[str], Awaitable[Region]],
        clock: Callable[[], datetime],
    ) -> None:
        self._accounts = accounts
        self._deployments = deployments
        self._models = models
        self._policies = policies
        self._limits = limits
        self._idle_deployments = idle_deployments
        self._region = region
        self._clock = clock

    async def call(self, principal: Principal, deployment: str, request: Request, call_id: str) -> Call:
        """Return a call of one of the account's deployments, ready for the pipeline.

        Raises:
            NotFound: The account has no such deployment, or the deployment's policy does not exist.
            InvalidRequest: The deployment's model does not serve this operation.
            RegionNotConfigured: The account is in a region that the deployment file no longer has.
            AccountKeyUnavailable: The account's own encryption key cannot be used; ``AccountKeyRevoked`` when it may not.
            Forbidden: The model's provider keeps content, and the account's may not be kept.
            AccessBlocked: A penalty shuts the account or the end user out.
            TooManyRequests: A limit of the deployment, or of a penalty, is reached.
        """
        account = await self._accounts.get(principal.account)
        found = await self._deployments.get(account.name, deployment) if account else None
        served = await self._models.get(account.name, account.location, found.model) if account and found else None
        if account is None or found is None or served is None:
            raise NotFound(
                "The API deployment for this resource does not exist. If you created the deployment within the last "
                f"5 minutes, please wait a moment and try again. (There is no deployment {deployment[:64]!r}.)",
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
        region = await self._region(account.location)
        await region.data_keys.check(account.name)
        throttles = self._admit(account, request)
        standing = await self._limits.admit(account.name, found, request, throttles)
        policy = await self._policies.resolve(account, found.policy)
        weights = None
        if tuned is not None:
            weights = region.tuned_models.weights(tuned)
            await self._idle_deployments.note(account.name, found.name)
        return Call(
            call_id, principal, account, deployment, model, served.plugin, request, policy, standing, tuned, weights
        )

    def _admit(self, account: Account, request: Request) -> list[Penalty]:
        """Return the throttles that a request goes by; ``AccessBlocked`` when it is shut out."""
        if not account.penalties:
            return []
        return admit(account.penalties, account.user_hash(request.end_user), self._clock())

    async def check_access(self, name: str) -> None:
        """Refuse an account that a penalty shuts out, for operations that name no end user and make something new.

        Raises:
            AccessBlocked: It says why, until when, and how to appeal.
        """
        account = await self._accounts.get(name)
        if account is not None:
            admit(account.penalties, None, self._clock())

    async def check_training(self, name: str, model: str) -> None:
        """Refuse to send training data to a model whose provider keeps content, where the account's may not be kept.

        Raises:
            Forbidden: It says what to do.
        """
        account = await self._accounts.get(name)
        known = await self._models.get(name, account.location, model) if account else None
        if account is not None and known is not None:
            check_retention(known.model, account.content_logging)


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
