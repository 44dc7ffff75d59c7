"""Uploaded files without HTTP: quotas, expiry, what is interrupted, accounts, and that the name is sealed like the content."""

import asyncio
import json
from datetime import timedelta

import pytest

from sluicegate.audit.log import Audit
from sluicegate.errors import PurgeIncomplete, QuotaExceeded, StorageUnavailable, TooManyRequests
from sluicegate.retention.receipts import Receipts
from sluicegate.storage import upload_checks, uploaded_files
from sluicegate.storage.file_layout import HEADS, SEGMENTS
from sluicegate.storage.files import Files
from sluicegate.storage.upload_checks import CHECK_TIME
from sluicegate.storage.uploaded_files import CONTAINER, Details, UploadedFiles
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage
from tests.audit.test_log import Watched

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NAME = "secret-project-74093.jsonl"
TEXT = b"canary-content-74093"
LINE = b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A."}]}\n'


class Upload:
    """A file of some pieces; the second one waits for ``go`` where it is given."""

    def __init__(self, *pieces, lives_for=None, go=None, name=NAME):
        self.begun = asyncio.Event()
        self._pieces = pieces or (TEXT,)
        self._details = Details(name, "fine-tune", lives_for)
        self._go = go

    async def content(self):
        for number, piece in enumerate(self._pieces):
            if number and self._go:
                self.begun.set()
                await self._go.wait()
            yield piece

    def details(self):
        return self._details


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def start(blobs, clock):
    """Return a function that makes the files of one process."""
    keys = MemoryKeys()

    def start(store=blobs, most_files=10, most_bytes=10_000):
        receipts = Receipts(store, keys, Audit(store, keys, origin="test", clock=clock), clock=clock)
        files = Files(store, keys, clock=clock)
        return UploadedFiles(store, files, receipts, clock=clock, most_files=most_files, most_bytes=most_bytes)

    return start


async def kept(blobs):
    """Return the blobs of files: their names and what they hold."""
    found = {}
    for container in (HEADS, SEGMENTS, CONTAINER):
        async for blob in blobs.list(container):
            found[container, blob.name] = (await blobs.get(container, blob.name)).data
    return found


async def ids(files, account="contoso"):
    return [file.id for file in (await listed(files, account))]


async def listed(files, account="contoso"):
    page, _ = await files.page(account, purpose=None, after=None, limit=100, newest_first=False)
    return page


async def read(files, id, account="contoso"):
    return b"".join([piece async for piece in (await files.open(account, id)).read()])


async def receipts(blobs, account="contoso"):
    names = [blob.name async for blob in blobs.list("receipts", f"account/{account}/")]
    return [json.loads((await blobs.get("receipts", name)).data) for name in names]


async def test_neither_name_nor_content_is_stored_in_plain_text(start, blobs):
    file = await start().create("contoso", Upload())

    assert (await start().get("contoso", file.id), await ids(start())) == (file, [file.id])
    assert (file.name, await read(start(), file.id)) == (NAME, TEXT)
    assert len(await kept(blobs)) == 5
    for (_, name), data in (await kept(blobs)).items():
        assert b"canary-content" not in data
        assert b"secret-project" not in data
        assert "secret-project" not in name


async def test_another_account_sees_and_deletes_nothing(start, blobs):
    file = await start().create("contoso", Upload())
    before = await kept(blobs)

    assert await start().get("fabrikam", file.id) is None
    assert await start().open("fabrikam", file.id) is None
    assert await start().delete("fabrikam", file.id, actor="fabrikam/key1") is None
    assert await ids(start(), "fabrikam") == []
    assert await kept(blobs) == before


async def test_a_deletion_counts_in_every_process_and_leaves_nothing(start, blobs):
    one, other = start(), start()
    file = await one.create("contoso", Upload())
    assert await read(other, file.id) == TEXT

    await one.delete("contoso", file.id, actor="contoso/key1")

    assert await other.get("contoso", file.id) is None
    assert await other.open("contoso", file.id) is None
    assert await ids(other) == []
    assert await kept(blobs) == {}


