"""Data keys under customers' own keys: both keys are needed, and who takes theirs away has their data unreadable in minutes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from sluicegate.accounts import Accounts
from sluicegate.errors import (
    AccountKeyRevoked,
    AccountKeyUnavailable,
    KeyNotFound,
    KeyRefused,
    KeyUnavailable,
    SealBroken,
)
from sluicegate.retention.export import export
from sluicegate.storage.customer_keys import CustomerVaults
from sluicegate.storage.data_keys import ASKED, BELIEVED, OPENED, PAUSE, WITHIN, DataKeys
from sluicegate.storage.documents import CACHE_S
from sluicegate.storage.envelope import read_ring_entry
from sluicegate.storage.files import Files
from sluicegate.storage.rewrapping import rewrap
from sluicegate.storage.vault import Vault
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.types import OfAccount
from tests.customers import ENCRYPTION, URL, CustomersVault

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEYRING = "keyring-20260101"
SECOND = timedelta(seconds=1)
OTHER = "folder:/contoso/other"
TAKEN = [KeyRefused("disabled"), KeyNotFound("mine")]


@pytest.fixture
def clock():
    return FrozenClock(NOON)


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def keys():
    return MemoryKeys()


@pytest.fixture
def customers():
    """The customers' vaults by URL; the first one holds a key already."""
    return {URL: CustomersVault("mine", "second"), OTHER: CustomersVault("mine")}


@pytest.fixture
def process(blobs, keys, customers, clock):
    """A function that returns what a process has: accounts, data keys, a vault, files."""

    def process(**options):
        accounts = Accounts(blobs, keys)
        vaults = CustomerVaults(lambda url, identity: customers[url])
        data_keys = DataKeys(keys, accounts=accounts, vaults=vaults, clock=clock)
        vault = Vault(blobs, keys, clock=clock, data_keys=data_keys, may_keep=accounts.keeps_content)
        files = Files(blobs, keys, clock=clock, data_keys=data_keys)
        return accounts, data_keys, vault, files

    return process


@pytest.fixture
async def contoso(process):
    """A process, with an account that has a key of its own and one that has none."""
    found = process()
    for name in ("contoso", "fabrikam"):
        await found[0].create(name, location="local")
    await found[0].set_encryption("contoso", ENCRYPTION)
    return found


async def read(vault, account="contoso"):
    return {record.id: record.data async for record in vault.store(account, "keeper").records()}


async def ring(blobs):
    return [(await blobs.get(KEYRING, blob.name)).data async for blob in blobs.list(KEYRING)]


async def test_what_is_kept_is_read_back_in_every_process(contoso, process):
    _, _, vault, _ = contoso

    await vault.store("contoso", "keeper").keep("one", b"first")

    assert await read(vault) == {"one": b"first"}
    assert await read(process()[2]) == {"one": b"first"}


async def test_both_keys_are_needed(contoso, blobs, keys, customers):
    _, _, vault, _ = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")
    [entry] = map(read_ring_entry, await ring(blobs))

    shares = [await keys.unwrap(entry.wrapped), await customers[URL].unwrap(entry.customer.wrapped)]

    secret = bytes(left ^ right for left, right in zip(*shares, strict=True))
    assert len({secret, *shares}) == 3
    assert (entry.wrapped.key_id.partition("/")[0], entry.customer.vault) == ("ret-20260101", URL)


async def test_without_a_key_of_its_own_an_account_has_entries_of_version_1(contoso, blobs, customers):
    _, _, vault, _ = contoso

    await vault.store("fabrikam", "keeper").keep("one", b"")

    assert [json.loads(entry)["v"] for entry in await ring(blobs)] == [1]
    assert [vault.calls for vault in customers.values()] == [[], []]


@pytest.mark.parametrize("failure", TAKEN, ids=["disabled", "deleted"])
async def test_who_takes_the_key_away_has_nothing_read_or_written_five_minutes_later(
    contoso, process, customers, clock, failure
):
    others = process()
    for _, _, vault, _ in (contoso, others):
        await vault.store("contoso", "keeper").keep("one", b"first")
        await vault.store("fabrikam", "keeper").keep("one", b"first")
        await read(vault)
    customers[URL].failure = failure
    clock.advance(WITHIN)

    for _, data_keys, vault, files in (contoso, others):
        for refused in (
            data_keys.check("contoso"),
            read(vault),
            vault.store("contoso", "keeper").get("one"),
            vault.store("contoso", "keeper").keep("two", b""),
            vault.store("contoso", "new").keep("two", b""),
            files.store("contoso", "fine-tune").write("one", arriving(b"")),
            collected(export(vault, "contoso")),
        ):
            with pytest.raises(
                AccountKeyRevoked, match=r"The encryption key of account 'contoso', 'mine', is disabled"
            ):
                await refused
        assert (await read(vault, "fabrikam"))["one"] == b"first"


