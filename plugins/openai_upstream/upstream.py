"""One upstream and its models, as the operator describes them: where it is, what it can do, and how it is asked."""

from __future__ import annotations

import os
from typing import Annotated, Literal, Self, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from pydantic import Field, field_validator, model_validator

from sluicegate import PluginConfig
from sluicegate.errors import StartupError
from sluicegate.requests import FEATURES

Operation: TypeAlias = Literal["chat.completions", "completions", "embeddings"]
Seconds: TypeAlias = Annotated[float, Field(gt=0)]

NOT_CARRIED = frozenset(
    {"audio", "custom_tools", "data_sources", "file", "functions", "moderation", "token_input", "web_search_options"}
)
"""Features whose answers do not fit a ``Chunk``, or whose requests name what only the upstream's owner may name."""

OPENAI_ENDPOINT = "https://api.openai.com/v1"


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
