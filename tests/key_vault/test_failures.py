"""``plugins/azure_key_vault``: whatever fails is ``KeyUnavailable``, soon, and names what to fix without secrets."""

import asyncio

import pytest
import trustme

from plugins import azure_key_vault
from sluicegate.errors import KeyUnavailable

SECRET = bytes(range(32))
DAY = "ret-20260101"
HELD = "did not wrap with key 'ret-20260101' within 0.3 s"


async def test_throttling_is_waited_out(stand_in, vault, keys):
    stand_in.fail(429, times=2, Retry_After="0")

    assert await keys.unwrap(await keys.wrap(DAY, SECRET)) == SECRET


async def test_but_not_for_longer_than_an_answer_can_wait(stand_in, vault, impatient):
    stand_in.fail(429, times=9, Retry_After="20")

    with pytest.raises(KeyUnavailable, match=HELD):
        await impatient.wrap(DAY, SECRET)


async def test_a_vault_that_does_not_answer_is_given_up(stand_in, vault, impatient):
    stand_in.hold("get")

    with pytest.raises(KeyUnavailable, match=HELD):
        await impatient.wrap(DAY, SECRET)


async def test_whoever_gives_up_leaves_nothing_behind(stand_in, vault, keys):
    held = stand_in.hold("get")
    wrapping = asyncio.create_task(keys.wrap(DAY, SECRET))
    await held.arrival()

    wrapping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wrapping
    held.release()

    assert await keys.unwrap(await keys.wrap(DAY, SECRET)) == SECRET


async def test_those_who_wait_for_somebody_elses_look_give_up_as_well(stand_in, vault, impatient):
    stand_in.hold("get", times=8)

    results = await asyncio.gather(*(impatient.wrap(DAY, SECRET) for _ in range(8)), return_exceptions=True)

    assert [type(each) for each in results] == [KeyUnavailable] * 8


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_an_outage_is_unavailable_and_the_next_call_tries_again(stand_in, vault, keys, status):
    wrapped = await keys.wrap(DAY, SECRET)
    assert await keys.unwrap(wrapped) == SECRET
    stand_in.fail(status, operation="unwrapKey", times=99)

    with pytest.raises(KeyUnavailable, match=f"does not unwrap with key '{DAY}': {status} "):
        await keys.unwrap(wrapped)

    stand_in.mend()
    assert await keys.unwrap(wrapped) == SECRET


async def test_an_unreachable_vault_is_unavailable_until_it_can_be_reached(stand_in, vault, keys):
    wrapped = await keys.wrap(DAY, SECRET)

    stand_in.disconnect()
    with pytest.raises(KeyUnavailable, match=f"cannot be reached to unwrap with key '{DAY}'"):
        await keys.unwrap(wrapped)
    stand_in.reconnect()

    assert await keys.unwrap(wrapped) == SECRET


async def test_what_was_read_before_an_outage_still_wraps(stand_in, vault, keys):
    await keys.wrap(DAY, SECRET)
    stand_in.disconnect()

    wrapped = await keys.wrap(DAY, SECRET)

    stand_in.reconnect()
    assert await keys.unwrap(wrapped) == SECRET


@pytest.mark.parametrize("operation", ["get", "create", "unwrapKey", "sign"])
async def test_after_a_lost_answer_the_vault_is_asked_again(stand_in, vault, keys, operation):
    stand_in.lose(operation)

    assert await keys.unwrap(await keys.wrap(DAY, SECRET)) == SECRET
    assert len((await keys.sign("audit", b"data")).value) == 64


async def test_a_missing_permission_is_named_and_who_asked_is_not(vault, keys):
    vault.forbidden.add("get")

    with pytest.raises(KeyUnavailable) as caught:
        await keys.wrap(DAY, SECRET)

    assert str(caught.value) == (
        "https://contoso.vault.azure.net does not wrap with key 'ret-20260101': 403 ForbiddenByRbac; "
        "give this app's identity a role that allows it"
    )


async def test_without_an_identity_nothing_is_asked(stand_in, vault, keys, monkeypatch):
    monkeypatch.setenv("IDENTITY_HEADER", "somebody else's")

    with pytest.raises(
        KeyUnavailable, match="has no valid token to wrap with key 'ret-20260101': check the app's identity"
    ):
        await keys.wrap(DAY, SECRET)
    assert vault.calls == []


async def test_a_token_that_the_vault_does_not_take_is_named_and_not_shown(stand_in, vault, keys):
    issued = stand_in.gateway.token
    await keys.wrap(DAY, SECRET)
    stand_in.gateway.token = "another"
    try:
        with pytest.raises(KeyUnavailable, match=r"check the app's identity \(Unauthorized\)") as caught:
            await keys.wrap("other", SECRET)
    finally:
        stand_in.gateway.token = issued
    assert issued not in str(caught.value)


async def test_whoever_asks_for_a_token_for_something_else_gets_none(stand_in, opened):
    stand_in.resource = "https://management.azure.com"
    keys = opened(stand_in.vault("impostor"))

    with pytest.raises(KeyUnavailable, match="is not answered by Azure Key Vault"):
        await keys.wrap(DAY, SECRET)

    assert stand_in.gateway.asked == []


async def test_whoever_has_no_good_certificate_gets_nothing(stand_in, vault, keys, monkeypatch, tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "another.pem"))
    before = stand_in.requests

    with pytest.raises(KeyUnavailable, match="cannot be reached"):
        await keys.wrap(DAY, SECRET)

    assert stand_in.requests == before


@pytest.mark.parametrize("client_id", [None, "4711"])
async def test_the_apps_identity_is_asked_for_a_token_for_key_vault(stand_in, vault, keys, monkeypatch, client_id):
    if client_id:
        monkeypatch.setenv("AZURE_CLIENT_ID", client_id)

    await keys.names()

    [asked] = stand_in.gateway.asked
    assert (asked["resource"], asked.get("client_id")) == ("https://vault.azure.net", client_id)


async def test_a_laptop_opens_a_vault_as_whoever_is_signed_in(vault, keys, monkeypatch):
    monkeypatch.delenv("IDENTITY_ENDPOINT")

    keys._client()

    assert type(keys._connected[1]).__name__ == "DefaultAzureCredential"


async def test_closing_an_unused_service_connects_to_nothing(stand_in, vault):
    before = stand_in.requests
    keys = azure_key_vault.open_keys(f"https://{vault.host}", None)

    await keys.close()

    assert stand_in.requests == before
    assert stand_in.gateway.asked == []