async def test_the_bounds_add_up_to_less_than_what_is_promised():
    assert max(OPENED, ASKED, BELIEVED) + timedelta(seconds=CACHE_S) < WITHIN


async def test_a_key_that_is_given_back_opens_everything_again(contoso, customers, clock):
    _, _, vault, _ = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")
    customers[URL].failure = KeyRefused("disabled")
    clock.advance(WITHIN)
    with pytest.raises(AccountKeyRevoked):
        await read(vault)

    customers[URL].failure = None
    clock.advance(PAUSE)

    assert await read(vault) == {"one": b"first"}


async def test_a_reading_that_has_begun_ends_when_the_key_is_taken_away(contoso, customers, clock):
    _, _, vault, _ = contoso
    store = vault.store("contoso", "keeper")
    for number in range(20):
        await store.keep(f"record-{number}", b"")
    records = store.records()
    await anext(records)
    customers[URL].failure = KeyRefused("disabled")
    clock.advance(WITHIN)

    with pytest.raises(AccountKeyRevoked):
        assert len([record async for record in records]) < 19


async def test_a_file_that_is_being_read_ends_when_the_key_is_taken_away(contoso, customers, clock, monkeypatch):
    monkeypatch.setattr("sluicegate.storage.files.SEGMENT_BYTES", 4)
    _, _, _, files = contoso
    store = files.store("contoso", "fine-tune")
    await store.write("one", arriving(b"some more text"))
    pieces = (await store.open("one")).read()
    assert await anext(pieces) == b"some"
    customers[URL].failure = KeyRefused("disabled")
    clock.advance(ASKED)

    with pytest.raises(AccountKeyRevoked):
        await anext(pieces)


async def test_a_vault_that_is_out_of_reach_for_a_moment_stops_nothing(contoso, customers, clock):
    _, data_keys, vault, _ = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")
    customers[URL].failure = KeyUnavailable("no route")
    clock.advance(BELIEVED - SECOND)

    await data_keys.check("contoso")
    await vault.store("contoso", "keeper").keep("two", b"")

    clock.advance(SECOND)
    with pytest.raises(AccountKeyUnavailable, match="cannot be reached now") as caught:
        await vault.store("contoso", "keeper").keep("three", b"")
    assert (caught.value.status, type(caught.value)) == (503, AccountKeyUnavailable)
    customers[URL].failure = None
    clock.advance(PAUSE)
    assert sorted(await read(vault)) == ["one", "two"]


@pytest.mark.parametrize("failure", TAKEN, ids=["disabled", "deleted"])
async def test_a_vault_that_says_no_is_heeded_the_next_time_it_is_asked(contoso, customers, clock, failure):
    _, data_keys, _, _ = contoso
    await data_keys.check("contoso")
    customers[URL].failure = failure
    clock.advance(ASKED)

    with pytest.raises(AccountKeyRevoked):
        await data_keys.check("contoso")


async def test_a_vault_that_never_answered_is_not_believed(contoso, customers):
    _, _, vault, _ = contoso
    customers[URL].failure = KeyUnavailable("no route")

    with pytest.raises(AccountKeyUnavailable):
        await vault.store("contoso", "keeper").keep("one", b"")


async def test_messages_name_account_and_key_and_nothing_else(contoso, customers):
    _, data_keys, _, _ = contoso
    customers[URL].failure = KeyRefused("https://secret.vault.azure.net does not unwrap")

    with pytest.raises(AccountKeyRevoked) as caught:
        await data_keys.check("contoso")

    assert (caught.value.status, caught.value.code) == (403, "EncryptionKeyRevoked")
    assert "secret" not in caught.value.message
    assert URL not in caught.value.message
    assert caught.value.__cause__ is None


async def test_many_who_ask_at_once_ask_the_vault_once(contoso, process, customers):
    _, _, vault, _ = contoso
    for number in range(4):
        await vault.store("contoso", "keeper").keep(f"record-{number}", b"")
    customers[URL].calls.clear()
    _, data_keys, vault, _ = process()

    await asyncio.gather(*(read(vault) for _ in range(8)))

    # One look whether the key may be used, and one data key opened.
    assert customers[URL].calls == ["wrap", "unwrap", "unwrap"]
    await asyncio.gather(*(data_keys.check("contoso") for _ in range(8)))
    assert len(customers[URL].calls) == 3


