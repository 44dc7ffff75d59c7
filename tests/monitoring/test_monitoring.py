"""Abuse monitoring in the app: from requests to counts in the account's region, to patterns, by the timer; and the end of counts."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from sluicegate.abuse import Signal
from sluicegate.app import Sluicegate
from sluicegate.describe import describe
from sluicegate.errors import MonitoringIncomplete, StartupError, StorageUnavailable
from sluicegate.monitoring import patterns
from sluicegate.monitoring.counters import CONTAINER, FORGOTTEN
from sluicegate.monitoring.counting import Counts, Hour
from sluicegate.storage.lease import CONTAINER as LEASES
from sluicegate.storage.lease import Lease
from sluicegate.testing import FrozenClock
from sluicegate.types import Outcome
from tests.inside import REASON, Tenant, folders, open_app
from tests.wire.cues import play

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CANARY = "canary-55120"
FOUND = {"text": CANARY, "content_filter_results": {"violence": {"filtered": False, "severity": "high"}}}
JAILBREAK = {"text": CANARY, "content_filter_results": {"jailbreak": {"filtered": True, "detected": True}}}


class World:
    """The app with two regions in folders."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = FrozenClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
        self.apps = []

    def open(self):
        """Open the app as a process does."""
        self.apps.append(open_app(self.folder, folders(self.folder, "local", "faraway"), now=self.clock))
        return self.apps[-1]


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    yield world
    for app in world.apps:
        await app.shutdown()


async def counted(gate, tenant, location="faraway"):
    now = gate.now()
    return [hour for _, hour in await gate.regions.of(location).counters.read(tenant.name, now - 30 * DAY, now + DAY)]


async def names(gate, container, location="faraway"):
    return [blob.name async for blob in gate.regions.of(location).blobs.list(container)]


async def abuse(world, gate, tenant, hours=12):
    """Have one end user try jailbreaks for some hours."""
    for _ in range(hours):
        for _ in range(3):
            assert (await tenant.say(play(JAILBREAK), user="mallory")).status_code == 200
        world.clock.advance(HOUR)
    await gate.observer.flush()


async def test_what_is_found_is_counted_in_the_accounts_region_with_a_reference_and_no_content(world):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    response = await tenant.say(play(FOUND), user="alice")
    await tenant.say("Hello", user="bob")

    await gate.observer.flush()

    [hour] = await counted(gate, tenant)
    alice = (await gate.accounts.get("fabrikam")).user_hash("alice")
    assert (hour.total.requests, set(hour.users)) == (2, {alice})
    [flagged] = hour.flagged
    assert (flagged.id, flagged.user, flagged.categories) == (response.headers["x-request-id"], alice, ("violence",))
    assert await names(gate, CONTAINER, "local") == []
    files = [path for path in (world.folder / "faraway" / "storage" / CONTAINER).rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if CANARY in path.read_text() or "alice" in path.read_text()]


async def test_an_account_whose_content_is_not_kept_is_counted_and_nothing_of_it_can_be_reviewed(world):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    await gate.accounts.set_content_logging("fabrikam", False)
    await tenant.say(play(FOUND), user="alice")

    await gate.observer.flush()

    [hour] = await counted(gate, tenant)
    assert (hour.total.flagged, len(hour.users), hour.flagged) == (1, 1, [])


async def test_shutting_down_writes_what_was_counted(world):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    await tenant.say("Hello")

    await world.apps.pop().shutdown()

    [hour] = await counted(world.open(), tenant)
    assert hour.total.requests == 1


async def test_deleting_an_end_users_data_takes_their_counts_with_it_and_the_receipt_says_so(world):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    for user in ("alice", "bob"):
        await tenant.say(play(FOUND), user=user)
    await gate.observer.flush()

    deleted = await tenant.officer.delete("/governance/retained", params={**REASON, "user": "alice"})

    [hour] = await counted(gate, tenant)
    bob = (await gate.accounts.get("fabrikam")).user_hash("bob")
    assert (set(hour.users), {each.user for each in hour.flagged}, hour.total.flagged) == ({bob}, {bob}, 2)
    receipt = (await tenant.officer.get(f"/governance/receipts/{deleted.json()['receipt']}")).json()
    assert receipt["checked"]["counts of signals, by end user"] == 0