async def test_an_expired_file_is_not_found_and_goes_with_a_receipt(start, blobs, clock):
    files = start()
    file = await files.create("contoso", Upload(lives_for=HOUR))
    clock.advance(timedelta(milliseconds=1))
    stays = await files.create("contoso", Upload(lives_for=DAY))
    clock.advance(HOUR - timedelta(seconds=1))
    assert await files.purge(clock.now) == 0
    assert await ids(files) == [file.id, stays.id]

    clock.advance(timedelta(seconds=1))

    assert await ids(files) == [stays.id]
    assert await files.get("contoso", file.id) is None
    assert await files.open("contoso", file.id) is None
    assert await files.purge(clock.now) == 1
    assert {name.split("/")[-1] for _, name in await kept(blobs) if file.id in name} == set()
    [receipt] = await receipts(blobs)
    assert (receipt["kind"], receipt["subject"]) == ("delete.file", file.id)
    assert await read(files, stays.id) == TEXT


@pytest.mark.parametrize("damaged", [b"{", b"[]", b"{}"])
async def test_a_damaged_description_stops_no_other_file_from_expiring(start, blobs, clock, damaged):
    files = start()
    first, second = [await files.create("contoso", Upload(lives_for=HOUR)) for _ in range(2)]
    await blobs.put(CONTAINER, f"contoso/{min(first.id, second.id)}", damaged)
    clock.advance(HOUR)

    with pytest.raises(PurgeIncomplete, match=min(first.id, second.id)):
        await files.purge(clock.now)

    assert [receipt["subject"] for receipt in await receipts(blobs)] == [max(first.id, second.id)]


async def test_an_account_has_no_more_files_than_it_may(start, blobs):
    files = start(most_files=2)
    for _ in range(2):
        await files.create("contoso", Upload())
    before = await kept(blobs)

    with pytest.raises(QuotaExceeded, match="2 files"):
        await files.create("contoso", Upload())

    assert await kept(blobs) == before
    await files.create("fabrikam", Upload())


async def test_an_account_has_no_more_bytes_than_it_may_and_what_was_too_much_leaves_nothing(start, blobs):
    files = start(most_bytes=100)
    await files.create("contoso", Upload(b"x" * 60))
    before = await kept(blobs)

    with pytest.raises(QuotaExceeded):
        await files.create("contoso", Upload(b"x" * 41))

    assert await kept(blobs) == before
    await files.create("contoso", Upload(b"x" * 40))


async def test_uploads_at_the_same_time_do_not_share_the_same_room(start):
    go = asyncio.Event()
    uploads = [Upload(b"x" * 30, b"x" * 30, go=go) for _ in range(2)]
    running = [asyncio.create_task(start(most_bytes=100).create("contoso", upload)) for upload in uploads]
    for upload in uploads:
        await upload.begun.wait()

    go.set()
    done = await asyncio.gather(*running, return_exceptions=True)

    assert any(isinstance(each, QuotaExceeded) for each in done)


async def test_an_account_does_not_upload_more_at_a_time_than_it_may(start):
    go, files = asyncio.Event(), start()
    uploads = [Upload(b"a", b"b", go=go) for _ in range(uploaded_files.UPLOADS_AT_ONCE)]
    running = [asyncio.create_task(files.create("contoso", upload)) for upload in uploads]
    for upload in uploads:
        await upload.begun.wait()

    with pytest.raises(TooManyRequests):
        await files.create("contoso", Upload())
    await files.create("fabrikam", Upload())

    go.set()
    await asyncio.gather(*running)
    await files.create("contoso", Upload())


async def test_an_upload_that_fails_or_is_abandoned_leaves_nothing(start, blobs):
    files = start()

    class Broken(Upload):
        async def content(self):
            yield TEXT
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await files.create("contoso", Broken())
    upload = Upload(b"a", b"b", go=asyncio.Event())
    task = asyncio.create_task(files.create("contoso", upload))
    await upload.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await files.drain()

    assert await kept(blobs) == {}


