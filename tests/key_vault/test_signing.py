"""``plugins/azure_key_vault``: the vault signs, and anybody can check it."""

from datetime import timedelta

import pytest

from sluicegate.errors import KeyUnavailable

NAME = "audit"


async def test_a_signing_key_is_p256_for_signing_alone(vault, keys):
    await keys.sign(NAME, b"data")

    [version] = vault.keys[NAME]
    assert (version.kty, version.material.curve.name, version.ops) == ("EC", "secp256r1", ["sign", "verify"])


async def test_the_vault_signs(vault, keys):
    await keys.sign(NAME, b"data")
    vault.calls.clear()

    signature = await keys.sign(NAME, b"more")

    assert [operation for operation, _ in vault.calls] == ["get", "sign"]
    assert signature.key_id == f"https://{vault.host}/keys/{NAME}/{vault.keys[NAME][0].id}"


async def test_a_rotated_key_signs_with_its_latest_version_and_shows_both(vault, keys):
    old = await keys.sign(NAME, b"data")
    vault.answer("rotate", NAME, "", {}, {})

    new = await keys.sign(NAME, b"data")

    assert [each.key_id.rpartition("/")[2] for each in (old, new)] == [each.id for each in vault.keys[NAME]]
    assert (await keys.public_key(NAME))["kid"] == new.key_id
    assert (await keys.public_key("/".join(old.key_id.split("/")[-2:])))["kid"] == old.key_id


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"enabled": False}, "does not sign with key 'audit': 403 KeyDisabled; enable the key"),
        ({"exp": 0}, "does not sign with key 'audit': 403 KeyExpired"),
        ({"ops": ["verify"]}, "does not sign with key 'audit': 403 KeyOperationForbidden"),
    ],
)
async def test_a_key_that_may_not_sign_signs_nothing_from_that_moment_on(vault, keys, attributes, message):
    await keys.sign(NAME, b"data")

    vault.set(NAME, **attributes)

    with pytest.raises(KeyUnavailable, match=message):
        await keys.sign(NAME, b"data")


@pytest.mark.parametrize(
    ("spec", "kind"), [({"kty": "EC", "crv": "P-384"}, "EC P-384"), ({"kty": "RSA", "key_size": 3072}, "RSA 3072")]
)
async def test_other_kinds_of_keys_neither_sign_nor_show(vault, keys, spec, kind):
    vault.make(NAME, spec)

    for use in (keys.sign(NAME, b"data"), keys.public_key(NAME)):
        with pytest.raises(KeyUnavailable, match=f"is of type {kind}: signing needs EC P-256"):
            await use


async def test_a_key_in_hardware_signs_as_any_other(vault, keys):
    vault.make(NAME, {"kty": "EC-HSM"})

    signature = await keys.sign(NAME, b"data")

    assert (await keys.public_key(NAME))["kid"] == signature.key_id


async def test_a_disabled_key_still_shows_how_to_check_what_it_signed(vault, keys, clock):
    signature = await keys.sign(NAME, b"data")
    vault.set(NAME, enabled=False, exp=int((clock.now - timedelta(days=1)).timestamp()))

    assert (await keys.public_key(NAME))["kid"] == signature.key_id
