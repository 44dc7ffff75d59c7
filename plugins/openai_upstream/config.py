"""The settings: which upstreams there are, what each serves, and what each keeps.

Example::

    [[plugins.openai_upstream.upstreams]]
    kind = "azure"
    endpoint = "https://contoso.openai.azure.com"
    entra_id = true

    [[plugins.openai_upstream.upstreams.models]]
    id = "gpt-4o"
    name = "gpt-4o-2024-11-20"
    operations = ["chat.completions"]
    features = ["seed", "logprobs", "penalties", "tools", "json_object", "json_schema"]
    context_length = 128000
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from sluicegate import Model, PluginConfig

from .upstream import Upstream, UpstreamModel

if TYPE_CHECKING:
    from .connection import Connection
    from .remote_training import RemoteTraining
    from .tuned import TunedNames

RETENTION = {
    "azure": (
        "Microsoft may keep prompts and completions that its abuse monitoring selects for up to 30 days, in the "
        "resource's geography, readable by authorised Microsoft employees only; nothing when the subscription is "
        "approved for modified abuse monitoring."
    ),
    "openai": (
        "OpenAI may keep prompts and completions for up to 30 days for abuse monitoring, unless the organisation is "
        "approved for modified abuse monitoring or zero data retention."
    ),
}


TRAINING_RETENTION = (
    " Files of fine-tuning jobs go there too, and are deleted there when the job is over; the models stay there until "
    "they are deleted here."
)


class Config(PluginConfig):
    """The table ``[plugins.openai_upstream]``."""

    upstreams: tuple[Upstream, ...] = Field(min_length=1)
    """The servers to ask; each is a table ``[[plugins.openai_upstream.upstreams]]``."""

    _routes: dict[str, tuple[int, UpstreamModel]] = PrivateAttr(default_factory=dict)
    _connections: dict[int, Connection] = PrivateAttr(default_factory=dict)
    _tuned_names: TunedNames | None = PrivateAttr(default=None)

    def model_post_init(self, _context: Any, /) -> None:
        self._routes.update(
            (model.id, (place, model)) for place, upstream in enumerate(self.upstreams) for model in upstream.models
        )

    def models(self) -> Iterator[Model]:
        """Yield what the upstreams serve, in the file's order.

        Raises:
            StartupError: The environment lacks a key.
        """
        for upstream in self.upstreams:
            upstream.api_key()
            for model in upstream.models:
                yield Model(
                    id=model.id,
                    operations=model.operations,
                    features=model.features,
                    context_length=model.context_length,
                    created=model.created,
                    owned_by=upstream.kind,
                    dimensions=model.dimensions,
                    retention=(model.retention or RETENTION[upstream.kind])
                    + (TRAINING_RETENTION if model.training_name else ""),
                    retains=not model.exempt_from_retention,
                )

    def route(self, model_id: str) -> tuple[UpstreamModel, Connection]:
        """Return the model and its upstream's connection, opened for the running event loop on first use."""
        place, model = self._routes[model_id]
        if place not in self._connections:
            from .connection import Connection  # imports the HTTP client, which a worker may never need

            self._connections[place] = Connection(self.upstreams[place])
        return model, self._connections[place]

    @property
    def tuned_names(self) -> TunedNames:
        """What fine-tuned models are called at their upstreams."""
        from .tuned import TunedNames

        if self._tuned_names is None:
            self._tuned_names = TunedNames()
        return self._tuned_names

    def trainer(self, model_id: str) -> tuple[UpstreamModel, RemoteTraining]:
        """Return the model and the training at its upstream."""
        from .remote_training import RemoteTraining

        model, connection = self.route(model_id)
        return model, RemoteTraining(connection)

    async def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        while self._connections:
            _, connection = self._connections.popitem()
            await connection.close()
