"""Accounts and their keys: what is stored of them, who is found, and how soon a change is seen."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from contextlib import suppress

import pytest

from sluicegate.accounts import Account, Accounts
from sluicegate.errors import BlobExists, BlobNotFound, KeyNotFound, StorageUnavailable
from sluicegate.storage import documents as module
from sluicegate.storage.customer_keys import customer_key
from sluicegate.tenancy.tenants import Tenants
from sluicegate.testing import MemoryKeys, MemoryStorage
from sluicegate.types import Principal, Role
from tests.customers import ENCRYPTION, URL


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def keys():
    return MemoryKeys()


@pytest.fixture
def accounts(blobs, keys):
    return Accounts(blobs, keys)


async def delete(blobs: MemoryStorage, accounts: Accounts, name: str = "contoso") -> None:
    tenants = Tenants(blobs, accounts)
    await tenants.delete(await tenants.get(name))


@pytest.fixture
def elapse(monkeypatch):
    """Return a function that lets time pass for the caches."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def elapse(seconds):
        now[0] += seconds

    return elapse


async def contoso(accounts):
    await accounts.create("contoso", location="westeurope", resource={"subscription": "s", "group": "g"})
    return await accounts.get("contoso")


async def stored(blobs):
    """Return every blob of the accounts' container by name."""
    return {blob.name: (await blobs.get("accounts", blob.name)).data async for blob in blobs.list("accounts")}


async def test_an_account_is_read_as_it_was_created(accounts, blobs, keys):
    created = await contoso(accounts)

    assert (created.name, created.location) == ("contoso", "westeurope")
    assert len(created.user_key) == 32
    assert await Accounts(blobs, keys).get("contoso") == created


async def test_an_account_of_that_name_is_not_replaced(accounts):
    created = await contoso(accounts)

    with pytest.raises(BlobExists):
        await accounts.create("contoso", location="local")

    assert await accounts.get("contoso") == created


@pytest.mark.parametrize("name", ["", "Contoso", "con toso", "-contoso", "a/b", "..", "a.", "a" * 65, "contoso\n"])
async def test_a_name_that_is_no_account_name_is_neither_created_nor_looked_up(accounts, blobs, name):
    with pytest.raises(ValueError, match="use lower-case letters, digits and _"):
        await accounts.create(name, location="local")

    assert await accounts.get(name) is None
    assert await stored(blobs) == {}


async def test_an_account_that_is_not_there_is_none(accounts):
    assert await accounts.get("absent") is None


async def test_accounts_are_listed_sorted_and_without_their_keys(accounts):
    for name in ("b", "a-1", "a"):
        await accounts.create(name, location="local")
        await accounts.issue_key(name, Role.CALLER, "key1")

    assert await accounts.names() == ("a", "a-1", "b")


async def test_a_key_tells_whose_it_is(accounts):
    api_key = await accounts.issue_key("contoso", Role.OFFICER, "key1")

    assert await accounts.by_key(api_key) == Principal("contoso", Role.OFFICER, "key1")
    assert await accounts.by_key(api_key + "x") is None
    assert await accounts.by_key("") is None


async def test_keys_are_long_and_never_the_same(accounts):
    issued = {await accounts.issue_key("contoso", Role.CALLER, "key1") for _ in range(20)}

    assert len(issued) == 20
    assert all(len(api_key) >= 64 for api_key in issued)


async def test_only_a_hash_of_a_key_is_stored_or_remembered(accounts, blobs):
    api_key = await accounts.issue_key("contoso", Role.CALLER, "key1")
    await accounts.by_key(api_key)

    [(name, data)] = (await stored(blobs)).items()

    assert name == f"key/{hashlib.sha256(api_key.encode()).hexdigest()}"
    assert json.loads(data) == {"account": "contoso", "role": "caller", "name": "key1"}
    assert api_key not in repr(vars(accounts._principals))


async def test_the_secret_that_hashes_end_users_is_stored_wrapped(accounts, blobs, keys):
    created = await contoso(accounts)

    everything = b"".join((await stored(blobs)).values())
    assert created.user_key not in everything
    assert created.user_key.hex().encode() not in everything
    assert base64.b64encode(created.user_key) not in everything
    await keys.destroy("accounts")
    with pytest.raises(KeyNotFound):
        await Accounts(blobs, keys).get("contoso")


