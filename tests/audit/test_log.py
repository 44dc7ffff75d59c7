import asyncio
import hashlib
import json
import logging
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.audit import log as audit_module
from sluicegate.audit.checkpoints import Checkpoint, check_signature, checkpoint_text, read_checkpoint
from sluicegate.audit.entries import MAX_EVIDENCE_BYTES, PAGE_ENTRIES, Event, LogBroken, canonical, opaque
from sluicegate.audit.log import PUBLISHED, SAVE_PAGES, Audit
from sluicegate.audit.merkle import EMPTY_ROOT, inclusion_root, is_consistent, leaf_hash, root_of
from sluicegate.audit.tree import CONTAINER as TREE
from sluicegate.audit.tree import HEAD
from sluicegate.errors import (
    BlobExists,
    BlobNotFound,
    KeyUnavailable,
    SealBroken,
    ServiceError,
    StorageUnavailable,
)
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage

ROOT = Path(__file__).parents[2]
LOG = "audit"
DAY = timedelta(days=1)


class Watched:
    """A store, or a key service, that lets others run and a test in before each call; it counts them."""

    def __init__(self, inner, before=None, after=None):
        self.inner = inner
        self.calls = []
        self.before = before
        self.after = after

    def __getattr__(self, name):
        method = getattr(self.inner, name)
        if name == "list":
            self.calls.append(("list", None))
            return method

        async def call(*args, **kwargs):
            self.calls.append((name, args[:2]))
            await asyncio.sleep(0)
            if self.before:
                self.before(name, args)
            result = await method(*args, **kwargs)
            if self.after:
                self.after(name, args)
            return result

        return call

    def count(self, *calls):
        return sum(name in calls for name, _ in self.calls)


class Crash(Exception):
    """The process died here."""


class Mortal:
    """Lets one process die at its n-th call, before or after the call took effect; the dead make no more calls."""

    def __init__(self, at, *, after):
        self.at = at
        self.after = after
        self.calls = 0

    def around(self, inner):
        def before(name, args):
            self.calls += 1
            if self.calls > self.at or (self.calls == self.at and not self.after):
                raise Crash

        def after(name, args):
            if self.calls >= self.at:
                raise Crash

        return Watched(inner, before, after)


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def keys():
    return MemoryKeys()


@pytest.fixture
def open_audit(blobs, keys, clock):
    """Return a function that opens the log as another process would."""
    return lambda store=None, signer=None: Audit(store or blobs, signer or keys, origin="log", clock=clock)


@pytest.fixture
def audit(open_audit):
    return open_audit()


def read_by(number, **fields):
    return Event("contoso/key1", "retained.read", "contoso", f"r{number}", "ticket 17", {"records": number}, **fields)


async def append(audit, count, start=0):
    """Append one page."""
    return await asyncio.gather(*(audit.append(read_by(number)) for number in range(start, start + count)))


async def append_pages(audit, *sizes):
    for size in sizes:
        await append(audit, size)


async def found(entries):
    return [entry async for entry in entries]


async def pages(blobs):
    return {blob.name: (await blobs.get(LOG, blob.name)).data async for blob in blobs.list(LOG)}


async def lines(blobs):
    return b"".join((await pages(blobs)).values()).splitlines()


async def replace_page(blobs, name, data):
    await blobs.delete(LOG, name)
    await blobs.put(LOG, name, data)


async def broken_at(audit):
    with pytest.raises(LogBroken) as caught:
        await audit.verify()
    return caught.value.seq


def relinked(lines):
    """The lines with every number and link made right again: what a careful forger would write."""
    prev, result = "0" * 64, []
    for seq, line in enumerate(lines):
        result.append(canonical({**json.loads(line), "seq": seq, "prev": prev}))
        prev = hashlib.sha256(b"\0" + result[-1]).hexdigest()
    return result


async def forge(blobs, change):
    """Write the whole log anew as one page for every page there was, ``change`` made to its lines."""
    stored = await pages(blobs)
    forged = relinked(change(b"".join(stored.values()).splitlines()))
    for name, data in stored.items():
        count = data.count(b"\n")
        rest = forged[:count]
        forged = forged[count:]
        await replace_page(blobs, name, b"".join(line + b"\n" for line in rest))


