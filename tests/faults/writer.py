"""Keeps and purges records in a local folder until it is killed; run by ``test_kill.py``.

Reads jobs from standard input, a JSON object a line, and runs each in a process of its own, forked from this one so
that nothing is imported twice. Answers ``{"calls": ..., "acknowledged": [...], "killed": ...}``, a line a job.

A job has a ``folder`` and a ``task``, and one of: ``kill_at``, to be killed before that call of the operating system;
``kill_after``, to be killed from outside when so many records are acknowledged; or neither.
"""

import asyncio
import fcntl
import json
import os
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta

from azure.keyvault.keys.crypto import CryptographyClient

from plugins import local_folder, local_keys
from sluicegate.testing import FrozenClock
from sluicegate.vault import Vault

CALLS = ("open", "write", "utime", "fsync", "link", "rename", "unlink", "mkdir", "rmdir", "scandir", "listdir")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEXT = "my lucky number is 74093; this is record {}"


def content(record):
    return (TEXT.format(record) * 20).encode()


def opened(folder, now=NOON):
    """Return the folder's vault, its storage and its clock."""
    blobs = local_folder.open_storage(f"folder:{folder}/storage")
    keys = local_keys.open_keys(f"folder:{folder}/keys")
    clock = FrozenClock(now)
    return Vault(blobs, keys, clock=clock), blobs, clock


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


TASKS = {task.__name__: task for task in (keep, keep_many, purge)}


def run(job, acknowledged):
    calls = count_calls(job.get("kill_at"))
    write = os.write.__wrapped__

    def acknowledge(record):
        write(acknowledged, f"{record}\n".encode())

    asyncio.run(TASKS[job["task"]](job["folder"], acknowledge))
    write(acknowledged, f"calls {calls()}\n".encode())


def count_calls(kill_at):
    """Count the calls that can change a folder, in all threads, and die before one of them."""
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

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
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
