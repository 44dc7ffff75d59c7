import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from plugins import local_folder
from sluicegate.errors import KeyUnavailable, PurgeIncomplete, SealBroken, StorageUnavailable
from sluicegate.services import WrappedKey
from sluicegate.storage.day_layout import due
from sluicegate.storage.vault import Vault
from sluicegate.store import MAX_BATCH_BYTES, MAX_RECORD_BYTES, Record
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.types import Expired, Purged

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
KEYRING = "keyring-20260101"
CANARY = b"my lucky number is 74093"


class Around:
    """A store that lets a test in before each change: to look, to wait or to fail."""

    def __init__(self, inner, before):
        self._inner = inner
        self._before = before

    async def put(self, container, name, data, **options):
        await self._before("put", container, name)
        return await self._inner.put(container, name, data, **options)

    async def delete(self, container, name, **options):
        await self._before("delete", container, name)
        await self._inner.delete(container, name, **options)

    async def drop(self, container):
        await self._before("drop", container, "")
        return await self._inner.drop(container)

    def __getattr__(self, name):
        return getattr(self._inner, name)


class Gate:
    """Holds up matching changes until it is opened."""

    def __init__(self, *what):
        self._what = what
        self._open = asyncio.Event()
        self._reached = asyncio.Event()

    async def __call__(self, change, container, name):
        if (change, container) == self._what:
            self._reached.set()
            await self._open.wait()

    async def reached(self):
        await self._reached.wait()

    def open(self):
        self._open.set()


@pytest.fixture
def clock():
    return FrozenClock(NEW_YEAR + 12 * HOUR)


@pytest.fixture(params=["memory", "folder"])
async def blobs(request, tmp_path):
    store = MemoryStorage() if request.param == "memory" else local_folder.open_storage(f"folder:{tmp_path}/storage")
    yield store
    await store.close()


@pytest.fixture
def keys():
    return MemoryKeys()


@pytest.fixture
def vault(blobs, keys, clock):
    return Vault(blobs, keys, clock=clock)


@pytest.fixture
def store(vault):
    return vault.store("contoso", "keeper")


async def read(store, day=None):
    return {record.id: record.data async for record in store.records(day)}


async def everything(blobs):
    """Return every blob: {(container, name): bytes}."""
    return {
        (container, blob.name): (await blobs.get(container, blob.name)).data
        for container in await blobs.containers()
        async for blob in blobs.list(container)
    }


async def names(blobs, container):
    return [blob.name async for blob in blobs.list(container)]


async def restore(blobs, backup):
    for (container, name), data in backup.items():
        await blobs.put(container, name, data)


async def test_what_is_kept_is_read_back(store):
    await store.keep("one", b"first")
    await store.keep("two", b"")

    assert [record async for record in store.records()] == [
        Record("one", "20260101", b"first"),
        Record("two", "20260101", b""),
    ]


async def test_another_process_reads_it_back(store, blobs, keys):
    await store.keep("one", b"first")

    assert await read(Vault(blobs, keys).store("contoso", "keeper")) == {"one": b"first"}


async def test_nothing_is_stored_in_plain_text(store, blobs):
    await asyncio.gather(*(store.keep(f"r{number}", CANARY * 10) for number in range(20)))

    stored = b"".join((await everything(blobs)).values())
    assert b"r19" in stored
    assert CANARY not in stored


async def test_records_are_read_by_day_oldest_first(store, clock):
    for number in range(3):
        await store.keep(f"r{number}", b"")
        clock.advance(DAY)

    assert [record.day async for record in store.records()] == ["20260101", "20260102", "20260103"]
    assert await read(store, "20260102") == {"r1": b""}
    assert await read(store, "20260104") == {}


async def test_accounts_and_plugins_do_not_see_each_other(vault):
    places = [("contoso", "keeper"), ("contoso", "keep"), ("contoso2", "keeper"), ("fabrikam", "keeper")]
    for account, plugin in places:
        await vault.store(account, plugin).keep("same", f"{account}/{plugin}".encode())

    for account, plugin in places:
        assert await read(vault.store(account, plugin)) == {"same": f"{account}/{plugin}".encode()}