async def test_two_accounts_hash_one_end_user_differently(accounts):
    for name in ("a", "b"):
        await accounts.create(name, location="local")

    a, b = await accounts.get("a"), await accounts.get("b")

    assert a.user_hash("anna") != b.user_hash("anna")
    assert a.user_hash("anna") == a.user_hash("anna") != a.user_hash("otto")


def test_an_end_user_is_hashed_with_the_accounts_key():
    account = Account("contoso", "local", bytes(range(32)))

    expected = hmac.new(bytes(range(32)), "änna".encode(), "sha256").hexdigest()

    assert account.user_hash("änna") == expected


@pytest.mark.parametrize("user", [None, ""])
def test_nobody_is_not_hashed(user):
    assert Account("contoso", "local", bytes(32)).user_hash(user) is None


async def test_a_change_is_seen_after_the_cache_has_aged(accounts, blobs, elapse):
    created = await contoso(accounts)
    document = json.loads((await blobs.get("accounts", "account/contoso")).data)
    await blobs.put("accounts", "account/contoso", json.dumps({**document, "location": "local"}).encode())

    elapse(module.CACHE_S - 1)
    assert await accounts.get("contoso") == created

    elapse(2)
    assert (await accounts.get("contoso")).location == "local"


async def test_a_key_that_is_withdrawn_stops_working_after_the_cache_has_aged(accounts, blobs, elapse):
    api_key = await accounts.issue_key("contoso", Role.CALLER, "key1")
    await accounts.by_key(api_key)
    await blobs.drop("accounts")

    elapse(module.CACHE_S + 1)

    assert await accounts.by_key(api_key) is None


async def test_what_this_process_creates_it_sees_at_once(accounts):
    assert await accounts.get("contoso") is None

    assert await contoso(accounts) is not None


async def test_a_failure_to_read_is_not_remembered(accounts, blobs, monkeypatch):
    await accounts.create("contoso", location="local")

    async def fail(*_):
        raise StorageUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(blobs, "get", fail)
        with suppress(StorageUnavailable):
            await accounts.get("contoso")

    assert await accounts.get("contoso") is not None


async def test_guessed_keys_do_not_fill_the_memory(accounts, monkeypatch):
    monkeypatch.setattr(module, "CACHE_ENTRIES", 10)

    for number in range(50):
        await accounts.by_key(f"guess-{number}")

    assert len(accounts._principals._entries) == 10


async def test_content_is_kept_for_30_days_unless_the_account_says_less(accounts, blobs, keys):
    await accounts.create("contoso", location="local")
    await accounts.create("fabrikam", location="local", retention_days=7)

    for each in (accounts, Accounts(blobs, keys)):
        assert [await each.retention_days(name) for name in ("contoso", "fabrikam")] == [30, 7]
        assert [(await each.get(name)).retention_days for name in ("contoso", "fabrikam")] == [30, 7]


async def test_other_days_count_at_once(accounts, blobs, keys):
    await contoso(accounts)
    other = Accounts(blobs, keys)
    assert await other.retention_days("contoso") == 30

    await accounts.set_retention_days("contoso", 3)

    assert await other.retention_days("contoso") == 3
    assert (await accounts.get("contoso")).retention_days == 3


@pytest.mark.parametrize("days", [0, -1, 31, 365, 7.0, "7", True, None])
async def test_days_beyond_the_ceiling_are_refused_wherever_they_are_set(accounts, blobs, keys, days):
    with pytest.raises(ValueError, match="from 1 to 30"):
        await accounts.create("fabrikam", location="local", retention_days=days)
    assert await accounts.names() == ()
    await contoso(accounts)
    with pytest.raises(ValueError, match="from 1 to 30"):
        await accounts.set_retention_days("contoso", days)
    assert await accounts.retention_days("contoso") == 30
    document = json.loads((await blobs.get("accounts", "account/contoso")).data)
    await blobs.put("accounts", "account/contoso", json.dumps({**document, "retention_days": days}).encode())
    for read in (accounts.retention_days, Accounts(blobs, keys).get):
        with pytest.raises(ValueError, match="from 1 to 30"):
            await read("contoso")


