"""Documents: each guarded by its ETag, listed in pages; and the cache in front of them."""

from __future__ import annotations

import asyncio

import pytest

from sluicegate.errors import BlobChanged, BlobExists
from sluicegate.storage import documents as module
from sluicegate.storage.documents import Cache, Documents
from sluicegate.testing import MemoryStorage


@pytest.fixture
def documents():
    return Documents(MemoryStorage(), "accounts", "thing/")


async def test_a_document_is_made_once_and_replaced_by_who_read_it(documents):
    first = await documents.put("a", {"n": 1}, etag=None)

    with pytest.raises(BlobExists):
        await documents.put("a", {"n": 2}, etag=None)
    second = await documents.put("a", {"n": 2}, etag=first.etag)
    with pytest.raises(BlobChanged):
        await documents.put("a", {"n": 3}, etag=first.etag)
    assert await documents.get("a") == second


async def test_changes_at_the_same_time_are_all_made(documents):
    await asyncio.gather(
        *(documents.change("a", lambda content: {"n": (content or {"n": 0})["n"] + 1}) for _ in range(20))
    )

    found = await documents.get("a")
    assert found is not None
    assert found.content == {"n": 20}


async def test_pages_follow_one_another(documents):
    for number in range(7):
        await documents.put(f"x{number}", {"n": number}, etag=None)
    await documents.put("y", {"n": -1}, etag=None)

    pages, after, more = [], "", True
    while more:
        page, more = await documents.page("x", after=after, limit=3)
        pages.append([document.content["n"] for document in page])
        after = page[-1].name

    assert pages == [[0, 1, 2], [3, 4, 5], [6]]


async def test_what_is_deleted_is_gone_once(documents):
    await documents.put("a", {}, etag=None)

    assert await documents.delete("a")
    assert not await documents.delete("a")
    assert await documents.get("a") is None


async def test_a_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "CACHE_ENTRIES", 2)
    cache: Cache[str] = Cache()
    reads = []

    async def read(key):
        reads.append(key)
        return key

    for key in "abca":
        await cache.get(key, lambda key=key: read(key))

    assert reads == ["a", "b", "c", "a"]