async def test_a_batch_that_is_moved_to_another_account_does_not_open(vault, store, blobs):
    await store.keep("one", CANARY)
    for (container, name), data in (await everything(blobs)).items():
        await blobs.put(container, name.replace("contoso", "fabrikam"), data)

    with pytest.raises(SealBroken):
        await read(vault.store("fabrikam", "keeper"))


async def test_a_batch_does_not_open_on_another_day(store, blobs):
    await store.keep("one", CANARY)
    for (container, name), data in (await everything(blobs)).items():
        await blobs.put(container.replace("20260101", "20260102"), name.replace("20260101", "20260102"), data)

    with pytest.raises(SealBroken):
        await read(store, "20260102")


async def test_a_batch_does_not_open_under_another_number(store, blobs):
    await store.keep("one", CANARY)
    [name] = await names(blobs, "ret-20260101")
    batch = await blobs.get("ret-20260101", name)
    await blobs.put("ret-20260101", name.replace("/00000001", "/00000002"), batch.data)

    with pytest.raises(SealBroken):
        await read(store)


async def test_a_changed_batch_is_told(store, blobs):
    await store.keep("one", CANARY)
    [name] = await names(blobs, "ret-20260101")
    batch = bytearray((await blobs.get("ret-20260101", name)).data)
    batch[-1] ^= 1
    await blobs.put("ret-20260101", name, bytes(batch))

    with pytest.raises(SealBroken):
        await read(store)


@pytest.mark.parametrize("name", ["contoso/keeper/stray", "contoso/keeper/000000000000000000000000/1"])
async def test_something_that_is_no_batch_is_told(store, blobs, name):
    await blobs.put("ret-20260101", name, b"")

    with pytest.raises(SealBroken):
        await read(store)


async def test_a_wrapped_key_of_the_wrong_length_is_told(store, blobs, keys):
    class Odd(MemoryKeys):
        async def unwrap(self, wrapped: WrappedKey) -> bytes:
            return bytes(16)

    await store.keep("one", b"")

    with pytest.raises(SealBroken):
        await read(Vault(blobs, Odd()).store("contoso", "keeper"))


async def test_keep_returns_only_when_the_record_is_written(blobs, keys, clock):
    gate = Gate("put", "ret-20260101")
    store = Vault(Around(blobs, gate), keys, clock=clock).store("contoso", "keeper")
    keeping = asyncio.create_task(store.keep("one", b"first"))
    await gate.reached()

    assert not keeping.done()
    assert await read(store) == {}
    gate.open()
    await keeping
    assert await read(store) == {"one": b"first"}


async def test_the_wrapped_key_is_written_before_what_it_opens(blobs, keys, clock):
    changes = []

    async def note(change, container, name):
        changes.append((change, container))

    await Vault(Around(blobs, note), keys, clock=clock).store("contoso", "keeper").keep("one", b"")

    assert changes == [("put", KEYRING), ("put", "ret-20260101")]


async def test_no_record_is_written_when_its_key_cannot_be_stored(blobs, keys, clock):
    async def fail(change, container, name):
        if container == KEYRING:
            raise StorageUnavailable("full")

    store = Vault(Around(blobs, fail), keys, clock=clock).store("contoso", "keeper")
    with pytest.raises(StorageUnavailable):
        await store.keep("one", CANARY)

    assert await everything(blobs) == {}


async def test_what_queues_behind_a_write_goes_out_together(blobs, keys, clock):
    gate = Gate("put", "ret-20260101")
    store = Vault(Around(blobs, gate), keys, clock=clock, in_flight=1).store("contoso", "keeper")
    keeping = [asyncio.create_task(store.keep("r0", b"0"))]
    await gate.reached()
    keeping += [asyncio.create_task(store.keep(f"r{number}", b"%d" % number)) for number in range(1, 100)]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*keeping)

    assert len(await names(blobs, "ret-20260101")) == 2
    assert await read(store) == {f"r{number}": b"%d" % number for number in range(100)}


@pytest.mark.parametrize("in_flight", [1, 2, 4])
async def test_no_more_writes_than_allowed_are_in_flight(blobs, keys, clock, in_flight):
    running = 0
    most = 0

    class Slow(MemoryStorage):
        async def put(self, container, name, data, **options):
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(5):
                await asyncio.sleep(0)
            running -= 1
            return await super().put(container, name, data, **options)

    store = Vault(Slow(), keys, clock=clock, in_flight=in_flight).store("contoso", "keeper")

    async def keep_some(writer):
        for number in range(10):
            for _ in range(writer % 7):
                await asyncio.sleep(0)
            await store.keep(f"{writer}-{number}", b"")

    await asyncio.gather(*map(keep_some, range(40)))

    assert most == in_flight
    assert len(await read(store)) == 400


