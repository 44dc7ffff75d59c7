"""What needs no storage; the rest is in ``tests/azurite``."""

import asyncio
import subprocess
import sys

import pytest

from plugins import azure_blob
from sluicegate.errors import StartupError

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
