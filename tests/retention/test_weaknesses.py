"""What makes deletion less than final is refused at the start, or accepted by name and said in every receipt."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from sluicegate.app import Sluicegate
from sluicegate.errors import PurgeIncomplete, StartupError, StorageUnavailable
from sluicegate.retention.weaknesses import FRESH, name_of
from sluicegate.testing import FrozenClock

SOFT = "blob soft delete is on: a deleted blob can be brought back for 7 days"
PROTECTED = "purge protection is on: a destroyed key can be recovered for 90 days"

BASE = """
from sluicegate import *
from sluicegate.errors import StorageUnavailable
from sluicegate.testing import MemoryKeys, MemoryStorage

STATE = {"storage": [], "keys": [], "asked": 0, "fail": False}

class Storage(MemoryStorage):
    async def weaknesses(self):
        STATE["asked"] += 1
        if STATE["fail"]: raise StorageUnavailable("no route")
        return tuple(STATE["storage"])

class Keys(MemoryKeys):
    async def weaknesses(self):
        # As a vault does that holds no key yet.
        return tuple(STATE["keys"]) if await self.names() else ()

@hookimpl
def open_storage(url): return Storage()

@hookimpl
def open_keys(url): return Keys()

@hookimpl
async def authenticate(headers): return Principal('contoso', Role.CALLER, 'key1')

@hookimpl
def register_models(): return [Model("fake", frozenset({"completions"}))]

@hookimpl
async def inference(request): yield Chunk(finish_reason="stop")

@hookimpl
async def retain(exchange, store): await store.keep(exchange.id, b"")

@hookimpl
async def purge(scope, store): return await store.purge(scope, days=30)
"""


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture
def gate_with(make_app, clock):
    """A function that builds an app with these weaknesses, of which some are accepted."""

    def gate_with(storage=(), keys=(), accepted=()):
        deployment = (
            f"storage = 'memory:'\nkeys = 'memory:'\nregion = 'local'\naccepted_weaknesses = {list(accepted)}\n"
        )
        stages = "[pipeline]\nauthenticate = ['base']\nmodels = ['base']\nretain = ['base']\n"
        gate = Sluicegate(make_app(deployment + stages, base=BASE), {}, now=clock)
        state_of(gate).update(storage=storage, keys=keys)
        return gate

    return gate_with


def state_of(gate):
    return gate.plugins["base"]._manager.get_plugin("base").STATE


@pytest.mark.parametrize("found", [{"storage": [SOFT]}, {"keys": [PROTECTED]}], ids=["storage", "keys"])
async def test_what_nobody_accepted_stops_the_start_until_it_is_changed(gate_with, found):
    gate = gate_with(**found)
    [[sentence]] = found.values()

    for _ in range(2):
        with pytest.raises(StartupError) as caught:
            await gate.start()
        assert sentence in str(caught.value)
        assert f'accepted_weaknesses = ["{name_of(sentence)}"]' in str(caught.value)


async def test_what_is_accepted_by_name_is_not_in_the_way(gate_with):
    gate = gate_with([SOFT], [PROTECTED], accepted=[name_of(SOFT), name_of(PROTECTED)])

    await gate.start()

    assert await gate.health() == []


async def test_to_accept_one_is_not_to_accept_another(gate_with):
    gate = gate_with([SOFT], [PROTECTED], accepted=[name_of(SOFT)])

    with pytest.raises(StartupError) as caught:
        await gate.start()

    assert PROTECTED in str(caught.value)
    assert SOFT not in str(caught.value)


async def test_without_any_the_app_starts_and_asks_once(gate_with):
    gate = gate_with()

    for _ in range(3):
        await gate.start()

    assert state_of(gate)["asked"] == 1


async def test_services_that_cannot_be_asked_stop_the_start(gate_with):
    gate = gate_with()
    state_of(gate)["fail"] = True

    with pytest.raises(StorageUnavailable):
        await gate.start()

    state_of(gate)["fail"] = False
    await gate.start()


async def test_what_is_switched_on_later_fails_the_purge_and_shows_in_the_health(gate_with, clock):
    gate = gate_with()
    await gate.start()
    await gate.purge()
    state_of(gate)["storage"] = [SOFT]
    clock.advance(FRESH)

    with pytest.raises(PurgeIncomplete) as caught:
        await gate.purge()

    assert f"deletion is not final here: {SOFT}" in caught.value.left
    assert await gate.health() == [f"deletion is not final here: {SOFT}"]


async def test_what_is_accepted_is_in_every_receipt(gate_with, clock):
    gate = gate_with([SOFT], [PROTECTED], accepted=[name_of(SOFT), name_of(PROTECTED)])
    await gate.start()
    await gate.accounts.create("contoso", location="local")
    await gate.regions.home.vault.store("contoso", "base").keep("one", b"")
    clock.advance(timedelta(days=30))

    await gate.purge()

    receipts = [receipt async for receipt in gate.regions.home.receipts.every()]
    assert receipts
    for receipt in receipts:
        assert set(json.loads(receipt.data)["weaknesses"]) >= {SOFT, PROTECTED}
