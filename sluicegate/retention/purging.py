"""The purge timer's work, and deletions: what is due or deleted goes, what should be gone is proven gone, and gets a receipt.

First what was interrupted is finished. Then the ceiling and the accounts' own retention, which ask nobody; then each
plugin purges by its own settings, all at once and each within its time; then what came too late for a deletion goes; then
days that nobody has anything left of lose their keys. No failure stops the rest; all of them fail the run, so that the next
one tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from traceback import format_tb
from typing import Any, Protocol, TypeVar

from sluicegate.errors import PurgeIncomplete, SluicegateError
from sluicegate.retention.receipts import Owed, Receipt, Receipts
from sluicegate.retention.removals import TIMER, Evidence, Found, Kind, Removal
from sluicegate.storage.day_layout import CEILING_DAYS, Tally, combined
from sluicegate.storage.vault import Beside, Vault
from sluicegate.types import Expired, OfAccount, OfRecord, OfUser, Purged, Scope

PLUGIN_TIME = timedelta(minutes=5)
"""For all that one plugin does in one run of the timer."""
DELETION_TIME = timedelta(minutes=2)
"""For what one plugin does for one deletion; what it leaves, the timer goes on with."""
_ROUNDS = 3
"""What another process was still writing may arrive between deleting and looking."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Plugins(Protocol):
    """The part of :class:`sluicegate.plugins.Plugins` that purging needs."""

    def configured(self, hook: str) -> tuple[str, ...]: ...

    async def call(self, name: str, hook: str, expected: type[Any], /, **arguments: Any) -> Any: ...


