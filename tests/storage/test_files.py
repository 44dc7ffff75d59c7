"""Large files: streamed in and out, whole or not at all, gone when deleted, whatever is interrupted."""

import asyncio
import json
import tracemalloc
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins import local_folder
from sluicegate.errors import (
    BlobExists,
    BlobNotFound,
    KeyNotFound,
    KeyUnavailable,
    PurgeIncomplete,
    SealBroken,
    StorageUnavailable,
)
from sluicegate.storage import files as module
from sluicegate.storage.file_layout import CHANGES, HEADS, KEY_NAME, SEGMENTS
from sluicegate.storage.file_reading import KEY_AGE
from sluicegate.storage.files import LONGEST, Files
from sluicegate.testing import MemoryKeys, MemoryStorage
from sluicegate.types import Purged
from tests.storage.test_vault import CANARY, DAY, HOUR, Around, Gate, blobs, clock, everything, keys, names, restore

FIXTURES = blobs, clock, keys

SMALL = 64
TEXT = CANARY * 20
MEBIBYTE = 1 << 20


@pytest.fixture
def small(monkeypatch):
    """Segments of 64 bytes."""
    monkeypatch.setattr(module, "SEGMENT_BYTES", SMALL)


@pytest.fixture
def files(small, blobs, keys, clock):
    return Files(blobs, keys, clock=clock)


@pytest.fixture
def store(files):
    return files.store("contoso", "fine-tune")


async def arriving(data, by=50):
    for start in range(0, len(data), by):
        yield data[start : start + by]


async def read(store, file, *span):
    return b"".join([piece async for piece in (await store.open(file)).read(*span)])


async def failing(data, error):
    yield data
    raise error


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 5 * SMALL, 5 * SMALL + 7])
async def test_what_is_written_is_read_back(store, size):
    assert await store.write("one", arriving(TEXT[:size])) == size

    assert await read(store, "one") == TEXT[:size]
    assert (await store.open("one")).size == size
    assert [file async for file in store.names()] == ["one"]


async def test_another_process_reads_it_back(store, blobs, keys):
    await store.write("one", arriving(TEXT))

    assert await read(Files(blobs, keys).store("contoso", "fine-tune"), "one") == TEXT


async def test_nothing_is_stored_in_plain_text_and_nothing_is_left_unfinished(store, blobs):
    await store.write("one", arriving(TEXT))

    stored = await everything(blobs)
    assert {container for container, _ in stored} == {HEADS, SEGMENTS}
    assert not any(CANARY[:8] in data for data in stored.values())


async def test_how_a_file_arrives_makes_no_difference(store, blobs):
    for number, by in enumerate((1, 7, SMALL, 3 * SMALL, len(TEXT))):
        await store.write(f"file{number}", arriving(TEXT, by))

    heads = [json.loads((await blobs.get(HEADS, name)).data) for name in await names(blobs, HEADS)]
    assert {head["size"] for head in heads} == {len(TEXT)}
    assert all([await read(store, f"file{number}") == TEXT for number in range(5)])


