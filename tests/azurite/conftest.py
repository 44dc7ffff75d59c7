import pytest

from plugins import azure_blob
from tests.azurite import server


@pytest.fixture(scope="session")
def azurite_port():
    with server.running() as port:
        yield port


@pytest.fixture
def connection_string(azurite_port):
    return server.connection_string(azurite_port)


@pytest.fixture
async def blobs(connection_string):
    """A store in an account that holds nothing else."""
    store = azure_blob.open_storage(connection_string)
    yield store
    for container in await store.containers():
        await store.drop(container)
    await store.close()
