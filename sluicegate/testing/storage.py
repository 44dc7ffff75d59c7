"""``check_storage``: does a blob store keep the contract of :class:`sluicegate.services.BlobStore`?

For authors of storage plugins, in the manner of ``trio.testing.check_one_way_stream``::

    async def test_my_store(tmp_path):
        await check_storage(lambda: my_plugin.open_storage(f"mine:{tmp_path}"))

What it cannot check is durability: kill a writer for that, and read the code for its order of flushes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound
from sluicegate.services import Blob, BlobInfo, BlobStore
from sluicegate.testing._expect import expect_equal, expect_raises

WRITERS = 16
BIG = 9 << 20
BAD_CONTAINERS = (
    "",
    "ab",
    "A-container",
    "has_underscore",
    "two--hyphens",
    "-first",
    "last-",
    "a/b",
    "..",
    "x" * 64,
    "new\n",
)
BAD_NAMES = (
    "", ".", "..", "../up", "a/../b", "a//b", "/a", "a/", ".hidden", "_under", "a b", "a\\b", "a\x00b", "naïve", "a\n",
    "dot.", "dot./b", "x" * 201, "/".join(["x" * 200] * 6),
)  # fmt: skip


async def check_storage(open: Callable[[], BlobStore]) -> None:
    """Raise ``AssertionError`` naming the first clause of the contract that does not hold.

    Args:
        open: Returns the store. It is called twice, and both must show the same blobs; containers of other names than
            the checks' own are left alone.
    """
    one, other = open(), open()
    try:
        for check in _CHECKS:
            container = f"check-{secrets.token_hex(8)}"
            try:
                await check(one, other, container)
            finally:
                await one.drop(container)
    finally:
        await one.close()
        await other.close()


async def _reads_what_was_written(one: BlobStore, other: BlobStore, container: str) -> None:
    for data in (b"", b"bytes\x00\xff", bytes(range(256)) * (BIG >> 8)):
        etag = await one.put(container, "a/b.c_d=e@f+g-h", data)
        expect_equal("get returns what put wrote", await other.get(container, "a/b.c_d=e@f+g-h"), Blob(data, etag))


async def _reads_ranges(one: BlobStore, other: BlobStore, container: str) -> None:
    etag = await one.put(container, "blob", b"0123456789")
    for offset, length, data in (
        (0, 3, b"012"),
        (7, 3, b"789"),
        (7, 9, b"789"),
        (4, None, b"456789"),
        (10, 1, b""),
        (99, None, b""),
        (3, 0, b""),
    ):
        found = await other.get(container, "blob", offset=offset, length=length)
        expect_equal(f"get from {offset}, length {length}", found, Blob(data, etag))


async def _missing_things_are_not_found(one: BlobStore, other: BlobStore, container: str) -> None:
    for _ in range(2):
        await expect_raises("get of a missing blob", BlobNotFound, one.get(container, "missing"))
        await expect_raises("delete of a missing blob", BlobNotFound, one.delete(container, "missing"))
        await expect_raises(
            "a conditional delete of a missing blob", BlobNotFound, one.delete(container, "missing", if_match='"0"')
        )
        await expect_raises(
            "a conditional put to a missing blob", BlobChanged, one.put(container, "missing", b"", if_match='"0"')
        )
        expect_equal("a listing of nothing", await _listed(other, container), [])
        await one.put(container, "there", b"")
        await one.delete(container, "there")


async def _a_blob_and_a_folder_may_share_a_name(one: BlobStore, other: BlobStore, container: str) -> None:
    names = ["a", "a-b", "a/b", "a/b/c", "a=b"]
    for name in (*names[::2], *names[1::2]):
        await one.put(container, name, name.encode())
    expect_equal(
        "a listing of a, a/b and a/b/c", await _listed(other, container), [BlobInfo(name, len(name)) for name in names]
    )
    await one.delete(container, "a/b")
    expect_equal("a/b/c after a/b is deleted", (await other.get(container, "a/b/c")).data, b"a/b/c")


async def _create_fails_when_the_name_is_taken(one: BlobStore, other: BlobStore, container: str) -> None:
    await one.put(container, "blob", b"first", create=True)
    for data in (b"second", b"first", bytes(BIG)):
        await expect_raises("a second create", BlobExists, other.put(container, "blob", data, create=True))
    expect_equal("what a refused create leaves", (await one.get(container, "blob")).data, b"first")


async def _one_of_many_creators_wins(one: BlobStore, other: BlobStore, container: str) -> None:
    async def creates(number: int) -> bool:
        try:
            await (one, other)[number % 2].put(container, "deep/down/blob", str(number).encode(), create=True)
        except BlobExists:
            return False
        return True

    results = await asyncio.gather(*map(creates, range(WRITERS)))
    expect_equal("how many of several creators win", results.count(True), 1)
    found = (await one.get(container, "deep/down/blob")).data
    expect_equal("whose bytes are there", found, str(results.index(True)).encode())


async def _every_write_changes_the_etag(one: BlobStore, other: BlobStore, container: str) -> None:
    etags = [await one.put(container, "blob", b"same") for _ in range(8)]
    expect_equal("how many ETags eight writes of the same bytes have", len(set(etags)), 8)
    expect_equal("the ETag that get returns", (await other.get(container, "blob", length=1)).etag, etags[-1])


async def _if_match_guards_writes(one: BlobStore, other: BlobStore, container: str) -> None:
    old = await one.put(container, "blob", b"old")
    new = await other.put(container, "blob", b"new", if_match=old)
    await expect_raises("a put with an old ETag", BlobChanged, one.put(container, "blob", b"lost", if_match=old))
    await expect_raises("a delete with an old ETag", BlobChanged, one.delete(container, "blob", if_match=old))
    expect_equal("what refused writes leave", await one.get(container, "blob"), Blob(b"new", new))
    await one.delete(container, "blob", if_match=new)
    await expect_raises("get after a delete", BlobNotFound, other.get(container, "blob"))


async def _no_conditional_write_is_lost(one: BlobStore, other: BlobStore, container: str) -> None:
    await one.put(container, "count", b"0")

    async def increment(store: BlobStore) -> None:
        while True:
            blob = await store.get(container, "count")
            try:
                await store.put(container, "count", str(int(blob.data) + 1).encode(), if_match=blob.etag)
            except BlobChanged:
                continue
            return

    await asyncio.gather(*(increment((one, other)[number % 2]) for number in range(WRITERS)))
    expect_equal(
        "a counter after concurrent increments", (await one.get(container, "count")).data, str(WRITERS).encode()
    )


async def _lists_in_name_order(one: BlobStore, other: BlobStore, container: str) -> None:
    names = sorted(
        f"{first}/{second}{third}"
        for first in ("a", "a-b", "a.b", "B", "b")
        for second in ("1", "x", "x/y")
        for third in ("", "0", "-0")
    )
    await asyncio.gather(*(one.put(container, name, name.encode()) for name in reversed(names)))
    everything = [BlobInfo(name, len(name)) for name in names]
    expect_equal("a listing", await _listed(other, container), everything)
    for prefix in ("a", "a/", "a/x", "a/x/", "b/x0", "nothing"):
        expected = [blob for blob in everything if blob.name.startswith(prefix)]
        expect_equal(f"a listing of {prefix!r}", await _listed(other, container, prefix), expected)
    for after in ("a", "a/1", "a/x", "a/x/y", "b/1", "b/zzz"):
        expected = [blob for blob in everything if blob.name > after]
        expect_equal(f"a listing after {after!r}", await _listed(other, container, after=after), expected)
    expected = [blob for blob in everything if blob.name.startswith("a/x") and blob.name > "a/x/"]
    expect_equal("a listing of 'a/x' after 'a/x/'", await _listed(other, container, "a/x", after="a/x/"), expected)


async def _containers_are_listed_and_dropped(one: BlobStore, other: BlobStore, container: str) -> None:
    names = [f"{container}-{suffix}" for suffix in ("a", "b")]
    expect_equal("containers before", await other.containers(f"{container}-"), ())
    for name in reversed(names):
        await one.put(name, "deep/blob", b"")
    expect_equal("containers", await other.containers(f"{container}-"), tuple(names))
    await one.delete(names[0], "deep/blob")
    expect_equal("containers, one of them empty", await other.containers(f"{container}-"), tuple(names))
    for name in names:
        expect_equal("drop of a container", await other.drop(name), True)
        expect_equal("drop of a dropped container", await one.drop(name), False)
        await expect_raises("get from a dropped container", BlobNotFound, one.get(name, "deep/blob"))
        expect_equal("a listing of a dropped container", await _listed(one, name), [])
    expect_equal("containers after", await one.containers(f"{container}-"), ())


async def _weaknesses_are_sentences(one: BlobStore, other: BlobStore, container: str) -> None:
    before = await other.containers()
    found = await one.weaknesses()
    if not isinstance(found, tuple) or not all(isinstance(each, str) and each for each in found):
        raise AssertionError(f"weaknesses: expected a tuple of sentences, found {type(found).__name__}")
    expect_equal("weaknesses of another instance", await other.weaknesses(), found)
    expect_equal("containers after weaknesses", await other.containers(), before)


async def _bad_names_are_refused(one: BlobStore, other: BlobStore, container: str) -> None:
    for bad in BAD_CONTAINERS:
        await expect_raises(f"put to container {bad!r}", ValueError, one.put(bad, "blob", b""))
        await expect_raises(f"get from container {bad!r}", ValueError, one.get(bad, "blob"))
        await expect_raises(f"list of container {bad!r}", ValueError, _listed(one, bad))
        await expect_raises(f"drop of container {bad!r}", ValueError, one.drop(bad))
    for bad in BAD_NAMES:
        await expect_raises(f"put of blob {bad!r}", ValueError, one.put(container, bad, b""))
        await expect_raises(f"get of blob {bad!r}", ValueError, one.get(container, bad))
        await expect_raises(f"delete of blob {bad!r}", ValueError, one.delete(container, bad))
    expect_equal("what refused names leave", await _listed(other, container), [])


_CHECKS: tuple[Callable[[BlobStore, BlobStore, str], Awaitable[None]], ...] = (
    _reads_what_was_written,
    _reads_ranges,
    _missing_things_are_not_found,
    _a_blob_and_a_folder_may_share_a_name,
    _create_fails_when_the_name_is_taken,
    _one_of_many_creators_wins,
    _every_write_changes_the_etag,
    _if_match_guards_writes,
    _no_conditional_write_is_lost,
    _lists_in_name_order,
    _containers_are_listed_and_dropped,
    _weaknesses_are_sentences,
    _bad_names_are_refused,
)


async def _listed(store: BlobStore, container: str, prefix: str = "", *, after: str = "") -> list[BlobInfo]:
    return [blob async for blob in store.list(container, prefix, after=after)]
