import logging
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from plugins import local_folder
from sluicegate.audit.log import Audit
from sluicegate.errors import KeyUnavailable, PluginFailed, PurgeIncomplete, StorageUnavailable
from sluicegate.retention import purging
from sluicegate.retention.receipts import Receipts
from sluicegate.storage.vault import Vault
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.types import Expired, OfAccount, OfRecord, OfUser, Purged

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
CANARY = "my lucky number is 74093"


class Plugins:
    """Plugins by name, each of which is the ``days`` it keeps things or the exception it raises."""

    def __init__(self, **plugins):
        self._plugins = plugins
        self.called = []

    def configured(self, hook):
        assert hook == "purge"
        return tuple(sorted(self._plugins))

    async def call(self, name, hook, expected, **arguments):
        assert (hook, expected) == ("purge", Purged)
        self.called.append((name, arguments["scope"]))
        plugin = self._plugins[name]
        if isinstance(plugin, Exception):
            raise plugin
        return await arguments["store"].purge(arguments["scope"], days=plugin)


class Accounts:
    def __init__(self, *names, **days):
        self._names = names or tuple(days)
        self.days = days

    async def names(self):
        return self._names

    async def retention_days(self, name):
        return self.days.get(name, 30)


@pytest.fixture
def clock():
    return FrozenClock(NEW_YEAR + 12 * HOUR)


@pytest.fixture(params=["memory", "folder"])
async def blobs(request, tmp_path):
    store = MemoryStorage() if request.param == "memory" else local_folder.open_storage(f"folder:{tmp_path}/storage")
    yield store
    await store.close()


@pytest.fixture
def keys():
    return MemoryKeys()


@pytest.fixture
def receipts(blobs, keys, clock):
    return Receipts(blobs, keys, Audit(blobs, keys, origin="log", clock=clock), clock=clock)


@pytest.fixture
def vault(blobs, keys, clock, receipts):
    return Vault(blobs, keys, clock=clock, ledger=receipts)


async def old_keys(keys, now):
    """Return the keys of days before today; those from today on are made by each run."""
    return tuple(name for name in await keys.names("ret-") if name < f"ret-{now:%Y%m%d}")


async def kept(vault, account, plugin):
    return [record.id async for record in vault.store(account, plugin).records()]


async def test_each_plugin_purges_each_account_by_its_own_settings(vault, keys, receipts):
    for account in ("contoso", "fabrikam"):
        for plugin in ("brief", "long"):
            await vault.store(account, plugin).keep("one", b"")
    now = NEW_YEAR + 3 * DAY
    plugins = Plugins(brief=1, long=20)

    summary = await purging.purge(vault, plugins, Accounts("contoso", "fabrikam"), receipts, now=now)

    assert Counter(plugins.called) == {("brief", Expired(now)): 2, ("long", Expired(now)): 2}
    assert (summary.plugins["brief"].days, summary.plugins["brief"].blobs) == (("20260101",), 4)
    assert (summary.overdue, summary.plugins["long"], summary.empty) == (Purged(), Purged(), Purged())
    assert [await kept(vault, account, "brief") for account in ("contoso", "fabrikam")] == [[], []]
    assert [await kept(vault, account, "long") for account in ("contoso", "fabrikam")] == [["one"], ["one"]]
    assert await old_keys(keys, now) == ("ret-20260101",)


async def test_a_day_that_no_plugin_has_anything_left_of_loses_its_key(vault, blobs, keys, receipts):
    await vault.store("contoso", "brief").keep("one", b"")
    now = NEW_YEAR + 3 * DAY

    summary = await purging.purge(vault, Plugins(brief=1), Accounts("contoso"), receipts, now=now)

    assert summary.empty.days == ("20260101",)
    assert (await blobs.containers("ret-"), await old_keys(keys, now)) == ((), ())


