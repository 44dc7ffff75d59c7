"""A storage folder that is full, read-only, or holds what is not ours: said clearly, nothing lost, nothing acknowledged in vain."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import tempfile
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from plugins import local_folder, local_keys
from sluicegate.errors import KeyUnavailable, StorageUnavailable
from sluicegate.storage.vault import Vault
from sluicegate.testing import FrozenClock
from sluicegate.types import OfAccount, OfRecord

NOBODY = 65534
FOREIGN = (
    ".DS_Store",
    "README",
    "_x y",
    "lost+found/#123",
    "ret-20260101/.DS_Store",
    "ret-20260101/contoso/keeper/notes.txt",
    "ret-20260101/contoso/_bad name",
    "ret-20260101/contoso/keeper/_folder/file",
    "keyring-20260101/.DS_Store",
    "keyring-20260101/contoso/keeper/notes.txt",
)


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture
async def folder():
    """A folder that everybody may reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
async def vault(folder, clock):
    blobs = local_folder.open_storage(f"folder:{folder}/storage")
    yield Vault(blobs, local_keys.open_keys(f"folder:{folder}/keys"), clock=clock)
    await blobs.close()


async def read(vault):
    return {record.id: record.data async for record in vault.store("contoso", "keeper").records()}


@contextmanager
def full_disk(limit):
    """Let no file grow beyond so many bytes, which is as near as a process comes to a full disk by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def read_only(folder):
    """Take the right to write away, from root as well."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


async def test_on_a_full_disk_nothing_is_acknowledged_and_nothing_is_lost(vault):
    store = vault.store("contoso", "keeper")
    await store.keep("before", b"first")

    with full_disk(20_000):
        kept = await asyncio.gather(
            *(store.keep(f"during-{number}", bytes(30_000)) for number in range(4)), return_exceptions=True
        )

    assert [(type(each), str(each)) for each in kept] == [
        (StorageUnavailable, "the storage folder: File too large")
    ] * 4
    assert await read(vault) == {"before": b"first"}
    await store.keep("after", bytes(30_000))
    assert sorted(await read(vault)) == ["after", "before"]


async def test_what_is_deleted_and_due_goes_though_the_disk_is_full(vault, clock, folder):
    store = vault.store("contoso", "keeper")
    for name in ("one", "two"):
        await store.keep(name, bytes(30_000))
    clock.advance(timedelta(days=1))

    with full_disk(20_000):
        await store.purge(OfRecord("one"))
        assert sorted(await read(vault)) == ["two"]
        await vault.purge_overdue(clock.now + timedelta(days=29))

    assert not (folder / "storage" / "ret-20260101").exists()
    assert not (folder / "keys" / "ret-20260101.jwk").exists()


async def test_a_disk_without_room_for_a_key_keeps_nothing(vault, folder):
    with full_disk(0), pytest.raises(KeyUnavailable, match=r"^the key folder: File too large$"):
        await vault.store("contoso", "keeper").keep("one", b"first")

    assert await read(vault) == {}
    await vault.store("contoso", "keeper").keep("one", b"first")
    assert await read(vault) == {"one": b"first"}


async def test_a_read_only_folder_is_read_and_takes_nothing(vault, folder, clock):
    await vault.store("contoso", "keeper").keep("before", b"first")

    with read_only(folder):
        for step in (
            vault.store("contoso", "keeper").keep("during", b""),
            vault.store("contoso", "keeper").purge(OfAccount()),
        ):
            with pytest.raises(StorageUnavailable, match=r"^the storage folder: Permission denied$"):
                await step
        assert await read(vault) == {"before": b"first"}

    await vault.store("contoso", "keeper").keep("after", b"")
    assert sorted(await read(vault)) == ["after", "before"]


async def test_what_is_not_ours_is_in_nobodys_way_and_goes_with_the_day(vault, folder, clock):
    store = vault.store("contoso", "keeper")
    for name in ("one", "two"):
        await store.keep(name, b"first")
    for name in FOREIGN:
        path = folder / "storage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not ours")

    assert sorted(await read(vault)) == ["one", "two"]
    assert await vault.plugins("contoso") == ("keeper",)
    await store.purge(OfRecord("one"))
    assert sorted(await read(vault)) == ["two"]
    await vault.purge_overdue(clock.now + timedelta(days=30))

    assert await vault.overdue(clock.now + timedelta(days=30)) == ()
    assert not (folder / "storage" / "ret-20260101").exists()
    assert [name for name in FOREIGN[:4] if not (folder / "storage" / name).exists()] == []
