"""``plugins/azure_blob.py`` against a real Azurite."""

import asyncio
import re

import pytest

from plugins import azure_blob
from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, StorageUnavailable
from sluicegate.testing import check_storage
from tests.azurite.proxy import Proxy


async def test_keeps_the_contract_of_a_blob_store(connection_string):
    await check_storage(lambda: azure_blob.open_storage(connection_string))


@pytest.mark.parametrize("size", [4, 3 << 20], ids=["small", "large"])
async def test_a_create_whose_answer_is_lost_has_succeeded(azurite_port, blobs, size):
    async with Proxy(azurite_port, "PUT [^ ]*/container/blob ") as proxy:
        await blobs.put("container", "other", b"")
        etag = await proxy.store.put("container", "blob", bytes(size), create=True)

        assert proxy.met == 1
        assert await blobs.get("container", "blob") == await proxy.store.get("container", "blob")
        assert (await blobs.get("container", "blob")).etag == etag
        with pytest.raises(BlobExists):
            await proxy.store.put("container", "blob", bytes(size), create=True)


async def test_a_conditional_put_whose_answer_is_lost_has_succeeded(azurite_port, blobs):
    old = await blobs.put("container", "blob", b"old")
    async with Proxy(azurite_port, "PUT [^ ]*/container/blob ") as proxy:
        new = await proxy.store.put("container", "blob", b"new", if_match=old)

        assert proxy.met == 1
        assert (await blobs.get("container", "blob")).etag == new
        with pytest.raises(BlobChanged):
            await proxy.store.put("container", "blob", b"newer", if_match=old)


async def test_a_container_whose_answer_is_lost_is_used(azurite_port, blobs):
    async with Proxy(azurite_port, r"PUT [^ ]*/container\?") as proxy:
        await proxy.store.put("container", "blob", b"data", create=True)

        assert proxy.met == 1
    assert (await blobs.get("container", "blob")).data == b"data"


async def test_a_container_that_was_dropped_is_made_again(connection_string, blobs):
    other = azure_blob.open_storage(connection_string)
    await blobs.put("container", "blob", b"first")
    await other.drop("container")
    await blobs.put("container", "blob", b"second", create=True)
    await other.close()

    assert (await blobs.get("container", "blob")).data == b"second"


async def test_a_store_that_cannot_be_reached_is_said_without_secrets():
    async with Proxy(1, "") as proxy:
        errors = await asyncio.gather(
            proxy.store.put("container", "blob", b""),
            proxy.store.get("container", "blob"),
            proxy.store.delete("container", "blob"),
            proxy.store.drop("container"),
            proxy.store.containers(),
            anext(proxy.store.list("container")),
            return_exceptions=True,
        )

    assert {type(error) for error in errors} == {StorageUnavailable}
    assert all(re.fullmatch(r"blob storage cannot be reached \(\w+\)", str(error)) for error in errors)


async def test_a_wrong_key_is_said_without_what_was_signed(connection_string):
    store = azure_blob.open_storage(re.sub("AccountKey=[^;]+", "AccountKey=AAAA", connection_string))

    with pytest.raises(StorageUnavailable, match=r"^blob storage answered 403 \w+$"):
        await store.get("container", "blob")
    await store.close()


async def test_snapshots_go_with_their_blob(blobs):
    await blobs.put("container", "blob", b"data")
    await blobs._blob("container", "blob").create_snapshot()
    await blobs.delete("container", "blob")

    with pytest.raises(BlobNotFound):
        await blobs.get("container", "blob")