@pytest.mark.parametrize(
    "plugins", [Plugins(), Plugins(keeper=PluginFailed("keeper", "purge"))], ids=["gone", "broken"]
)
async def test_the_ceiling_asks_neither_plugins_nor_accounts(vault, blobs, keys, plugins, receipts):
    await vault.store("deleted", "keeper").keep("one", b"")
    now = NEW_YEAR + 30 * DAY - HOUR

    try:
        await purging.purge(vault, plugins, Accounts("contoso"), receipts, now=now)
    except PurgeIncomplete as error:
        assert error.left == ("plugin 'keeper', account 'contoso' (PluginFailed)",)  # noqa: PT017 - one of two cases

    assert await kept(vault, "deleted", "keeper") == []
    assert (await blobs.containers("ret-"), await old_keys(keys, now)) == ((), ())


async def test_a_plugin_that_fails_stops_neither_others_nor_what_follows(vault, keys, receipts):
    for account in ("contoso", "fabrikam"):
        await vault.store(account, "sound").keep("one", b"")
    plugins = Plugins(broken=PluginFailed("broken", "purge"), sound=1)
    now = NEW_YEAR + 3 * DAY

    with pytest.raises(PurgeIncomplete) as caught:
        await purging.purge(vault, plugins, Accounts("contoso", "fabrikam"), receipts, now=now)

    assert caught.value.left == (
        "plugin 'broken', account 'contoso' (PluginFailed)",
        "plugin 'broken', account 'fabrikam' (PluginFailed)",
    )
    assert await old_keys(keys, now) == ()


async def test_an_unexpected_failure_is_logged_without_its_message(vault, caplog, receipts):
    plugins = Plugins(broken=KeyError(CANARY))

    with caplog.at_level(logging.DEBUG), pytest.raises(PurgeIncomplete) as caught:
        await purging.purge(vault, plugins, Accounts("contoso"), receipts, now=NEW_YEAR)

    assert caught.value.left == ("plugin 'broken', account 'contoso' (KeyError)",)
    assert "KeyError" in caplog.text
    assert "test_purging.py" in caplog.text
    assert CANARY not in caplog.text + str(caught.value)


async def test_a_ceiling_that_fails_does_not_stop_plugins(clock, keys, receipts):
    class Stuck(MemoryStorage):
        async def drop(self, container):
            raise StorageUnavailable("stuck")

    blobs = Stuck()
    vault = Vault(blobs, keys, clock=clock)
    await vault.store("contoso", "keeper").keep("old", b"")
    clock.now = NEW_YEAR + 27 * DAY
    await vault.store("contoso", "keeper").keep("new", b"")
    now = NEW_YEAR + 30 * DAY

    with pytest.raises(PurgeIncomplete) as caught:
        await purging.purge(vault, Plugins(keeper=2), Accounts("contoso"), receipts, now=now)

    assert "20260101: StorageUnavailable" in caught.value.left
    assert await kept(vault, "contoso", "keeper") == []
    assert await old_keys(keys, now) == ()


async def test_accounts_that_cannot_be_listed_fail_the_run_after_the_ceiling(vault, keys, receipts):
    class Unlisted:
        async def names(self):
            raise StorageUnavailable("no route")

    await vault.store("contoso", "keeper").keep("one", b"")
    now = NEW_YEAR + 30 * DAY

    with pytest.raises(PurgeIncomplete, match=r"listing the accounts \(StorageUnavailable\)"):
        await purging.purge(vault, Plugins(keeper=30), Unlisted(), receipts, now=now)
    assert await old_keys(keys, now) == ()


async def test_a_second_run_finds_nothing_to_do(vault, receipts):
    await vault.store("contoso", "keeper").keep("one", b"")
    run = {
        "plugins": Plugins(keeper=3),
        "accounts": Accounts("contoso"),
        "receipts": receipts,
        "now": NEW_YEAR + 4 * DAY,
    }

    await purging.purge(vault, **run)

    assert await purging.purge(vault, **run) == purging.Summary(
        0, Purged(), Purged(), {"keeper": Purged()}, Purged(), Purged()
    )


