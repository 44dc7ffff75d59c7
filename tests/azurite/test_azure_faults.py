"""Azure storage that throttles, fails, falls silent or loses its answers: nothing is acknowledged that is not durable."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from plugins import local_keys
from sluicegate.errors import StorageUnavailable
from sluicegate.storage.files import Files
from sluicegate.storage.vault import Vault
from sluicegate.testing import MemoryKeys
from tests.azurite.proxy import LOST, RESET, SILENCE, Proxy
from tests.wire.serving import Server

BATCH = r"PUT [^ ]*/ret-\d{8}/"
DAY = r"PUT [^ ]*/ret-\d{8}\?restype=container"
KEYRING = "PUT [^ ]*/keyring"
SEGMENT = "PUT [^ ]*/file-segments/"
HEAD = "PUT [^ ]*/file-heads/"


async def kept(blobs, keys):
    return [record.id async for record in Vault(blobs, keys).store("contoso", "keeper").records()]


async def arriving():
    yield b"content"


@pytest.mark.parametrize("which", [BATCH, DAY, KEYRING])
@pytest.mark.parametrize("fault", [LOST, RESET, 500, 503])
async def test_a_record_whose_writing_meets_one_fault_is_kept_once(azurite_port, blobs, which, fault):
    keys = MemoryKeys()
    async with Proxy(azurite_port, which, fault) as proxy:
        await Vault(proxy.store, keys).store("contoso", "keeper").keep("one", b"content")

        assert proxy.met == 1
    assert await kept(blobs, keys) == ["one"]


@pytest.mark.parametrize(("which", "fault"), [(BATCH, 503), (KEYRING, 503), (BATCH, 429)])
async def test_a_record_is_not_acknowledged_while_storage_fails_and_the_next_one_is_when_it_recovers(
    azurite_port, blobs, which, fault
):
    keys = MemoryKeys()
    async with Proxy(azurite_port, which, fault, times=float("inf")) as proxy:
        store = Vault(proxy.store, keys).store("contoso", "keeper")
        with pytest.raises(StorageUnavailable):
            await store.keep("one", b"content")
        assert await kept(blobs, keys) == []

        proxy.times = 0
        await store.keep("two", b"content")

    assert await kept(blobs, keys) == ["two"]


@pytest.mark.parametrize("which", [SEGMENT, HEAD])
@pytest.mark.parametrize("fault", [LOST, 503])
async def test_a_file_whose_writing_meets_one_fault_is_whole(azurite_port, blobs, which, fault):
    keys = MemoryKeys()
    async with Proxy(azurite_port, which, fault) as proxy:
        await Files(proxy.store, keys).store("contoso", "weights").write("one", arriving())

        assert proxy.met == 1
    opened = await Files(blobs, keys).store("contoso", "weights").open("one")
    assert [piece async for piece in opened.read()] == [b"content"]


@pytest.mark.parametrize("fault", [503, SILENCE])
async def test_no_answer_is_complete_whose_exchange_cannot_be_kept(azurite_port, blobs, tmp_path, fault):
    async with Proxy(azurite_port, BATCH, fault, times=0) as proxy:
        # In threads, because the proxy runs here.
        settings = {"SLUICEGATE_STORAGE": proxy.connection_string}
        server = await asyncio.to_thread(Server, tmp_path / "data", "full", **settings)
        try:
            headers = {"api-key": server.credentials["api_key"]}
            async with httpx.AsyncClient(base_url=server.endpoint, headers=headers, timeout=60) as client:
                before = await say(client)
                proxy.times = float("inf")
                refused, cut = await asyncio.gather(say(client), say(client, stream=True))
                proxy.times = 0
                after = await say(client)
        finally:
            await asyncio.to_thread(server.stop)
    keys = local_keys.open_keys(f"folder:{server.data}/keys")
    kept = [record.id async for record in Vault(blobs, keys).store("default", "keep_encrypted").records()]
    await keys.close()

    assert (before.status_code, after.status_code) == (200, 200)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "plugin_failed")
    assert "good" not in refused.text
    assert '"error"' in cut.text
    assert "[DONE]" not in cut.text
    assert {answer.headers["x-request-id"] for answer in (before, after)} <= set(kept)
    if fault != SILENCE:
        # What was sent into silence may still arrive.
        assert len(kept) == 2


async def say(client, **options):
    body = {"model": "chat", "messages": [{"role": "user", "content": "good morning"}], **options}
    return await client.post("/openai/v1/chat/completions", json=body)