class Accounts(Protocol):
    """The part of :class:`sluicegate.accounts.Accounts` that purging needs."""

    async def names(self) -> tuple[str, ...]: ...

    async def retention_days(self, name: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What one run removed; counts and days, no content.

    Attributes:
        finished: How many removals that were interrupted before are complete now.
        overdue: What the 30-day ceiling took.
        accounts: What accounts' own retention took, and what was left of deleted accounts.
        plugins: What each plugin purged, over all accounts.
        late: What was removed of deletions that could not be finished at once.
        empty: Past days that had nothing left but keys and containers.
    """

    finished: int
    overdue: Purged
    accounts: Purged
    plugins: Mapping[str, Purged]
    late: Purged
    empty: Purged


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion removed: by plugin, and its receipt."""

    plugins: Mapping[str, Purged]
    receipt: Receipt


async def purge(
    vault: Vault,
    plugins: Plugins,
    accounts: Accounts,
    receipts: Receipts,
    *,
    now: datetime,
    plugin_time: timedelta = PLUGIN_TIME,
) -> Summary:
    """Purge everything that is due at ``now``.

    An account's content goes after the account's days or the plugin's, whichever are less; a deleted account's goes whatever
    its age. An account that is no longer listed, or a plugin that is no longer configured, keeps nothing beyond the
    ceiling.

    Args:
        receipts: Where interrupted removals are; ``vault`` issues to the same.

    Raises:
        PurgeIncomplete: Something failed; it names plugin, account and day. Everything else is done.
    """
    run = _Run(vault, plugins, plugin_time)
    await run.attempt("making keys ahead", vault.make_keys(now))
    finished = await run.attempt("interrupted removals", _finish(run, receipts, now))
    overdue = await run.attempt("the ceiling", vault.purge_overdue(now))
    scopes = await _scopes(run, accounts, now)
    of_accounts = [await _account(run, receipts, account, scope) for account, scope in scopes.items()]
    names = plugins.configured("purge")
    purged = await asyncio.gather(*(_lane(run, plugin, scopes) for plugin in names))
    late = await run.attempt("late deletions", vault.finish_deletions(now))
    empty = await run.attempt("empty days", vault.purge_empty(now))
    await run.attempt("keys that can be recovered", vault.destroy_recoverable(now))
    for day in await run.attempt("looking for overdue days", vault.overdue(now)) or ():
        run.failures.append(f"{day}: overdue")
    if run.failures:
        raise PurgeIncomplete(dict.fromkeys(run.failures))
    return Summary(
        finished or 0,
        overdue or Purged(),
        combined(of_accounts),
        dict(zip(names, purged, strict=True)),
        late or Purged(),
        empty or Purged(),
    )


async def delete(
    vault: Vault,
    plugins: Plugins,
    receipts: Receipts,
    account: str,
    scope: OfRecord | OfUser | OfAccount,
    *,
    actor: str,
    reason: str | None = None,
) -> Deleted:
    """Delete retained content of one account, and return what each plugin deleted, and the receipt.

    What is in the vault goes without asking plugins, those that are no longer configured included; then each plugin deletes
    what else it has. Run again after a failure, it goes on; so does the timer. ``Store.purge`` says what is promised.

    Args:
        actor, reason: Who asked for it, and why, as the audit log has it.

    Raises:
        PurgeIncomplete: Something failed; it names plugin and account. Everything else is done.
        ValueError: The record, the actor or the reason cannot stand in a receipt; nothing was done.
    """
    deletion = _Deletion(_Run(vault, plugins, DELETION_TIME), account, scope)
    receipt = await receipts.certify(deletion, await deletion.found(), actor=actor, reason=reason)
    return Deleted(deletion.purged, receipt)


class _Run:
    """What the steps of one run share: they fail one by one, and nobody stops the others."""

    def __init__(self, vault: Vault, plugins: Plugins, plugin_time: timedelta) -> None:
        self.vault = vault
        self.plugins = plugins
        self.plugin_time = plugin_time
        self.failures: list[str] = []

    async def attempt(self, what: str, step: Awaitable[T]) -> T | None:
        """Return what a step returns, or None when it fails."""
        try:
            return await step
        except PurgeIncomplete as error:
            self.failures += error.left
        except SluicegateError as error:
            self.failures.append(f"{what} ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - whatever fails here, the rest must still be purged
            self.failures.append(f"{what} ({type(error).__name__})")
            # The message may quote content; the frames do not.
            log.error(
                "purge: %s failed with %s\n%s", what, type(error).__name__, "".join(format_tb(error.__traceback__))
            )
        return None

    async def ask(self, plugin: str, account: str, scope: Scope) -> Purged | None:
        """Have one plugin purge in one account."""

        async def step() -> Purged:
            store = self.vault.store(account, plugin)
            purged: Purged = await self.plugins.call(plugin, "purge", Purged, scope=scope, store=store)
            return purged

        return await self.attempt(f"plugin {plugin!r}, account {account!r}", step())

    def gave_up(self, plugin: str, where: str) -> None:
        limit_s = self.plugin_time.total_seconds()
        self.failures.append(f"plugin {plugin!r}, {where} (not done within {limit_s:g} s)")


async def _scopes(run: _Run, accounts: Accounts, now: datetime) -> dict[str, Expired | OfAccount]:
    """Return what goes of each account."""
    scopes: dict[str, Expired | OfAccount] = {}
    for account in await run.attempt("listing the accounts", accounts.names()) or ():
        days = await run.attempt(f"reading account {account!r}", accounts.retention_days(account))
        # Days that cannot be read must not keep the plugin's own from being heeded.
        scopes[account] = OfAccount() if days == 0 else Expired(now, days or CEILING_DAYS)
    return scopes


async def _account(run: _Run, receipts: Receipts, account: str, scope: Expired | OfAccount) -> Purged:
    """Purge what an account's own retention takes, or all of a deleted account; no plugin has a say in it."""
    if isinstance(scope, OfAccount):
        deletion = _Deletion(run, account, scope, asks_plugins=False)
        found = await run.attempt(f"counting account {account!r}", deletion.found())
        if found is not None and found.blobs:
            await run.attempt(f"account {account!r}", receipts.certify(deletion, found, actor=TIMER))
        return combined(deletion.purged.values())
    gone: list[Purged] = []
    if scope.days < CEILING_DAYS:
        for plugin in await run.attempt(f"listing account {account!r}", run.vault.plugins(account)) or ():
            step = run.vault.store(account, plugin).purge(scope)
            gone.append(await run.attempt(f"account {account!r}, kept by {plugin!r}", step) or Purged())
    return combined(gone)


async def _lane(run: _Run, plugin: str, scopes: Mapping[str, Scope]) -> Purged:
    """Have one plugin purge in every account, one after the other, until its time is over."""
    gone: list[Purged] = []
    account = ""
    try:
        async with asyncio.timeout(run.plugin_time.total_seconds()):
            for account, scope in scopes.items():
                gone.append(await run.ask(plugin, account, scope) or Purged())
    except TimeoutError:
        run.gave_up(plugin, f"account {account!r} and those after it")
    return combined(gone)


async def _finish(run: _Run, receipts: Receipts, now: datetime) -> int:
    """Finish what was begun and has no receipt, and return how many got theirs."""
    finished = 0
    async for owed in receipts.owed():
        removal = await run.attempt(f"{owed.subject}: {owed.kind}", _interrupted(run, owed, now))
        if removal is not None:
            found = await run.attempt(f"{owed.subject}: {owed.kind}", removal.found())
            if found is not None:
                step = receipts.certify(removal, found, actor=TIMER)
                finished += await run.attempt(f"{owed.subject}: {owed.kind}", step) is not None
    return finished


async def _interrupted(run: _Run, owed: Owed, now: datetime) -> Removal | None:
    """Return what is to be gone on with; None where that is not retained content."""
    if owed.kind is Kind.PURGE_DAY:
        # Whoever can write to the storage could order it otherwise, and with it the destruction of a key.
        if not await run.vault.is_due(owed.subject, now):
            raise PurgeIncomplete([f"{owed.subject}: its purge was begun, but it is not due"])
        return run.vault.removal(owed.subject)
    if owed.account is None:
        raise PurgeIncomplete([f"{owed.subject}: {owed.kind} of no account"])
    match owed.kind:
        case Kind.PURGE_ACCOUNT_DAY:
            day, _, plugin = owed.subject.partition("/")
            return run.vault.store(owed.account, plugin).removal(day)
        case Kind.DELETE_RECORD:
            return _Deletion(run, owed.account, OfRecord(owed.subject))
        case Kind.DELETE_USER:
            return _Deletion(run, owed.account, OfUser(owed.subject))
        case Kind.DELETE_ACCOUNT:
            return _Deletion(run, owed.account, OfAccount())
        case Kind.DELETE_FILE | Kind.DELETE_UPLOAD | Kind.DELETE_MODEL | Kind.DELETE_JOB | Kind.DELETE_JOB_FILES:
            return None


@dataclass(slots=True)
class _Deletion:
    """The removal of what an account has of a record, of an end user, or of everybody.

    Attributes:
        asks_plugins: What plugins keep elsewhere goes too, and what is kept beside the vault; what is due by its time leaves both alone.
        purged: What went, by plugin, once it has been carried out.
    """

    run: _Run
    account: str
    scope: OfRecord | OfUser | OfAccount
    asks_plugins: bool = True
    purged: dict[str, Purged] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        match self.scope:
            case OfRecord():
                return Kind.DELETE_RECORD
            case OfUser():
                return Kind.DELETE_USER
            case OfAccount():
                return Kind.DELETE_ACCOUNT

    @property
    def subject(self) -> str:
        match self.scope:
            case OfRecord():
                return self.scope.id
            case OfUser():
                return self.scope.user
            case OfAccount():
                return self.account

    async def found(self) -> Found:
        tally = Tally(counts_records=not isinstance(self.scope, OfAccount))
        for plugin in await self._plugins():
            await self.run.vault.store(self.account, plugin).count(self.scope, tally)
        if (beside := self._beside()) is not None:
            await beside[0].count(self.account, beside[1], tally)
        return tally.found()

    async def carry_out(self) -> Evidence:
        run = _Run(self.run.vault, self.run.plugins, self.run.plugin_time)
        plugins = await self._plugins()
        for plugin in plugins:
            step = run.vault.store(self.account, plugin).purge(self.scope)
            self.purged[plugin] = await run.attempt(f"plugin {plugin!r}, account {self.account!r}", step) or Purged()
        for plugin in run.plugins.configured("purge") if self.asks_plugins else ():
            try:
                async with asyncio.timeout(run.plugin_time.total_seconds()):
                    gone = await run.ask(plugin, self.account, self.scope) or Purged()
                self.purged[plugin] = combined((self.purged[plugin], gone))
            except TimeoutError:
                run.gave_up(plugin, f"account {self.account!r}")
        checked: dict[str, int] = {}
        for plugin in plugins:
            left = await run.attempt(f"looking at plugin {plugin!r}, account {self.account!r}", self._left(plugin))
            checked[f"kept by {plugin}, and deleted"] = left or 0
        if (beside := self._beside()) is not None:
            forgetting = beside[0].forget(self.account, beside[1])
            left = await run.attempt(f"counts of signals, account {self.account!r}", forgetting)
            checked["counts of signals, by end user"] = left or 0
        if run.failures:
            raise PurgeIncomplete(run.failures)
        return Evidence({}, checked)

    def _beside(self) -> tuple[Beside, OfUser | OfAccount] | None:
        beside = self.run.vault.beside
        if beside is None or isinstance(self.scope, OfRecord) or not self.asks_plugins:
            return None
        return beside, self.scope

    async def _left(self, plugin: str) -> int:
        store = self.run.vault.store(self.account, plugin)
        left = await store.count_hidden()
        for _ in range(_ROUNDS):
            if not left:
                break
            await store.finish_all_deletions()
            left = await store.count_hidden()
        return left

    async def _plugins(self) -> tuple[str, ...]:
        """Return those that may keep anything, and those that have kept something before."""
        configured = self.run.plugins.configured("purge")
        kept = await self.run.vault.plugins(self.account)
        return tuple(dict.fromkeys((*configured, *kept)))
