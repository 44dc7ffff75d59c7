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

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from pydantic import Field, PrivateAttr, field_validator, model_validator

from sluicegate import Model, PluginConfig
from sluicegate.errors import StartupError
from sluicegate.requests import FEATURES

if TYPE_CHECKING:
    from .connection import Connection
    from .remote_training import RemoteTraining
    from .tuned import TunedNames

Operation: TypeAlias = Literal["chat.completions", "completions", "embeddings"]
Seconds: TypeAlias = Annotated[float, Field(gt=0)]

NOT_CARRIED = frozenset(
    {"audio", "custom_tools", "data_sources", "file", "functions", "moderation", "token_input", "web_search_options"}
)
"""Features whose answers do not fit a ``Chunk``, or whose requests name what only the upstream's owner may name."""

OPENAI_ENDPOINT = "https://api.openai.com/v1"

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


class UpstreamModel(PluginConfig):
    """One model of an upstream, and how it is offered here."""

    id: str = Field(min_length=1)
    """The name that deployments here use; unique in the app."""
    name: str = ""
    """The upstream's own name: on Azure the deployment's, elsewhere the model's; when empty, the same as ``id``."""
    operations: frozenset[Operation] = Field(min_length=1)
    """Which of ``chat.completions``, ``completions`` and ``embeddings`` it serves."""
    features: frozenset[str] = frozenset()
    """What it can do beyond plain text; a request that needs another feature is refused by name. Not offered at all:
    audio, custom_tools, data_sources, file, functions, moderation, token_input, web_search_options."""
    context_length: int = Field(default=0, ge=0)
    """In tokens, prompt and completion together; 0 when unknown."""
    dimensions: int | None = Field(default=None, ge=1)
    """Length of its embedding vectors; an answer of another length is an error."""
    created: int = Field(default=0, ge=0)
    """Unix seconds, shown in the list of models."""
    retention: str | None = None
    """What the upstream itself keeps, in a sentence for the data-protection officer. Azure and OpenAI have a default,
    which is their standard contract's; for a compatible server the operator must say."""
    exempt_from_retention: bool = False
    """The operator's declaration that the upstream keeps no prompts and no answers, by contract or by the provider's approval:
    accounts whose content may not be kept get this model then, and no other model of an upstream."""
    training_name: str = ""
    """The model that is fine-tuned when a job here names this one, such as ``gpt-4.1-mini-2025-04-14``; training files
    then go to the upstream. When empty, this model cannot be fine-tuned."""
    training_type: Literal["Standard", "GlobalStandard", "Developer"] | None = None
    """Azure only: where it trains. All but ``Standard``, which is the default, may copy training data and weights out of the
    resource's region."""

    @field_validator("features")
    @classmethod
    def _features_are_known(cls, features: frozenset[str]) -> frozenset[str]:
        if wrong := features - (FEATURES.keys() - NOT_CARRIED):
            raise ValueError(f"cannot be offered: {', '.join(sorted(wrong))}")
        return features

    @property
    def upstream_name(self) -> str:
        return self.name or self.id


