"""``plugins/azure_blob.py`` against a real Azurite."""

import asyncio
import re

import pytest

from plugins import azure_blob
from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, StorageUnavailable
from sluicegate.testing import check_storage
from tests.azurite import server


async def test_keeps_the_contract_of_a_blob_store(connection_string):
    await check_storage(lambda: azure_blob.open_storage(connection_string))


class LosingAnswers:
    """A proxy in front of Azurite that passes requests on and loses the answer to the first of each kind asked for."""

    def __init__(self, port, lose):
        self._upstream = port
        self._lose = re.compile(lose)
        self.lost = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.store = azure_blob.open_storage(server.connection_string(port))
        return self

    async def __aexit__(self, *_):
        await self.store.close()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            while head := await self._pass(reader, upstream_writer):
                answer = await read_message(upstream_reader, head)
                if self._lose.match(head) and not self.lost:
                    self.lost += 1
                    return
                writer.write(answer)
                await writer.drain()
        finally:
            for each in (writer, upstream_writer):
                each.close()

    async def _pass(self, reader, upstream):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        upstream.write(head.encode() + await reader.readexactly(length_of(head)))
        await upstream.drain()
        return head


def length_of(head):
    found = re.search(r"(?im)^content-length: *(\d+)", head)
    return int(found[1]) if found else 0


async def read_message(reader, request):
    head = await reader.readuntil(b"\r\n\r\n")
    if request.startswith("HEAD"):
        return head
    if b"chunked" not in head:
        return head + await reader.readexactly(length_of(head.decode()))
    body = b""
    while not body.endswith(b"0\r\n\r\n"):
        body += await reader.readuntil(b"\r\n")
    return head + body


@pytest.mark.parametrize("size", [4, 3 << 20], ids=["small", "large"])
async def test_a_create_whose_answer_is_lost_has_succeeded(azurite_port, blobs, size):
    async with LosingAnswers(azurite_port, "PUT [^ ]*/container/blob ") as proxy:
        await blobs.put("container", "other", b"")
        etag = await proxy.store.put("container", "blob", bytes(size), create=True)

        assert proxy.lost == 1
        assert await blobs.get("container", "blob") == await proxy.store.get("container", "blob")
        assert (await blobs.get("container", "blob")).etag == etag
        with pytest.raises(BlobExists):
            await proxy.store.put("container", "blob", bytes(size), create=True)


async def test_a_conditional_put_whose_answer_is_lost_has_succeeded(azurite_port, blobs):
    old = await blobs.put("container", "blob", b"old")
    async with LosingAnswers(azurite_port, "PUT [^ ]*/container/blob ") as proxy:
        new = await proxy.store.put("container", "blob", b"new", if_match=old)

        assert proxy.lost == 1
        assert (await blobs.get("container", "blob")).etag == new
        with pytest.raises(BlobChanged):
            await proxy.store.put("container", "blob", b"newer", if_match=old)


async def test_a_container_whose_answer_is_lost_is_used(azurite_port, blobs):
    async with LosingAnswers(azurite_port, r"PUT [^ ]*/container\?") as proxy:
        await proxy.store.put("container", "blob", b"data", create=True)

        assert proxy.lost == 1
    assert (await blobs.get("container", "blob")).data == b"data"


async def test_a_container_that_was_dropped_is_made_again(connection_string, blobs):
    other = azure_blob.open_storage(connection_string)
    await blobs.put("container", "blob", b"first")
    await other.drop("container")
    await blobs.put("container", "blob", b"second", create=True)
    await other.close()

    assert (await blobs.get("container", "blob")).data == b"second"


async def test_a_store_that_cannot_be_reached_is_said_without_secrets():
    async with LosingAnswers(1, "") as proxy:
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
