"""kill -9 at every call of the operating system, and at any moment under load: what was acknowledged is there.

A killed process loses nothing that the kernel has; that the disk has it too after a power failure is by the order of
flushes, which no test here can show.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from sluicegate.retention.receipt_check import verify_receipt
from sluicegate.retention.receipts import CONTAINER, OWED
from tests.faults import writer

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")
CANARY = b"lucky number is 74093"
"""Words, because names, hashes and times may hold five digits by chance."""


@pytest.fixture
def tmp_path(tmp_path):
    """A folder in memory where there is one: to a process that is killed it is like any other, and flushes are free."""
    if not SHARED_MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def submit():
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.writer"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def submit(**job):
        process.stdin.write(
            json.dumps({key: str(value) if key == "folder" else value for key, value in job.items()}) + "\n"
        )
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield submit
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == 0


@asynccontextmanager
async def reopened(folder, now=writer.NOON):
    vault, blobs, _ = writer.opened(folder, now)
    yield vault
    await blobs.close()


async def found(vault, *accounts):
    return {
        record.id: record.data
        for account in accounts
        for store in [vault.store(account, "keeper")]
        async for record in store.records()
    }


def holds_plain_text(folder):
    return [path for path in folder.rglob("*") if path.is_file() and CANARY in path.read_bytes()]


def leftovers(folder):
    return [path.name for path in (folder / "storage").glob(".[sd]*")]


async def check_kept(folder, acknowledged, *accounts):
    assert holds_plain_text(folder) == []
    async with reopened(folder) as vault:
        records = await found(vault, *accounts)
        await vault.store(accounts[0], "keeper").keep("afterwards", b"")
        again = await found(vault, *accounts)
    assert set(acknowledged) <= set(records)
    assert all(data == writer.content(record) for record, data in records.items())
    assert again == {**records, "afterwards": b""}
    assert leftovers(folder) == []


def every_point(submit, tmp_path, task):
    """Yield the outcome of a task that is killed before each of its calls, and at last that of one that lives to its end."""
    whole = submit(folder=tmp_path / "whole", task=task)
    assert not whole["killed"]
    assert whole["calls"] > 50
    for number in count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = submit(folder=folder, task=task, kill_at=number)
        yield folder, outcome["acknowledged"]
        if not outcome["killed"]:
            # Threads flush together when they meet, so one run makes a few calls fewer than another.
            assert number > whole["calls"] * 9 // 10
            return


async def test_a_writer_may_be_killed_at_any_call(submit, tmp_path):
    seen = set()
    for folder, acknowledged in every_point(submit, tmp_path, "keep"):
        await check_kept(folder, acknowledged, "contoso")
        seen.add(len(acknowledged))

    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(12))
async def test_writers_may_be_killed_at_any_moment_under_load(submit, tmp_path, seed):
    kill_after = random.Random(seed).randint(1, 1500)

    outcome = submit(folder=tmp_path, task="keep_many", kill_after=kill_after)

    assert outcome["killed"]
    assert len(outcome["acknowledged"]) >= kill_after
    await check_kept(tmp_path, outcome["acknowledged"], "account0", "account1", "account2")


async def test_a_store_that_was_killed_again_and_again_keeps_everything(submit, tmp_path):
    acknowledged = []
    for number in count(1):
        outcome = submit(folder=tmp_path, task="keep", kill_at=number * 9)
        acknowledged += outcome["acknowledged"]
        if not outcome["killed"]:
            break

    async with reopened(tmp_path) as vault:
        stored = [record.id async for record in vault.store("contoso", "keeper").records()]
    assert all(stored.count(record) >= acknowledged.count(record) for record in "abc")


async def test_a_purge_may_be_killed_at_any_call_and_run_again(submit, tmp_path):
    now = writer.NOON + timedelta(days=29, hours=11)
    for folder, acknowledged in every_point(submit, tmp_path, "purge"):
        async with reopened(folder, now) as vault:
            await vault.purge_overdue(now)
            records = await found(vault, "contoso", "fabrikam")
            assert await vault.overdue(writer.NOON + timedelta(days=30)) == ()
        left = [path for path in folder.rglob("*") if path.is_file() and "20260101" in str(path.relative_to(folder))]
        assert set(acknowledged) <= set(records) <= {"new"}
        assert (left, leftovers(folder), holds_plain_text(folder)) == ([], [], [])


REMOVALS = [
    ("delete.user", "fabrikam", "a1" * 32),
    ("purge.account-day", "contoso", "20260127/keeper"),
    ("purge.day", None, "20260101"),
]


async def test_a_purge_may_be_killed_at_any_change_and_each_removal_has_one_receipt(submit, tmp_path):
    job = {"task": "purge_with_receipts", "only_visible": True}
    whole = submit(folder=tmp_path / "whole", **job)
    assert not whole["killed"]
    points = 0
    # Backwards, because what comes before the deletion is for other tests.
    for number in range(whole["calls"], 0, -1):
        folder = tmp_path / str(number)
        folder.mkdir()
        if "new" not in submit(folder=folder, kill_at=number, **job)["acknowledged"]:
            break
        await check_receipts(folder)
        shutil.rmtree(folder)
        points += 1
    assert points > 50


async def check_receipts(folder):
    """Go on as the officer and the timer do, and look for one receipt for each removal and for nothing that can be read."""
    process = writer.processes(folder, writer.NOON + timedelta(days=29, hours=12))
    begun = [blob for container in (OWED, CONTAINER) async for blob in process.blobs.list(container)]
    if not begun:
        await writer.delete(process)
    await writer.tick(process)
    await writer.tick(process)

    statements = []
    async for receipt in process.receipts.every():
        statement = verify_receipt(receipt.data, await process.keys.public_key("audit")).statement
        if statement["account"] or statement["subject"] == "20260101":
            statements.append((statement["kind"], statement["account"], statement["subject"]))
            assert statement["removed"][0]["bytes"] > 0
    assert sorted(statements) == REMOVALS
    assert set(await found(process.vault, "contoso", "fabrikam")) == {"new"}
    assert await process.audit.verify() >= len(statements)
    await process.blobs.close()
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert [name for name in names if "ret-20260101" in name or "receipts-owed" in name] == []
    assert (leftovers(folder), holds_plain_text(folder)) == ([], [])


async def test_a_file_is_whole_or_not_there_wherever_its_writer_or_deleter_is_killed(submit, tmp_path):
    seen = set()
    for folder, acknowledged in every_point(submit, tmp_path, "write_file"):
        store = writer.opened_files(folder).store("contoso", "weights")
        there = [name async for name in store.names()]
        found = [b"".join([piece async for piece in (await store.open(name)).read()]) for name in there]
        await writer.opened_files(folder).finish_changes(writer.NOON + timedelta(days=3))

        assert found == [writer.FILE] * len(there)
        assert "deleted" not in acknowledged or not there
        stored = [path for path in (folder / "storage").glob("file-*/**/_*") if path.is_file()]
        assert bool(stored) is bool(there)
        assert holds_plain_text(folder) == []
        seen.add((*acknowledged, bool(there)))

    assert {(False,), ("written", True), ("written", "deleted", False)} <= seen