async def test_hourly_runs_keep_every_record_for_nearly_its_days_and_never_longer(vault, clock, receipts):
    plugins, accounts = Plugins(keeper=3), Accounts("contoso")
    store = vault.store("contoso", "keeper")
    clock.now = NEW_YEAR
    written, seen = {}, {}
    for hour in range(24 * 8):
        record = f"r{hour}"
        await store.keep(record, b"")
        written[record] = clock.now
        await purging.purge(vault, plugins, accounts, receipts, now=clock.now)
        for found in await kept(vault, "contoso", "keeper"):
            seen[found] = clock.now - written[found]
        clock.advance(HOUR)

    gone = [seen[record] for record, at in written.items() if at < NEW_YEAR + 4 * DAY]
    assert min(gone) >= 2 * DAY - 2 * HOUR
    assert max(gone) < 3 * DAY


@pytest.mark.parametrize(("plugin", "account", "days"), [(20, 3, 3), (3, 20, 3), (30, 30, 30), (1, 30, 1), (30, 1, 1)])
async def test_the_account_or_the_plugin_says_how_long_whichever_is_less(vault, plugin, account, days, receipts):
    await vault.store("contoso", "keeper").keep("one", b"")
    accounts, plugins = Accounts(contoso=account), Plugins(keeper=plugin)
    end = NEW_YEAR + max(days * DAY - HOUR, DAY)

    await purging.purge(vault, plugins, accounts, receipts, now=end - timedelta(microseconds=1))
    assert await kept(vault, "contoso", "keeper") == ["one"]
    await purging.purge(vault, plugins, accounts, receipts, now=end)
    assert await kept(vault, "contoso", "keeper") == []


async def test_fewer_days_count_for_what_is_there_already(vault, receipts):
    await vault.store("contoso", "keeper").keep("one", b"")
    accounts, plugins, now = Accounts(contoso=30), Plugins(keeper=30), NEW_YEAR + 5 * DAY

    await purging.purge(vault, plugins, accounts, receipts, now=now)
    assert await kept(vault, "contoso", "keeper") == ["one"]
    accounts.days["contoso"] = 2
    await purging.purge(vault, plugins, accounts, receipts, now=now)
    assert await kept(vault, "contoso", "keeper") == []


@pytest.mark.parametrize("days", [0, -1, 31])
async def test_days_beyond_the_ceiling_are_refused_by_the_store_too(vault, days):
    with pytest.raises(ValueError, match="1 to 30"):
        await vault.store("contoso", "keeper").purge(Expired(NEW_YEAR, days))


async def test_an_account_whose_days_cannot_be_read_is_purged_by_the_plugins(vault, receipts):
    class Unread(Accounts):
        async def retention_days(self, name):
            raise ValueError("31 days")

    await vault.store("contoso", "keeper").keep("one", b"")

    with pytest.raises(PurgeIncomplete, match=r"reading account 'contoso' \(ValueError\)"):
        await purging.purge(vault, Plugins(keeper=2), Unread("contoso"), receipts, now=NEW_YEAR + 3 * DAY)
    assert await kept(vault, "contoso", "keeper") == []


async def test_nothing_stays_of_a_deleted_account(vault, clock, receipts):
    for account in ("contoso", "fabrikam"):
        for plugin in ("keeper", "former"):
            await vault.store(account, plugin).keep("one", b"")
    accounts = Accounts(contoso=0, fabrikam=30)

    await purging.purge(vault, Plugins(keeper=30), accounts, receipts, now=clock.now)
    assert [await kept(vault, "contoso", plugin) for plugin in ("keeper", "former")] == [[], []]
    assert [await kept(vault, "fabrikam", plugin) for plugin in ("keeper", "former")] == [["one"], ["one"]]
    await vault.store("contoso", "keeper").keep("late", b"")
    await purging.purge(vault, Plugins(keeper=30), accounts, receipts, now=clock.now)
    assert await kept(vault, "contoso", "keeper") == []