async def test_an_upload_whose_head_was_never_written_is_shown_to_nobody_and_goes_later(start, blobs, clock):
    heads = []

    def die(name, args):
        # Everything fails from there on, as for a process that has ended.
        if (heads or name == "put") and (heads or (args[0] == HEADS and "/uploads/" in args[1])):
            heads.append(args)
            raise StorageUnavailable("gone")

    with pytest.raises(StorageUnavailable):
        await start(Watched(blobs, die)).create("contoso", Upload())
    assert {container for container, _ in await kept(blobs)} == {CONTAINER, HEADS, SEGMENTS}

    id = next(name for container, name in await kept(blobs) if container == CONTAINER).split("/")[1]
    assert await ids(start()) == []
    assert await start().get("contoso", id) is None
    assert await start().open("contoso", id) is None
    assert await start().purge(clock.now) == 0
    clock.advance(3 * DAY)
    assert await start().purge(clock.now) == 0

    assert await kept(blobs) == {}
    assert await receipts(blobs) == []


@pytest.mark.parametrize("container", [SEGMENTS, HEADS, CONTAINER])
async def test_an_interrupted_deletion_is_unreadable_and_the_timer_finishes_it_with_one_receipt(
    start, blobs, clock, container
):
    file = await start().create("contoso", Upload())

    def fail(name, args):
        if name == "delete" and args[0] == container and (container != HEADS or "/upload-names/" in args[1]):
            raise StorageUnavailable("stuck")

    with pytest.raises(StorageUnavailable):
        await start(Watched(blobs, fail)).delete("contoso", file.id, actor="contoso/key1")
    assert await start().open("contoso", file.id) is None
    assert await ids(start()) == []
    with pytest.raises(PurgeIncomplete, match=file.id):
        await start(Watched(blobs, fail)).purge(clock.now)
    assert await receipts(blobs) == []

    assert await start().purge(clock.now) == 1

    assert await kept(blobs) == {}
    [receipt] = await receipts(blobs)
    assert receipt["removed"][0]["blobs"] == 5
    assert receipt["subject"] == file.id


async def examined(files, id):
    return await files.examine("contoso", await files.get("contoso", id))


async def test_a_check_that_its_process_did_not_live_to_finish_is_made_by_the_next_reader(start, blobs, clock):
    dead = []

    def die(name, args):
        # The process ends between the report and what the description says of it.
        if dead or (name == "put" and args[0] == HEADS and "/upload-reports/" in args[1]):
            dead.append(args)
            raise StorageUnavailable("gone")

    process = start(Watched(blobs, die))
    file = await process.create("contoso", Upload(LINE * 12))
    assert file.status == "pending"
    await process.examine("contoso", file)

    assert (await start().get("contoso", file.id)).status == "running"
    assert await start().report("contoso", file.id) is None
    assert (await examined(start(), file.id)).status == "running"
    clock.advance(CHECK_TIME + timedelta(minutes=1))
    assert [each.status for each in await listed(start())] == ["pending"]

    report = json.loads(await start().report("contoso", file.id))

    assert report["examples"] == 12
    assert (await start().get("contoso", file.id)).status == "processed"


async def test_a_check_that_was_stopped_after_its_report_is_finished(start, blobs):
    def fail(name, args):
        # All of the file is there by then but for the result.
        if name == "put" and args[0] == CONTAINER and b'"processed"' in args[2]:
            raise StorageUnavailable("gone")

    process = start(Watched(blobs, fail))
    file = await examined(process, (await process.create("contoso", Upload(LINE * 12))).id)

    assert file.status == "pending"
    await blobs.put(CONTAINER, f"contoso/{file.id}", await pending(blobs, file.id))
    assert (await examined(start(), file.id)).status == "processed"
    assert json.loads(await start().report("contoso", file.id))["examples"] == 12


async def pending(blobs, id):
    """Return a description as it is once the time of whoever checks the file is up."""
    about = json.loads((await blobs.get(CONTAINER, f"contoso/{id}")).data)
    return json.dumps({**about, "status": "pending"}).encode()