class Upstream(PluginConfig):
    """One server and its models."""

    kind: Literal["azure", "openai", "compatible"]
    """``azure``, ``openai`` or ``compatible`` (any server that speaks the same protocol)."""
    endpoint: str = ""
    """For azure the resource, such as ``https://NAME.openai.azure.com``; otherwise the URL before
    ``/chat/completions``, such as ``http://127.0.0.1:8000/v1``. For openai its public one when left out."""
    api_key_setting: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in this file."""
    entra_id: bool = False
    """Azure only: authenticate as the app's managed identity instead of with a key."""
    api_version: str | None = None
    """Azure only: the dated version of the older API surface; without it, the v1 surface is used."""
    plain_http: bool = False
    """Allow ``http`` to another host than this one: prompts and the key then cross the network unencrypted."""
    connect_timeout_s: Seconds = 5
    """Longest wait for a connection, be it for a free one of ``max_connections`` or for a new one to be accepted."""
    first_byte_timeout_s: Seconds = 200
    """Longest wait for an answer to begin; one that is not streamed begins when it is complete. Azure Functions itself
    gives up after 230 s."""
    idle_timeout_s: Seconds = 60
    """Longest pause within an answer."""
    max_connections: int = Field(default=100, ge=1)
    """Requests under way at once, per worker. Azure gives an app about 128 outbound ports per instance."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """How often a request is repeated that found no connection, or a 408 or 5xx, before its answer began."""
    retry_wait_s: Seconds = 0.5
    """Wait before the first repetition; it doubles each time and is shortened at random by up to half."""
    max_retry_wait_s: Seconds = 8
    """Longest wait between repetitions; an upstream that asks for a longer one is not asked again."""
    send_user: bool = False
    """Pass on the caller's ``user``, ``safety_identifier`` and ``user_security_context``, as sent: the upstream can
    then tell the caller's end users apart."""
    store_field: bool = True
    """Send ``store: false`` with every chat, so that the upstream keeps no stored completion. Switch it off only for a
    server that refuses the field: one that does not know it, such as Azure's api-version 2024-10-21."""
    usage_field: bool = True
    """Ask for token counts at the end of streams (``stream_options.include_usage``). Switch it off only for a server
    that refuses the field; its streamed answers are then not counted."""
    models: tuple[UpstreamModel, ...] = Field(min_length=1)
    """What it serves."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind != "azure" and (self.entra_id or self.api_version):
            raise ValueError("entra_id and api_version are for kind azure")
        if self.entra_id and self.api_key_setting:
            raise ValueError("entra_id and api_key_setting exclude each other")
        if self.kind != "compatible" and not (self.entra_id or self.api_key_setting):
            raise ValueError("api_key_setting is missing (for azure, entra_id = true will do)")
        if self.kind != "azure" and any(model.training_type for model in self.models):
            raise ValueError("training_type is for kind azure")
        if self.kind == "compatible" and any(model.retention is None for model in self.models):
            raise ValueError("each model needs retention: what this server keeps, only its operator knows")
        self._check_endpoint()
        return self

    def _check_endpoint(self) -> None:
        if not self.endpoint and self.kind != "openai":
            raise ValueError("endpoint is missing")
        url = urlsplit(self.root)
        if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.username:
            raise ValueError("endpoint must be a URL such as https://host or https://host/v1")
        if url.scheme == "http" and not self.plain_http and url.hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError("endpoint must be https, unless plain_http = true")

    @property
    def root(self) -> str:
        """The endpoint without a closing slash."""
        return (self.endpoint or OPENAI_ENDPOINT).rstrip("/")

    def api_key(self) -> str | None:
        """Return the key, or None where none is used.

        Raises:
            StartupError: The environment variable is not set.
        """
        if self.api_key_setting is None:
            return None
        if not (key := os.environ.get(self.api_key_setting, "").strip()):
            raise StartupError(f"plugin 'openai_upstream': the app setting {self.api_key_setting} is not set")
        return key

    @property
    def host(self) -> str:
        """What log lines and receipts call it."""
        return urlsplit(self.root).netloc

    def where(self, model: UpstreamModel) -> str:
        """Return what log lines call a model of this upstream."""
        return f"{self.host}, {model.upstream_name!r}"

    def url(self, model: UpstreamModel, operation: str) -> str:
        """Return where ``model`` answers ``operation``.

        Source: Azure OpenAI REST reference, 2024-10-21 (dated surface) and v1.
        """
        path = operation.replace(".", "/")
        if self.kind == "azure" and self.api_version is not None:
            path = f"deployments/{quote(model.upstream_name, safe='')}/{path}"
        return self.resource_url(path)

    def resource_url(self, path: str, **query: str | int) -> str:
        """Return where a resource such as ``files`` is; ``path`` is quoted already."""
        prefix = ""
        if self.kind == "azure":
            prefix = "openai/v1/" if self.api_version is None else "openai/"
            query |= {} if self.api_version is None else {"api-version": self.api_version}
        asked = f"?{urlencode(query)}" if query else ""
        return f"{self.root}/{prefix}{path}{asked}"


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
