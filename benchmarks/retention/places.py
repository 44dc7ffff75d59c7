"""Where the benchmark keeps its records: a real Azurite in a process of its own, and a local folder that is flushed to disk."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from plugins import azure_blob, local_folder
from sluicegate.services import BlobStore
from tests.azurite import server


@contextmanager
def places() -> Iterator[dict[str, str]]:
    """Yield the storage URLs by name; both are empty."""
    with server.running() as port, tempfile.TemporaryDirectory() as folder:
        yield {"Azurite": server.connection_string(port), "folder": f"folder:{folder}"}


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[BlobStore]:
    """Yield the store that a URL names; what is in it is dropped at the end."""
    store = azure_blob.open_storage(url) or local_folder.open_storage(url)
    assert store is not None
    try:
        yield store
    finally:
        for container in await store.containers():
            await store.drop(container)
        await store.close()
