"""What needs no storage; the rest is in ``tests/azurite``."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest
from azure.core.exceptions import HttpResponseError

from plugins import azure_blob
from sluicegate.errors import StartupError, StorageUnavailable

KEY = "AccountKey=QUFBQQ==;EndpointSuffix=core.windows.net"


@pytest.mark.parametrize(
    "url",
    [
        "https://contoso.blob.core.windows.net",
        "https://contoso.blob.core.windows.net/",
        "https://contoso.z12.blob.storage.azure.net/",
        "https://contoso.blob.core.usgovcloudapi.net",
        f"DefaultEndpointsProtocol=https;AccountName=contoso;{KEY}",
        "BlobEndpoint=https://storage.contoso.example/;SharedAccessSignature=sv=1&sig=2",
        "UseDevelopmentStorage=true",
        "usedevelopmentstorage=true;",
    ],
)
def test_opens_endpoints_and_connection_strings(url):
    assert azure_blob.open_storage(url) is not None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "folder:/data",
        "http://contoso.blob.core.windows.net",
        "https://contoso.blob.core.windows.net/container",
        "https://contoso.blob.core.windows.net/?sv=1&sig=2",
        "https://contoso.blob.core.windows.net.evil.example/",
        "https://evil.example/?contoso.blob.core.windows.net",
        "https://contoso.blob.core.windows.net@evil.example/",
        "https://contoso.queue.core.windows.net/",
        "DefaultEndpointsProtocol=https",
    ],
)
def test_other_urls_are_not_this_plugins(url):
    assert azure_blob.open_storage(url) is None


def test_importing_and_opening_load_no_part_of_the_sdk():
    script = (
        "import sys\n"
        "from plugins import azure_blob\n"
        "assert azure_blob.open_storage('https://contoso.blob.core.windows.net')\n"
        "print(sorted(name for name in sys.modules if name.startswith(('azure.', 'aiohttp', 'msal'))))\n"
    )

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"


def test_a_malformed_connection_string_is_refused_without_quoting_it():
    with pytest.raises(StartupError, match="malformed") as caught:
        azure_blob.open_storage("AccountName=contoso;AccountKey=geheim;nonsense")
    assert "geheim" not in str(caught.value)


async def test_a_laptop_opens_endpoints_as_whoever_is_signed_in(monkeypatch):
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
    store = azure_blob.open_storage("https://contoso.blob.core.windows.net")

    assert type(store._service().credential).__name__ == "DefaultAzureCredential"
    await store.close()


@pytest.mark.parametrize("client_id", [None, "4711"])
async def test_on_azure_endpoints_are_opened_by_the_apps_identity(monkeypatch, client_id):
    asked = []

    async def issue(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        token = b'{"access_token": "t", "expires_on": "4102444800", "resource": "r", "token_type": "Bearer"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(token))
        writer.write(token)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(issue, "127.0.0.1", 0)
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    monkeypatch.setenv("IDENTITY_HEADER", "h")
    if client_id:
        monkeypatch.setenv("AZURE_CLIENT_ID", client_id)
    else:
        monkeypatch.delenv("AZURE_CLIENT_ID", raising=False)
    store = azure_blob.open_storage("https://contoso.blob.core.windows.net")

    token = await store._service().credential.get_token("https://storage.azure.com/.default")

    await store.close()
    server.close()
    await server.wait_closed()
    assert token.token == "t"
    assert ("client_id=4711" in asked[0]) is bool(client_id)


async def test_closing_an_unused_store_connects_to_nothing():
    store = azure_blob.open_storage("https://contoso.blob.core.windows.net")

    await store.close()

    assert store._client is None


class Account:
    """The SDK's client of a storage account with such settings; Azurite has none of them."""

    def __init__(self, *, soft_days=None, versioned=False, containers_soft=False, may_read=True, fails=None):
        self._soft_days, self._versioned, self._containers_soft = soft_days, versioned, containers_soft
        self._may_read, self._fails = may_read, fails
        self.containers = {}
        self.dropped = []
        self._blobs = []

    def get_container_client(self, name):
        self.container_name = name
        return self

    def get_blob_client(self, name):
        assert name == "probe"
        return self

    async def create_container(self):
        self.containers[self.container_name] = []

    async def upload_blob(self, data):
        if self._fails:
            raise self._fails
        self._blobs = [SimpleNamespace(name="probe", deleted=None)]
        return {"version_id": "2026-01-01T00:00:00Z" if self._versioned else None}

    async def delete_blob(self):
        self._blobs = [SimpleNamespace(name="probe", deleted=True)] if self._soft_days else []

    async def list_blobs(self, include):
        assert include == ["deleted"]
        for blob in self._blobs:
            yield blob

    async def delete_container(self):
        del self.containers[self.container_name]
        self.dropped.append(self.container_name)

    async def list_containers(self, name_starts_with, include_deleted):
        assert include_deleted
        for name in self.dropped if self._containers_soft else []:
            if name.startswith(name_starts_with):
                yield SimpleNamespace(name=name, deleted=True)

    async def get_service_properties(self):
        if not self._may_read:
            error = HttpResponseError("not allowed")
            error.status_code = 403
            raise error
        policy = SimpleNamespace(enabled=self._soft_days is not None, days=self._soft_days)
        return {"delete_retention_policy": policy}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, ()),
        ({"may_read": False}, ()),
        ({"soft_days": 7}, ("blob soft delete is on: a deleted blob can be brought back for 7 days",)),
        ({"soft_days": 7, "may_read": False}, ("blob soft delete is on: a deleted blob can be brought back",)),
        ({"versioned": True}, ("blob versioning is on: what is deleted or changed stays as an earlier version",)),
        ({"containers_soft": True}, ("container soft delete is on: a dropped container can be brought back",)),
    ],
    ids=["none", "none, unseen", "soft delete", "soft delete, unseen", "versioning", "container soft delete"],
)
async def test_settings_that_keep_what_is_deleted_are_found_and_the_probe_is_gone(monkeypatch, settings, found):
    store = azure_blob.AzureBlobs(endpoint="https://contoso.blob.core.windows.net")
    account = Account(**settings)
    monkeypatch.setattr(store, "_service", lambda: account)

    assert await store.weaknesses() == found
    assert (account.containers, len(account.dropped)) == ({}, 1)


async def test_a_probe_that_fails_is_gone_and_says_nothing_of_the_account(monkeypatch):
    store = azure_blob.AzureBlobs(endpoint="https://contoso.blob.core.windows.net")
    account = Account(fails=HttpResponseError("https://contoso.blob.core.windows.net/probe"))
    monkeypatch.setattr(store, "_service", lambda: account)

    with pytest.raises(StorageUnavailable) as caught:
        await store.weaknesses()

    assert "contoso" not in str(caught.value)
    assert account.containers == {}
