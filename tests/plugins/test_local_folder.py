import asyncio
import fcntl
import os
import re
import resource
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from plugins import local_folder
from sluicegate.errors import BlobNotFound, StartupError, StorageUnavailable
from sluicegate.testing import check_storage

NOBODY = 65534


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
async def store(folder):
    store = local_folder.open_storage(f"folder:{folder}")
    yield store
    await store.close()


def visible(folder):
    """Return every file that is not the store's own."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


async def test_keeps_the_contract_of_a_blob_store(folder):
    await check_storage(lambda: local_folder.open_storage(f"folder:{folder}"))


@pytest.mark.parametrize("url", ["https://contoso.blob.core.windows.net", "UseDevelopmentStorage=true", "memory:", ""])
def test_other_urls_are_not_this_plugins(url):
    assert local_folder.open_storage(url) is None


def test_a_folder_must_be_named():
    with pytest.raises(StartupError, match="names no folder"):
        local_folder.open_storage("folder:")


async def test_opening_and_reading_touch_nothing(store, folder):
    assert await store.containers() == ()
    assert [blob async for blob in store.list("container")] == []
    with pytest.raises(BlobNotFound):
        await store.get("container", "blob")

    assert not folder.exists()


async def test_only_its_owner_may_read_it(store, folder):
    old = os.umask(0)
    try:
        await store.put("container", "deep/blob", b"data")
    finally:
        os.umask(old)

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


@pytest.fixture
def flushes(monkeypatch):
    """What is named, unnamed and flushed, in order; paths without their random parts."""
    seen = []
    opened = {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "link", "rename", "unlink", "mkdir")}

    def short(path):
        return re.sub(r"(\.\w+)-[0-9a-f]{16}(/\d+)?", r"\1", str(path).partition("/storage")[2]) or "/"

    def traced_open(path, *args, **kwargs):
        fd = real["open"](path, *args, **kwargs)
        opened[fd] = path
        return fd

    def traced(name):
        def call(*args, **kwargs):
            seen.append((name, *(short(opened[arg] if name == "fsync" else arg) for arg in args[:2] if arg != 0o700)))
            return real[name](*args, **kwargs)

        return call

    monkeypatch.setattr(os, "open", traced_open)
    for name in real.keys() - {"open"}:
        monkeypatch.setattr(os, name, traced(name))
    return seen


@pytest.mark.parametrize(("options", "naming"), [({"create": True}, "link"), ({}, "rename")], ids=["create", "replace"])
async def test_a_blob_is_flushed_before_it_is_named_and_its_folder_before_put_returns(store, flushes, options, naming):
    await store.put("container", "deep/other", b"")
    flushes.clear()
    await store.put("container", "deep/blob", b"data", **options)

    assert [step for step in flushes if step[0] != "unlink"] == [
        ("fsync", "/.staging"),
        (naming, "/.staging", "/container/deep/_blob"),
        ("fsync", "/container/deep"),
    ]


async def test_folders_are_flushed_into_their_parents_from_the_top(store, flushes):
    await store.put("container", "deep/blob", b"data", create=True)

    made = [step for step in flushes if step[0] in ("mkdir", "fsync")]
    assert made[-5:] == [
        ("mkdir", "/container"),
        ("fsync", "/"),
        ("mkdir", "/container/deep"),
        ("fsync", "/container"),
        ("fsync", "/container/deep"),
    ]


async def test_deleting_and_dropping_are_flushed(store, flushes):
    await store.put("container", "deep/blob", b"")
    await store.put("container", "deep/other", b"")
    flushes.clear()
    await store.delete("container", "deep/blob")
    await store.drop("container")

    assert flushes[:4] == [
        ("unlink", "/container/deep/_blob"),
        ("fsync", "/container/deep"),
        ("rename", "/container", "/.dropped"),
        ("fsync", "/"),
    ]
    assert flushes[-1] == ("fsync", "/")


async def test_a_blob_is_a_file_that_an_operator_finds(store, folder):
    await store.put("ret-20260101", "contoso/keeper/kid/00000001", b"data")

    assert visible(folder) == ["ret-20260101/contoso/keeper/kid/_00000001"]


async def test_folders_go_with_their_last_blob_and_containers_stay(store, folder):
    await store.put("container", "a/b/c", b"")
    await store.put("container", "a/d", b"")
    await store.delete("container", "a/b/c")

    assert sorted(path.name for path in (folder / "container").rglob("*")) == ["_d", "a"]
    await store.delete("container", "a/d")
    assert await store.containers() == ("container",)
    assert list((folder / "container").iterdir()) == []


async def test_a_folder_that_another_process_removed_is_made_again(folder, store):
    other = local_folder.open_storage(f"folder:{folder}")
    for _ in range(3):
        await store.put("container", "a/b/c", b"", create=True)
        await other.delete("container", "a/b/c")
        await store.put("container", "a/b/c", b"")
        await other.drop("container")
    await other.close()

    assert await store.containers() == ()


async def test_writers_and_removers_of_one_folder_do_not_lose_each_others_blobs(folder, store):
    other = local_folder.open_storage(f"folder:{folder}")

    async def come_and_go(each, name):
        for _ in range(50):
            await each.put("container", f"deep/down/{name}", b"", create=True)
            await each.get("container", f"deep/down/{name}")
            await each.delete("container", f"deep/down/{name}")

    await asyncio.gather(
        *(come_and_go(each, f"{number}-{turn}") for number, each in enumerate((store, other)) for turn in range(3))
    )
    await other.close()

    assert visible(folder) == []


async def test_leftovers_of_dead_processes_are_swept_and_those_of_living_ones_are_not(folder, store):
    await store.put("container", "blob", b"")
    for name in (".staging-dead", ".staging-unborn", ".dropped-half"):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep" / "left").write_bytes(b"left")
    (folder / ".staging-dead" / "lock").write_bytes(b"")
    living = folder / ".staging-living"
    living.mkdir()
    lock = os.open(living / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)

    other = local_folder.open_storage(f"folder:{folder}")
    await other.put("container", "blob", b"again")

    own = [name for name in hidden(folder) if name.startswith(".staging-") and name != ".staging-living"]
    assert hidden(folder) == sorted([".lock", ".staging-living", *own])
    assert len(own) == 2
    os.close(lock)
    await other.drop("container")
    assert ".staging-living" not in hidden(folder)
    await other.close()


async def test_dropping_takes_what_an_interrupted_drop_left(folder, store):
    await store.put("container", "blob", b"")
    (folder / ".dropped-half").mkdir()
    (folder / ".dropped-half" / "_left").write_bytes(b"left")

    assert await store.drop("missing") is False
    assert ".dropped-half" not in hidden(folder)


async def test_listing_containers_takes_what_an_interrupted_drop_left(folder, store):
    (folder / ".dropped-half").mkdir(parents=True)
    (folder / ".dropped-half" / "_left").write_bytes(b"left")
    (folder / ".staging-dead").mkdir()

    assert await store.containers() == ()
    assert hidden(folder) == [".lock"]


async def test_closing_leaves_only_the_blobs(folder):
    store = local_folder.open_storage(f"folder:{folder}")
    await store.put("container", "blob", b"data")
    await store.close()

    assert hidden(folder) == [".lock"]
    assert visible(folder) == ["container/_blob"]


async def test_a_full_disk_is_said_and_leaves_nothing(store, folder):
    await store.put("container", "blob", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for options in ({}, {"create": True}):
            with pytest.raises(StorageUnavailable, match=r"^the storage folder: File too large$"):
                await store.put("container", "blob" if not options else "new", bytes(200_000), **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (await store.get("container", "blob")).data == b"old"
    assert visible(folder) == ["container/_blob"]
    assert [path.name for path in folder.glob(".staging-*/*")] == ["lock"]


async def test_a_read_only_folder_is_said_and_can_be_read():
    with tempfile.TemporaryDirectory() as name:
        store = local_folder.open_storage(f"folder:{name}/contoso")
        await store.put("container", "blob", b"data")
        await store.close()
        root = Path(name)
        root.chmod(0o755)
        for path in root.rglob("*"):
            path.chmod(0o555)

        store = local_folder.open_storage(f"folder:{name}/contoso")
        with as_nobody():
            found = await store.get("container", "blob")
            for step in (
                store.put("container", "other", b""),
                store.delete("container", "blob"),
                store.drop("container"),
            ):
                with pytest.raises(StorageUnavailable, match=r"^the storage folder: Permission denied$"):
                    await step
        await store.close()
        for path in root.rglob("*"):
            path.chmod(0o755)

    assert found.data == b"data"


class as_nobody:
    """Give up the rights of root, which no mode of a folder binds."""

    def __enter__(self):
        if os.geteuid() == 0:
            os.seteuid(NOBODY)

    def __exit__(self, *_):
        if os.getuid() == 0:
            os.seteuid(0)


async def test_a_folder_that_cannot_be_made_is_named_by_its_role_only(tmp_path):
    (tmp_path / "contoso-file").write_text("")
    store = local_folder.open_storage(f"folder:{tmp_path}/contoso-file/storage")

    for step in (store.put("container", "blob", b""), store.get("container", "blob"), store.containers()):
        with pytest.raises(StorageUnavailable, match=r"^the storage folder: Not a directory$") as caught:
            await step
        assert "contoso" not in str(caught.value)
    await store.close()


async def test_a_removal_that_fails_is_said(store, folder, monkeypatch):
    await store.put("container", "blob", b"data")
    monkeypatch.setattr(local_folder.shutil, "rmtree", lambda *_, **__: None)

    with pytest.raises(StorageUnavailable):
        await store.drop("container")
    monkeypatch.undo()
    assert await store.drop("container") is False
    assert [path for path in folder.rglob("_blob")] == []


async def test_a_long_listing_comes_whole_and_in_order(store):
    names = [f"a/{number:05d}" for number in range(local_folder.PAGE * 2 + 1)]
    await asyncio.gather(*(store.put("container", name, b"") for name in names))

    assert [blob.name async for blob in store.list("container", "a/")] == names


async def test_a_blob_that_is_deleted_while_it_is_listed_is_left_out(store):
    for name in "abc":
        await store.put("container", name, b"")
    walk = store._files.walk("container", "", "")
    first = next(walk)
    await store.delete("container", "b")

    assert [first.name, *(blob.name for blob in walk)] == ["a", "c"]


async def test_several_processes_lose_no_conditional_write(folder):
    script = (
        "import asyncio, sys\n"
        "from plugins import local_folder\n"
        "from sluicegate.errors import BlobChanged\n"
        "async def main():\n"
        "    store = local_folder.open_storage(sys.argv[1])\n"
        "    done = 0\n"
        "    while done < 50:\n"
        "        blob = await store.get('container', 'count')\n"
        "        try:\n"
        "            await store.put('container', 'count', b'%d' % (int(blob.data) + 1), if_match=blob.etag)\n"
        "            done += 1\n"
        "        except BlobChanged:\n"
        "            pass\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    store = local_folder.open_storage(f"folder:{folder}")
    await store.put("container", "count", b"0")
    writers = [subprocess.Popen([sys.executable, "-c", script, f"folder:{folder}"]) for _ in range(4)]

    assert [writer.wait() for writer in writers] == [0] * 4
    assert (await store.get("container", "count")).data == b"200"
    await store.close()


async def test_what_is_no_blob_is_not_listed(store, folder):
    await store.put("container", "a/blob", b"data")
    for name in (".hidden", "README", "_x y", "lost+found/file", "container/.DS_Store", "container/a/notes.txt"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("not ours")
    (folder / "container" / "_folder").mkdir()
    (folder / "container" / "a b").mkdir()

    assert await store.containers() == ("container",)
    assert [blob.name async for blob in store.list("container")] == ["a/blob"]
    await store.delete("container", "a/blob")
    assert await store.drop("container")
    assert not (folder / "container").exists()
