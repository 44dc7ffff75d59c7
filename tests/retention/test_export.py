import asyncio
import base64
import json

import pytest

from sluicegate.errors import SealBroken
from sluicegate.retention.export import export
from sluicegate.storage.vault import Vault
from sluicegate.store import MAX_BATCH_BYTES
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.types import OfUser
from tests.storage.test_vault import DAY, NEW_YEAR

ALICE, BOB = "a1" * 32, "b0" * 32


@pytest.fixture
def clock():
    return FrozenClock(NEW_YEAR)


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def vault(blobs, clock):
    return Vault(blobs, MemoryKeys(), clock=clock)


async def exported(vault, account="contoso", **options):
    return [json.loads(line) async for chunk in export(vault, account, **options) for line in chunk.splitlines()]


async def test_every_record_of_the_account_is_a_line(vault, clock):
    await vault.store("contoso", "b").keep("one", b'{"text": "\\u00e4\xc3\xa4"}')
    await vault.store("contoso", "a").keep("two", b"[]")
    await vault.store("fabrikam", "a").keep("not", b"[]")
    clock.advance(DAY)
    await vault.store("contoso", "a").keep("three", b"1.10")

    assert await exported(vault) == [
        {"plugin": "a", "day": "20260101", "id": "two", "record": []},
        {"plugin": "a", "day": "20260102", "id": "three", "record": 1.1},
        {"plugin": "b", "day": "20260101", "id": "one", "record": {"text": "ää"}},
    ]


async def test_json_is_passed_on_byte_for_byte(vault):
    await vault.store("contoso", "a").keep("one", b'{"b":1.10,"a":1E400}')

    assert [chunk async for chunk in export(vault, "contoso")] == [
        b'{"day": "20260101", "id": "one", "plugin": "a", "record": {"b":1.10,"a":1E400}}\n'
    ]


@pytest.mark.parametrize(
    "data",
    [b"", b"text", b"\xff", b"{}\n", b"[1,\r2]", b"NaN", '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}", b"[" * 9999],
)
async def test_what_is_not_one_line_of_json_is_exported_in_base64(vault, data):
    await vault.store("contoso", "a").keep("one", data)

    [line] = await exported(vault)
    assert base64.b64decode(line.pop("record_base64")) == data
    assert set(line) == {"plugin", "day", "id"}


async def test_an_end_users_export_holds_theirs_alone(vault):
    for plugin in ("a", "b"):
        store = vault.store("contoso", plugin)
        await asyncio.gather(
            store.keep("alice", b"1", user=ALICE), store.keep("bob", b"2", user=BOB), store.keep("no", b"3")
        )

    assert [(line["plugin"], line["id"]) for line in await exported(vault, user=ALICE)] == [
        ("a", "alice"),
        ("b", "alice"),
    ]


async def test_what_is_deleted_is_not_exported(vault):
    store = vault.store("contoso", "a")
    await asyncio.gather(store.keep("alice", b"1", user=ALICE), store.keep("bob", b"2", user=BOB))
    await store.purge(OfUser(ALICE))

    assert [line["id"] for line in await exported(vault)] == ["bob"]


async def test_lines_come_in_pieces_whatever_there_is(vault):
    store = vault.store("contoso", "a")
    data = json.dumps("x" * 10_000).encode()
    await asyncio.gather(*(store.keep(f"r{number}", data) for number in range(1000)))

    chunks = [chunk async for chunk in export(vault, "contoso")]

    assert max(map(len, chunks)) < MAX_BATCH_BYTES // 8
    assert sum(chunk.count(b"\n") for chunk in chunks) == 1000
    assert all(chunk.endswith(b"\n") for chunk in chunks)


async def test_a_changed_batch_ends_the_export(vault, blobs):
    await vault.store("contoso", "a").keep("one", b"1")
    [blob] = [blob async for blob in blobs.list("ret-20260101")]
    await blobs.put("ret-20260101", blob.name, bytes(blob.size))

    with pytest.raises(SealBroken):
        await exported(vault)


async def test_an_account_without_content_has_an_empty_export(vault):
    assert [chunk async for chunk in export(vault, "contoso")] == []