async def test_a_deletion_whose_counts_cannot_be_removed_is_incomplete_and_the_timer_goes_on_with_it(
    world, monkeypatch
):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    await tenant.say(play(FOUND), user="alice")
    await gate.observer.flush()

    async def fail(*_):
        raise StorageUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(gate.regions.of("faraway").counters, "forget", fail)
        deleted = await tenant.officer.delete("/governance/retained", params={**REASON, "user": "alice"})
    assert "receipt" not in deleted.json()
    assert len((await counted(gate, tenant))[0].users) == 1

    await gate.purge()

    assert (await counted(gate, tenant))[0].users == {}


async def test_counts_go_with_the_accounts_days_though_its_content_is_not_kept(world):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    await gate.accounts.set_retention_days("fabrikam", 3)
    await gate.accounts.set_content_logging("fabrikam", False)
    await tenant.say(play(FOUND), user="alice")
    await gate.observer.flush()

    world.clock.advance(2 * DAY)
    await gate.purge()
    assert len(await names(gate, CONTAINER)) == 1

    world.clock.advance(DAY)
    await gate.purge()
    assert await names(gate, CONTAINER) == []


async def test_of_an_account_that_is_gone_no_count_is_left(world):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    await tenant.say(play(FOUND), user="alice")
    await gate.observer.flush()

    await gate.erasure.account(await gate.tenants.get("fabrikam"), actor="test")

    assert await names(gate, CONTAINER) + await names(gate, FORGOTTEN) == []


# --- patterns and the timer ------------------------------------------------------------------------------------------


async def test_who_abuses_is_a_pattern_with_what_can_be_reviewed_newest_first(world):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    await abuse(world, gate, tenant)
    region = gate.regions.of("faraway")
    seen = patterns.Patterns(region.counters, gate.deployment.abuse, gate.now)

    whole, mallory = await seen.of("fabrikam")

    assert (whole.user, mallory.user) == (None, (await gate.accounts.get("fabrikam")).user_hash("mallory"))
    assert mallory.score.value >= gate.deployment.abuse.user_threshold
    assert mallory.window == (gate.now() - 7 * DAY, gate.now())
    assert len(mallory.flagged) == 36
    assert mallory.flagged[0].at > mallory.flagged[-1].at


async def test_thresholds_and_window_are_settings(world):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    await abuse(world, gate, tenant)
    counters = gate.regions.of("faraway").counters

    def seen(**settings):
        abuse = gate.deployment.abuse.model_copy(update=settings)
        return patterns.Patterns(counters, abuse, gate.now).of("fabrikam")

    assert [each.user is None for each in await seen(user_threshold=0.99)] == [True]
    assert [each.user is None for each in await seen(account_threshold=0.99)] == [False]
    world.clock.advance(2 * DAY)
    assert await seen(window_days=1) == []


async def test_hours_that_are_over_are_not_read_again_and_a_deletion_is_heeded_all_the_same(world, monkeypatch):
    gate = world.open()
    tenant = await Tenant.create(gate, "fabrikam", "faraway")
    await abuse(world, gate, tenant)
    region = gate.regions.of("faraway")
    seen = patterns.Patterns(region.counters, gate.deployment.abuse, gate.now)
    await seen.of("fabrikam")
    read = []
    get = region.blobs.get

    async def counting(container, name, **more):
        read.append(name) if container == CONTAINER else None
        return await get(container, name, **more)

    monkeypatch.setattr(region.blobs, "get", counting)

    assert len(await seen.of("fabrikam")) == 2
    assert len(read) <= 2
    await tenant.officer.delete("/governance/retained", params={**REASON, "user": "mallory"})
    assert [each.user for each in await seen.of("fabrikam")] == [None]


async def test_an_account_whose_counts_cannot_be_read_hides_no_others_pattern(world, caplog):
    gate = world.open()
    for name in ("contoso", "fabrikam"):
        await abuse(world, gate, await Tenant.create(gate, name, "faraway"))
    await gate.regions.of("faraway").blobs.put(CONTAINER, "contoso/2026010112", b"[]")
    seen = patterns.Patterns(gate.regions.of("faraway").counters, gate.deployment.abuse, gate.now)
    found = []

    async def look():
        async for pattern in seen.found(["contoso", "fabrikam"]):
            found.append(pattern.account)

    with pytest.raises(MonitoringIncomplete, match=r"counts of 1 accounts"):
        await look()

    assert found == ["fabrikam", "fabrikam"]


def counts(flagged):
    return Counts(flagged, flagged, flagged, {"violence.6.prompt": flagged})


