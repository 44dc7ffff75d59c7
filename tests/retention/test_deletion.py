"""Deletion by record, by end user and by account: at once for readers, physical in the store, whatever is interrupted."""

import asyncio
import hashlib
from datetime import timedelta

import pytest

from sluicegate.errors import PurgeIncomplete, SealBroken, StorageUnavailable
from sluicegate.storage.day_layout import PENDING
from sluicegate.storage.vault import Vault
from sluicegate.testing import MemoryStorage
from sluicegate.types import Expired, OfAccount, OfRecord, OfUser, Purged
from tests.storage.test_vault import (
    CANARY,
    DAY,
    HOUR,
    KEYRING,
    NEW_YEAR,
    Around,
    Gate,
    blobs,
    clock,
    everything,
    keys,
    names,
    read,
)

FIXTURES = blobs, clock, keys

ALICE, BOB = "a1" * 32, "b0" * 32
SCOPES = [OfRecord("alice"), OfUser(ALICE), OfAccount()]
KEPT = {"alice": ALICE, "bob": BOB, "nobody": None}


@pytest.fixture
def store(blobs, keys, clock):
    return Vault(blobs, keys, clock=clock).store("contoso", "keeper")


@pytest.fixture
def elsewhere(blobs, keys, clock):
    """The same store in another process."""
    return Vault(blobs, keys, clock=clock).store("contoso", "keeper")


async def keep_all(*stores):
    """Keep a record of Alice's, one of Bob's and one of nobody's in each, in one batch a store."""
    for store in stores:
        gathered = (store.keep(record, CANARY, user=user) for record, user in KEPT.items())
        await asyncio.gather(*gathered)


def rest(scope):
    return {} if scope == OfAccount() else {"bob": CANARY, "nobody": CANARY}


async def batches_of(blobs, day="20260101"):
    return [name for name in await names(blobs, f"ret-{day}") if "/deletions/" not in name]


@pytest.mark.parametrize("scope", SCOPES)
async def test_what_is_deleted_is_gone_for_readers_in_every_process_and_the_rest_stays(store, elsewhere, scope):
    await keep_all(store)

    await store.purge(scope)

    assert (await read(store), await read(elsewhere)) == (rest(scope), rest(scope))
    assert await elsewhere.get("alice") is None


@pytest.mark.parametrize("scope", SCOPES)
async def test_what_is_deleted_is_gone_from_storage_too(store, blobs, scope):
    await keep_all(store)
    before = await everything(blobs)

    purged = await store.purge(scope)

    after = await everything(blobs)
    batches = [data for (container, name), data in after.items() if container == "ret-20260101" and "/del" not in name]
    frame = 12 + len(CANARY) + 16
    if scope == OfAccount():
        assert (batches, [name for container, name in after if container == KEYRING]) == ([], [])
        assert purged.blobs == 2
    else:
        [batch] = batches
        [original] = [data for (container, _), data in before.items() if container == "ret-20260101"]
        assert (batch[-2 * frame :], b'"alice"' in batch) == (original[-2 * frame :], False)
        assert (purged.blobs, purged.records, purged.bytes) == (0, 1, frame)
    assert len(purged.evidence) == 64


@pytest.mark.parametrize("scope", SCOPES)
async def test_deleting_again_finds_nothing_to_do(store, scope):
    await keep_all(store)
    await store.purge(scope)

    again = await store.purge(scope)

    assert (again, again.evidence) == (Purged(), "")
    assert await read(store) == rest(scope)


@pytest.mark.parametrize("scope", SCOPES)
async def test_every_day_is_searched(store, elsewhere, blobs, clock, scope):
    for _ in range(3):
        await keep_all(store)
        clock.advance(DAY)

    await store.purge(scope)

    found = [(record.day, record.id) async for record in elsewhere.records()]
    assert found == [(f"2026010{day}", record) for day in (1, 2, 3) for record in rest(scope)]
    assert all(
        b'"alice"' not in data for (container, name), data in (await everything(blobs)).items() if "/del" not in name
    )


async def test_the_last_record_of_a_batch_takes_the_batch_with_it(store, blobs):
    await store.keep("alice", CANARY, user=ALICE)
    [name] = await batches_of(blobs)
    [size] = [blob.size async for blob in blobs.list("ret-20260101")]

    purged = await store.purge(OfUser(ALICE))

    assert await batches_of(blobs) == []
    evidence = hashlib.sha256(f"ret-20260101/{name}\n".encode()).hexdigest()
    assert (purged, purged.evidence) == (Purged((), 1, size, 1), evidence)


