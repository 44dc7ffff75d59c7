"""``plugins/azure_key_vault``: data keys are wrapped here, by the rules, and unwrapped by the vault."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from plugins import azure_key_vault
from sluicegate.errors import KeyNotFound, KeyUnavailable, SealBroken
from sluicegate.testing import check_keys

SECRET = bytes(range(32))
DAY = "ret-20260101"
RSA = {"kty": "RSA", "key_size": 3072}


def seconds(clock, **later):
    return int((clock.now + timedelta(**later)).timestamp())


async def test_keeps_the_contract_of_a_key_service(vault):
    await check_keys(lambda: azure_key_vault.open_keys(f"https://{vault.host}", None))


async def test_wrapping_asks_the_vault_only_once(vault, keys):
    wrapped = [await keys.wrap(DAY, SECRET) for _ in range(50)]

    assert vault.calls == [("get", DAY), ("create", DAY)]
    assert len({each.ciphertext for each in wrapped}) == 50


async def test_those_who_wrap_first_share_one_look(vault, keys):
    wrapped = await asyncio.gather(*(keys.wrap(DAY, SECRET) for _ in range(16)))

    assert vault.calls == [("get", DAY), ("create", DAY)]
    assert {await keys.unwrap(each) for each in wrapped} == {SECRET}


async def test_unwrapping_looks_at_the_key_once_and_then_only_unwraps(vault, keys):
    wrapped = await keys.wrap(DAY, SECRET)
    vault.calls.clear()

    assert [await keys.unwrap(wrapped) for _ in range(3)] == [SECRET] * 3

    assert [operation for operation, _ in vault.calls] == ["get", "unwrapKey", "unwrapKey", "unwrapKey"]


async def test_a_key_is_rsa_of_3072_bits_for_wrapping_alone(vault, keys):
    await keys.create(DAY)

    [version] = vault.keys[DAY]
    assert (version.kty, version.material.key_size, version.ops) == ("RSA", 3072, ["wrapKey", "unwrapKey"])


async def test_a_wrapped_key_names_the_version(vault, keys):
    wrapped = await keys.wrap(DAY, SECRET)

    assert wrapped.key_id == f"https://{vault.host}/keys/{DAY}/{vault.keys[DAY][0].id}"
    assert (wrapped.algorithm, len(wrapped.ciphertext)) == ("RSA-OAEP-256", 384)


async def test_a_day_key_can_be_made_ahead_and_is_then_only_read(vault, keys):
    await keys.create(DAY)
    await keys.create(DAY)
    vault.calls.clear()

    await keys.wrap(DAY, SECRET)

    assert vault.calls == [("get", DAY)]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"enabled": False}, "is disabled: enable it"),
        ({"exp": 0}, "expired at 1970-01-01T00:00:00"),
        ({"nbf": 4102444800}, "is not valid before 2100-01-01T00:00:00"),
        ({"ops": ["unwrapKey"]}, "does not permit wrapKey"),
    ],
)
async def test_a_key_that_may_not_wrap_stops_wraps_within_five_minutes(vault, keys, clock, attributes, message):
    await keys.wrap(DAY, SECRET)
    vault.set(DAY, **attributes)

    clock.advance(timedelta(minutes=5))

    with pytest.raises(KeyUnavailable, match=message) as caught:
        await keys.wrap(DAY, SECRET)
    assert f"key '{DAY}'" in str(caught.value)


async def test_a_key_that_is_enabled_again_is_used_at_once(vault, keys):
    await keys.create(DAY)
    vault.set(DAY, enabled=False)
    with pytest.raises(KeyUnavailable):
        await keys.wrap(DAY, SECRET)

    vault.set(DAY, enabled=True)

    assert await keys.unwrap(await keys.wrap(DAY, SECRET)) == SECRET


async def test_a_key_expires_on_time_without_another_look(vault, keys, clock):
    vault.make(DAY, RSA | {"attributes": {"exp": seconds(clock, minutes=2)}})
    await keys.wrap(DAY, SECRET)
    vault.calls.clear()

    clock.advance(timedelta(minutes=2))

    with pytest.raises(KeyUnavailable, match="expired"):
        await keys.wrap(DAY, SECRET)
    assert vault.calls == []


async def test_a_key_is_used_from_its_first_second_on(vault, keys, clock):
    vault.make(DAY, RSA | {"attributes": {"nbf": seconds(clock, minutes=1), "exp": seconds(clock, minutes=3)}})
    with pytest.raises(KeyUnavailable, match="not valid before"):
        await keys.wrap(DAY, SECRET)

    clock.advance(timedelta(minutes=1))

    assert await keys.unwrap(await keys.wrap(DAY, SECRET)) == SECRET


async def test_a_clock_that_was_set_back_makes_no_look_last_longer(vault, keys, clock):
    await keys.wrap(DAY, SECRET)
    vault.set(DAY, enabled=False)

    clock.advance(timedelta(hours=-1))

    with pytest.raises(KeyUnavailable, match="disabled"):
        await keys.wrap(DAY, SECRET)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({"kty": "RSA", "key_size": 2048}, "RSA 2048"),
        ({"kty": "RSA-HSM", "key_size": 4096}, "RSA-HSM 4096"),
        ({"kty": "EC"}, "EC P-256"),
        ({"kty": "oct"}, "oct"),
        ({"kty": "oct-HSM"}, "oct-HSM"),
    ],
)
async def test_other_kinds_of_keys_are_refused_by_name(vault, keys, spec, kind):
    """An ``oct`` key that hides itself is one under which the SDK would wrap with random bytes."""
    vault.make("mine", spec | {"key_ops": ["wrapKey", "unwrapKey"]})

    with pytest.raises(KeyUnavailable, match=f"'mine'.* is of type {kind}: use RSA of 3072 bits"):
        await keys.wrap("mine", SECRET, create=False)


async def test_a_key_in_hardware_is_used_as_any_other(vault, keys):
    vault.make("mine", {"kty": "RSA-HSM", "key_size": 3072})

    assert await keys.unwrap(await keys.wrap("mine", SECRET, create=False)) == SECRET


async def test_what_an_older_version_wrapped_is_unwrapped_after_a_rotation(vault, keys, clock):
    old = await keys.wrap(DAY, SECRET)
    vault.answer("rotate", DAY, "", {}, {})
    clock.advance(timedelta(minutes=5))

    new = await keys.wrap(DAY, SECRET)

    assert [each.id for each in vault.keys[DAY]] == [each.key_id.rpartition("/")[2] for each in (old, new)]
    assert [await keys.unwrap(each) for each in (old, new)] == [SECRET, SECRET]


async def test_a_disabled_key_unwraps_nothing_from_that_moment_on(vault, keys):
    wrapped = await keys.wrap(DAY, SECRET)
    assert await keys.unwrap(wrapped) == SECRET

    vault.set(DAY, enabled=False)

    with pytest.raises(KeyUnavailable, match=rf"does not unwrap with key '{DAY}': 403 KeyDisabled; enable the key"):
        await keys.unwrap(wrapped)


async def test_an_expired_key_still_unwraps(vault, keys, clock):
    wrapped = await keys.wrap(DAY, SECRET)

    vault.set(DAY, exp=seconds(clock, minutes=-1))

    assert await keys.unwrap(wrapped) == SECRET


async def test_a_deleted_key_unwraps_nothing_until_it_is_recovered(vault, keys):
    wrapped = await keys.wrap(DAY, SECRET)
    vault.answer("delete", DAY, "", {}, {})

    with pytest.raises(KeyNotFound, match=f"key '{DAY}' is not in"):
        await keys.unwrap(wrapped)

    vault.answer("recover", DAY, "", {}, {})
    assert await keys.unwrap(wrapped) == SECRET


@pytest.mark.parametrize(
    "key_id",
    [
        "https://fabrikam.vault.azure.net/keys/{name}/{version}",
        "https://fabrikam.vault.azure.net/https://contoso.vault.azure.net/keys/{name}/{version}",
        "https://contoso.vault.azure.net@fabrikam.vault.azure.net/keys/{name}/{version}",
        "http://contoso.vault.azure.net/keys/{name}/{version}",
        "https://contoso.vault.azure.net/deletedkeys/{name}/{version}",
        "https://contoso.vault.azure.net/keys/{name}/../{name}/{version}",
        "https://contoso.vault.azure.net/keys/{name}/{version}0",
        "https://contoso.vault.azure.net/keys/{name}/{version}?a",
        "https://contoso.vault.azure.net/keys/{name}/",
        "https://contoso.vault.azure.net/keys/{name}",
        "",
    ],
)
async def test_an_id_that_is_not_of_this_vault_is_asked_of_nobody(stand_in, vault, keys, key_id):
    other = stand_in.vault("fabrikam")
    other.make(DAY, RSA)
    wrapped = await keys.wrap(DAY, SECRET)
    vault.calls.clear()

    with pytest.raises(KeyNotFound):
        await keys.unwrap(replace(wrapped, key_id=key_id.format(name=DAY, version=vault.keys[DAY][0].id)))

    assert vault.calls == other.calls == []


async def test_an_id_in_another_spelling_is_the_same_key(keys):
    wrapped = await keys.wrap(DAY, SECRET)

    assert await keys.unwrap(replace(wrapped, key_id=wrapped.key_id.replace("contoso", "Contoso"))) == SECRET


@pytest.mark.parametrize("change", [{"algorithm": "A256KW"}, {"algorithm": "RSA-OAEP"}, {"ciphertext": bytes(383)}])
async def test_what_no_key_here_can_have_wrapped_is_asked_of_nobody(vault, keys, change):
    wrapped = await keys.wrap(DAY, SECRET)
    vault.calls.clear()

    with pytest.raises(SealBroken):
        await keys.unwrap(replace(wrapped, **change))

    assert vault.calls == []


async def test_a_customers_key_is_used_in_its_latest_version(vault, keys):
    vault.make("Customer-Key", RSA)
    latest = vault.make("Customer-Key", RSA)

    wrapped = await keys.wrap("Customer-Key", SECRET, create=False)

    assert wrapped.key_id.endswith(f"/keys/Customer-Key/{latest.id}")
    assert await keys.unwrap(wrapped) == SECRET


async def test_a_customers_pinned_version_is_used_whatever_is_newer(vault, keys):
    pinned = vault.make("Customer-Key", RSA)
    vault.make("Customer-Key", RSA)

    wrapped = await keys.wrap(f"Customer-Key/{pinned.id}", SECRET, create=False)

    assert wrapped.key_id.endswith(f"/keys/Customer-Key/{pinned.id}")
    assert await keys.unwrap(wrapped) == SECRET


async def test_a_pinned_version_is_checked_itself(vault, keys):
    pinned = vault.make("Customer-Key", RSA)
    vault.make("Customer-Key", RSA)
    pinned.enabled = False

    with pytest.raises(KeyUnavailable, match=f"version {pinned.id}, .*disabled"):
        await keys.wrap(f"Customer-Key/{pinned.id}", SECRET, create=False)


async def test_a_customers_key_needs_no_more_than_reading_wrapping_and_unwrapping(vault, keys):
    vault.make("Customer-Key", RSA)
    vault.forbidden |= {"create", "delete", "purge", "list", "list deleted", "update", "rotate", "backup", "wrapKey"}

    assert await keys.unwrap(await keys.wrap("Customer-Key", SECRET, create=False)) == SECRET


async def test_a_missing_customers_key_is_never_made(vault, keys):
    with pytest.raises(KeyNotFound):
        await keys.wrap("Customer-Key", SECRET, create=False)

    assert vault.calls == [("get", "Customer-Key")]


async def test_only_so_many_keys_are_remembered(vault, keys, monkeypatch):
    monkeypatch.setattr("plugins.azure_key_vault.vault.CACHED", 2)
    wrapped = {name: await keys.wrap(name, SECRET) for name in "abc"}
    for name in "abc":
        await keys.unwrap(wrapped[name])
    vault.calls.clear()

    for name in "cba":
        await keys.wrap(name, SECRET)
        await keys.unwrap(wrapped[name])

    assert [call for call in vault.calls if call[0] == "get"] == [("get", "a"), ("get", "a")]