async def test_an_account_that_was_written_before_it_had_days_has_30(accounts, blobs):
    await contoso(accounts)
    document = json.loads((await blobs.get("accounts", "account/contoso")).data)
    del document["retention_days"]
    await blobs.put("accounts", "account/contoso", json.dumps(document).encode())

    assert await accounts.retention_days("contoso") == 30


async def test_a_deleted_account_is_not_found_and_keeps_its_name_and_nothing_else(accounts, blobs, keys, elapse):
    await contoso(accounts)
    other = Accounts(blobs, keys)
    assert await other.get("contoso") is not None

    await delete(blobs, accounts)

    assert await accounts.get("contoso") is None
    assert await other.retention_days("contoso") == 0
    elapse(module.CACHE_S + 1)
    assert await other.get("contoso") is None
    assert await accounts.names() == ("contoso",)
    with pytest.raises(BlobExists):
        await accounts.create("contoso", location="local")


async def test_an_account_that_is_not_there_cannot_be_changed(accounts):
    with pytest.raises(BlobNotFound):
        await accounts.set_retention_days("absent", 7)
    assert await accounts.retention_days("absent") == 0


async def test_changes_at_once_lose_nothing(accounts, blobs, keys):
    await contoso(accounts)

    await asyncio.gather(
        accounts.set_retention_days("contoso", 3), Accounts(blobs, keys).set_content_logging("contoso", False)
    )

    document = json.loads((await blobs.get("accounts", "account/contoso")).data)
    assert (document["retention_days"], document["content_logging"]) == (3, False)


# --- the two API keys of an account ----------------------------------------------------------------------------------


async def test_an_account_has_two_keys_that_can_be_read_again_and_are_stored_nowhere(accounts, blobs, keys):
    await contoso(accounts)

    found = await accounts.api_keys("contoso")

    assert found.keys() == {"key1", "key2"}
    assert len(set(found.values())) == 2
    assert await Accounts(blobs, keys).api_keys("contoso") == found
    everything = b"".join((await stored(blobs)).values()) + "".join(await stored(blobs)).encode()
    for name, api_key in found.items():
        assert await accounts.by_key(api_key) == Principal("contoso", Role.CALLER, name)
        assert api_key.encode() not in everything


async def test_a_key_is_replaced_while_the_other_goes_on(accounts):
    await contoso(accounts)
    before = await accounts.api_keys("contoso")
    assert await accounts.by_key(before["key1"]) is not None

    await accounts.regenerate_key("contoso", "key1")

    after = await accounts.api_keys("contoso")
    assert await accounts.by_key(before["key1"]) is None
    assert await accounts.by_key(after["key1"]) == Principal("contoso", Role.CALLER, "key1")
    assert after["key2"] == before["key2"]
    assert await accounts.by_key(before["key2"]) is not None


async def test_a_key_that_was_replaced_ends_in_other_processes_within_the_stated_time(accounts, blobs, keys, elapse):
    await contoso(accounts)
    other = Accounts(blobs, keys)
    before = await accounts.api_keys("contoso")
    assert await other.by_key(before["key1"]) is not None

    await accounts.regenerate_key("contoso", "key1")
    elapse(module.CACHE_S)

    assert await other.by_key(before["key1"]) is None


async def test_a_replaced_key_is_dead_even_if_its_hash_is_still_stored(accounts, blobs, monkeypatch):
    await contoso(accounts)
    before = await accounts.api_keys("contoso")

    async def stopped(*_, **__):
        raise StorageUnavailable("stopped")

    monkeypatch.setattr(blobs, "delete", stopped)
    with suppress(StorageUnavailable):
        await accounts.regenerate_key("contoso", "key1")
    accounts._principals.forget(hashlib.sha256(before["key1"].encode()).hexdigest())

    assert await accounts.by_key(before["key1"]) is None
    assert await accounts.by_key((await accounts.api_keys("contoso"))["key1"]) is not None