@pytest.mark.parametrize("scope", SCOPES)
async def test_other_accounts_and_plugins_keep_every_byte(blobs, keys, clock, scope):
    vault = Vault(blobs, keys, clock=clock)
    places = [("contoso", "keepers"), ("contoso", "keep"), ("contoso2", "keeper"), ("fabrikam", "keeper")]
    await keep_all(vault.store("contoso", "keeper"), *(vault.store(*place) for place in places))
    theirs = {key: data for key, data in (await everything(blobs)).items() if "contoso/keeper/" not in key[1]}

    await vault.store("contoso", "keeper").purge(scope)

    after = await everything(blobs)
    assert {key: after.get(key) for key in theirs} == theirs
    for place in places:
        assert set(await read(vault.store(*place))) == set(KEPT)


@pytest.mark.parametrize("scope", SCOPES)
async def test_nobody_reads_it_from_the_moment_that_the_deletion_is_recorded(blobs, keys, clock, elsewhere, scope):
    seen = []

    async def look(change, container, name):
        if recorded:
            seen.append(await read(elsewhere))
        if "/deletions/" in name:
            recorded.append(name)

    recorded = []
    store = Vault(Around(blobs, look), keys, clock=clock).store("contoso", "keeper")
    await keep_all(store)
    await store.purge(scope)

    assert seen
    assert all(each == rest(scope) for each in seen)


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_batch_that_another_process_is_writing_is_never_shown_and_is_removed(blobs, keys, clock, store, scope):
    gate = Gate("put", "ret-20260101")
    other = Vault(Around(blobs, gate), keys, clock=clock)
    late = asyncio.create_task(keep_all(other.store("contoso", "keeper")))
    await gate.reached()
    await store.purge(scope)
    gate.open()
    await late

    assert await read(store) == rest(scope)
    assert await batches_of(blobs) != []
    removed = await other.finish_deletions(clock.now)
    assert (removed.blobs, removed.records) == ((1, 0) if scope == OfAccount() else (0, 1))
    assert await read(store) == rest(scope)
    stored = await everything(blobs)
    assert all(b'"alice"' not in stored["ret-20260101", name] for name in await batches_of(blobs))


async def test_a_key_that_another_process_is_making_does_not_save_its_batch_from_an_accounts_deletion(
    blobs, keys, clock, store
):
    gate = Gate("put", KEYRING)
    other = Vault(Around(blobs, gate), keys, clock=clock)
    late = asyncio.create_task(keep_all(other.store("contoso", "keeper")))
    await gate.reached()
    await store.purge(OfAccount())
    gate.open()
    await late

    assert await read(store) == {}
    await other.finish_deletions(clock.now)
    assert await batches_of(blobs) == []


@pytest.mark.parametrize("scope", SCOPES[1:])
async def test_what_is_kept_after_a_deletion_stays(store, elsewhere, scope):
    await keep_all(store)
    await store.purge(scope)
    await store.keep("alice2", CANARY, user=ALICE)

    assert await read(elsewhere) == {**rest(scope), "alice2": CANARY}
    await store.finish_deletions("20260101")
    assert await read(elsewhere) == {**rest(scope), "alice2": CANARY}


@pytest.mark.parametrize("scope", SCOPES[1:])
async def test_another_process_knows_of_a_deletion_within_30_seconds(store, elsewhere, clock, scope):
    await keep_all(elsewhere)
    await store.purge(scope)
    clock.advance(timedelta(seconds=30))
    await elsewhere.keep("alice2", CANARY, user=ALICE)

    assert await read(store) == {**rest(scope), "alice2": CANARY}
    await store.finish_deletions("20260101")
    assert await read(store) == {**rest(scope), "alice2": CANARY}


async def test_a_record_that_was_deleted_stays_deleted_under_its_id(store, elsewhere):
    await keep_all(store)
    await store.purge(OfRecord("alice"))
    await store.keep("alice", CANARY, user=ALICE)

    assert await elsewhere.get("alice") is None


async def test_a_record_is_deleted_before_it_is_written(store, elsewhere):
    await store.purge(OfRecord("alice"))
    await keep_all(elsewhere)

    assert await read(store) == rest(OfRecord("alice"))