async def counted_abuse(gate, account, users):
    """Count twelve hours of abuse by end users, who are told apart by how many exchanges of theirs are flagged in each."""
    counters = gate.regions.of("faraway").counters
    for ago in range(1, 13):
        at = gate.now() - ago * HOUR
        everything = counts(sum(users.values()))
        await counters.add(account, at, Hour({"chat": everything}, {user: counts(n) for user, n in users.items()}))
    return patterns.Patterns(counters, gate.deployment.abuse, gate.now)


async def test_a_run_that_was_stopped_goes_on_with_the_accounts_that_had_no_turn(world):
    gate = world.open()
    names = ["contoso", "fabrikam", "initech"]
    for name in names:
        seen = await counted_abuse(gate, name, {"mallory": 4})
    stopped = seen.found(names)
    async for pattern in stopped:
        if pattern.account == "fabrikam":
            break
    await stopped.aclose()

    found = [pattern.account async for pattern in seen.found(names)]

    assert list(dict.fromkeys(found)) == ["initech", "contoso", "fabrikam"]


async def test_of_many_end_users_those_with_the_highest_scores_are_looked_into(world, monkeypatch):
    gate = world.open()
    seen = await counted_abuse(gate, "contoso", {"trudy": 3, "mallory": 9, "eve": 5})
    monkeypatch.setattr(patterns, "MOST_USERS", 2)

    assert [each.user for each in await seen.of("contoso")] == [None, "mallory", "eve"]


async def test_a_step_that_fails_is_named_without_its_message_and_the_others_are_taken(world, caplog):
    gate = world.open()
    taken = []

    async def bug():
        raise ValueError(CANARY)

    async def away():
        raise StorageUnavailable(CANARY)

    async def last(region):
        taken.append(region)

    for region, monitoring in gate.monitoring.items():
        monitoring.steps = {"bug": bug, "away": away, "last": partial(last, region)}

    with pytest.raises(MonitoringIncomplete) as caught:
        await gate.monitor()

    assert sorted(taken) == ["faraway", "local"]
    assert sorted(caught.value.left) == [
        "region faraway: away (StorageUnavailable)",
        "region faraway: bug (ValueError)",
        "region local: away (StorageUnavailable)",
        "region local: bug (ValueError)",
    ]
    assert CANARY not in caplog.text + str(caught.value)


async def test_of_all_processes_one_monitors_a_region_at_a_time(world):
    gate = world.open()
    taken = []

    async def step(region):
        taken.append(region)

    for region, monitoring in gate.monitoring.items():
        monitoring.steps = {"step": partial(step, region)}
    lease = Lease(gate.regions.of("faraway").blobs, "abuse", clock=gate.now)

    await lease.run(gate.monitor)
    await gate.monitor()

    assert sorted(taken) == ["faraway", "local", "local"]
    assert await names(gate, LEASES) == []


OBSERVED = """
storage = "memory:"
keys = "memory:"
region = "local"

[pipeline]
authenticate = ["services"]
models = ["services"]
observe = ["failing", "telling"]
"""
SERVICES = """
from sluicegate import Chunk, Model, hookimpl
from sluicegate.testing import MemoryKeys, MemoryStorage

@hookimpl
def open_storage(url): return MemoryStorage()
@hookimpl
def open_keys(url): return MemoryKeys()
@hookimpl
async def authenticate(headers): return None
@hookimpl
def register_models(): return [Model("m", frozenset({"completions"}))]
@hookimpl
async def inference(request): yield Chunk(finish_reason="stop")
"""
FAILING = """
from sluicegate import hookimpl

@hookimpl
async def observe(signals): raise ValueError(signals[0].account)
"""
TELLING = """
from sluicegate import hookimpl

told = []

@hookimpl
async def observe(signals): told.extend(signals)
"""


async def test_plugins_that_observe_are_told_and_one_that_fails_stops_nobody(make_app, caplog):
    gate = Sluicegate(make_app(OBSERVED, services=SERVICES, failing=FAILING, telling=TELLING), {})
    signals = [Signal(account, "chat", gate.now(), Outcome.COMPLETED) for account in (CANARY, "fabrikam")]

    for signal in signals:
        gate.observer.note("local", signal)
    await gate.shutdown()

    assert sys.modules["plugins.telling"].told == signals
    assert "plugin failing failed in observe: ValueError" in caplog.text
    assert CANARY not in caplog.text
    assert [line for line in describe(gate).splitlines() if "told what filters found" in line]


async def test_a_plugin_that_observes_must_have_the_hook(make_app):
    deployment = OBSERVED.replace('"failing", "telling"', '"services"')

    with pytest.raises(StartupError, match=r"pipeline.observe names 'services', which does not implement observe"):
        Sluicegate(make_app(deployment, services=SERVICES), {})