async def test_the_keys_of_a_deleted_account_are_dead(accounts, blobs, keys):
    await contoso(accounts)
    api_keys = await accounts.api_keys("contoso")

    await delete(blobs, accounts)

    assert await Accounts(blobs, keys).by_key(api_keys["key1"]) is None
    with pytest.raises(BlobNotFound):
        await accounts.api_keys("contoso")
    with pytest.raises(BlobNotFound):
        await accounts.regenerate_key("contoso", "key1")


# --- people of a directory -------------------------------------------------------------------------------------------


async def test_roles_are_assigned_and_withdrawn_account_by_account(accounts):
    await accounts.assign_role("contoso", "oid-1", Role.CALLER)
    await accounts.assign_role("contoso", "oid-1", Role.OFFICER)
    await accounts.assign_role("fabrikam", "oid-1", Role.CALLER)
    await accounts.withdraw_role("contoso", "oid-1", Role.CALLER)

    assert await accounts.roles_of("oid-1") == {
        "contoso": frozenset({Role.OFFICER}),
        "fabrikam": frozenset({Role.CALLER}),
    }
    assert await accounts.roles_of("oid-2") == {}


@pytest.mark.parametrize("identity", ["", "a/b", "..", "a b", "x" * 65])
async def test_an_identity_that_is_no_object_id_is_refused(accounts, identity):
    with pytest.raises(ValueError, match="use an object id"):
        await accounts.assign_role("contoso", identity, Role.CALLER)

    assert await accounts.roles_of(identity) == {}


async def test_content_may_be_kept_until_somebody_says_no_more(accounts, blobs, keys):
    await contoso(accounts)
    other = Accounts(blobs, keys)
    assert ((await other.get("contoso")).content_logging, await other.keeps_content("contoso")) == (True, True)

    await accounts.set_content_logging("contoso", False)

    assert (await accounts.get("contoso")).content_logging is False
    assert await other.keeps_content("contoso") is False
    assert await other.retention_days("contoso") == 0
    await accounts.set_content_logging("contoso", True)
    assert (await other.keeps_content("contoso"), await other.retention_days("contoso")) == (True, 30)


@pytest.mark.parametrize("damage", [None, "true", 1, {}])
async def test_a_damaged_document_keeps_no_content(accounts, blobs, damage):
    await contoso(accounts)
    document = json.loads((await blobs.get("accounts", "account/contoso")).data)

    await blobs.put("accounts", "account/contoso", json.dumps({**document, "content_logging": damage}).encode())

    assert await accounts.keeps_content("contoso") is False


async def test_of_a_deleted_or_unknown_account_no_content_is_kept(accounts, blobs):
    await contoso(accounts)
    await delete(blobs, accounts)

    assert [await accounts.keeps_content(name) for name in ("contoso", "absent")] == [False, False]


async def test_an_account_may_name_a_key_of_its_own(accounts, blobs, keys):
    await contoso(accounts)
    other = {
        "keySource": "Microsoft.KeyVault",
        "keyVaultProperties": {
            "keyVaultUri": "https://other.vault.azure.net/",
            "keyName": "theirs",
            "identityClientId": "9f2c1c52-6a35-4b0c-8a9e-0f3a0d1e2b4c",
        },
    }

    await accounts.set_encryption("contoso", ENCRYPTION)
    await accounts.set_encryption("contoso", other)

    found = await Accounts(blobs, keys).get("contoso")
    assert found.customer_key == customer_key(other)
    assert found.vaults == {
        URL: None,
        "https://other.vault.azure.net": "9f2c1c52-6a35-4b0c-8a9e-0f3a0d1e2b4c",
    }
    await accounts.set_encryption("contoso", None)
    found = await accounts.get("contoso")
    assert (found.customer_key, len(found.vaults)) == (None, 2)


async def test_a_key_of_another_shape_changes_nothing(accounts):
    await contoso(accounts)
    await accounts.set_encryption("contoso", ENCRYPTION)

    with pytest.raises(ValueError, match="keyName"):
        await accounts.set_encryption("contoso", {**ENCRYPTION, "keyVaultProperties": {"keyVaultUri": URL}})

    assert (await accounts.get("contoso")).customer_key == customer_key(ENCRYPTION)