@pytest.mark.parametrize("at", [NEW_YEAR + DAY - timedelta(minutes=5), NEW_YEAR + DAY + timedelta(minutes=5)])
@pytest.mark.parametrize("scope", SCOPES)
async def test_a_writer_on_the_other_side_of_midnight_is_caught(blobs, keys, clock, at, scope):
    clock.now = at
    store = Vault(blobs, keys, clock=clock).store("contoso", "keeper")
    skew = timedelta(minutes=10) if at < NEW_YEAR + DAY else -timedelta(minutes=10)
    gate = Gate("put", "ret-20260102" if skew > timedelta() else "ret-20260101")
    late = asyncio.create_task(
        keep_all(Vault(Around(blobs, gate), keys, clock=lambda: at + skew).store("contoso", "keeper"))
    )
    await gate.reached()
    await store.purge(scope)
    gate.open()
    await late

    assert await read(store) == rest(scope)


async def test_leap_days_are_days(blobs, keys, clock):
    clock.now = NEW_YEAR.replace(year=2028, month=2, day=28, hour=23, minute=30)
    store = Vault(blobs, keys, clock=clock).store("contoso", "keeper")
    for _ in range(3):
        await keep_all(store)
        clock.advance(DAY)
    await store.purge(OfUser(ALICE))

    found = {(record.day, record.id) async for record in store.records()}
    assert found == {(day, who) for day in ("20280228", "20280229", "20280301") for who in ("bob", "nobody")}


class Interrupted(Exception):
    """The process died."""


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_deletion_may_be_interrupted_at_any_change_and_run_again(keys, clock, scope):
    for step in range(100):
        blobs = MemoryStorage()
        left = None

        async def interrupt(change, container, name):
            nonlocal left
            if left is not None:
                if left == 0:
                    raise Interrupted
                left -= 1

        vault = Vault(Around(blobs, interrupt), keys, clock=clock)
        clock.now = NEW_YEAR + 12 * HOUR
        for _ in range(2):
            for _ in range(2):
                await keep_all(vault.store("contoso", "keeper"))
            clock.advance(DAY)
        shown = {(record.cursor, record.id) async for record in vault.store("contoso", "keeper").records()}
        left = step
        interrupted = False
        try:
            await vault.store("contoso", "keeper").purge(scope)
        except Interrupted:
            interrupted = True
        left = None
        after = Vault(blobs, keys, clock=clock)
        store = after.store("contoso", "keeper")
        now = {(record.cursor, record.id) async for record in store.records()}
        assert now <= shown
        assert {record for _, record in now} >= set(rest(scope))
        await after.finish_deletions(clock.now)
        assert {(record.cursor, record.id) async for record in store.records()} == now
        await store.purge(scope)
        assert set(await read(store)) == set(rest(scope))
        stored = await everything(blobs)
        assert all(b'"alice"' not in data for (_, name), data in stored.items() if "/deletions/" not in name)
        await Vault(blobs, keys, clock=clock).store("contoso", "keeper").keep("again", b"", user=ALICE)
        assert set(await read(store)) == {*rest(scope), "again"}
        if not interrupted:
            break

    assert step > 5


async def test_what_an_interrupted_deletion_left_is_removed_by_the_timer(blobs, keys, clock):
    async def fail(change, container, name):
        if failing and change in ("put", "delete") and container != PENDING and "/deletions/" not in name:
            raise StorageUnavailable("gone")

    failing = False
    vault = Vault(Around(blobs, fail), keys, clock=clock)
    await keep_all(vault.store("contoso", "keeper"))
    failing = True
    with pytest.raises(StorageUnavailable):
        await vault.store("contoso", "keeper").purge(OfAccount())
    failing = False
    clock.advance(5 * DAY)

    await vault.finish_deletions(clock.now)

    assert await batches_of(blobs) == []
    assert await names(blobs, KEYRING) == []
    assert await names(blobs, PENDING) == []


async def test_a_day_is_looked_after_until_nobody_writes_to_it_any_more(store, blobs, keys, clock):
    vault = Vault(blobs, keys, clock=clock)
    await keep_all(store)
    await store.purge(OfUser(ALICE))

    for now, pending in ((NEW_YEAR + DAY + HOUR - timedelta(microseconds=1), True), (NEW_YEAR + DAY + HOUR, False)):
        await vault.finish_deletions(now)
        assert bool(await names(blobs, PENDING)) is pending