@settings(max_examples=200)
@given(size=st.integers(0, 300), offset=st.integers(0, 400), length=st.none() | st.integers(0, 400))
def test_any_range_is_read(size, offset, length):
    async def check():
        store = Files(MemoryStorage(), MemoryKeys()).store("contoso", "fine-tune")
        await store.write("one", arriving(TEXT[:size]))
        return await read(store, "one", offset, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEGMENT_BYTES", SMALL)
        found = asyncio.run(check())
    assert found == TEXT[:size][offset:][:length]


async def test_a_range_reads_the_segments_it_touches_and_no_other(store, blobs, keys, clock):
    await store.write("one", arriving(TEXT))
    asked = []

    class Counting(Around):
        async def get(self, container, name, **options):
            asked.append(name[-8:])
            return await blobs.get(container, name, **options)

    opened = await Files(Counting(blobs, None), keys, clock=clock).store("contoso", "fine-tune").open("one")
    asked.clear()
    found = b"".join([piece async for piece in opened.read(2 * SMALL - 1, 3)])

    assert found == TEXT[2 * SMALL - 1 :][:3]
    assert asked == ["00000001", "00000002"]


@pytest.mark.parametrize("span", [(-1, None), (0, -1)])
async def test_a_range_has_no_negative_numbers(store, span):
    await store.write("one", arriving(TEXT))

    with pytest.raises(ValueError, match="negative"):
        await read(store, "one", *span)


async def test_accounts_and_kinds_do_not_see_each_other(files, store):
    await store.write("one", arriving(TEXT))

    for other in (files.store("fabrikam", "fine-tune"), files.store("contoso", "weights")):
        assert [file async for file in other.names()] == []
        with pytest.raises(BlobNotFound):
            await other.open("one")


@pytest.mark.parametrize("file", ["", "a/b", "../up", ".hidden", "my lucky number", "a" * 201])
async def test_an_id_that_is_no_name_is_refused(store, file):
    for step in (store.write(file, arriving(TEXT)), store.open(file), store.delete(file)):
        with pytest.raises(ValueError, match="name"):
            await step


def test_a_folder_is_two_segments(files):
    for account, kind in (("a/b", "c"), ("a", "b/c"), ("", "c"), ("a", "")):
        with pytest.raises(ValueError, match="name"):
            files.store(account, kind)


async def test_an_id_that_is_taken_is_refused_and_the_file_stays(store, blobs):
    await store.write("one", arriving(TEXT))
    before = await everything(blobs)

    with pytest.raises(BlobExists):
        await store.write("one", failing(b"", AssertionError("nothing of it may be read")))

    assert await everything(blobs) == before


async def test_of_two_who_write_the_same_file_one_wins_and_nothing_stays_of_the_other(store, blobs):
    both = [store.write("one", arriving(data)) for data in (TEXT, TEXT[:100])]

    results = await asyncio.gather(*both, return_exceptions=True)

    [size] = [result for result in results if isinstance(result, int)]
    [error] = [result for result in results if not isinstance(result, int)]
    assert isinstance(error, BlobExists)
    assert await read(store, "one") == TEXT[:size]
    assert len({name.split("/")[3] for name in await names(blobs, SEGMENTS)}) == 1
    assert await names(blobs, CHANGES) == []


async def test_nothing_stays_of_an_upload_that_fails(store, blobs):
    with pytest.raises(ConnectionError):
        await store.write("one", failing(TEXT, ConnectionError()))

    assert await everything(blobs) == {}


async def test_nothing_stays_of_an_upload_whose_sender_goes_away(files, store, blobs):
    reached = asyncio.Event()

    async def stalling():
        yield TEXT
        reached.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(store.write("one", stalling()))
    await reached.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await files.drain()

    assert await everything(blobs) == {}


async def test_a_file_is_there_only_when_all_of_it_is(small, blobs, keys, clock):
    gate = Gate("put", HEADS)
    writer = Files(Around(blobs, gate), keys, clock=clock).store("contoso", "fine-tune")
    reader = Files(blobs, keys, clock=clock).store("contoso", "fine-tune")
    upload = asyncio.create_task(writer.write("one", arriving(TEXT)))
    await gate.reached()

    with pytest.raises(BlobNotFound):
        await reader.open("one")
    assert len(await names(blobs, SEGMENTS)) == -(-len(TEXT) // SMALL)
    gate.open()
    await upload
    assert await read(reader, "one") == TEXT


class Failing:
    """Fails one of the changes to storage, counted from 0, and every one after it."""

    def __init__(self):
        self.at = None
        self.count = 0

    async def __call__(self, change, container, name):
        self.count += 1
        if self.at is not None and self.count > self.at:
            raise StorageUnavailable("interrupted")


async def test_a_write_may_be_interrupted_at_any_change(small, keys, clock):
    whole = Failing()
    await (
        Files(Around(MemoryStorage(), whole), keys, clock=clock)
        .store("contoso", "fine-tune")
        .write("one", arriving(TEXT))
    )
    assert whole.count > 8
    for at in range(whole.count):
        blobs, fail = MemoryStorage(), Failing()
        fail.at = at
        files = Files(blobs, keys, clock=clock)
        writer = Files(Around(blobs, fail), keys, clock=clock).store("contoso", "fine-tune")

        with pytest.raises(StorageUnavailable):
            await writer.write("one", arriving(TEXT))
        await files.finish_changes(clock.now + 3 * DAY)

        # The last change ends a file that is whole.
        if at == whole.count - 1:
            assert await read(files.store("contoso", "fine-tune"), "one") == TEXT
        else:
            assert await everything(blobs) == {}


async def test_a_deletion_may_be_interrupted_at_any_change(small, keys, clock):
    for at in range(20):
        blobs, fail = MemoryStorage(), Failing()
        files = Files(blobs, keys, clock=clock)
        store = files.store("contoso", "fine-tune")
        await store.write("one", arriving(TEXT))
        await store.write("two", arriving(TEXT))
        fail.at = at
        try:
            await Files(Around(blobs, fail), keys, clock=clock).store("contoso", "fine-tune").delete("one")
        except StorageUnavailable:
            deleted = False
        else:
            deleted = True
        before = [name async for name in store.names()]
        await files.finish_changes(clock.now + 3 * DAY)

        # Not begun, or begun and then finished; and never a part.
        assert before == (["one", "two"] if at < 2 else ["two"])
        assert [await read(store, name) async for name in store.names()] == [TEXT] * len(before)
        assert len(await names(blobs, SEGMENTS)) == len(before) * -(-len(TEXT) // SMALL)
        assert await names(blobs, CHANGES) == []
    assert deleted


async def test_a_failed_commit_that_had_landed_is_taken_back(small, keys, clock):
    blobs = MemoryStorage()

    class Ambiguous(Around):
        async def put(self, container, name, data, **options):
            etag = await blobs.put(container, name, data, **options)
            if container == HEADS:
                raise StorageUnavailable("the answer was lost")
            return etag

    store = Files(Ambiguous(blobs, Failing()), keys, clock=clock).store("contoso", "fine-tune")
    with pytest.raises(StorageUnavailable):
        await store.write("one", arriving(TEXT))

    assert await everything(blobs) == {}


async def test_without_a_key_nothing_is_written_and_nothing_of_the_upload_is_read(small, blobs, clock):
    class Away(MemoryKeys):
        async def wrap(self, name, secret, *, create=True):
            raise KeyUnavailable("away")

    store = Files(blobs, Away(), clock=clock).store("contoso", "fine-tune")
    with pytest.raises(KeyUnavailable):
        await store.write("one", failing(b"", AssertionError("nothing of it may be read")))

    assert await everything(blobs) == {}


async def test_what_is_still_being_written_is_left_alone(files, store, blobs, clock):
    async def slow():
        yield TEXT
        clock.advance(LONGEST)
        await files.finish_changes(clock.now)

    await store.write("one", slow())

    assert await read(store, "one") == TEXT


async def test_what_takes_longer_than_a_day_is_not_written(store, blobs, clock):
    async def endless():
        yield TEXT
        clock.advance(LONGEST + timedelta(seconds=1))

    with pytest.raises(StorageUnavailable, match="more than a day"):
        await store.write("one", endless())

    assert await everything(blobs) == {}


async def test_one_change_that_cannot_be_finished_does_not_stop_the_others(files, store, blobs, keys, clock):
    for file in ("one", "two"):
        await blobs.put(CHANGES, f"20260101/contoso/fine-tune/{file}/{'0' * 24}", b"")
        await blobs.put(SEGMENTS, f"contoso/fine-tune/{file}/{'0' * 24}/00000000", b"left")

    async def stuck(change, container, name):
        if "/one/" in name:
            raise StorageUnavailable("stuck")

    with pytest.raises(PurgeIncomplete, match=r"fine-tune/one/0+: StorageUnavailable"):
        await Files(Around(blobs, stuck), keys, clock=clock).finish_changes(clock.now + 3 * DAY)
    assert [name.split("/")[2] for name in await names(blobs, SEGMENTS)] == ["one"]
    await files.finish_changes(clock.now + 3 * DAY)
    assert await everything(blobs) == {}


async def test_names_that_are_no_changes_are_left_alone(files, blobs, clock):
    for name in ("stray", "20260101/too/short", "20261301/contoso/fine-tune/one/kid"):
        await blobs.put(CHANGES, name, b"")

    assert await files.finish_changes(clock.now + 3 * DAY) == Purged()
    assert len(await names(blobs, CHANGES)) == 3


async def test_a_deleted_file_is_gone_and_its_neighbours_stay(files, store, blobs):
    for file in ("a", "a-b", "ab"):
        await store.write(file, arriving(TEXT))
    await files.store("fabrikam", "fine-tune").write("a", arriving(TEXT))
    before = await everything(blobs)

    purged = await store.delete("a")

    after = await everything(blobs)
    assert {key for key in before if key not in after} == {
        key for key in before if key[1].startswith("contoso/fine-tune/a/") or key == (HEADS, "contoso/fine-tune/a")
    }
    assert purged.blobs == len(before) - len(after)
    assert purged.bytes == sum(map(len, before.values())) - sum(map(len, after.values()))
    assert len(purged.evidence) == 64
    with pytest.raises(BlobNotFound):
        await store.open("a")
    with pytest.raises(BlobNotFound):
        await store.delete("a")


async def test_the_wrapped_key_goes_first(small, blobs, keys, clock):
    changes = []

    async def note(change, container, name):
        changes.append((change, container))

    store = Files(Around(blobs, note), keys, clock=clock).store("contoso", "fine-tune")
    await store.write("one", arriving(TEXT[: 2 * SMALL]))
    changes.clear()
    await store.delete("one")

    segments = [("delete", SEGMENTS)] * 2
    assert changes == [("put", CHANGES), ("delete", HEADS), *segments, ("delete", CHANGES)]


async def test_a_file_that_is_deleted_while_it_is_read_ends_the_reading(store):
    await store.write("one", arriving(TEXT))
    opened = await store.open("one")
    pieces = opened.read()
    first = await anext(pieces)
    await store.delete("one")

    assert first == TEXT[:SMALL]
    with pytest.raises(BlobNotFound):
        await anext(pieces)


async def test_another_file_under_the_id_of_one_that_is_read_is_not_taken_for_it(store, clock):
    await store.write("one", arriving(TEXT))
    pieces = (await store.open("one")).read()
    await anext(pieces)
    await store.delete("one")
    await store.write("one", arriving(TEXT[::-1]))

    with pytest.raises(BlobNotFound):
        await anext(pieces)


@pytest.mark.parametrize("age", [KEY_AGE, -HOUR])
async def test_a_file_whose_wrapping_key_goes_can_be_read_for_minutes_at_most(store, keys, clock, age):
    await store.write("one", arriving(TEXT))
    pieces = (await store.open("one")).read()
    await anext(pieces)
    await keys.destroy(KEY_NAME)
    clock.advance(age)

    with pytest.raises(KeyNotFound):
        await anext(pieces)
    with pytest.raises(KeyNotFound):
        await store.open("one")


async def test_a_file_whose_head_was_damaged_can_be_deleted(store, blobs):
    await store.write("one", arriving(TEXT))
    await blobs.put(HEADS, "contoso/fine-tune/one", b"damaged")

    with pytest.raises(SealBroken):
        await store.open("one")
    await store.delete("one")

    assert await everything(blobs) == {}


async def test_segments_that_are_put_back_after_a_deletion_are_unreadable(store, blobs):
    await store.write("one", arriving(TEXT))
    backup = {key: data for key, data in (await everything(blobs)).items() if key[0] == SEGMENTS}
    await store.delete("one")
    await restore(blobs, backup)

    with pytest.raises(BlobNotFound):
        await store.open("one")


async def test_a_rotated_key_wraps_every_file_anew_and_the_content_stays(small, blobs, clock):
    keys = Rotating()
    files = Files(blobs, keys, clock=clock)
    stores = files.store("contoso", "fine-tune"), files.store("fabrikam", "weights")
    for store in stores:
        await store.write("one", arriving(TEXT))
    segments = {key: data for key, data in (await everything(blobs)).items() if key[0] == SEGMENTS}

    assert await files.rewrap() == 0
    keys.rotate()
    assert await files.rewrap() == 2
    assert await files.rewrap() == 0

    keys.lose("files/1")
    assert [await read(store, "one") for store in stores] == [TEXT, TEXT]
    assert {key: data for key, data in (await everything(blobs)).items() if key[0] == SEGMENTS} == segments


async def test_a_file_that_is_deleted_while_it_is_wrapped_anew_stays_deleted(small, blobs, clock):
    keys = Rotating()
    store = Files(blobs, keys, clock=clock).store("contoso", "fine-tune")
    await store.write("one", arriving(TEXT))
    keys.rotate()

    async def delete(change, container, name):
        await store.delete("one")

    assert await Files(Around(blobs, delete), keys, clock=clock).rewrap() == 0
    assert await everything(blobs) == {}


async def test_a_forged_head_is_not_wrapped_anew(small, blobs, clock):
    keys = Rotating()
    files = Files(blobs, keys, clock=clock)
    await files.store("contoso", "fine-tune").write("one", arriving(TEXT))
    head = json.loads((await blobs.get(HEADS, "contoso/fine-tune/one")).data)
    forged = json.dumps({**head, "size": 1}, sort_keys=True, separators=(",", ":")).encode()
    await blobs.put(HEADS, "contoso/fine-tune/one", forged)
    keys.rotate()

    with pytest.raises(SealBroken):
        await files.rewrap()


class Rotating(MemoryKeys):
    """Keys that can have a new version and lose an old one."""

    def __init__(self):
        super().__init__()
        self._version = 1
        self._versions = {}

    def rotate(self):
        self._version += 1

    def lose(self, key_id):
        del self._versions[key_id]

    async def wrap(self, name, secret, *, create=True):
        inner = self._versions.setdefault(f"{name}/{self._version}", MemoryKeys())
        wrapped = await inner.wrap(name, secret)
        return type(wrapped)(f"{name}/{self._version}", wrapped.algorithm, wrapped.ciphertext)

    async def unwrap(self, wrapped):
        inner = self._versions.get(wrapped.key_id)
        if inner is None:
            raise KeyNotFound(wrapped.key_id)
        return await inner.unwrap(type(wrapped)(inner._keys["files"][0], wrapped.algorithm, wrapped.ciphertext))


async def test_memory_is_bounded_whatever_the_size(tmp_path):
    blobs = local_folder.open_storage(f"folder:{tmp_path}/storage")
    store = Files(blobs, MemoryKeys()).store("contoso", "weights")
    chunk = bytes(64 << 10)

    async def arriving():
        for _ in range(256 * MEBIBYTE // len(chunk)):
            yield chunk

    tracemalloc.start()
    try:
        await store.write("one", arriving())
        _, writing = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        size = 0
        async for piece in (await store.open("one")).read():
            size += len(piece)
        _, reading = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await blobs.close()

    assert size == 256 * MEBIBYTE
    assert writing < 64 * MEBIBYTE
    assert reading < 40 * MEBIBYTE
