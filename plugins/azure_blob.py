"""Blobs in an Azure storage account, or in Azurite.

``storage`` is ``https://ACCOUNT.blob.core.windows.net``, opened by managed identity (``AZURE_CLIENT_ID`` names a user-assigned
one) or on a developer's machine by ``DefaultAzureCredential``; or a connection string, for Azurite or an account that
still allows shared keys. Containers are made by the first write.

The account must be flat: with a hierarchical namespace, ``a`` and ``a/b`` cannot both be blobs, and listings are in another
order. Soft delete, versioning, point-in-time restore and replication of blobs keep copies of what is deleted here. The
first two are found out by deed, in a container ``probe-…`` that is dropped at once, because the role that reads the account's
settings is more than the app should have; point-in-time restore needs both. Replication cannot be seen from here.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from sluicegate import hookimpl
from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, StartupError, StorageUnavailable
from sluicegate.services import Blob, BlobInfo, BlobStore, check_names

if TYPE_CHECKING:
    from azure.core.exceptions import HttpResponseError
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential
    from azure.storage.blob.aio import BlobClient, BlobServiceClient

API_VERSION = "2025-11-05"
"""The newest that Azurite 3.35 speaks; the SDK's own default is ahead of every Azurite."""
STAMP = "sluicegate_put"
PAGE = 1000
LARGE_BYTES = 1 << 20
MAX_BYTES = 5000 << 20
_CLOUDS = r"core\.windows\.net|storage\.azure\.net|core\.usgovcloudapi\.net|core\.chinacloudapi\.cn"
_ENDPOINT = re.compile(rf"https://[a-z0-9]{{3,24}}\.(z\d+\.)?blob\.({_CLOUDS})/?")
_SETTINGS = {"accountname", "blobendpoint", "usedevelopmentstorage"}


@hookimpl
def open_storage(url: str) -> BlobStore | None:
    """Open a blob endpoint by identity, or a connection string."""
    if _ENDPOINT.fullmatch(url):
        return AzureBlobs(endpoint=url)
    settings = url.rstrip(";").split(";")
    if _SETTINGS.isdisjoint(setting.partition("=")[0].lower() for setting in settings):
        return None
    if not all("=" in setting for setting in settings):
        raise StartupError("the storage connection string is malformed: a setting has no value")
    return AzureBlobs(connection_string=url)


class AzureBlobs:
    """A ``BlobStore`` over the SDK's asynchronous client, which is connected on first use."""

    def __init__(self, *, endpoint: str = "", connection_string: str = "") -> None:
        self._endpoint = endpoint
        self._connection_string = connection_string
        self._credential: DefaultAzureCredential | ManagedIdentityCredential | None = None
        self._client: BlobServiceClient | None = None

    async def put(
        self, container: str, name: str, data: bytes, *, create: bool = False, if_match: str | None = None
    ) -> str:
        check_names(container, name)
        blob = self._blob(container, name)
        stamp = secrets.token_hex(16)
        try:
            return await _upload(blob, data, stamp, create, if_match)
        except (BlobExists, BlobChanged):
            # The SDK retries when an answer is lost, and then finds the condition broken by its own write.
            etag = await _etag_if_stamped(blob, stamp)
            if etag is None:
                raise
            return etag
        except BlobNotFound:
            if if_match is not None:
                raise BlobChanged(f"{container}/{name}") from None
        await self._make(container)
        try:
            return await _upload(blob, data, stamp, create, if_match)
        except BlobNotFound:
            raise StorageUnavailable(f"container {container} is being deleted") from None

    async def get(self, container: str, name: str, *, offset: int = 0, length: int | None = None) -> Blob:
        check_names(container, name)
        blob = self._blob(container, name)
        if length == 0:
            return Blob(b"", await _etag(blob))
        try:
            with _translated(f"{container}/{name}"):
                download = await blob.download_blob(offset, length) if offset or length else await blob.download_blob()
                return Blob(await download.readall(), str(download.properties.etag))
        except _BeyondTheEnd:
            return Blob(b"", await _etag(blob))

    async def list(self, container: str, prefix: str = "", *, after: str = "") -> AsyncIterator[BlobInfo]:
        check_names(container)
        client = self._service().get_container_client(container)
        with suppress(BlobNotFound), _translated(container):
            async for blob in client.list_blobs(name_starts_with=prefix or None, results_per_page=PAGE):
                if blob.name > after:
                    yield BlobInfo(blob.name, blob.size)

    async def delete(self, container: str, name: str, *, if_match: str | None = None) -> None:
        check_names(container, name)
        blob = self._blob(container, name)
        try:
            with _translated(f"{container}/{name}"):
                await blob.delete_blob(delete_snapshots="include", **_condition(if_match))
        except BlobChanged:
            # Said of a missing blob as well; this raises BlobNotFound then.
            await _etag(blob)
            raise

    async def containers(self, prefix: str = "") -> tuple[str, ...]:
        with _translated("containers"):
            found = self._service().list_containers(name_starts_with=prefix or None, results_per_page=PAGE)
            return tuple(sorted([container.name async for container in found]))

    async def drop(self, container: str) -> bool:
        check_names(container)
        try:
            with _translated(container):
                await self._service().delete_container(container)
        except BlobNotFound:
            return False
        return True

    async def weaknesses(self) -> tuple[str, ...]:
        client = self._service().get_container_client(f"probe-{secrets.token_hex(8)}")
        with _translated("the probe container"):
            await client.create_container()
            try:
                blob = client.get_blob_client("probe")
                is_versioned = bool((await blob.upload_blob(b"")).get("version_id"))
                await blob.delete_blob()
                left = [blob async for blob in client.list_blobs(include=["deleted"]) if blob.deleted]
            finally:
                await client.delete_container()
            containers = self._service().list_containers(
                name_starts_with=str(client.container_name), include_deleted=True
            )
            dropped = [container async for container in containers if container.deleted]
        days = await self._soft_delete_days()
        found = []
        if left or days:
            lasting = f" for {days} days" if days else ""
            found.append(f"blob soft delete is on: a deleted blob can be brought back{lasting}")
        if is_versioned:
            found.append("blob versioning is on: what is deleted or changed stays as an earlier version")
        if dropped:
            found.append("container soft delete is on: a dropped container can be brought back")
        return tuple(found)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._credential is not None:
            await self._credential.close()

    def _service(self) -> BlobServiceClient:
        if self._client is None:
            # Slow to import, and only some deployments need it.
            from azure.storage.blob.aio import BlobServiceClient

            if self._connection_string:
                self._client = BlobServiceClient.from_connection_string(self._connection_string, **_options())
            else:
                self._credential = _credential()
                self._client = BlobServiceClient(self._endpoint, self._credential, **_options())
        return self._client

    async def _soft_delete_days(self) -> int | None:
        """Return for how long deleted blobs are kept, or None when they are not or this identity may not know."""
        from azure.core.exceptions import HttpResponseError

        with _translated("the account's settings"):
            try:
                policy = (await self._service().get_service_properties())["delete_retention_policy"]
            except HttpResponseError as error:
                if error.status_code != 403:
                    raise
                return None
        return policy.days if policy is not None and policy.enabled else None

    def _blob(self, container: str, name: str) -> BlobClient:
        return self._service().get_blob_client(container, name)

    async def _make(self, container: str) -> None:
        with suppress(BlobExists), _translated(container):
            await self._service().create_container(container)


