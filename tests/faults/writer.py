"""Keeps and purges records, and writes files, in a local folder until it is killed; run by ``test_kill.py``.

Reads jobs from standard input, a JSON object a line, and runs each in a process of its own, forked from this one so
that nothing is imported twice. Answers ``{"calls": ..., "acknowledged": [...], "killed": ...}``, a line a job.

A job has a ``folder`` and a ``task``, and one of: ``kill_at``, to be killed before that call of the operating system;
``kill_after``, to be killed from outside when so many records are acknowledged; or neither. With ``only_visible`` the
calls are those whose effect another process can see.
"""

import asyncio
import fcntl
import json
import os
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from azure.keyvault.keys.crypto import CryptographyClient

from plugins import local_folder, local_keys
from sluicegate.audit.log import Audit
from sluicegate.retention import purging
from sluicegate.retention.receipts import Receipts
from sluicegate.storage import files
from sluicegate.storage.files import Files
from sluicegate.storage.vault import Vault
from sluicegate.testing import FrozenClock
from sluicegate.types import OfUser
from tests.retention.test_purging import Accounts, Plugins

VISIBLE = ("link", "rename", "unlink", "mkdir", "rmdir")
"""Calls whose effect another process can see."""
CALLS = ("open", "write", "utime", "fsync", "link", "rename", "unlink", "mkdir", "rmdir", "scandir", "listdir")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEXT = "my lucky number is 74093; this is record {}"
FILE = TEXT.encode() * 70


def content(record):
    return (TEXT.format(record) * 20).encode()


def opened(folder, now=NOON):
    """Return the folder's vault, its storage and its clock."""
    blobs = local_folder.open_storage(f"folder:{folder}/storage")
    keys = local_keys.open_keys(f"folder:{folder}/keys")
    clock = FrozenClock(now)
    return Vault(blobs, keys, clock=clock), blobs, clock


def opened_files(folder, now=NOON):
    """Return the folder's files."""
    blobs = local_folder.open_storage(f"folder:{folder}/storage")
    return Files(blobs, local_keys.open_keys(f"folder:{folder}/keys"), clock=FrozenClock(now))


async def keep(folder, acknowledge):
    """Three batches: the first makes the folders and the keys, the second and third are like all that follow."""
    store = opened(folder)[0].store("contoso", "keeper")
    for record in ("a", "b", "c"):
        await store.keep(record, content(record))
        acknowledge(record)


async def keep_many(folder, acknowledge):
    """Thirty-two writers, for ever."""
    vault = opened(folder)[0]

    async def write(writer):
        store = vault.store(f"account{writer % 3}", "keeper")
        number = 0
        while True:
            record = f"{writer}-{number}"
            await store.keep(record, content(record))
            acknowledge(record)
            number += 1

    await asyncio.gather(*map(write, range(32)))


async def purge(folder, acknowledge):
    """A day that is purged beside one that is not; what is acknowledged must stay."""
    vault, _, clock = opened(folder)
    await vault.store("contoso", "keeper").keep("old", content("old"))
    await vault.store("fabrikam", "keeper").keep("old", content("old"))
    clock.advance(timedelta(days=1))
    await vault.store("contoso", "keeper").keep("new", content("new"))
    acknowledge("new")
    clock.now = NOON + timedelta(days=29, hours=11)
    await vault.purge_overdue(clock.now)


async def purge_with_receipts(folder, acknowledge):
    """A run of the timer: a day of all accounts, the day of an account with a shorter retention, and a deletion."""
    process = processes(folder, NOON)
    for account in ("contoso", "fabrikam"):
        await process.vault.store(account, "keeper").keep("old", content("old"))
    process.clock.advance(timedelta(days=26))
    for account in ("contoso", "fabrikam"):
        await process.vault.store(account, "keeper").keep("young", content("young"), user="a1" * 32)
    process.clock.now = NOON + timedelta(days=29, hours=11)
    await process.vault.store("fabrikam", "keeper").keep("new", content("new"), user="b0" * 32)
    acknowledge("new")
    await delete(process)
    acknowledge("deleted")
    await tick(process)


def processes(folder, now):
    """Return what a process opens on a folder."""
    vault, blobs, clock = opened(folder, now)
    keys = local_keys.open_keys(f"folder:{folder}/keys")
    audit = Audit(blobs, keys, origin="log", clock=clock)
    receipts = Receipts(blobs, keys, audit, clock=clock)
    vault = Vault(blobs, keys, clock=clock, ledger=receipts)
    return SimpleNamespace(vault=vault, blobs=blobs, keys=keys, clock=clock, audit=audit, receipts=receipts)


async def delete(process):
    """Delete what one end user said in one account."""
    scope, plugins = OfUser("a1" * 32), Plugins(keeper=30)
    await purging.delete(process.vault, plugins, process.receipts, "fabrikam", scope, actor="fabrikam/officer")


async def tick(process):
    """Run the timer once."""
    accounts, plugins = Accounts(contoso=2, fabrikam=30), Plugins(keeper=30)
    await purging.purge(process.vault, plugins, accounts, process.receipts, now=process.clock.now)


async def arriving():
    for start in range(0, len(FILE), 700):
        yield FILE[start : start + 700]


async def write_file(folder, acknowledge):
    """A file of several segments, and then its deletion."""
    files.SEGMENT_BYTES = 1000
    store = opened_files(folder).store("contoso", "weights")
    await store.write("file", arriving())
    acknowledge("written")
    await store.delete("file")
    acknowledge("deleted")


TASKS = {task.__name__: task for task in (keep, keep_many, purge, purge_with_receipts, write_file)}


def run(job, acknowledged):
    calls = count_calls(job.get("kill_at"), VISIBLE if job.get("only_visible") else CALLS)
    write = getattr(os.write, "__wrapped__", os.write)

    def acknowledge(record):
        write(acknowledged, f"{record}\n".encode())

    asyncio.run(TASKS[job["task"]](job["folder"], acknowledge))
    write(acknowledged, f"calls {calls()}\n".encode())


def count_calls(kill_at, names):
    """Count the calls of some names, in all threads, and die before one of them."""
    calls = 0
    lock = threading.Lock()

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            with lock:
                calls += 1
                if calls == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        call.__wrapped__ = function
        return call

    for name in names:
        setattr(os, name, counted(getattr(os, name)))
    if names is CALLS:
        fcntl.flock = counted(fcntl.flock)
    return lambda: calls


def fork(job):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run(job, writer)
        finally:
            os._exit(0)
    os.close(writer)
    lines = []
    with os.fdopen(reader) as acknowledged:
        for line in acknowledged:
            lines.append(line.strip())
            if len(lines) == job.get("kill_after"):
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    calls = [int(line.split()[1]) for line in lines if line.startswith("calls ")]
    records = [line for line in lines if not line.startswith("calls ")]
    return {"calls": sum(calls), "acknowledged": records, "killed": os.WIFSIGNALED(status)}


if __name__ == "__main__":
    # The first client imports half of the SDK; those of the forked processes need not.
    CryptographyClient.from_jwk({"kty": "oct", "kid": "k", "k": bytes(32), "key_ops": []})
    for line in sys.stdin:
        sys.stdout.write(json.dumps(fork(json.loads(line))) + "\n")
        sys.stdout.flush()
