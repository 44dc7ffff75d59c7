"""Keep each exchange, encrypted, until its time is up.

One record per exchange, UTF-8 JSON with sorted keys, version 1::

    {"v": 1, "id", "account", "deployment", "model", "operation", "user", "started", "finished", "outcome",
     "request": {...}, "prompt_filter_results": [{"prompt_index", "content_filter_results"}, ...],
     "answers": [{"text", "tool_calls": [{"index", "id", "name", "arguments"}], "refusal", "withheld", "finish_reason",
                  "content_filter_results"}, ...],
     "usage": {"prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"} | null}

Times are ISO 8601 in UTC. ``request`` is the body as filters left it, without the fields that name the end user, who is
known as ``user``, a keyed hash, only.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from sluicegate import Exchange, PluginConfig, Purged, Scope, hookimpl
from sluicegate.store import CEILING_DAYS, Store

NAMES_THE_USER = frozenset({"user", "safety_identifier", "user_security_context"})


class Config(PluginConfig):
    """The table ``[plugins.keep_encrypted]``."""

    days: int = Field(CEILING_DAYS, ge=1, le=CEILING_DAYS)
    """After how many days an exchange is gone at the latest; 30 is the ceiling. A UTC day is purged as a whole, once it has
    ended and its oldest exchange is about to reach this age, so exchanges are kept up to a day less; with 1, the
    purge after midnight takes them."""


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def retain(exchange: Exchange, store: Store) -> None:
    await store.keep(exchange.id, serialized(exchange), user=exchange.user)


@hookimpl
async def purge(scope: Scope, store: Store, config: Config) -> Purged:
    return await store.purge(scope, days=config.days)


def serialized(exchange: Exchange) -> bytes:
    """Return the exchange as it is kept."""
    document = {
        "v": 1,
        "id": exchange.id,
        "account": exchange.account,
        "deployment": exchange.deployment,
        "model": exchange.model,
        "operation": exchange.operation,
        "user": exchange.user,
        "started": _utc(exchange.started),
        "finished": _utc(exchange.finished),
        "outcome": exchange.outcome.value,
        "request": _anonymous(exchange.request.body()),
        "prompt_filter_results": [
            {"prompt_index": index, "content_filter_results": results}
            for index, results in sorted(exchange.prompt_filter_results.items())
        ],
        "answers": [asdict(answer) for answer in exchange.answers],
        "usage": None if exchange.usage is None else asdict(exchange.usage),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # A lone surrogate, which UTF-8 cannot carry, becomes a JSON escape.
    return text.encode(errors="backslashreplace")


def _anonymous(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in NAMES_THE_USER}


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