async def test_batches_stay_within_their_size(store, blobs):
    half = MAX_BATCH_BYTES // 2
    sizes = [half + 1, half + 1, 10, MAX_BATCH_BYTES * 2, 10, 10]
    await asyncio.gather(*(store.keep(f"r{number}", bytes(size)) for number, size in enumerate(sizes)))

    stored = [blob.size async for blob in blobs.list("ret-20260101")]
    assert len(stored) == 4
    assert sorted(size > MAX_BATCH_BYTES for size in stored) == [False, False, False, True]
    assert {record: len(data) for record, data in (await read(store)).items()} == {
        f"r{number}": size for number, size in enumerate(sizes)
    }


async def test_many_empty_records_fill_batches_too(store, blobs):
    await asyncio.gather(*(store.keep(f"{'r' * 150}{number}", b"") for number in range(25_000)))

    assert all([blob.size <= MAX_BATCH_BYTES + 4096 async for blob in blobs.list("ret-20260101")])
    assert len(await read(store)) == 25_000


async def test_a_failed_write_fails_every_record_of_its_batch_and_no_other(blobs, keys, clock):
    failing = True

    async def fail(change, container, name):
        if failing and container == "ret-20260101":
            raise StorageUnavailable("full")

    store = Vault(Around(blobs, fail), keys, clock=clock).store("contoso", "keeper")
    results = await asyncio.gather(*(store.keep(f"r{number}", b"") for number in range(5)), return_exceptions=True)
    failing = False
    await store.keep("later", b"")

    assert [type(result) for result in results] == [StorageUnavailable] * 5
    assert await read(store) == {"later": b""}


async def test_a_waiter_that_gives_up_takes_neither_its_record_nor_the_lane_with_it(blobs, keys, clock):
    gate = Gate("put", "ret-20260101")
    store = Vault(Around(blobs, gate), keys, clock=clock, in_flight=1).store("contoso", "keeper")
    first = asyncio.create_task(store.keep("first", b""))
    await gate.reached()
    second, third = (asyncio.create_task(store.keep(name, b"")) for name in ("second", "third"))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    gate.open()
    await third
    await store.keep("fourth", b"")

    assert set(await read(store)) == {"first", "second", "third", "fourth"}