async def test_an_entry_is_the_published_bytes(audit, blobs):
    first = await audit.append(Event("timer/purge", "purge.day", None, "20260101", evidence={"blobs": 3}, id="0" * 32))
    second = await audit.append(Event("contoso/key1", "retained.read", "contoso", reason="#17", id="1" * 32))

    expected_first = (
        b'{"account":null,"action":"purge.day","actor":"timer/purge","evidence":{"blobs":3},"id":"' + b"0" * 32 + b'",'
        b'"prev":"' + b"0" * 64 + b'","reason":null,"seq":0,"subject":"20260101","time":"2026-01-01T12:00:00.000Z"}'
    )
    link = hashlib.sha256(b"\0" + expected_first).hexdigest().encode()
    expected_second = (
        b'{"account":"contoso","action":"retained.read","actor":"contoso/key1","evidence":{},"id":"' + b"1" * 32 + b'",'
        b'"prev":"' + link + b'","reason":"#17","seq":1,"subject":null,"time":"2026-01-01T12:00:00.000Z"}'
    )
    assert (first.line, second.line) == (expected_first, expected_second)
    assert await pages(blobs) == {"000000000000": expected_first + b"\n", "000000000001": expected_second + b"\n"}


async def test_what_is_appended_is_read_back(audit, open_audit):
    appended = [await audit.append(read_by(number)) for number in range(3)]

    assert await found(audit.entries()) == await found(open_audit().entries()) == appended
    assert [entry.seq for entry in appended] == [0, 1, 2]
    assert appended[2].document["evidence"] == {"records": 2}


