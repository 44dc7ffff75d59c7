"""The models of an account: those that plugins have registered, which everybody has, and its own fine-tuned ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sluicegate.fine_tuning.tuned_models import TunedModel, TunedModels
from sluicegate.plugins import Plugins
from sluicegate.storage.documents import Cache
from sluicegate.types import Model


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that an account's deployments may name.

    Attributes:
        name: What they call it.
        model: What a plugin has registered: the model itself, or the base of a fine-tuned one.
        plugin: Who serves it.
        tunable: Whether fine-tuning can go on from it.
        tuned: The fine-tuned one.
    """

    name: str
    model: Model
    plugin: str
    tunable: bool
    tuned: TunedModel | None = None


class ModelCatalogue:
    """Finds models by name; one object per process.

    Args:
        tuned_of: Returns the fine-tuned models of the accounts in a location.
    """

    def __init__(self, plugins: Plugins, tuned_of: Callable[[str], Awaitable[TunedModels]]) -> None:
        self._plugins = plugins
        self._tuned_of = tuned_of
        self._cache: Cache[TunedModel | None] = Cache()

    async def get(self, account: str, location: str, name: str) -> KnownModel | None:
        """Return a model, or None when the account has none of that name; of fine-tuned ones, as known in the last 30 s."""
        if (registered := self._plugins.models().get(name)) is not None:
            return self._registered(*registered)

        async def read() -> TunedModel | None:
            return await (await self._tuned_of(location)).get(account, name)

        tuned = await self._cache.get(f"{account}/{name}", read)
        return None if tuned is None else self._known(tuned)

    async def read(self, account: str, location: str, name: str) -> KnownModel | None:
        """Return a model as it is now."""
        self.forget(account, name)
        return await self.get(account, location, name)

    def registered(self) -> list[KnownModel]:
        """Return the models that everybody has."""
        return [self._registered(*each) for each in self._plugins.models().values()]

    async def tuned(self, account: str, location: str) -> list[KnownModel]:
        """Return an account's fine-tuned models and checkpoints, without those whose base nobody serves any more."""
        found = map(self._known, await (await self._tuned_of(location)).list(account))
        return [known for known in found if known is not None]

    def forget(self, account: str, name: str) -> None:
        """Have a model read anew."""
        self._cache.forget(f"{account}/{name}")

    def _registered(self, model: Model, plugin: str) -> KnownModel:
        return KnownModel(model.id, model, plugin, is_tunable(self._plugins, model, plugin))

    def _known(self, tuned: TunedModel) -> KnownModel | None:
        base = self._plugins.models().get(tuned.base)
        if base is None:
            return None
        tunable = is_tunable(self._plugins, *base) and tuned.deployable is not False
        return KnownModel(tuned.id, *base, tunable, tuned)


def is_tunable(plugins: Plugins, model: Model, plugin: str) -> bool:
    """Return whether a registered model can be fine-tuned."""
    return plugin in plugins.implementing("fine_tune") and bool(model.operations & {"chat.completions", "completions"})