async def test_one_data_key_is_made_however_many_begin_at_once(store, blobs):
    await asyncio.gather(*(store.keep(f"r{number}", bytes(MAX_BATCH_BYTES // 2)) for number in range(8)))

    assert len(await names(blobs, KEYRING)) == 1
    assert len(await names(blobs, "ret-20260101")) > 1


async def test_after_midnight_utc_another_day_and_key_are_used(store, blobs, keys, clock):
    clock.now = NEW_YEAR + DAY - timedelta(microseconds=1)
    await store.keep("old", b"")
    clock.now = NEW_YEAR + DAY
    await store.keep("new", b"")

    assert await read(store, "20260101") == {"old": b""}
    assert await read(store, "20260102") == {"new": b""}
    assert await keys.names() == ("ret-20260101", "ret-20260102")


async def test_what_waits_over_midnight_is_sealed_under_the_new_day(blobs, keys, clock):
    gate = Gate("put", "ret-20260101")
    store = Vault(Around(blobs, gate), keys, clock=clock, in_flight=1).store("contoso", "keeper")
    before = asyncio.create_task(store.keep("before", b""))
    await gate.reached()
    after = asyncio.create_task(store.keep("after", b""))
    await asyncio.sleep(0)
    clock.now = NEW_YEAR + DAY
    gate.open()
    await asyncio.gather(before, after)

    assert await read(store, "20260102") == {"after": b""}


@pytest.mark.parametrize(
    "record", ["", "two words", "a/b", ".hidden", "x" * 201, "naïve", "line\n"], ids=lambda record: record[:10].strip()
)
async def test_a_record_id_that_could_hold_content_is_refused(store, record):
    with pytest.raises(ValueError, match="record's id"):
        await store.keep(record, b"")


async def test_a_record_has_a_largest_size(store):
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_RECORD_BYTES + 1

    with pytest.raises(ValueError, match="at most"):
        await store.keep("huge", Huge())


@pytest.mark.parametrize(
    ("account", "plugin"), [("a/b", "p"), ("a", "p/q"), ("", "p"), ("a", ""), ("..", "p"), ("a", "_private")]
)
def test_a_namespace_is_two_segments(vault, account, plugin):
    with pytest.raises(ValueError, match="name"):
        vault.store(account, plugin)


def test_asking_again_gives_the_same_store(vault, store):
    assert vault.store("contoso", "keeper") is store


async def test_a_day_is_written_yyyymmdd(store):
    for day in ("2026-01-01", "20260101/..", "20261301", ""):
        with pytest.raises(ValueError, match=r"day|unconverted"):
            await read(store, day)


@pytest.mark.parametrize(
    ("days", "moment"),
    [(1, NEW_YEAR + DAY), (2, NEW_YEAR + 2 * DAY - HOUR), (30, NEW_YEAR + 30 * DAY - HOUR)],
    ids=["1", "2", "30"],
)
async def test_a_day_is_purged_when_its_oldest_record_nears_its_end_and_not_before(store, clock, days, moment):
    await store.keep("one", b"first")

    early = await store.purge(Expired(moment - timedelta(microseconds=1)), days=days)
    assert (early, await read(store)) == (Purged(), {"one": b"first"})
    purged = await store.purge(Expired(moment), days=days)
    assert (purged.days, purged.blobs, await read(store)) == (("20260101",), 2, {})
    assert await store.purge(Expired(moment), days=days) == Purged()


async def test_purge_counts_what_it_deletes(store, blobs):
    await store.keep("one", b"first")
    stored = await everything(blobs)

    purged = await store.purge(Expired(NEW_YEAR + 9 * DAY), days=2)

    assert purged == Purged(("20260101",), len(stored), sum(map(len, stored.values())))
    assert await everything(blobs) == {}


async def test_purge_leaves_other_days_accounts_and_plugins_alone(vault, store, clock):
    others = [vault.store("contoso2", "keeper"), vault.store("contoso", "keeper2"), vault.store("fabrikam", "keeper")]
    for each in (store, *others):
        await each.keep("old", b"")
    clock.advance(DAY)
    await store.keep("new", b"")

    await store.purge(Expired(NEW_YEAR + DAY + HOUR), days=1)

    assert await read(store) == {"new": b""}
    assert [await read(other) for other in others] == [{"old": b""}] * 3


async def test_purge_deletes_wrapped_keys_before_what_they_open(blobs, keys, clock):
    changes = []

    async def note(change, container, name):
        changes.append((change, container))

    vault = Vault(Around(blobs, note), keys, clock=clock)
    await vault.store("contoso", "keeper").keep("one", b"")
    changes.clear()
    await vault.store("contoso", "keeper").purge(Expired(NEW_YEAR + 2 * DAY), days=1)

    assert changes == [("delete", KEYRING), ("delete", "ret-20260101")]


async def test_a_purge_that_fails_says_so_and_the_next_one_finishes(blobs, keys, clock):
    failing = True

    async def fail(change, container, name):
        if failing and change == "delete" and container == "ret-20260101":
            raise StorageUnavailable("gone")

    store = Vault(Around(blobs, fail), keys, clock=clock).store("contoso", "keeper")
    await store.keep("one", CANARY)
    with pytest.raises(StorageUnavailable):
        await store.purge(Expired(NEW_YEAR + 2 * DAY), days=1)
    assert await read(store) == {}
    failing = False
    await store.purge(Expired(NEW_YEAR + 2 * DAY), days=1)

    assert await everything(blobs) == {}


@pytest.mark.parametrize("days", [0, -1, 31, 365])
async def test_nothing_can_be_kept_longer_than_the_ceiling(store, days):
    with pytest.raises(ValueError, match="1 to 30"):
        await store.purge(Expired(NEW_YEAR), days=days)


async def test_a_batch_that_is_written_while_its_day_is_purged_is_unreadable_and_goes_with_the_next_purge(
    blobs, keys, clock
):
    gate = Gate("put", "ret-20260101")
    store = Vault(Around(blobs, gate), keys, clock=clock).store("contoso", "keeper")
    clock.now = NEW_YEAR + DAY - timedelta(seconds=1)
    late = asyncio.create_task(store.keep("late", CANARY))
    await gate.reached()
    clock.now = NEW_YEAR + DAY
    await blobs.put("ret-20260101", "contoso/another/000000000000000000000000/00000001", b"")
    await store.keep("today", b"")
    await store.purge(Expired(clock.now), days=1)
    gate.open()
    await late

    assert await read(store) == {"today": b""}
    await store.purge(Expired(clock.now + HOUR), days=1)
    assert [name for name in await names(blobs, "ret-20260101") if "keeper" in name] == []
    assert await read(store) == {"today": b""}


async def test_a_key_that_is_made_while_its_day_is_purged_goes_with_the_next_purge(blobs, keys, clock):
    gate = Gate("put", KEYRING)
    vault = Vault(Around(blobs, gate), keys, clock=clock)
    store = vault.store("contoso", "keeper")
    clock.now = NEW_YEAR + DAY - timedelta(seconds=1)
    late = asyncio.create_task(store.keep("late", CANARY))
    await gate.reached()
    clock.now = NEW_YEAR + DAY
    await store.purge(Expired(clock.now), days=1)
    gate.open()
    await late

    assert await read(store, "20260101") == {}
    assert await read(store, "20260102") == {"late": CANARY}
    await vault.purge_empty(clock.now + 2 * HOUR)
    assert await blobs.containers("keyring-") == ("keyring-20260102",)


async def test_the_ceiling_takes_everything_of_the_day_whatever_plugins_say(vault, blobs, keys, clock):
    for account in ("contoso", "fabrikam"):
        await vault.store(account, "keeper").keep("old", CANARY)
    clock.advance(DAY)
    await vault.store("contoso", "keeper").keep("new", b"")
    moment = NEW_YEAR + 30 * DAY - HOUR

    assert await vault.purge_overdue(moment - timedelta(microseconds=1)) == Purged()
    purged = await vault.purge_overdue(moment)

    assert (purged.days, purged.blobs) == (("20260101",), 4)
    assert await blobs.containers() == ("keyring-20260102", "ret-20260102")
    assert await keys.names() == ("ret-20260102",)
    assert await read(vault.store("contoso", "keeper")) == {"new": b""}
    assert await vault.purge_overdue(moment) == Purged()


async def test_a_backup_of_storage_that_is_put_back_after_the_ceiling_is_unreadable(vault, store, blobs):
    await store.keep("one", CANARY)
    backup = await everything(blobs)
    await vault.purge_overdue(NEW_YEAR + 30 * DAY)
    await restore(blobs, backup)

    assert await read(store) == {}
    assert await vault.overdue(NEW_YEAR + 30 * DAY) == ("20260101",)
    await vault.purge_overdue(NEW_YEAR + 30 * DAY)
    assert await everything(blobs) == {}


async def test_a_writer_with_an_old_day_does_not_bring_its_key_back(vault, store, keys, clock):
    await store.keep("old", b"")
    clock.now = NEW_YEAR + 30 * DAY
    await vault.purge_overdue(clock.now)
    await store.keep("new", b"")

    assert await keys.names() == ("ret-20260131",)
    assert await read(store) == {"new": b""}


async def test_a_writer_that_was_suspended_while_wrapping_does_not_bring_the_key_back(blobs, clock):
    class Suspended(MemoryKeys):
        async def wrap(self, name, secret):
            if name == "ret-20260101":
                clock.now = NEW_YEAR + 30 * DAY
                await vault.purge_overdue(clock.now)
            return await super().wrap(name, secret)

    keys = Suspended()
    vault = Vault(blobs, keys, clock=clock)
    await vault.store("contoso", "keeper").keep("late", b"")

    assert await keys.names() == ("ret-20260131",)
    assert await blobs.containers("keyring-") == ("keyring-20260131",)
    assert await read(vault.store("contoso", "keeper")) == {"late": b""}


async def test_the_key_is_destroyed_first(blobs, keys, clock):
    changes = []

    async def note(change, container, name):
        changes.append((change, container, await keys.names()))

    vault = Vault(Around(blobs, note), keys, clock=clock)
    await vault.store("contoso", "keeper").keep("one", b"")
    changes.clear()
    await vault.purge_overdue(NEW_YEAR + 30 * DAY)

    assert changes == [("drop", KEYRING, ()), ("drop", "ret-20260101", ())]


@pytest.mark.parametrize("after", range(4))
async def test_the_ceiling_may_be_interrupted_anywhere_and_run_again(blobs, keys, clock, after):
    left = None

    async def interrupt(change, container, name):
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                raise StorageUnavailable("interrupted")

    vault = Vault(Around(blobs, interrupt), keys, clock=clock)
    for _ in range(2):
        for account in ("contoso", "fabrikam"):
            await vault.store(account, "keeper").keep("one", CANARY)
        clock.advance(DAY)
    left = after
    now = NEW_YEAR + 40 * DAY
    with pytest.raises(PurgeIncomplete, match="20260102: StorageUnavailable"):
        await vault.purge_overdue(now)
    assert await keys.names() == ()
    left = None
    await vault.purge_overdue(now)

    assert await everything(blobs) == {}
    assert await blobs.containers("ret-") == ()
    assert await vault.overdue(now) == ()


async def test_a_key_that_is_not_proven_gone_is_reported_and_the_rest_still_goes(blobs, clock):
    class Protected(MemoryKeys):
        async def destroy(self, name):
            return False

    keys = Protected()
    vault = Vault(blobs, keys, clock=clock)
    await vault.store("contoso", "keeper").keep("one", CANARY)

    with pytest.raises(PurgeIncomplete, match="20260101: key ret-20260101"):
        await vault.purge_overdue(NEW_YEAR + 30 * DAY)
    assert await everything(blobs) == {}
    assert await vault.overdue(NEW_YEAR + 30 * DAY) == ("20260101",)


async def test_a_key_that_could_be_recovered_is_reported(blobs, clock):
    class Recoverable(MemoryKeys):
        async def destroy(self, name):
            return not await super().destroy(name)

    vault = Vault(blobs, Recoverable(), clock=clock)
    await vault.store("contoso", "keeper").keep("one", CANARY)

    with pytest.raises(PurgeIncomplete, match="20260101: key ret-20260101"):
        await vault.purge_overdue(NEW_YEAR + 30 * DAY)


async def test_a_key_service_that_cannot_be_reached_does_not_keep_the_ciphertext(blobs, clock):
    class Unreachable(MemoryKeys):
        async def destroy(self, name):
            raise KeyUnavailable("no route")

    vault = Vault(blobs, Unreachable(), clock=clock)
    await vault.store("contoso", "keeper").keep("one", CANARY)

    with pytest.raises(PurgeIncomplete, match="20260101: key ret-20260101"):
        await vault.purge_overdue(NEW_YEAR + 30 * DAY)
    assert await everything(blobs) == {}


async def test_a_key_that_claims_to_be_gone_is_looked_for(blobs, clock):
    class Liar(MemoryKeys):
        async def destroy(self, name):
            return True

    vault = Vault(blobs, Liar(), clock=clock)
    await vault.store("contoso", "keeper").keep("one", CANARY)

    with pytest.raises(PurgeIncomplete, match="20260101: key ret-20260101"):
        await vault.purge_overdue(NEW_YEAR + 30 * DAY)


@pytest.mark.parametrize("left", [KEYRING, "ret-20260101"])
async def test_what_storage_claims_to_have_deleted_is_looked_for(keys, clock, left):
    class Liar(MemoryStorage):
        async def drop(self, container):
            return container == left or await super().drop(container)

    vault = Vault(Liar(), keys, clock=clock)
    await vault.store("contoso", "keeper").keep("one", CANARY)

    with pytest.raises(PurgeIncomplete, match=f"20260101: container {left}"):
        await vault.purge_overdue(NEW_YEAR + 30 * DAY)


async def test_one_day_that_cannot_be_purged_does_not_stop_the_others(blobs, keys, clock):
    async def fail(change, container, name):
        if (change, container) == ("drop", "ret-20260101"):
            raise StorageUnavailable("stuck")

    vault = Vault(Around(blobs, fail), keys, clock=clock)
    for _ in range(3):
        await vault.store("contoso", "keeper").keep("one", CANARY)
        clock.advance(DAY)

    with pytest.raises(PurgeIncomplete) as caught:
        await vault.purge_overdue(NEW_YEAR + 40 * DAY)
    assert caught.value.left == ("20260101: StorageUnavailable",)
    assert await blobs.containers("ret-") == ("ret-20260101",)
    assert await keys.names() == ()


@pytest.mark.parametrize("rest", ["key", "ring", "container"])
async def test_a_day_is_overdue_while_anything_of_it_is_left(vault, store, blobs, keys, rest):
    if rest == "key":
        await keys.create("ret-20260101")
    elif rest == "ring":
        await blobs.put(KEYRING, "contoso/keeper/0", b"")
    else:
        await blobs.put("ret-20260101", "x", b"")
        await blobs.delete("ret-20260101", "x")
    end = NEW_YEAR + 30 * DAY

    assert await vault.overdue(end - timedelta(microseconds=1)) == ()
    assert await vault.overdue(end) == ("20260101",)
    assert (await vault.purge_overdue(end)).days == ("20260101",)
    assert await vault.overdue(end) == ()


async def test_names_that_are_not_days_do_not_keep_others_from_being_purged(vault, store, blobs, keys):
    await store.keep("one", CANARY)
    for name in ("ret-0", "ret-20269999", "ret-backup", "retained"):
        await blobs.put(name, "x", b"")
        await keys.create(name)
    for name in ("keyring-0", "keyring-20269999", "keyring-backup", "keyrings"):
        await blobs.put(name, "x", b"")

    purged = await vault.purge_overdue(NEW_YEAR + 30 * DAY)

    assert purged.days == ("20260101",)
    assert await vault.overdue(NEW_YEAR + 99 * DAY) == ()


async def test_a_past_day_of_which_nobody_has_anything_left_loses_its_key_and_container(
    vault, store, blobs, keys, clock
):
    other = vault.store("fabrikam", "keeper")
    await store.keep("one", b"")
    await other.keep("one", b"")
    later = NEW_YEAR + 2 * DAY
    await store.purge(Expired(later), days=1)

    assert await vault.purge_empty(later) == Purged()
    assert await read(other) == {"one": b""}
    await other.purge(Expired(later), days=1)
    assert (await vault.purge_empty(later)).days == ("20260101",)
    assert (await blobs.containers("ret-"), await keys.names()) == ((), ())


async def test_a_day_that_has_just_ended_is_left_to_its_last_writers(vault, blobs, keys):
    await keys.create("ret-20260101")

    assert await vault.purge_empty(NEW_YEAR + DAY + HOUR - timedelta(microseconds=1)) == Purged()
    assert (await vault.purge_empty(NEW_YEAR + DAY + HOUR)).days == ("20260101",)


async def test_today_and_tomorrow_are_never_empty_enough_to_go(vault, keys, clock):
    await keys.create("ret-20260101")
    await keys.create("ret-20260102")

    assert await vault.purge_empty(clock.now) == Purged()


async def test_a_record_whose_wrapped_key_is_gone_is_left_out(store, blobs):
    await store.keep("one", CANARY)
    for name in await names(blobs, KEYRING):
        await blobs.delete(KEYRING, name)

    assert await read(store) == {}


async def test_what_is_purged_while_it_is_read_is_left_out(store, blobs):
    for number in range(40):
        await store.keep(str(number), b"")
    found = []
    async for record in store.records():
        found.append(record.id)
        for name in await names(blobs, "ret-20260101"):
            await blobs.delete("ret-20260101", name)

    # What was read together with the first.
    assert found == [str(number) for number in range(16)]


async def test_a_purged_day_is_forgotten_in_memory_too(vault, store, blobs, clock):
    await store.keep("one", b"")
    await vault.purge_overdue(NEW_YEAR + 30 * DAY)
    await store.keep("again", b"")

    assert len(await names(blobs, KEYRING)) == 1
    assert await read(store) == {"again": b""}


def test_due_is_an_hour_before_and_never_before_the_day_has_ended():
    assert [due("20260101", days) for days in (1, 2, 30)] == [
        NEW_YEAR + DAY,
        NEW_YEAR + 2 * DAY - HOUR,
        NEW_YEAR + 30 * DAY - HOUR,
    ]


async def test_names_of_blobs_say_nothing_of_their_content(store, blobs):
    await store.keep("one", CANARY)

    digest = hashlib.sha256(CANARY).hexdigest()
    assert not any(digest[:8] in name for _, name in await everything(blobs))
