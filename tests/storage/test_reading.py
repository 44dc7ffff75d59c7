import asyncio

import pytest

from sluicegate.errors import SealBroken
from sluicegate.storage.vault import Vault
from sluicegate.store import Record
from sluicegate.testing import MemoryStorage
from sluicegate.types import OfRecord, OfUser
from tests.storage.test_vault import DAY, KEYRING, blobs, clock, keys, names, store, vault

FIXTURES = blobs, clock, keys, store, vault
ALICE, BOB = "a1" * 32, "b0" * 32


class Counting(MemoryStorage):
    """Counts the bytes that are read of each container."""

    def __init__(self):
        super().__init__()
        self.read = {}

    async def get(self, container, name, **options):
        blob = await super().get(container, name, **options)
        self.read[container] = self.read.get(container, 0) + len(blob.data)
        return blob


async def keep_some(vault, clock, *, days=3, batches=3, records=3):
    for day in range(days):
        for batch in range(batches):
            kept = (f"r{day}{batch}{number}" for number in range(records))
            await asyncio.gather(
                *(
                    vault.store("contoso", "keeper").keep(each, each.encode(), user=(ALICE, BOB)[batch % 2])
                    for each in kept
                )
            )
        clock.advance(DAY)


async def listed(store, **options):
    return [record async for record in store.records(**options)]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 26, 27, 28])
@pytest.mark.parametrize("user", [None, ALICE])
@pytest.mark.parametrize("day", [None, "20260102"])
async def test_pages_make_the_whole(blobs, keys, clock, limit, user, day):
    await keep_some(Vault(blobs, keys, clock=clock), clock)
    await keep_some(Vault(blobs, keys, clock=clock), clock, days=1)
    store = Vault(blobs, keys, clock=clock).store("contoso", "keeper")
    whole = await listed(store, user=user, day=day)
    assert len(whole) == {(None, None): 36, (None, ALICE): 24, ("20260102", None): 9, ("20260102", ALICE): 6}[day, user]

    pages = [await listed(store, user=user, day=day, limit=limit)]
    while len(pages[-1]) == limit:
        pages.append(await listed(store, user=user, day=day, limit=limit, after=pages[-1][-1].cursor))

    assert [record.id for page in pages for record in page] == [record.id for record in whole]


async def test_a_page_goes_on_where_another_ended_though_its_record_is_deleted(vault, store, clock):
    await keep_some(vault, clock, days=1)
    whole = await listed(store)

    for place, record in enumerate(whole):
        await store.purge(OfRecord(record.id))
        assert await listed(store, after=record.cursor) == whole[place + 1 :]


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_page_of_nothing_is_empty(vault, store, clock, limit):
    await keep_some(vault, clock, days=1)

    assert await listed(store, limit=limit) == []


@pytest.mark.parametrize("after", ["", "20260101", "20260101/x/00000001/0", "../up", "20260101/" + "0" * 24 + "/1/0"])
async def test_only_a_cursor_goes_on(store, after):
    with pytest.raises(ValueError, match="cursor"):
        await listed(store, after=after)


@pytest.mark.parametrize("day", [None, "20260102"])
async def test_a_record_is_found_by_its_id(vault, store, clock, day):
    await keep_some(vault, clock)

    assert await store.get("r112", day=day) == Record("r112", "20260102", b"r112")
    assert await store.get("r012", day=day) == (None if day else Record("r012", "20260101", b"r012"))
    assert await store.get("r9", day=day) is None


async def test_another_account_does_not_find_it(vault, clock):
    await keep_some(vault, clock, days=1)

    for place in (("contoso", "keep"), ("fabrikam", "keeper")):
        assert await vault.store(*place).get("r000") is None
        assert await listed(vault.store(*place), user=ALICE) == []


@pytest.mark.parametrize("day", ["today", "2026-01-01", "202601011"])
async def test_a_day_that_is_none_is_refused(store, day):
    for call in (store.get("one", day=day), anext(store.records(day))):
        with pytest.raises(ValueError, match="a day is written"):
            await call


async def test_batches_without_the_wanted_records_are_not_opened(keys, clock):
    blobs = Counting()
    store = Vault(blobs, keys, clock=clock).store("contoso", "keeper")
    for number in range(4):
        await store.keep(f"r{number}", bytes(1 << 20), user=(ALICE, BOB)[number == 2])
    blobs.read.clear()

    assert len(await listed(store, user=BOB)) == 1
    assert blobs.read["ret-20260101"] < 1.5 * (1 << 20)
    blobs.read.clear()
    assert await store.get("r3") is not None
    assert blobs.read["ret-20260101"] < 1.5 * (1 << 20)


async def test_nothing_of_another_users_is_unwrapped(vault, store, blobs):
    await store.keep("one", b"", user=ALICE)
    for name in await names(blobs, KEYRING):
        await blobs.put(KEYRING, name, b"rubbish")

    assert await listed(store, user=BOB) == []
    with pytest.raises(SealBroken):
        await listed(store, user=ALICE)


async def test_headers_of_any_length_are_read(store):
    await asyncio.gather(*(store.keep(f"{'r' * 190}{number}", b"", user=ALICE) for number in range(2000)))

    assert (await store.get(f"{'r' * 190}1999")) is not None
    assert len(await listed(store, user=ALICE)) == 2000


async def test_a_batch_that_shrinks_while_it_is_searched_is_read_again(blobs, keys, clock):
    class Shrinking:
        """Deletes a user's record between the listing of a batch and the reading of it."""

        def __getattr__(self, name):
            return getattr(blobs, name)

        async def get(self, container, name, **options):
            if options and container == "ret-20260101":
                await Vault(blobs, keys, clock=clock).store("contoso", "keeper").purge(OfUser(ALICE))
            return await blobs.get(container, name, **options)

    store = Vault(blobs, keys, clock=clock).store("contoso", "keeper")
    await asyncio.gather(store.keep("alice", b"1", user=ALICE), store.keep("bob", b"2", user=BOB))
    slow = Vault(Shrinking(), keys, clock=clock).store("contoso", "keeper")

    assert await slow.get("bob") == Record("bob", "20260101", b"2")
    assert await slow.get("alice") is None


async def test_small_batches_are_read_together_and_large_ones_alone(keys, clock):
    class Watching(MemoryStorage):
        """Counts what is read at the same time, and the looks for deletions."""

        def __init__(self):
            super().__init__()
            self.reading = self.most = self.looks = 0

        async def get(self, container, name, **options):
            if container == KEYRING:
                return await super().get(container, name, **options)
            self.reading += 1
            await asyncio.sleep(0)
            self.most = max(self.most, self.reading)
            self.reading -= 1
            return await super().get(container, name, **options)

        def list(self, container, prefix="", **options):
            self.looks += prefix.endswith("/deletions/")
            return super().list(container, prefix, **options)

    for size, most, looks in ((10, 16, 3), (1 << 20, 3, 10), (5 << 20, 1, 30)):
        blobs = Watching()
        store = Vault(blobs, keys, clock=clock).store("contoso", "keeper")
        for number in range(30):
            await store.keep(str(number), bytes(size))
        blobs.most = blobs.looks = 0

        assert len(await listed(store)) == 30
        assert blobs.most == most
        assert blobs.looks <= looks