@pytest.mark.parametrize(
    "fields",
    [
        {"actor": "ann@example.com"},
        {"actor": ""},
        {"action": "read something"},
        {"account": "a b"},
        {"subject": "ann@example.com"},
        {"subject": "x" * 257},
        {"subject": "r1\n"},
        {"reason": "because of ann@example.com"},
        {"reason": "x" * 201},
        {"reason": "two\nlines"},
        {"reason": "naïve"},
        {"evidence": {"text": "my lucky number"}},
        {"evidence": {"my lucky number": 1}},
        {"evidence": {"list": [{"deep": "my lucky number"}]}},
        {"evidence": {"fraction": 1.5}},
        {"evidence": {"large": 2**53}},
        {"evidence": {1: 1}},
        {"evidence": [1]},
        {"evidence": {"bytes": b"x"}},
        {"evidence": {"list": ["x" * 250] * (MAX_EVIDENCE_BYTES // 250)}},
        {"id": "short"},
    ],
    ids=str,
)
def test_content_does_not_fit_into_an_event(fields):
    with pytest.raises(ValueError, match=f"^{next(iter(fields))}: ") as caught:
        Event(**{"actor": "contoso/key1", "action": "retained.read", **fields})

    assert "lucky" not in str(caught.value)
    assert "ann" not in str(caught.value)


def test_evidence_is_a_copy():
    evidence = {"days": ["20260101"]}
    event = Event("timer/purge", "purge.day", evidence=evidence)
    evidence["days"].append("my lucky number")

    assert event.evidence == {"days": ["20260101"]}


def test_ids_of_another_form_are_hashed():
    assert opaque("r1") == "r1"
    assert opaque("ann@example.com") == "sha256:" + hashlib.sha256(b"ann@example.com").hexdigest()
    assert Event("timer/purge", "x", subject=opaque("no name at all\n"))


async def test_entries_that_come_together_share_pages(open_audit, blobs):
    store = Watched(blobs)
    audit = open_audit(store)
    await audit.append(read_by(0))
    store.calls.clear()

    await append(audit, 2 * PAGE_ENTRIES)

    assert store.count("put") == 2
    assert [data.count(b"\n") for data in (await pages(blobs)).values()] == [1, PAGE_ENTRIES, PAGE_ENTRIES]
    assert len({line for line in await lines(blobs)}) == 2 * PAGE_ENTRIES + 1


async def test_an_append_is_one_write_and_nothing_else(open_audit, blobs):
    store = Watched(blobs)
    audit = open_audit(store)
    await audit.append(read_by(0))
    store.calls.clear()

    await audit.append(read_by(1))

    assert store.calls == [("put", (LOG, "000000000001"))]


async def test_racing_writers_make_one_chain_and_lose_nothing(open_audit, blobs):
    writers = [open_audit(Watched(blobs)) for _ in range(4)]

    async def write(writer, start):
        for number in range(start, start + 50, 5):
            await append(writer, 5, number)

    await asyncio.gather(*(write(writer, 50 * number) for number, writer in enumerate(writers)))

    assert await open_audit().verify() == 200
    assert {json.loads(line)["subject"] for line in await lines(blobs)} == {f"r{number}" for number in range(200)}
    assert len(await pages(blobs)) > 10


WRITER = """
import asyncio, sys
from plugins.local_folder import open_storage
from sluicegate.audit.log import Audit
from sluicegate.audit.entries import Event
from sluicegate.testing import MemoryKeys

async def main(folder, name):
    audit = Audit(open_storage(f"folder:{folder}"), MemoryKeys(), origin="log")
    for number in range(20):
        await asyncio.gather(*(audit.append(Event(name, "x", subject=f"{name}-{number}-{each}")) for each in range(3)))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_on_one_folder_make_one_chain(tmp_path, keys):
    from plugins.local_folder import open_storage

    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(tmp_path), f"p{number}", cwd=ROOT)
        for number in range(3)
    ]
    assert [await process.wait() for process in processes] == [0, 0, 0]

    store = open_storage(f"folder:{tmp_path}")
    audit = Audit(store, keys, origin="log")
    assert await audit.verify() == 180
    assert len({entry.event.subject async for entry in audit.entries()}) == 180
    await store.close()


@pytest.mark.parametrize("error", [BlobExists, StorageUnavailable])
async def test_a_lost_acknowledgement_is_success(open_audit, blobs, error):
    """The page was written; a retry inside the store found it there, or nothing answered at all."""

    def after(name, args):
        if name == "put" and args[0] == LOG:
            store.after = None
            raise error("lost")

    store = Watched(blobs)
    audit = open_audit(store)
    await audit.append(read_by(0))
    store.after = after

    appended = await append(audit, 3)

    assert [entry.seq for entry in appended] == [1, 2, 3]
    assert await found(open_audit().entries(1)) == appended


async def test_a_failed_write_behind_another_writers_page_is_written_once(open_audit, blobs):
    audit, other = open_audit(store := Watched(blobs)), open_audit()
    await audit.append(read_by(0))
    await other.append(read_by(1))

    def before(name, args):
        if name == "put":
            store.before = None
            raise StorageUnavailable("no answer")

    store.before = before

    assert (await audit.append(read_by(2))).seq == 2
    assert [json.loads(line)["subject"] for line in await lines(blobs)] == ["r0", "r1", "r2"]


async def test_what_could_not_be_written_is_an_error_and_is_written_once_when_it_is_appended_again(open_audit, blobs):
    store = Watched(blobs)
    audit = open_audit(store)
    await audit.append(read_by(0))
    event = read_by(1)

    def unreachable(name, args):
        raise StorageUnavailable("no answer")

    store.before = unreachable
    with pytest.raises(StorageUnavailable):
        await audit.append(event)
    assert len(await lines(blobs)) == 1

    # This time it is written, and then nothing answers.
    store.before, store.after = None, unreachable
    with pytest.raises(StorageUnavailable):
        await audit.append(event)
    assert len(await lines(blobs)) == 2

    store.after = None
    assert (await audit.append(event)).seq == 1
    assert len(await lines(blobs)) == 2
    assert await audit.verify() == 2


async def test_an_event_that_is_appended_twice_at_once_is_one_entry(audit, blobs):
    event = read_by(1)

    first, second = await asyncio.gather(audit.append(event), audit.append(event))

    assert first == second
    assert len(await lines(blobs)) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_process_that_dies_at_any_call_loses_nothing_acknowledged(blobs, clock, monkeypatch, after):
    """Every call to storage and keys is a point of death: appends, tiles, head, checkpoint, publication."""
    monkeypatch.setattr(audit_module, "SAVE_PAGES", 2)

    async def live(blobs, keys, acknowledged):
        audit = Audit(blobs, keys, origin="log", clock=clock)
        for number in range(5):
            entries = await append(audit, 60, 60 * number)
            acknowledged += [entry.event.id for entry in entries]
        await audit.publish()

    points = 0
    while True:
        points += 1
        blobs, keys, acknowledged = MemoryStorage(), MemoryKeys(), []
        mortal = Mortal(points, after=after)
        died = False
        try:
            await live(mortal.around(blobs), mortal.around(keys), acknowledged)
        except Crash:
            died = True

        await live(blobs, keys, acknowledged)

        again = Audit(blobs, keys, origin="log", clock=clock)
        ids = [entry.event.id async for entry in again.entries()]
        assert len(set(ids)) == len(ids) == await again.verify()
        assert set(acknowledged) <= set(ids)
        if not died:
            break
    assert points > 12


async def test_a_full_or_unreachable_store_acknowledges_nothing(open_audit, blobs):
    def full(name, args):
        if name == "put":
            raise StorageUnavailable("no space left on device")

    audit = open_audit(Watched(blobs, full))

    with pytest.raises(StorageUnavailable):
        await append(audit, 3)
    assert await pages(blobs) == {}


@pytest.fixture
async def long(audit):
    """A log over several blocks of page names, with pages of all sizes."""
    sizes = [1, 256, 200, 256, 256, 30, 1, 1, 255, 256, 256, 256, 256, 17, 3]
    await append_pages(audit, *sizes)
    return sum(sizes)


async def test_entries_are_read_from_any_number_in_both_directions(open_audit, long):
    audit = open_audit()
    everything = await found(audit.entries())
    assert [entry.seq for entry in everything] == list(range(long))

    for number in (0, 1, 2, 256, 257, 999, 1000, 1001, 1255, 1256, long - 1, long, long + 5):
        assert await found(audit.entries(number)) == everything[number:]
        assert await found(audit.newest(number)) == everything[:number][::-1]
    assert await found(audit.newest()) == everything[::-1]


async def test_reading_on_needs_no_listing(open_audit, blobs, long):
    audit = open_audit(store := Watched(blobs))

    await found(audit.entries())

    assert store.count("list") == 0


async def test_a_new_process_sees_what_others_append(open_audit):
    one, other = open_audit(), open_audit()
    await append(one, 3)

    assert await other.size() == 3
    await append(other, 2)
    assert [entry.seq async for entry in one.entries()] == [0, 1, 2, 3, 4]


async def test_an_empty_log_has_nothing_to_read_and_can_be_signed(audit, open_audit):
    assert await found(audit.entries()) == await found(audit.newest()) == []
    checkpoint = await audit.checkpoint()
    assert (checkpoint.size, checkpoint.root) == (0, EMPTY_ROOT)
    assert await open_audit().verify() == 0

    await open_audit().append(read_by(0))
    assert await audit.verify() == 1


async def test_a_process_starts_from_the_head(audit, open_audit, blobs, monkeypatch):
    monkeypatch.setattr(audit_module, "SAVE_PAGES", 4)
    await append_pages(audit, *[3] * 20)
    store = Watched(blobs)

    assert await open_audit(store).size() == 60
    assert [args for name, args in store.calls if name == "get"] == [
        (TREE, HEAD),
        (LOG, "000000000060"),
    ]


async def test_a_process_that_fell_behind_goes_on_from_the_head(audit, open_audit, blobs, monkeypatch):
    monkeypatch.setattr(audit_module, "SAVE_PAGES", 4)
    behind = open_audit(store := Watched(blobs))
    await behind.append(read_by(0))
    await append_pages(audit, *[30] * 40)
    store.calls.clear()

    entry = await behind.append(read_by(1))

    assert entry.seq == 1201
    assert store.count("get") < 15
    assert await behind.verify() == 1202


async def test_without_a_head_the_log_is_read_from_its_start(audit, open_audit, blobs):
    await append_pages(audit, 200, 200)
    await audit.checkpoint()
    root = (await audit.checkpoint()).root
    await blobs.drop(TREE)

    assert (await open_audit().checkpoint()).root == root
    assert await open_audit().verify() == 400


async def test_a_head_whose_key_is_gone_is_left_aside(audit, open_audit, blobs, keys, caplog):
    await append_pages(audit, 200, 200)
    await audit.checkpoint()
    await keys.destroy("audit")

    again = open_audit()
    checkpoint = await again.checkpoint()

    check_signature(checkpoint, await keys.public_key("audit"))
    assert checkpoint.size == 400
    assert "the log is read from its start" in caplog.text
    store = Watched(blobs)
    assert await open_audit(store).size() == 400
    assert store.count("get") == 2


async def altered_head(blobs, change):
    blob = await blobs.get(TREE, HEAD)
    document = json.loads(blob.data)
    change(document)
    await blobs.put(TREE, HEAD, json.dumps(document).encode())


FORGED_HEADS = {
    "no JSON": lambda head: head.clear(),
    "another version": lambda head: head.update(version=2),
    "no checkpoint": lambda head: head.update(checkpoint=None),
    "leaves that are no text": lambda head: head.update(leaves=3),
    "another last leaf": lambda head: head.update(leaves=head["leaves"][:-44] + "A" * 43 + "="),
    "a leaf less": lambda head: head.update(leaves=""),
    "other levels": lambda head: head.update(levels=[head["leaves"][:40]]),
    "another size": lambda head: head["checkpoint"].update(
        text=head["checkpoint"]["text"].replace("\n300\n", "\n301\n")
    ),
    "another signature": lambda head: head["checkpoint"].update(signature="A" * 86 + "=="),
    "another log": lambda head: head["checkpoint"].update(text="other" + head["checkpoint"]["text"]),
}


@pytest.mark.parametrize("change", FORGED_HEADS)
async def test_a_forged_head_is_refused(audit, open_audit, blobs, change):
    await append_pages(audit, 150, 150)
    await audit.checkpoint()
    await altered_head(blobs, FORGED_HEADS[change])

    with pytest.raises(SealBroken):
        await open_audit().append(read_by(1))
    with pytest.raises(SealBroken):
        await open_audit().verify()


@pytest.mark.parametrize("size", [256, 512])
async def test_the_last_leaf_of_a_full_tile_is_vouched_for_too(audit, open_audit, blobs, size):
    await append_pages(audit, *[256] * (size // 256))
    await audit.checkpoint()
    await altered_head(blobs, FORGED_HEADS["another last leaf"])

    with pytest.raises(SealBroken):
        await open_audit().append(read_by(1))


async def test_a_head_that_does_not_continue_what_was_seen_is_refused(open_audit, blobs, keys, monkeypatch):
    monkeypatch.setattr(audit_module, "SAVE_PAGES", 4)
    behind = open_audit()
    await append(behind, 300)
    await append_pages(open_audit(), *[40] * 10)
    fork = MemoryStorage()
    await append_pages(Audit(fork, keys, origin="log"), *[40] * 40)
    async for blob in fork.list(TREE):
        await blobs.put(TREE, blob.name, (await fork.get(TREE, blob.name)).data)

    with pytest.raises(LogBroken, match="does not continue"):
        await behind.append(read_by(0))
    with pytest.raises(LogBroken):
        await behind.verify()


async def test_the_head_is_saved_as_the_log_grows(audit, blobs):
    await append_pages(audit, *[1] * SAVE_PAGES)

    assert json.loads((await blobs.get(TREE, HEAD)).data)["checkpoint"]["text"].startswith(f"log\n{SAVE_PAGES}\n")


async def test_entries_are_acknowledged_even_when_the_head_cannot_be_signed(open_audit, blobs, keys, caplog):
    def no_answer(name, args):
        raise KeyUnavailable("no answer")

    signer = Watched(keys, no_answer)
    audit = open_audit(signer=signer)

    await append_pages(audit, *[1] * (SAVE_PAGES + 3))

    assert len(await lines(blobs)) == SAVE_PAGES + 3
    assert "head was not saved (KeyUnavailable)" in caplog.text
    # Not asked again for each page, which could take its time.
    assert signer.count("sign") == 1
    with pytest.raises(KeyUnavailable):
        await audit.checkpoint()


async def test_racing_checkpoints_leave_the_larger_head(open_audit, blobs):
    one, other = open_audit(Watched(blobs)), open_audit(Watched(blobs))
    await append(one, 300)

    async def work(audit):
        for _ in range(5):
            await append(audit, 3)
            await audit.checkpoint()

    await asyncio.gather(work(one), work(other), one.checkpoint(), one.checkpoint())

    text = json.loads((await blobs.get(TREE, HEAD)).data)["checkpoint"]["text"]
    assert text.startswith("log\n330\n")
    assert await open_audit().verify() == 330


async def test_a_checkpoint_signs_the_root_of_all_entries(audit, keys, blobs):
    await append_pages(audit, 3, 2)

    checkpoint = await audit.checkpoint()

    root = root_of([leaf_hash(line) for line in await lines(blobs)])
    assert checkpoint.text == checkpoint_text("log", 5, root)
    assert checkpoint.text.count("\n") == 3
    check_signature(checkpoint, await keys.public_key("audit"))
    assert read_checkpoint(json.loads(json.dumps(checkpoint.document))) == checkpoint


async def test_nothing_new_is_not_signed_again(open_audit, keys):
    audit = open_audit(signer=(signer := Watched(keys)))
    await append(audit, 3)

    assert await audit.checkpoint() == await audit.checkpoint() == await open_audit(signer=signer).checkpoint()
    assert signer.count("sign") == 1


@pytest.mark.parametrize("count", [1, 255, 256, 257, 700])
async def test_every_entry_is_proven_to_be_in_every_checkpoint_after_it(audit, open_audit, count):
    checkpoints = []
    for size in (count, 40, 300):
        await append_pages(audit, *[256] * (size // 256), *[size % 256] * bool(size % 256))
        checkpoints.append(await audit.checkpoint())
    again = open_audit()
    entries = await found(again.entries())

    for checkpoint in checkpoints:
        for seq in {0, 1, checkpoint.size // 2, checkpoint.size - 1} & set(range(checkpoint.size)):
            path = await again.inclusion(seq, checkpoint.size)
            assert inclusion_root(entries[seq].leaf, seq, checkpoint.size, path) == checkpoint.root
    for old in checkpoints:
        for new in checkpoints:
            if old.size <= new.size:
                path = await again.consistency(old.size, new.size)
                assert is_consistent(old.size, old.root, new.size, new.root, path)


async def test_proofs_of_what_is_not_there_are_refused(audit):
    await append(audit, 3)

    for index, size in ((3, 3), (0, 4), (-1, 3)):
        with pytest.raises(ValueError, match=r"leaf|entries"):
            await audit.inclusion(index, size)
    for old, new in ((0, 3), (3, 2), (1, 4)):
        with pytest.raises(ValueError, match=r"continues|entries"):
            await audit.consistency(old, new)


async def test_another_root_that_was_signed_for_the_same_size_is_noticed(open_audit, blobs, keys):
    audit = open_audit()
    await append(audit, 3)
    fork = MemoryStorage()
    forked = Audit(fork, keys, origin="log")
    await append(forked, 3)
    await forked.checkpoint()
    await blobs.put(TREE, HEAD, (await fork.get(TREE, HEAD)).data)

    with pytest.raises(LogBroken):
        await audit.checkpoint()


async def test_the_days_checkpoint_is_logged_and_kept_once(open_audit, blobs, clock, caplog):
    caplog.set_level(logging.INFO, "sluicegate.audit.log")
    audit = open_audit()
    await append(audit, 3)

    first = await audit.publish()
    await append(audit, 3)
    second = await audit.publish()

    assert (first.size, second.size) == (3, 6)
    assert [record.message for record in caplog.records] == ["audit checkpoint " + json.dumps(
        first.document, sort_keys=True, separators=(",", ":")
    )]  # fmt: skip
    assert read_checkpoint(json.loads((await blobs.get(PUBLISHED, "20260101")).data)) == first
    clock.advance(DAY)
    await audit.publish()
    assert len(caplog.records) == 2
    assert [blob.name async for blob in blobs.list(PUBLISHED)] == ["20260101", "20260102"]


async def test_the_first_of_the_day_is_kept_when_another_process_publishes(audit, open_audit, blobs):
    await append(audit, 3)
    first = await audit.publish()
    await append(audit, 3)

    await open_audit().publish()

    assert read_checkpoint(json.loads((await blobs.get(PUBLISHED, "20260101")).data)) == first


async def test_what_somebody_put_in_its_place_does_not_silence_a_publication(audit, blobs, caplog):
    caplog.set_level(logging.INFO, "sluicegate.audit.log")
    await append(audit, 3)
    await blobs.put(PUBLISHED, "20260101", b"{}")

    await audit.publish()

    assert len(caplog.records) == 1


async def test_a_changed_entry_is_noticed_and_named(audit, open_audit, blobs):
    await append_pages(audit, 5, 5, 5)
    name = "000000000005"
    page = (await pages(blobs))[name]
    await replace_page(blobs, name, page.replace(b'"subject":"r2"', b'"subject":"r9"'))

    # Entry 8 does not follow entry 7 any more; whoever holds the tree sees which of them it is.
    assert await broken_at(open_audit()) == 8
    with pytest.raises(LogBroken, match="entry 8"):
        await found(audit.entries())


async def test_a_changed_entry_of_a_signed_log_is_named_itself(audit, open_audit, blobs):
    await append_pages(audit, 5, 5, 5)
    await audit.checkpoint()
    await forge(blobs, lambda lines: [*lines[:7], lines[7].replace(b'"subject":"r2"', b'"subject":"r9"'), *lines[8:]])

    assert await broken_at(open_audit()) == 7
    for reading in (audit.entries(), audit.newest(), open_audit().entries(), open_audit().newest()):
        with pytest.raises(LogBroken):
            await found(reading)


@pytest.mark.parametrize("position", [0, 4, 5, 9, 14])
async def test_a_removed_entry_is_noticed(audit, open_audit, blobs, position):
    await append_pages(audit, 5, 5, 5)
    await audit.checkpoint()
    names = list(await pages(blobs))
    page = (await pages(blobs))[names[position // 5]].splitlines(keepends=True)
    del page[position % 5]
    await replace_page(blobs, names[position // 5], b"".join(page))

    assert await broken_at(open_audit()) == position


@pytest.mark.parametrize("name", ["000000000000", "000000000005", "000000000010"])
async def test_a_removed_page_is_noticed(audit, open_audit, blobs, name):
    await append_pages(audit, 5, 5, 5)
    await audit.checkpoint()
    await blobs.delete(LOG, name)

    assert await broken_at(open_audit()) == int(name)
    with pytest.raises((LogBroken, BlobNotFound)):
        await found(open_audit().entries())


async def test_reordered_entries_are_noticed(audit, open_audit, blobs):
    await append_pages(audit, 5, 5)
    page = (await pages(blobs))["000000000005"].splitlines(keepends=True)
    await replace_page(blobs, "000000000005", b"".join([page[1], page[0], *page[2:]]))

    assert await broken_at(open_audit()) == 5


async def test_a_tail_that_was_cut_off_is_noticed_against_what_was_signed_or_seen(audit, open_audit, blobs):
    await append_pages(audit, 5, 5)
    await audit.publish()
    await append(audit, 5)
    await blobs.delete(LOG, "000000000010")

    assert await broken_at(audit) == 10
    # Nobody else has seen them.
    assert await open_audit().verify() == 10
    await blobs.delete(LOG, "000000000005")
    assert await broken_at(open_audit()) == 5
    await blobs.drop(TREE)
    assert await broken_at(open_audit()) == 5


async def test_a_history_that_was_rewritten_with_care_is_noticed_against_a_published_checkpoint(
    audit, open_audit, blobs, clock
):
    for _ in range(3):
        await append(audit, 5)
        await audit.publish()
        clock.advance(DAY)
    await blobs.drop(TREE)
    await forge(blobs, lambda lines: [*lines[:7], lines[7].replace(b'"subject":"r2"', b'"subject":"r9"'), *lines[8:]])

    # The checkpoint over 5 entries still holds, the one over 10 does not.
    assert await broken_at(open_audit()) == 5


async def test_a_forged_publication_is_refused(audit, open_audit, blobs):
    await append(audit, 5)
    checkpoint = await audit.publish()
    forged = Checkpoint("log", 5, bytes(32), checkpoint.key_id, checkpoint.signature)
    await blobs.put(PUBLISHED, "20260101", json.dumps(forged.document).encode())
    with pytest.raises(SealBroken, match="signature"):
        await open_audit().verify()

    await blobs.put(PUBLISHED, "20260101", b"{}")
    with pytest.raises(SealBroken):
        await open_audit().verify()


async def test_what_another_log_signed_with_the_same_key_is_refused(audit, open_audit, blobs, keys, clock):
    await append(audit, 5)
    elsewhere = MemoryStorage()
    other = Audit(elsewhere, keys, origin="other", clock=clock)
    await append(other, 300)
    await other.publish()
    for container in (PUBLISHED, TREE):
        async for blob in elsewhere.list(container):
            await blobs.put(container, blob.name, (await elsewhere.get(container, blob.name)).data)
        with pytest.raises(SealBroken, match="'other'"):
            await open_audit().verify()

    with pytest.raises(SealBroken, match="'other'"):
        await open_audit().append(read_by(0))


async def test_what_follows_the_last_line_of_a_page_is_noticed(audit, open_audit, blobs):
    await append_pages(audit, 5)
    await replace_page(blobs, "000000000000", (await pages(blobs))["000000000000"] + b"more")

    assert await broken_at(open_audit()) == 0


async def test_a_second_page_for_the_same_entries_is_noticed(audit, open_audit, blobs):
    await append_pages(audit, 5, 5)
    page = (await pages(blobs))["000000000005"].splitlines(keepends=True)
    await blobs.put(LOG, "000000000007", b"".join(page[2:]))

    assert await broken_at(open_audit()) == 7


@pytest.mark.parametrize("name", ["zzz", "00000000000a", "README.md", "000000000099"])
async def test_a_foreign_blob_is_noticed(audit, open_audit, blobs, name):
    await append_pages(audit, 5, 5)
    await blobs.put(LOG, name, b"hello")

    with pytest.raises(LogBroken):
        await open_audit().verify()
    assert len(await found(open_audit().newest())) == 10


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}\n", b"no entry", b"[]\n", b"null\n", b"\xff\n", b"[" * 100_000 + b"\n"]
)
async def test_a_damaged_page_is_named(audit, open_audit, blobs, data):
    await append_pages(audit, 5, 5)
    await replace_page(blobs, "000000000005", data)

    assert await broken_at(open_audit()) == 5
    with pytest.raises(LogBroken):
        await open_audit().append(read_by(0))


@pytest.mark.parametrize("change", [lambda data: bytes(8192), lambda data: data[:-32]], ids=["other", "short"])
async def test_a_changed_tile_is_noticed(audit, open_audit, blobs, change):
    await append_pages(audit, 256, 256, 10)
    await audit.checkpoint()
    tile = (await blobs.get(TREE, "tile/0/00000000")).data
    await blobs.put(TREE, "tile/0/00000000", change(tile))

    assert await broken_at(open_audit()) == 0
    with pytest.raises(LogBroken):
        await found(open_audit().entries())


async def test_a_missing_tile_is_noticed(audit, open_audit, blobs):
    await append_pages(audit, 256, 256, 10)
    await audit.checkpoint()
    await blobs.delete(TREE, "tile/0/00000001")

    assert await broken_at(open_audit()) == 256


async def test_a_tile_of_other_entries_is_never_built_upon(audit, blobs):
    await blobs.put(TREE, "tile/0/00000000", bytes(8192))
    await append_pages(audit, 256, 10)

    with pytest.raises(LogBroken):
        await audit.checkpoint()


@pytest.fixture(scope="module")
def signed_log():
    """A small log, all of whose bytes are signed for: its blobs, and its keys."""

    async def make():
        blobs, keys = MemoryStorage(), MemoryKeys()
        audit = Audit(blobs, keys, origin="log")
        await append_pages(audit, 2, 1, 3)
        await audit.publish()
        return await pages(blobs), blobs, keys

    return asyncio.run(make())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_bit_of_a_log_can_be_flipped(signed_log, data):
    stored, blobs, keys = signed_log
    name = data.draw(st.sampled_from(sorted(stored)))
    bit = data.draw(st.integers(0, len(stored[name]) * 8 - 1))
    changed = bytearray(stored[name])
    changed[bit // 8] ^= 1 << bit % 8

    async def check():
        await blobs.put(LOG, name, bytes(changed))
        try:
            seq = await broken_at(Audit(blobs, keys, origin="log"))
            assert seq >= int(name)
        finally:
            await blobs.put(LOG, name, stored[name])

    asyncio.run(check())


@pytest.mark.parametrize("origin", ["", "two words", "a\nb", "x" * 201, "naïve"])
def test_a_log_without_a_proper_name_is_refused(blobs, keys, origin):
    with pytest.raises(ValueError, match="origin"):
        Audit(blobs, keys, origin=origin)


async def test_no_failure_passes_for_success(open_audit, blobs, keys):
    """Whatever one call to storage does, what was acknowledged is in the log, once, and the log is whole."""
    for at in range(1, 12):
        blobs, keys = MemoryStorage(), MemoryKeys()
        calls = 0

        def fail_once(name, args, at=at):
            nonlocal calls
            calls += 1
            if calls == at:
                raise StorageUnavailable("no answer")

        audit = Audit(Watched(blobs, after=fail_once), keys, origin="log")
        acknowledged = []
        for number in range(6):
            with suppress(ServiceError):
                acknowledged.append((await audit.append(read_by(number))).event.id)

        ids = [json.loads(line)["id"] for line in await lines(blobs)]
        assert len(set(ids)) == len(ids)
        assert set(acknowledged) <= set(ids)
        assert await Audit(blobs, keys, origin="log").verify() == len(ids)
