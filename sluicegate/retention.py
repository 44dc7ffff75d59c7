"""The purge timer's work, and deletions: what is due or deleted goes, and what should be gone is proven gone.

The ceiling comes first and asks nobody; then each plugin purges by its own settings and the account's; then what came too
late for a deletion goes; then days that nobody has anything left of lose their keys. No failure stops the rest; all of
them fail the run, so that the next one tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import datetime
from traceback import format_tb
from typing import Any, Protocol, TypeVar

from sluicegate.errors import PurgeIncomplete, SluicegateError
from sluicegate.types import Expired, OfAccount, OfRecord, OfUser, Purged, Scope
from sluicegate.vault import CEILING_DAYS, Vault, combined

T = TypeVar("T")
log = logging.getLogger(__name__)


class Plugins(Protocol):
    """The part of :class:`sluicegate.plugins.Plugins` that purging needs."""

    def configured(self, hook: str) -> tuple[str, ...]: ...

    async def call(self, name: str, hook: str, expected: type[Any], **arguments: Any) -> Any: ...


class Accounts(Protocol):
    """The part of :class:`sluicegate.accounts.Accounts` that purging needs."""

    async def names(self) -> tuple[str, ...]: ...

    async def retention_days(self, name: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What one run removed; counts and days, no content.

    Attributes:
        overdue: What the 30-day ceiling took.
        plugins: What each plugin purged, over all accounts.
        late: What was removed of deletions that could not be finished at once.
        empty: Past days that had nothing left but keys and containers.
    """

    overdue: Purged
    plugins: Mapping[str, Purged]
    late: Purged
    empty: Purged


async def purge(vault: Vault, plugins: Plugins, accounts: Accounts, *, now: datetime) -> Summary:
    """Purge everything that is due at ``now``.

    An account's content goes after the account's days or the plugin's, whichever are less; a deleted account's goes whatever
    its age. An account that is no longer listed, or a plugin that is no longer configured, keeps nothing beyond the
    ceiling.

    Raises:
        PurgeIncomplete: Something failed; it names plugin, account and day. Everything else is done.
    """
    failures: list[str] = []
    await _attempt(failures, "making keys ahead", vault.make_keys(now))
    overdue = await _attempt(failures, "the ceiling", vault.purge_overdue(now))
    every = await _attempt(failures, "listing the accounts", accounts.names()) or ()
    purged: dict[str, list[Purged]] = {plugin: [] for plugin in plugins.configured("purge")}
    for account in every:
        days = await _attempt(failures, f"reading account {account!r}", accounts.retention_days(account))
        # Days that cannot be read must not keep the plugin's own from being heeded.
        scope = OfAccount() if days == 0 else Expired(now, days or CEILING_DAYS)
        for plugin, gone in (await _each_plugin(failures, vault, plugins, account, scope)).items():
            purged.setdefault(plugin, []).append(gone)
    late = await _attempt(failures, "late deletions", vault.finish_deletions(now))
    empty = await _attempt(failures, "empty days", vault.purge_empty(now))
    if failures:
        raise PurgeIncomplete(failures)
    each = {plugin: combined(gone) for plugin, gone in purged.items()}
    return Summary(overdue or Purged(), each, late or Purged(), empty or Purged())


async def delete(
    vault: Vault, plugins: Plugins, account: str, scope: OfRecord | OfUser | OfAccount
) -> Mapping[str, Purged]:
    """Delete retained content of one account, and return what each plugin deleted.

    Plugins that are no longer configured are asked for nothing: what is left of theirs goes too. Run again after a failure,
    it goes on. ``Store.purge`` says what is promised.

    Raises:
        PurgeIncomplete: Something failed; it names plugin and account. Everything else is done.
    """
    failures: list[str] = []
    purged = await _each_plugin(failures, vault, plugins, account, scope)
    if failures:
        raise PurgeIncomplete(failures)
    return purged


async def _each_plugin(
    failures: list[str], vault: Vault, plugins: Plugins, account: str, scope: Scope
) -> dict[str, Purged]:
    configured = plugins.configured("purge")
    others: tuple[str, ...] = ()
    if not isinstance(scope, Expired):
        found = await _attempt(failures, f"listing account {account!r}", vault.plugins(account)) or ()
        others = tuple(plugin for plugin in found if plugin not in configured)
    purged: dict[str, Purged] = {}
    for plugin in (*configured, *others):
        store = vault.store(account, plugin)
        step = (
            store.purge(scope) if plugin in others else plugins.call(plugin, "purge", Purged, scope=scope, store=store)
        )
        gone = await _attempt(failures, f"plugin {plugin!r}, account {account!r}", step)
        if gone is not None:
            purged[plugin] = gone
    return purged


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
