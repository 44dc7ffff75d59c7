"""What an account may say of its own encryption key, in ARM's shape."""

from __future__ import annotations

import pytest

from sluicegate.storage.customer_keys import CustomerKey, customer_key

IDENTITY = "9f2c1c52-6a35-4b0c-8a9e-0f3a0d1e2b4c"
VAULT = "https://contoso.vault.azure.net"


def encryption(**properties):
    return {"keySource": "Microsoft.KeyVault", "keyVaultProperties": {"keyVaultUri": VAULT, **properties}}


@pytest.mark.parametrize(
    ("properties", "key", "reference"),
    [
        ({"keyName": "mine"}, CustomerKey(VAULT, "mine"), "mine"),
        ({"keyName": "mine", "keyVersion": ""}, CustomerKey(VAULT, "mine"), "mine"),
        ({"keyName": "Mine-1", "keyVersion": "a1"}, CustomerKey(VAULT, "Mine-1", "a1"), "Mine-1/a1"),
        ({"keyName": "mine", "identityClientId": IDENTITY}, CustomerKey(VAULT, "mine", identity=IDENTITY), "mine"),
        ({"keyName": "mine", "keyVaultUri": f"{VAULT}/"}, CustomerKey(VAULT, "mine"), "mine"),
    ],
)
def test_a_key_is_read_and_written_in_arms_shape(properties, key, reference):
    assert customer_key(encryption(**properties)) == key
    assert key.reference == reference
    assert customer_key(key.document) == key


@pytest.mark.parametrize("given", [None, {}, {"keySource": "Microsoft.CognitiveServices"}])
def test_an_account_need_not_have_a_key_of_its_own(given):
    assert customer_key(given) is None


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"keySource": "Microsoft.Storage"}, "keySource"),
        ({"keySource": "Microsoft.KeyVault"}, "keyVaultProperties"),
        ({"keySource": "Microsoft.CognitiveServices", **{"keyVaultProperties": {}}}, "keyVaultProperties"),
        ({**encryption(keyName="mine"), "keySource": "Microsoft.CognitiveServices"}, "keyVaultProperties"),
        ({**encryption(keyName="mine"), "extra": 1}, "extra"),
        (encryption(), "keyName"),
        (encryption(keyName="under_score"), "keyName"),
        (encryption(keyName=""), "keyName"),
        (encryption(keyName="mine/a1"), "keyName"),
        (encryption(keyName="mine\n"), "keyName"),
        (encryption(keyName="mine", keyVersion="a/b"), "keyVersion"),
        (encryption(keyName="mine", keyVersion=1), "keyVersion"),
        (encryption(keyName="mine", keyVaultUri=""), "keyVaultUri"),
        (encryption(keyName="mine", identityClientId="me"), "identityClientId"),
        (encryption(keyName="mine", identityClientId=f"{IDENTITY}\n"), "identityClientId"),
        ([], "encryption"),
    ],
)
def test_another_shape_is_refused_by_the_name_of_its_field(given, field):
    with pytest.raises(ValueError, match=field):
        customer_key(given)


def test_messages_name_neither_vault_nor_identity():
    for key in (CustomerKey(VAULT, "mine", identity=IDENTITY), CustomerKey(VAULT, "mine", "a1", IDENTITY)):
        assert key.label.startswith("'mine'")
        assert "vault" not in key.label
        assert IDENTITY not in key.label
