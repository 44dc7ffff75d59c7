"""Deleting fine-tuned models and checkpoints: with a receipt, and where they are elsewhere as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from sluicegate.errors import Conflict, Forbidden, NotFound, PurgeIncomplete, SluicegateError
from sluicegate.fine_tuning.model_catalogue import ModelCatalogue
from sluicegate.fine_tuning.tuned_models import TunedModel, TunedModels
from sluicegate.retention.receipts import Receipt, Receipts
from sluicegate.retention.removals import TIMER, Evidence, Found, Kind
from sluicegate.storage.day_layout import Tally
from sluicegate.tenancy.deployments import Deployments

Forget: TypeAlias = Callable[[TunedModel], Awaitable[tuple[str, ...]]]
"""Deletes a model where it is elsewhere, and returns names of what is gone."""


@dataclass(frozen=True, slots=True)
class ModelDeletions:
    """Deletes the fine-tuned models of the accounts in a region; one object per process."""

    models: TunedModels
    catalogue: ModelCatalogue
    deployments: Deployments
    receipts: Receipts
    forget: Forget

    async def delete(self, account: str, location: str, name: str, *, actor: str) -> Receipt:
        """Delete a model, elsewhere first, and return the receipt; no key is needed for that.

        Raises:
            NotFound: The account has none of that name.
            Forbidden: It is a base model.
            Conflict: It is deployed, here or elsewhere.
            ApiError, PurgeIncomplete, ServiceError: Something is left; the timer goes on.
        """
        known = await self.catalogue.read(account, location, name)
        if known is not None and known.tuned is None:
            raise Forbidden("A base model cannot be deleted.", code="OperationNotSupported")
        if await self.models.get(account, name) is None:
            raise NotFound("The requested model does not exist.", code="model_not_found", param="model")
        using = [
            each.content["name"]
            for each in await self.deployments.documents(account).every()
            if each.content["model"] == name
        ]
        if using:
            raise Conflict(
                f"The model is deployed as {', '.join(map(repr, sorted(using)))}: delete that first.", param="model"
            )
        try:
            return await self._certified(account, name, actor)
        finally:
            self.catalogue.forget(account, name)

    async def delete_all(self, account: str, *, actor: str) -> int:
        """Delete every fine-tuned model of an account, each with its receipt, and return how many there were."""
        found = await self.models.list(account)
        for model in found:
            await self._certified(account, model.id, actor)
        return len(found)

    async def purge(self) -> None:
        """Finish deletions that were interrupted.

        Raises:
            PurgeIncomplete: Something is left.
        """
        left: list[str] = []
        try:
            async for owed in self.receipts.owed():
                if owed.kind is Kind.DELETE_MODEL and owed.account is not None:
                    try:
                        await self._certified(owed.account, owed.subject, TIMER)
                    except SluicegateError as error:
                        left.append(f"model {owed.subject} of account {owed.account!r} ({type(error).__name__})")
        except SluicegateError as error:
            left.append(f"interrupted deletions of models ({type(error).__name__})")
        if left:
            raise PurgeIncomplete(left)

    async def _certified(self, account: str, name: str, actor: str) -> Receipt:
        removal = _Removal(self.models, self.forget, account, name)
        return await self.receipts.certify(removal, await removal.found(), actor=actor)


@dataclass(frozen=True, slots=True)
class _Removal:
    """The removal of one model."""

    models: TunedModels
    forget: Forget
    account: str
    subject: str

    @property
    def kind(self) -> Kind:
        return Kind.DELETE_MODEL

    async def found(self) -> Found:
        tally = Tally()
        model = await self.models.get(self.account, self.subject)
        if model is not None:
            async for blob in self.models.stored(model):
                tally.note(blob)
        return tally.found()

    async def carry_out(self) -> Evidence:
        model = await self.models.get(self.account, self.subject)
        gone: tuple[str, ...] = ()
        left = 0
        if model is not None:
            gone = await self.forget(model)
            await self.models.delete(self.account, self.subject)
            left = sum([1 async for _ in self.models.stored(model)])
        return Evidence({}, {"key, weights and description of the model": left, **dict.fromkeys(gone, 0)})
