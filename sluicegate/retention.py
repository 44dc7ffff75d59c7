"""The purge timer's work: everything that is due goes, for every account, and what should be gone is proven gone.

The ceiling comes first and asks nobody; then each plugin purges by its own settings; then days that nobody has anything
left of lose their keys. No failure stops the rest; all of them fail the run, so that the next one tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import datetime
from traceback import format_tb
from typing import Any, Protocol, TypeVar

from sluicegate.errors import PurgeIncomplete, SluicegateError
from sluicegate.types import Expired, Purged
from sluicegate.vault import Vault, combined

T = TypeVar("T")
log = logging.getLogger(__name__)


class Plugins(Protocol):
    """The part of :class:`sluicegate.plugins.Plugins` that purging needs."""

    def configured(self, hook: str) -> tuple[str, ...]: ...

    async def call(self, name: str, hook: str, expected: type[Any], **arguments: Any) -> Any: ...


class Accounts(Protocol):
    """The part of :class:`sluicegate.accounts.Accounts` that purging needs."""

    async def names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What one run removed; counts and days, no content.

    Attributes:
        overdue: What the 30-day ceiling took.
        plugins: What each plugin purged, over all accounts.
        empty: Past days that had nothing left but keys and containers.
    """

    overdue: Purged
    plugins: Mapping[str, Purged]
    empty: Purged


async def purge(vault: Vault, plugins: Plugins, accounts: Accounts, *, now: datetime) -> Summary:
    """Purge everything that is due at ``now``.

    An account that is no longer listed, or a plugin that is no longer configured, keeps nothing beyond the ceiling.

    Raises:
        PurgeIncomplete: Something failed; it names plugin, account and day. Everything else is done.
    """
    failures: list[str] = []
    overdue = await _attempt(failures, "the ceiling", vault.purge_overdue(now))
    every = await _attempt(failures, "listing the accounts", accounts.names()) or ()
    purged: dict[str, Purged] = {}
    for plugin in plugins.configured("purge"):
        steps = [
            await _attempt(
                failures,
                f"plugin {plugin!r}, account {account!r}",
                plugins.call(plugin, "purge", Purged, scope=Expired(now), store=vault.store(account, plugin)),
            )
            for account in every
        ]
        purged[plugin] = combined(step for step in steps if step is not None)
    empty = await _attempt(failures, "empty days", vault.purge_empty(now))
    if failures:
        raise PurgeIncomplete(failures)
    return Summary(overdue or Purged(), purged, empty or Purged())


async def _attempt(failures: list[str], what: str, step: Awaitable[T]) -> T | None:
    try:
        return await step
    except PurgeIncomplete as error:
        failures += error.left
    except SluicegateError as error:
        failures.append(f"{what} ({type(error).__name__})")
    except Exception as error:  # noqa: BLE001 - whatever fails here, the rest must still be purged
        failures.append(f"{what} ({type(error).__name__})")
        # The message may quote content; the frames do not.
        log.error("purge: %s failed with %s\n%s", what, type(error).__name__, "".join(format_tb(error.__traceback__)))
    return None
