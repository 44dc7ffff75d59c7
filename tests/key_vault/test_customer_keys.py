"""Customers' own keys in Azure Key Vault: what their owner does to them is heeded within five minutes."""

from datetime import timedelta

import pytest

from sluicegate.accounts import Accounts
from sluicegate.errors import AccountKeyRevoked, AccountKeyUnavailable
from sluicegate.storage.customer_keys import CustomerVaults
from sluicegate.storage.data_keys import BELIEVED, PAUSE, WITHIN, DataKeys
from sluicegate.storage.rewrapping import rewrap
from sluicegate.storage.vault import Vault
from sluicegate.testing import MemoryStorage

RSA = {"kty": "RSA", "key_size": 3072, "key_ops": ["wrapKey", "unwrapKey"]}


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def own(stand_in):
    """The customer's vault, with a key."""
    own = stand_in.vault("fabrikam")
    own.make("mine", RSA)
    return own


@pytest.fixture
async def process(blobs, keys, own, opened, clock):
    """A function that returns the accounts, the data keys and the vault of a process."""

    def process():
        accounts = Accounts(blobs, keys)
        vaults = CustomerVaults(lambda url, identity: opened(own))
        data_keys = DataKeys(keys, accounts=accounts, vaults=vaults, clock=clock)
        return accounts, data_keys, Vault(blobs, keys, clock=clock, data_keys=data_keys)

    accounts, _, _ = process()
    await accounts.create("contoso", location="local")
    named = {"keyVaultUri": f"https://{own.host}", "keyName": "mine"}
    await accounts.set_encryption("contoso", {"keySource": "Microsoft.KeyVault", "keyVaultProperties": named})
    return process


async def read(vault):
    return {record.id: record.data async for record in vault.store("contoso", "keeper").records()}


@pytest.mark.parametrize(
    "revoke",
    [
        lambda own: own.set("mine", enabled=False),
        lambda own: own.set("mine", exp=0),
        lambda own: own._delete("mine"),
    ],
    ids=["disabled", "expired", "deleted"],
)
async def test_a_key_that_its_owner_revokes_shuts_every_process_within_five_minutes(process, own, clock, revoke):
    vaults = [process()[2] for _ in range(2)]
    for number, vault in enumerate(vaults):
        await vault.store("contoso", "keeper").keep(f"record-{number}", b"")
        await read(vault)

    revoke(own)
    clock.advance(WITHIN)

    for vault in vaults:
        for refused in (read(vault), vault.store("contoso", "keeper").keep("another", b"")):
            with pytest.raises(AccountKeyRevoked):
                await refused


async def test_a_key_that_is_enabled_again_opens_everything(process, own, clock):
    _, _, vault = process()
    await vault.store("contoso", "keeper").keep("one", b"first")
    own.set("mine", enabled=False)
    clock.advance(WITHIN)
    with pytest.raises(AccountKeyRevoked):
        await read(vault)

    own.set("mine", enabled=True)
    clock.advance(WITHIN)

    assert await read(vault) == {"one": b"first"}


@pytest.mark.parametrize("status", [403, 429, 503])
async def test_permission_that_is_taken_away_differs_from_a_vault_in_trouble(process, stand_in, own, clock, status):
    _, data_keys, _ = process()
    await data_keys.check("contoso")
    clock.advance(BELIEVED)
    if status == 403:
        own.forbidden.add("unwrapKey")
    else:
        stand_in.fail(status, operation="unwrapKey", times=20)

    kind = AccountKeyRevoked if status == 403 else AccountKeyUnavailable
    with pytest.raises(AccountKeyUnavailable) as caught:
        await data_keys.check("contoso")

    assert type(caught.value) is kind
    own.forbidden.clear()
    stand_in.mend()
    clock.advance(PAUSE)
    await data_keys.check("contoso")


async def test_rotation_wraps_under_the_new_version_and_then_the_old_one_may_go(process, blobs, own, clock):
    accounts, data_keys, vault = process()
    await vault.store("contoso", "keeper").keep("one", b"first")
    own.make("mine", RSA)
    clock.advance(timedelta(minutes=5))

    done = await rewrap(blobs, data_keys, accounts, now=clock.now)

    assert (done.wrapped, done.left) == (1, {})
    own.keys["mine"][0].enabled = False
    assert await read(process()[2]) == {"one": b"first"}


async def test_the_customers_vault_is_asked_to_unwrap_and_never_to_wrap(process, own):
    _, _, vault = process()

    await vault.store("contoso", "keeper").keep("one", b"first")

    assert own.count("unwrapKey") == 1
    assert own.count("wrapKey") == 0