async def test_who_goes_away_does_not_take_the_answer_from_others(contoso, customers):
    _, data_keys, _, _ = contoso
    reached, answer = asyncio.Event(), asyncio.Event()
    unwrap = customers[URL].unwrap

    async def slow(wrapped):
        reached.set()
        await answer.wait()
        return await unwrap(wrapped)

    customers[URL].unwrap = slow
    one, other = (asyncio.create_task(data_keys.check("contoso")) for _ in range(2))
    await reached.wait()
    one.cancel()
    answer.set()

    await other
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_a_wrapped_key_that_was_deleted_opens_nothing_though_it_was_opened_before(contoso, blobs):
    _, _, vault, _ = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")
    assert await read(vault) == {"one": b"first"}

    for name in [blob.name async for blob in blobs.list(KEYRING)]:
        await blobs.delete(KEYRING, name)

    assert await read(vault) == {}


async def test_an_entry_of_another_account_does_not_open(contoso, process, blobs):
    accounts, _, vault, _ = contoso
    await accounts.set_encryption("fabrikam", ENCRYPTION)
    for name in ("contoso", "fabrikam"):
        await vault.store(name, "keeper").keep("one", b"first")
    names = [blob.name async for blob in blobs.list(KEYRING)]
    entries = [(await blobs.get(KEYRING, name)).data for name in names]

    for name, entry in zip(names, reversed(entries), strict=True):
        await blobs.put(KEYRING, name, entry)

    with pytest.raises(SealBroken, match="under another key"):
        await read(process()[2])


async def test_a_vault_that_the_account_never_named_is_not_opened(contoso, blobs):
    _, _, vault, _ = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")
    [name] = [blob.name async for blob in blobs.list(KEYRING)]
    entry = json.loads((await blobs.get(KEYRING, name)).data)
    entry["customer"]["vault"] = "folder:/attacker"
    await blobs.put(KEYRING, name, json.dumps(entry).encode())

    with pytest.raises(KeyUnavailable, match="a vault that the account does not name"):
        await read(vault)


# --- rotation --------------------------------------------------------------------------------------------------------


async def test_a_new_version_wraps_what_is_there_and_no_ciphertext_changes(contoso, process, blobs, customers, clock):
    accounts, data_keys, vault, files = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")
    await files.store("contoso", "fine-tune").write("file", arriving(b"a file"))
    before = {name: (await blobs.get("ret-20260101", name)).data for name in await names(blobs, "ret-20260101")}
    version = customers[URL].rotate("mine")
    assert await read(process()[2]) == {"one": b"first"}

    assert (await rewrap(blobs, data_keys, accounts, now=clock.now)).wrapped == 1
    assert await files.rewrap() == 1

    assert (await rewrap(blobs, data_keys, accounts, now=clock.now)).wrapped == 0
    assert await files.rewrap() == 0
    assert [read_ring_entry(entry).customer.wrapped.key_id for entry in await ring(blobs)] == [f"mine/{version}"]
    customers[URL].lose("mine", "v1")
    _, _, vault, files = process()
    assert await read(vault) == {"one": b"first"}
    assert await collected((await files.store("contoso", "fine-tune").open("file")).read()) == [b"a file"]
    assert before == {name: (await blobs.get("ret-20260101", name)).data for name in await names(blobs, "ret-20260101")}


@pytest.mark.parametrize(
    "encryption",
    [
        {**ENCRYPTION, "keyVaultProperties": {"keyVaultUri": OTHER, "keyName": "mine"}},
        {**ENCRYPTION, "keyVaultProperties": {"keyVaultUri": URL, "keyName": "second"}},
        {"keySource": "Microsoft.CognitiveServices"},
        None,
    ],
    ids=["another vault", "another key", "none", "nothing"],
)
async def test_another_key_takes_over_and_the_old_one_opens_until_then(
    contoso, process, blobs, customers, clock, encryption
):
    accounts, _, vault, _ = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")

    await accounts.set_encryption("contoso", encryption)

    accounts, data_keys, vault, _ = process()
    assert await read(vault) == {"one": b"first"}
    assert (await rewrap(blobs, data_keys, accounts, now=clock.now)).wrapped == 1
    customers[URL].lose("mine", "v1")
    assert await read(process()[2]) == {"one": b"first"}


async def test_what_was_there_before_an_account_had_a_key_needs_it_too_after_rewrapping(
    contoso, process, blobs, keys, customers, clock
):
    accounts, data_keys, vault, _ = contoso
    await vault.store("fabrikam", "keeper").keep("one", b"first")
    [entry] = map(read_ring_entry, await ring(blobs))
    secret = await keys.unwrap(entry.wrapped)
    await accounts.set_encryption("fabrikam", ENCRYPTION)

    assert (await rewrap(blobs, data_keys, accounts, now=clock.now)).wrapped == 1

    [entry] = map(read_ring_entry, await ring(blobs))
    assert await keys.unwrap(entry.wrapped) != secret
    assert await read(process()[2], "fabrikam") == {"one": b"first"}
    customers[URL].failure = KeyNotFound("mine")
    with pytest.raises(AccountKeyRevoked):
        await read(process()[2], "fabrikam")


