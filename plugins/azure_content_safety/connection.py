"""The SDK's client: its credential, its transport, and what it must not do with text."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from azure.ai.contentsafety.aio import ContentSafetyClient
    from azure.core.pipeline.transport import AioHttpTransport
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    Identity: TypeAlias = DefaultAzureCredential | ManagedIdentityCredential

STABLE, PREVIEW = "2024-09-01", "2024-09-15-preview"
"""Versions of the service's interface; groundedness and protected code exist in previews only."""
CONNECT_S = 3


def connect(endpoint: str, key: str | None, read_s: float) -> tuple[ContentSafetyClient, Identity | None]:
    """Return a client, and the identity it uses when there is no key; both need closing. Nothing is sent yet."""
    # Slow to import, and only some deployments need them.
    from azure.ai.contentsafety.aio import ContentSafetyClient
    from azure.core.credentials import AzureKeyCredential
    from azure.core.pipeline.policies import AsyncRetryPolicy

    identity = _identity() if key is None else None
    client = ContentSafetyClient(
        endpoint,
        identity or AzureKeyCredential(key or ""),
        api_version=STABLE,
        transport=_transport(read_s),
        # The SDK would sleep as long as the service asks for, whoever waits.
        retry_policy=AsyncRetryPolicy.no_retries(),
        # Text goes to the configured endpoint and nowhere else.
        permit_redirects=False,
        # Its log of requests would hold bodies.
        logging_enable=False,
    )
    return client, identity


def _identity() -> Identity:
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    # On Azure the app's identity and nothing else; the default tries a dozen sources, slowly.
    if "IDENTITY_ENDPOINT" in os.environ:
        return ManagedIdentityCredential(client_id=os.environ.get("AZURE_CLIENT_ID"))
    return DefaultAzureCredential()


def _transport(read_s: float) -> AioHttpTransport:
    import aiohttp
    from azure.core.pipeline.transport import AioHttpTransport

    # aiohttp's own certificate authorities are those of the moment it was imported, maybe before settings were read.
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    session = aiohttp.ClientSession(
        connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )
    return AioHttpTransport(session=session, connection_timeout=CONNECT_S, read_timeout=read_s)