@pytest.mark.parametrize("scope", [OfRecord("one"), OfUser("a1" * 32), OfAccount()])
async def test_a_deletion_asks_every_plugin_and_takes_what_former_ones_left(vault, scope, receipts):
    for account in ("contoso", "fabrikam"):
        for plugin in ("keeper", "former"):
            await vault.store(account, plugin).keep("one", b"", user="a1" * 32)
    plugins = Plugins(keeper=30)

    deleted = await purging.delete(vault, plugins, receipts, "contoso", scope, actor="contoso/key1")

    assert plugins.called == [("keeper", scope)]
    assert {plugin: bool(gone.blobs) for plugin, gone in deleted.plugins.items()} == {"keeper": True, "former": True}
    assert [await kept(vault, "contoso", plugin) for plugin in ("keeper", "former")] == [[], []]
    assert [await kept(vault, "fabrikam", plugin) for plugin in ("keeper", "former")] == [["one"], ["one"]]


async def test_a_plugin_that_cannot_delete_stops_no_other(vault, receipts):
    for plugin in ("broken", "sound"):
        await vault.store("contoso", plugin).keep("one", b"")
    plugins = Plugins(broken=PluginFailed("broken", "purge"), sound=30)

    with pytest.raises(PurgeIncomplete) as caught:
        await purging.delete(vault, plugins, receipts, "contoso", OfRecord("one"), actor="contoso/key1")

    assert caught.value.left == ("plugin 'broken', account 'contoso' (PluginFailed)",)
    assert await kept(vault, "contoso", "sound") == []


async def test_the_timer_finishes_deletions(vault, blobs, keys, clock, receipts):
    await vault.store("contoso", "keeper").purge(OfRecord("late"))
    await Vault(blobs, keys, clock=clock).store("contoso", "keeper").keep("late", b"")

    summary = await purging.purge(vault, Plugins(keeper=30), Accounts("contoso"), receipts, now=clock.now)

    assert (summary.late.blobs, summary.late.records) == (1, 1)


@pytest.mark.parametrize(
    ("now", "names"),
    [
        (NEW_YEAR, ("ret-20260101", "ret-20260102", "ret-20260103")),
        (datetime(2028, 2, 28, 23, 59, tzinfo=UTC), ("ret-20280228", "ret-20280229", "ret-20280301")),
    ],
    ids=["new year", "leap day"],
)
async def test_each_run_makes_the_keys_of_today_and_two_days_ahead(vault, keys, now, names, receipts):
    for _ in range(2):
        await purging.purge(vault, Plugins(), Accounts("contoso"), receipts, now=now)

        assert await keys.names() == names


async def test_what_is_kept_tomorrow_goes_under_the_key_that_was_made_today(vault, keys, clock, receipts):
    await purging.purge(vault, Plugins(), Accounts("contoso"), receipts, now=clock.now)
    before = await keys.wrap("ret-20260102", bytes(32))
    clock.advance(DAY)

    await vault.store("contoso", "keeper").keep("one", b"")

    assert await keys.wrap("ret-20260102", bytes(32)) == before
    assert await kept(vault, "contoso", "keeper") == ["one"]


async def test_keys_that_cannot_be_made_fail_the_run_and_stop_nothing_else(blobs, clock, receipts):
    class Full(MemoryKeys):
        async def create(self, name):
            if name > "ret-20260101":
                raise KeyUnavailable("the key service is full")
            await super().create(name)

    keys = Full()
    vault = Vault(blobs, keys, clock=clock)
    await vault.store("contoso", "keeper").keep("one", b"")
    now = NEW_YEAR + 30 * DAY

    with pytest.raises(PurgeIncomplete, match=r"making keys ahead \(KeyUnavailable\)"):
        await purging.purge(vault, Plugins(keeper=1), Accounts("contoso"), receipts, now=now)

    assert (await blobs.containers("ret-"), await keys.names()) == ((), ())