async def test_a_day_that_is_purged_while_it_is_wrapped_anew_stays_purged(contoso, blobs, keys, clock):
    accounts, data_keys, vault, _ = contoso
    await vault.store("fabrikam", "keeper").keep("one", b"first")
    await accounts.set_encryption("fabrikam", ENCRYPTION)
    destroyed = keys.unwrap

    async def purge_first(wrapped):
        secret = await destroyed(wrapped)
        await keys.destroy("ret-20260101")
        return secret

    keys.unwrap = purge_first
    await rewrap(blobs, data_keys, accounts, now=clock.now)

    assert [name for name in await keys.names() if name.startswith("ret-")] == []


async def test_an_entry_that_is_deleted_while_it_is_wrapped_anew_stays_deleted(contoso, blobs, customers, clock):
    accounts, data_keys, vault, _ = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")
    customers[URL].rotate("mine")
    unwrap = customers[URL].unwrap

    async def delete_first(wrapped):
        await vault.store("contoso", "keeper").purge(OfAccount())
        return await unwrap(wrapped)

    customers[URL].unwrap = delete_first
    assert (await rewrap(blobs, data_keys, accounts, now=clock.now)).wrapped == 0
    assert await ring(blobs) == []


@pytest.mark.parametrize("failure", [*TAKEN, KeyUnavailable("no route")], ids=["disabled", "deleted", "out of reach"])
async def test_a_key_that_cannot_be_used_stops_no_other_accounts_rotation(
    contoso, blobs, customers, clock, caplog, failure
):
    accounts, data_keys, vault, files = contoso
    other = {**ENCRYPTION, "keyVaultProperties": {"keyVaultUri": OTHER, "keyName": "mine"}}
    await accounts.set_encryption("fabrikam", other)
    for name in ("contoso", "fabrikam"):
        await vault.store(name, "keeper").keep("one", b"first")
        await files.store(name, "fine-tune").write("file", arriving(b"a file"))
        customers[URL if name == "contoso" else OTHER].rotate("mine")
    customers[URL].failure = failure
    before = await ring(blobs)

    done = await rewrap(blobs, data_keys, accounts, now=clock.now)

    assert (done.wrapped, done.left) == (1, {"contoso": 1})
    assert await files.rewrap() == 1
    assert (await ring(blobs))[0] == before[0]
    assert "contoso" in caplog.text


async def test_a_key_that_does_not_open_what_it_wraps_takes_nothing_over(contoso, process, blobs, customers, clock):
    accounts, _, vault, _ = contoso
    await vault.store("contoso", "keeper").keep("one", b"first")
    await accounts.set_encryption(
        "contoso", {**ENCRYPTION, "keyVaultProperties": {"keyVaultUri": OTHER, "keyName": "mine"}}
    )
    before = await ring(blobs)
    wrap = customers[OTHER].wrap

    async def wrong(reference, secret, *, create=True):
        return await wrap(reference, bytes(32), create=create)

    customers[OTHER].wrap = wrong
    accounts, data_keys, _, _ = process()
    assert (await rewrap(blobs, data_keys, accounts, now=clock.now)).left == {"contoso": 1}
    assert await ring(blobs) == before


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_idle_vaults_are_closed_and_used_ones_are_not(monkeypatch):
    monkeypatch.setattr("sluicegate.storage.customer_keys.VAULTS", 2)
    opened = {}

    def open(url, identity):
        opened[url] = CustomersVault()
        return opened[url]

    vaults = CustomerVaults(open)
    async with vaults.using("one", None):
        for name in ("two", "three", "four"):
            async with vaults.using(name, None):
                pass
        assert [name for name, vault in opened.items() if vault.closed] == ["two", "three"]

    await vaults.close()
    assert all(vault.closed for vault in opened.values())


async def test_a_change_of_key_is_seen_when_accounts_are_read_again(contoso, process, customers, blobs, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("sluicegate.storage.documents.time.monotonic", lambda: now[0])
    other = process()
    await other[2].store("fabrikam", "keeper").keep("one", b"")
    await contoso[0].set_encryption("fabrikam", ENCRYPTION)
    customers[URL].failure = KeyRefused("disabled")

    now[0] += CACHE_S

    with pytest.raises(AccountKeyRevoked):
        await other[2].store("fabrikam", "keeper").keep("two", b"")


async def arriving(*pieces):
    for piece in pieces:
        yield piece


async def collected(pieces):
    return [piece async for piece in pieces]


async def names(blobs, container):
    return [blob.name async for blob in blobs.list(container)]
