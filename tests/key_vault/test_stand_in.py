"""The stand-in itself: the clients' own view of it, and its life as a process."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.keyvault.keys.crypto import KeyWrapAlgorithm

from plugins.azure_key_vault.connection import connect
from tests.key_vault.vault import Failure

ROOT = Path(__file__).parents[2]
RSA = KeyWrapAlgorithm.rsa_oaep_256


@asynccontextmanager
async def connected(host):
    client, credential = connect(f"https://{host}", None)
    try:
        yield client
    finally:
        await client.close()
        await credential.close()


@pytest.fixture
async def client(vault):
    async with connected(vault.host) as client:
        yield client


async def test_a_first_request_is_sent_without_token_and_without_body(stand_in):
    vault = stand_in.vault("challenger")
    before = stand_in.requests

    async with connected(vault.host) as client:
        await client.create_rsa_key("a")
        await client.get_key("a")

    assert (stand_in.requests - before, len(vault.calls)) == (3, 2)


@pytest.mark.parametrize(
    ("attributes", "wraps", "unwraps"),
    [
        ({}, True, True),
        ({"enabled": False}, True, False),
        ({"exp": 0}, False, True),
        ({"nbf": 4102444800}, False, True),
        ({"ops": ["wrapKey"]}, True, False),
        ({"ops": ["unwrapKey"]}, False, True),
    ],
)
async def test_what_keys_in_which_state_may_do(vault, attributes, wraps, unwraps):
    vault.make("a", {"kty": "RSA"})
    wrapped = vault.answer("wrapKey", "a", "", {"alg": "RSA-OAEP-256", "value": "AAAA"}, {})
    vault.set("a", **attributes)

    assert refusal(vault, "wrapKey", "AAAA") == (None if wraps else 403)
    assert refusal(vault, "unwrapKey", wrapped["value"]) == (None if unwraps else 403)


def refusal(vault, operation, value):
    try:
        vault.answer(operation, "a", "", {"alg": "RSA-OAEP-256", "value": value}, {})
    except Failure as failure:
        return failure.status


async def test_a_deleted_key_is_recovered_with_all_its_versions(client):
    old = await client.create_rsa_key("a")
    wrapped = await client.get_cryptography_client("a", key_version=old.properties.version).wrap_key(RSA, bytes(32))
    await client.rotate_key("a")
    await client.delete_key("a")
    with pytest.raises(ResourceNotFoundError):
        await client.get_key("a")
    with pytest.raises(ResourceExistsError):
        await client.create_rsa_key("a")

    await client.recover_deleted_key("a")

    cryptography = client.get_cryptography_client("a", key_version=old.properties.version)
    assert (await cryptography.unwrap_key(RSA, wrapped.encrypted_key)).key == bytes(32)
    listed = [each.version async for each in client.list_properties_of_key_versions("a")]
    assert (len(listed), old.properties.version in listed) == (2, True)


async def test_an_owner_disables_a_key_over_the_wire(client, vault):
    await client.create_rsa_key("a")

    await client.update_key_properties("a", enabled=False)

    assert vault.keys["a"][-1].enabled is False


async def test_the_body_of_a_failure_has_the_vaults_form(client, vault):
    vault.forbidden.add("get")

    with pytest.raises(HttpResponseError) as caught:
        await client.get_key("a")

    assert (caught.value.error.code, caught.value.error.innererror["code"]) == ("Forbidden", "ForbiddenByRbac")


async def test_other_hosts_are_out_of_reach(stand_in):
    async with connected("contoso.blob.core.windows.net") as client:
        with pytest.raises(AzureError, match="502"):
            await client.get_key("a")


async def test_serves_beside_another_process_until_it_is_ended():
    script = """
import asyncio, os
from plugins.azure_key_vault import open_keys

async def main():
    keys = open_keys(os.environ["SLUICEGATE_KEYS"], None)
    wrapped = await keys.wrap("ret-20260101", bytes(range(32)))
    assert await keys.unwrap(wrapped) == bytes(range(32))
    assert await keys.destroy("ret-20260101")
    await keys.close()

asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.key_vault.server", cwd=ROOT, stdout=subprocess.PIPE
    )
    lines = [(await server.stdout.readline()).decode().strip() for _ in range(5)]
    environment = {**os.environ, **dict(line.split("=", 1) for line in lines)}

    client = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", script, cwd=ROOT, env=environment, stderr=subprocess.PIPE
    )
    _, errors = await client.communicate()
    server.send_signal(signal.SIGTERM)
    await server.communicate()

    assert (client.returncode, errors.decode(), server.returncode) == (0, "", 0)