class _BeyondTheEnd(Exception):
    """The range asked for begins beyond the blob's end."""


async def _upload(blob: BlobClient, data: bytes, stamp: str, create: bool, if_match: str | None) -> str:
    with _translated(f"{blob.container_name}/{blob.blob_name}"):
        answer = await blob.upload_blob(
            data, length=len(data), overwrite=not create, metadata={STAMP: stamp}, **_condition(if_match)
        )
    return str(answer["etag"])


async def _etag_if_stamped(blob: BlobClient, stamp: str) -> str | None:
    with suppress(BlobNotFound), _translated(str(blob.blob_name)):
        properties = await blob.get_blob_properties()
        if (properties.metadata or {}).get(STAMP) == stamp:
            return str(properties.etag)
    return None


async def _etag(blob: BlobClient) -> str:
    with _translated(f"{blob.container_name}/{blob.blob_name}"):
        return str((await blob.get_blob_properties()).etag)


def _condition(if_match: str | None) -> dict[str, Any]:
    from azure.core import MatchConditions

    return {} if if_match is None else {"etag": if_match, "match_condition": MatchConditions.IfNotModified}


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise our errors for the SDK's; ``what`` names a container or blob.

    The SDK's own messages quote URLs, account names and, when a signature is wrong, what was signed.
    """
    from azure.core.exceptions import AzureError, HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        raise _mapped(error, what) from None
    except AzureError as error:
        raise StorageUnavailable(f"blob storage cannot be reached ({type(error).__name__})") from None


def _mapped(error: HttpResponseError, what: str) -> Exception:
    from azure.core.exceptions import ClientAuthenticationError

    code = getattr(error, "error_code", None)
    code = getattr(code, "value", code)
    if error.status_code == 404:
        return BlobNotFound(what)
    if code in ("BlobAlreadyExists", "ContainerAlreadyExists"):
        return BlobExists(what)
    if error.status_code == 412:
        return BlobChanged(what)
    if error.status_code == 416:
        return _BeyondTheEnd()
    if isinstance(error, ClientAuthenticationError) and error.status_code is None:
        return StorageUnavailable("no token for blob storage: check the app's identity, or sign in with az login")
    return StorageUnavailable(f"blob storage answered {error.status_code} {code or type(error).__name__}")


def _credential() -> DefaultAzureCredential | ManagedIdentityCredential:
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    # On Azure the app's identity and nothing else; the default tries a dozen sources, slowly.
    if "IDENTITY_ENDPOINT" in os.environ:
        return ManagedIdentityCredential(client_id=os.environ.get("AZURE_CLIENT_ID"))
    return DefaultAzureCredential()


def _options() -> dict[str, Any]:
    from azure.core.pipeline.transport import AioHttpTransport
    from azure.storage.blob.aio import LinearRetry

    class Transport(AioHttpTransport):  # type: ignore[misc] # typed as Any, because it is imported on demand
        def _get_request_data(self, request: Any) -> Any:
            # aiohttp writes bytes in one go, which would hold up the event loop, but reads files piece by piece.
            return BytesIO(data) if len(data := request.data or b"") > LARGE_BYTES else request.data

    return {
        "api_version": API_VERSION,
        # The SDK's own pace, a first retry after 15 s, is beyond the time that an answer waits for its record.
        "retry_policy": LinearRetry(backoff=1, retry_total=3, random_jitter_range=1),
        "transport": Transport(connection_timeout=5, read_timeout=20),
        # One request a blob, so that writers of the same name never mix their blocks.
        "max_single_put_size": MAX_BYTES,
    }
