"""A vault that is away: whoever is at work goes on, over midnight too; only beginnings and reading need the vault."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from sluicegate.accounts import Accounts
from sluicegate.errors import KeyUnavailable
from sluicegate.storage.batch_writer import AGAIN
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.vault import Vault
from sluicegate.testing import MemoryStorage
from sluicegate.types import OfAccount

EVENING = datetime(2026, 1, 1, 23, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
async def process(blobs, keys, clock):
    """A function that returns the accounts and the vault of a process."""

    def process():
        accounts = Accounts(blobs, keys)
        return accounts, Vault(blobs, keys, clock=clock, data_keys=DataKeys(keys, accounts=accounts, clock=clock))

    clock.now = EVENING
    await process()[0].create("contoso", location="local")
    return process


async def keep(vault, record):
    await vault.store("contoso", "keeper").keep(record, b"")


async def read(vault):
    return [record.id async for record in vault.store("contoso", "keeper").records()]


async def background():
    """Return when nothing is at work any more but the test."""
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})


async def test_a_process_at_work_begins_a_day_while_its_vault_is_away(process, stand_in, clock):
    accounts, vault = process()
    before = (await accounts.get("contoso")).user_hash("alice")
    await keep(vault, "evening")
    await background()

    stand_in.disconnect()
    clock.advance(HOUR)
    accounts.forget("contoso")  # as happens every half minute
    await keep(vault, "night")
    clock.advance(20 * HOUR)
    await keep(vault, "day")

    assert (await accounts.get("contoso")).user_hash("alice") == before
    stand_in.reconnect()
    assert sorted(await read(process()[1])) == ["day", "evening", "night"]


async def test_a_day_whose_key_was_not_made_ahead_acknowledges_nothing_while_the_vault_is_away(
    process, stand_in, clock
):
    _, vault = process()
    clock.now = EVENING - HOUR
    await keep(vault, "evening")

    stand_in.disconnect()
    clock.advance(2 * HOUR)

    with pytest.raises(KeyUnavailable):
        await keep(vault, "night")
    stand_in.reconnect()
    await keep(vault, "night")
    assert sorted(await read(vault)) == ["evening", "night"]


async def test_a_vault_that_is_away_in_the_evening_fails_nobody_and_is_asked_again(process, stand_in, clock):
    _, vault = process()
    clock.now = EVENING - HOUR
    await keep(vault, "first")
    stand_in.disconnect()
    clock.now = EVENING
    await keep(vault, "second")
    await background()

    stand_in.reconnect()
    clock.advance(AGAIN)
    await keep(vault, "third")
    await background()
    stand_in.disconnect()
    clock.advance(HOUR)
    await keep(vault, "fourth")

    stand_in.reconnect()
    assert sorted(await read(vault)) == ["first", "fourth", "second", "third"]


async def test_a_key_made_ahead_that_a_deletion_of_the_account_took_is_not_used(process, blobs, clock):
    _, vault = process()
    await keep(vault, "before")
    await background()
    assert len([blob async for blob in blobs.list("keyring-20260102")]) == 1

    await process()[1].store("contoso", "keeper").purge(OfAccount())
    clock.advance(HOUR)
    await keep(vault, "after")

    assert await read(process()[1]) == ["after"]