async def test_a_day_of_which_only_deletions_are_left_goes_with_its_key(store, blobs, keys, clock):
    vault = Vault(blobs, keys, clock=clock)
    await keep_all(store)
    await store.purge(OfAccount())
    await vault.purge_empty(NEW_YEAR + DAY + HOUR)

    assert (await everything(blobs), await keys.names()) == ({}, ())


async def test_what_deletions_hide_is_purged_before_them(blobs, keys, clock):
    changes = []

    async def note(change, container, name):
        changes.append((change, container, "/deletions/" in name))

    store = Vault(Around(blobs, note), keys, clock=clock).store("contoso", "keeper")
    await keep_all(store, store)
    await store.purge(OfUser(ALICE))
    changes.clear()
    await store.purge(Expired(NEW_YEAR + 2 * DAY), days=1)

    assert changes[-1] == ("delete", "ret-20260101", True)
    assert changes.count(changes[-1]) == 1


@pytest.mark.parametrize("scope", SCOPES[:2])
async def test_a_batch_that_cannot_be_read_is_reported_and_the_rest_goes(store, blobs, scope):
    await keep_all(store)
    await blobs.put("ret-20260101", "contoso/keeper/000000000000000000000000/00000001", b"rubbish")

    with pytest.raises(PurgeIncomplete, match="20260101: 1 batches of contoso/keeper/ that cannot be read"):
        await store.purge(scope)
    for name in (await batches_of(blobs))[1:]:
        assert b'"alice"' not in (await blobs.get("ret-20260101", name)).data


async def test_a_deletion_that_cannot_be_read_hides_everything(store, elsewhere, blobs):
    await keep_all(store)
    await blobs.put("ret-20260101", "contoso/keeper/deletions/00000001", b"rubbish")

    with pytest.raises(SealBroken):
        await read(elsewhere)


async def test_two_deletions_in_one_batch_take_both(blobs, keys, clock, store):
    await keep_all(store)
    others = [Vault(blobs, keys, clock=clock).store("contoso", "keeper") for _ in range(2)]

    await asyncio.gather(others[0].purge(OfUser(ALICE)), others[1].purge(OfUser(BOB)), store.purge(OfRecord("nobody")))

    assert await batches_of(blobs) == []


async def test_a_slow_deletion_does_not_bring_back_what_another_one_removed(blobs, keys, clock, store):
    class Slow(Gate):
        async def __call__(self, change, container, name):
            if "/deletions/" not in name:
                await super().__call__(change, container, name)

    gate = Slow("put", "ret-20260101")
    await keep_all(store)
    slow = asyncio.create_task(
        Vault(Around(blobs, gate), keys, clock=clock).store("contoso", "keeper").purge(OfUser(ALICE))
    )
    await gate.reached()
    await store.purge(OfUser(BOB))
    gate.open()
    await slow

    [name] = await batches_of(blobs)
    batch = (await blobs.get("ret-20260101", name)).data
    assert [who for who in KEPT if b'"%b"' % who.encode() in batch] == ["nobody"]


async def test_no_two_deletions_have_one_number(blobs, keys, clock):
    stores = [Vault(blobs, keys, clock=clock).store("contoso", "keeper") for _ in range(12)]

    await asyncio.gather(*(each.purge(OfUser(f"{number:064x}")) for number, each in enumerate(stores)))

    found = [name for name in await names(blobs, "ret-20260101") if "/deletions/" in name]
    assert [name[-8:] for name in found] == [f"{number:08d}" for number in range(1, 13)]


async def test_neither_users_nor_their_hashes_are_stored(store, blobs):
    await keep_all(store)
    await store.purge(OfUser(BOB))

    stored = b"".join([*(await everything(blobs)).values(), *(name.encode() for _, name in await everything(blobs))])
    assert ALICE.encode() not in stored
    assert BOB.encode() not in stored


@pytest.mark.parametrize("user", ["alice@example.com", "", "A1" * 32, "a1" * 31])
async def test_only_a_keyed_hash_stands_for_a_user(store, user):
    for call in (store.keep("one", b"", user=user), store.purge(OfUser(user)), anext(store.records(user=user))):
        with pytest.raises(ValueError, match="keyed hash"):
            await call


async def test_only_an_id_stands_for_a_record(store):
    for call in (store.purge(OfRecord("../up")), store.get("../up")):
        with pytest.raises(ValueError, match="a record's id"):
            await call
