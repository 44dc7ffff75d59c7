"""Blobs in a local folder: the embedded default, for one machine and any number of processes. POSIX only.

Below ``folder:PATH``::

    {container}/{segment}/…/_{segment}    a blob; the underscore keeps the blob ``a`` apart from the folder of ``a/b``
    .staging-{random}/                    one process's unfinished writes; locked while it lives, swept by others after
    .dropped-{random}/                    a container on its way out
    .lock                                 held while names change that others may be changing too

A blob is written aside, flushed, then linked or renamed into place and its folder flushed, so it is there whole or not
at all. What a killed process leaves behind is invisible, and is removed by the first write of another one, by a drop, and
by a listing of the containers, which is how a purge begins. Files have mode 0600, folders 0700. The file system must
tell upper from lower case. What else lies in a folder, such as ``lost+found`` or ``.DS_Store``, is no blob: nobody sees it, it is in
nobody's way, and in a container it goes with the container.

Deleting unlinks; it does not overwrite. What must become unreadable is encrypted, and its key destroyed.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from sluicegate import hookimpl
from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, StartupError, StorageUnavailable
from sluicegate.services import Blob, BlobInfo, BlobStore, check_names

THREADS = 8
PAGE = 1000
_SCHEME = "folder:"
_STAGING = ".staging-"
_DROPPED = ".dropped-"

P = ParamSpec("P")
T = TypeVar("T")


@hookimpl
def open_storage(url: str) -> BlobStore | None:
    """Open ``folder:PATH``; the folder is made by the first write."""
    if not url.startswith(_SCHEME):
        return None
    if url == _SCHEME:
        raise StartupError("the storage URL 'folder:' names no folder")
    return LocalFolder(Path(url.removeprefix(_SCHEME)).expanduser())


class LocalFolder:
    """A ``BlobStore``; file work runs in threads of its own, because flushing blocks."""

    def __init__(self, root: Path) -> None:
        self._files = _Files(str(root.absolute()))
        self._threads = ThreadPoolExecutor(THREADS, "local-folder")

    async def put(
        self, container: str, name: str, data: bytes, *, create: bool = False, if_match: str | None = None
    ) -> str:
        check_names(container, name)
        if create:
            return await self._run(self._files.create, container, name, data)
        return await self._run(self._files.replace, container, name, data, if_match)

    async def get(self, container: str, name: str, *, offset: int = 0, length: int | None = None) -> Blob:
        check_names(container, name)
        return await self._run(self._files.read, container, name, offset, length)

    async def list(self, container: str, prefix: str = "", *, after: str = "") -> AsyncIterator[BlobInfo]:
        check_names(container)
        names = self._files.walk(container, prefix, after)
        while page := await self._run(_page, names):
            for blob in page:
                yield blob

    async def delete(self, container: str, name: str, *, if_match: str | None = None) -> None:
        check_names(container, name)
        await self._run(self._files.delete, container, name, if_match)

    async def containers(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(name for name in await self._run(self._files.containers) if name.startswith(prefix))

    async def drop(self, container: str) -> bool:
        check_names(container)
        return await self._run(self._files.drop, container)

    async def weaknesses(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        await self._run(self._files.close)
        self._threads.shutdown()

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        except OSError as error:
            # An OSError's own message quotes the path, and paths name accounts.
            raise StorageUnavailable(f"the storage folder: {error.strerror or type(error).__name__}") from None


class _Files:
    """The blocking half; methods may run in several threads at once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._opening = threading.Lock()
        self._staging: str | None = None
        self._staging_lock = -1
        self._serial = itertools.count()
        # Folders that this process knows to be on disk, all the way down from the root.
        self._durable: set[str] = set()

    # --- writing -----------------------------------------------------------------------------------------------------

    def create(self, container: str, name: str, data: bytes) -> str:
        folder, path = self._place(container, name)
        staged, etag = self._stage(data)
        try:
            self._link(staged, folder, path)
        except FileExistsError:
            raise BlobExists(f"{container}/{name}") from None
        finally:
            os.unlink(staged)
        _flush(folder)
        return etag

    def replace(self, container: str, name: str, data: bytes, if_match: str | None) -> str:
        folder, path = self._place(container, name)
        staged, etag = self._stage(data)
        try:
            with self._locked():
                if if_match is not None and _etag_at(path) != if_match:
                    raise BlobChanged(f"{container}/{name}")
                self._make(folder)
                os.rename(staged, path)
        except BaseException:
            os.unlink(staged)
            raise
        _flush(folder)
        return etag

    def delete(self, container: str, name: str, if_match: str | None) -> None:
        folder, path = self._place(container, name)
        self._open()
        with self._locked():
            etag = _etag_at(path)
            if etag is None:
                raise BlobNotFound(f"{container}/{name}")
            if if_match is not None and etag != if_match:
                raise BlobChanged(f"{container}/{name}")
            os.unlink(path)
            while folder != f"{self._root}/{container}" and _removed(folder):
                folder = os.path.dirname(folder)
        _flush(folder)

    def drop(self, container: str) -> bool:
        """Rename, then remove: the container is gone for readers at once, even if the removal is interrupted."""
        self._open()
        with self._locked():
            self._sweep()
            try:
                os.rename(f"{self._root}/{container}", f"{self._root}/{_DROPPED}{secrets.token_hex(8)}")
                dropped = True
            except FileNotFoundError:
                dropped = False
        _flush(self._root)
        self._remove_dropped()
        return dropped

    def close(self) -> None:
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            os.close(self._staging_lock)
            self._staging = None

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, container: str, name: str, offset: int, length: int | None) -> Blob:
        _, path = self._place(container, name)
        try:
            with open(path, "rb") as file:
                etag = _etag(os.fstat(file.fileno()))
                file.seek(offset)
                return Blob(file.read(length), etag)
        except FileNotFoundError:
            raise BlobNotFound(f"{container}/{name}") from None

    def walk(self, container: str, prefix: str, after: str) -> Iterator[BlobInfo]:
        return _walk(f"{self._root}/{container}", "", prefix, after)

    def containers(self) -> tuple[str, ...]:
        try:
            with os.scandir(self._root) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return ()
        if any(name[0] == "." and not self._is_own(name) for name in names):
            with self._locked():
                self._sweep()
            self._remove_dropped()
        return tuple(name for name in names if _is_container(name))

    # --- steps -------------------------------------------------------------------------------------------------------

    def _place(self, container: str, name: str) -> tuple[str, str]:
        """Return a blob's folder and file."""
        parents, _, last = f"{self._root}/{container}/{name}".rpartition("/")
        return parents, f"{parents}/_{last}"

    def _stage(self, data: bytes) -> tuple[str, str]:
        """Write and flush a file that nobody sees; return its path and the ETag it will have."""
        staged = f"{self._open()}/{next(self._serial)}"
        fd = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            # The kernel's own times may tick in milliseconds: a reused inode could then repeat an ETag.
            now = time.time_ns()
            os.utime(fd, ns=(now, now))
            os.fsync(fd)
            return staged, _etag(os.fstat(fd))
        except BaseException:
            os.unlink(staged)
            raise
        finally:
            os.close(fd)

    def _link(self, staged: str, folder: str, path: str) -> None:
        """Give a staged file its name; atomic, and an error when the name is taken."""
        if folder in self._durable:
            try:
                os.link(staged, path)
                return
            except FileNotFoundError:
                # Emptied and removed, or dropped with its container, by another process or thread.
                self._durable.discard(folder)
        with self._locked():
            self._make(folder)
            os.link(staged, path)

    def _make(self, folder: str) -> None:
        """Make a folder that survives a power failure from here on; the caller holds the lock."""
        if folder in self._durable and os.path.isdir(folder):
            return
        path = self._root
        for segment in folder.removeprefix(f"{self._root}/").split("/"):
            parent, path = path, f"{path}/{segment}"
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            # Even when it was there: another process may have made it and not yet flushed it.
            _flush(parent)
        self._durable.add(folder)

    def _open(self) -> str:
        """Return this process's staging folder, made and locked on first use."""
        if self._staging is None:
            with self._opening:
                if self._staging is None:
                    _make_root(self._root)
                    with self._locked():
                        self._sweep()
                        staging = f"{self._root}/{_STAGING}{secrets.token_hex(8)}"
                        os.mkdir(staging, 0o700)
                        self._staging_lock = os.open(f"{staging}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                        fcntl.flock(self._staging_lock, fcntl.LOCK_EX)
                        self._staging = staging
                    self._remove_dropped()
        return self._staging

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store's lock, among processes and threads."""
        fd = os.open(f"{self._root}/.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _sweep(self) -> None:
        """Remove the staging folders of dead processes; the caller holds the lock."""
        for name in os.listdir(self._root):
            folder = f"{self._root}/{name}"
            if name.startswith(_STAGING) and not self._is_own(name) and _is_abandoned(folder):
                _remove(folder)

    def _is_own(self, name: str) -> bool:
        return f"{self._root}/{name}" == self._staging

    def _remove_dropped(self) -> None:
        for name in os.listdir(self._root):
            if name.startswith(_DROPPED):
                _remove(f"{self._root}/{name}")
        _flush(self._root)


def _walk(folder: str, stem: str, prefix: str, after: str) -> Iterator[BlobInfo]:
    """Yield the blobs of a folder in name order; ``stem`` is what their names begin with."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((name, entry) for entry in entries if (name := _listed_name(stem, entry)))
    except FileNotFoundError:
        return
    for name, entry in found:
        if name.endswith("/"):
            wanted = name.startswith(prefix) or prefix.startswith(name)
            if wanted and (name > after or after.startswith(name)):
                yield from _walk(entry.path, name, prefix, after)
        elif name.startswith(prefix) and name > after:
            with suppress(FileNotFoundError):
                yield BlobInfo(name, entry.stat().st_size)


def _listed_name(stem: str, entry: os.DirEntry[str]) -> str:
    """Return a blob's name, or what the names in a folder begin with, or an empty text for what is neither."""
    is_blob = entry.name[0] == "_"
    name = f"{stem}{entry.name[is_blob:]}"
    try:
        check_names("container", name)
    except ValueError:
        return ""
    if entry.is_dir() is is_blob:
        return ""
    return name if is_blob else f"{name}/"


def _is_container(name: str) -> bool:
    with suppress(ValueError):
        check_names(name)
        return True
    return False


def _page(blobs: Iterator[BlobInfo]) -> list[BlobInfo]:
    return list(itertools.islice(blobs, PAGE))


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _etag_at(path: str) -> str | None:
    try:
        return _etag(os.stat(path))
    except FileNotFoundError:
        return None


def _make_root(root: str) -> None:
    missing = list(itertools.takewhile(lambda path: not path.exists(), (Path(root), *Path(root).parents)))
    for path in reversed(missing):
        path.mkdir(0o700, exist_ok=True)
        _flush(str(path.parent))


def _flush(folder: str) -> None:
    """Make a folder's entries durable; one that was dropped meanwhile has none."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True


def _remove(folder: str) -> None:
    """Remove a folder and what is in it; others may be removing it as well."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        raise OSError(f"cannot remove {folder}")


def _is_abandoned(staging: str) -> bool:
    try:
        fd = os.open(f"{staging}/lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # Killed before its lock was made, or after it was removed; while it lives, it makes it under the store's lock.
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