async def test_the_timer_checks_what_nobody_reads_and_no_damaged_description_stops_it(start, blobs):
    files = start()
    ids = [(await files.create("contoso", Upload(data))).id for data in (LINE, LINE * 12, b"{canary")]
    await blobs.put(CONTAINER, f"contoso/{min(ids)}", b"{")

    await start().examine_left()

    found = {file.id: file.status for file in [await files.get("contoso", id) for id in ids if id != min(ids)]}
    assert set(found.values()) <= {"processed", "error"}
    assert len(found) == 2


async def test_a_file_is_checked_by_one_at_a_time(start, monkeypatch):
    begun, go, count = asyncio.Event(), asyncio.Event(), []
    validate = upload_checks.validate_async

    async def slow(content):
        count.append(content)
        begun.set()
        await go.wait()
        return await validate(content)

    monkeypatch.setattr(upload_checks, "validate_async", slow)
    file = await start().create("contoso", Upload(LINE * 12))
    first = asyncio.create_task(start().examine("contoso", file))
    await begun.wait()

    others = [(await examined(start(), file.id)).status, (await start().examine("contoso", file)).status]
    go.set()

    assert others == ["running", "running"]
    assert (await first).status == "processed"
    assert (await examined(start(), file.id)).status == "processed"
    assert len(count) == 1


async def test_whoever_goes_away_does_not_end_the_check(start, monkeypatch):
    begun, go = asyncio.Event(), asyncio.Event()
    validate = upload_checks.validate_async

    async def slow(content):
        begun.set()
        await go.wait()
        return await validate(content)

    monkeypatch.setattr(upload_checks, "validate_async", slow)
    files = start()
    file = await files.create("contoso", Upload(LINE * 12))
    waiting = asyncio.create_task(files.examine("contoso", file))
    await begun.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    go.set()
    await asyncio.gather(*files._checks._running)

    assert (await start().get("contoso", file.id)).status == "processed"


async def test_a_process_that_is_asked_to_end_leaves_the_check_to_the_next(start, monkeypatch):
    begun = asyncio.Event()

    async def slow(content):
        begun.set()
        await asyncio.Event().wait()

    files = start()
    file = await files.create("contoso", Upload(LINE * 12))
    with monkeypatch.context() as patched:
        patched.setattr(upload_checks, "validate_async", slow)
        waiting = asyncio.create_task(files.examine("contoso", file))
        await begun.wait()
        await files.drain()
        await asyncio.wait([waiting])

    assert (await start().get("contoso", file.id)).status == "pending"
    assert (await examined(start(), file.id)).status == "processed"


async def test_a_file_whose_check_always_fails_ends_with_an_error(start, clock, monkeypatch, caplog):
    async def broken(content):
        raise RuntimeError(TEXT)

    monkeypatch.setattr(upload_checks, "validate_async", broken)
    file = await start().create("contoso", Upload(LINE * 12))
    for _ in range(upload_checks.MOST_CHECKS):
        assert (await examined(start(), file.id)).status == "pending"
        clock.advance(CHECK_TIME + timedelta(minutes=1))

    file = await examined(start(), file.id)

    assert (file.status, "could not be checked" in file.status_details) == ("error", True)
    assert (await examined(start(), file.id)) == file
    assert "canary" not in caplog.text


async def test_a_storage_that_is_away_costs_a_file_no_attempt(start, blobs):
    def fail(name, args):
        if name == "get" and args[0] == HEADS and "/uploads/" in args[1]:
            raise StorageUnavailable("away")

    file = await start().create("contoso", Upload(LINE * 12))
    for _ in range(upload_checks.MOST_CHECKS + 1):
        assert (await start(Watched(blobs, fail)).examine("contoso", file)).status == "pending"

    assert (await examined(start(), file.id)).status == "processed"


async def test_all_files_of_an_account_go_each_with_its_receipt(start, blobs):
    files = start()
    gone = [(await files.create("contoso", Upload())).id for _ in range(3)]
    stays = await files.create("fabrikam", Upload())

    assert await files.delete_all("contoso", actor="operator") == 3

    assert sorted(receipt["subject"] for receipt in await receipts(blobs)) == sorted(gone)
    assert await ids(files) == []
    assert await ids(files, "fabrikam") == [stays.id]
