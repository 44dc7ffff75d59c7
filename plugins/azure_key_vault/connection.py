"""The SDK's client, its credential, and its failures in our words."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from sluicegate.errors import KeyNotFound, KeyRefused, KeyUnavailable, SealBroken, ServiceError

if TYPE_CHECKING:
    from azure.core.exceptions import HttpResponseError
    from azure.core.pipeline.transport import AioHttpTransport
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential
    from azure.keyvault.keys.aio import KeyClient

    Credential: TypeAlias = DefaultAzureCredential | ManagedIdentityCredential

UNWRAP = "unwrap with"
CONNECT_S = 3
READ_S = 5
_CODE = re.compile(r"[A-Za-z]{1,60}")
_REMEDIES = {
    "ForbiddenByConnection": "let this app's network into the vault",
    "ForbiddenByFirewall": "let this app's network into the vault",
    "ForbiddenByPolicy": "let this app's identity do it",
    "ForbiddenByRbac": "give this app's identity a role that allows it",
    "KeyDisabled": "enable the key",
    "ObjectIsBeingDeleted": "it is being deleted; try again later",
    "ObjectIsDeletedButRecoverable": "purge or recover the deleted key",
}


def connect(url: str, identity: str | None) -> tuple[KeyClient, Credential]:
    """Return a client and the credential it uses; both need closing. Nothing is sent yet.

    Args:
        identity: Client id of a user-assigned identity; None for the app's own.
    """
    # Slow to import, and only some deployments need it.
    from azure.keyvault.keys.aio import KeyClient

    credential = _credential(identity or os.environ.get("AZURE_CLIENT_ID"))
    client = KeyClient(
        url,
        credential,
        transport=_transport(),
        # Short enough for four attempts within the time that an answer waits for its record.
        retry_total=3,
        retry_backoff_factor=0.2,
    )
    return client, credential


@asynccontextmanager
async def asking(vault: str, verb: str, key: str, within_s: float) -> AsyncIterator[None]:
    """Raise our errors for the SDK's, and ``KeyUnavailable`` when the body takes longer than ``within_s`` seconds.

    The SDK's own messages quote callers, addresses and object ids.

    Args:
        vault: Its URL, for messages, as are ``verb`` and ``key``: ``unwrap with``, ``key 'ret-20260101'``.
    """
    from azure.core.exceptions import AzureError, HttpResponseError

    try:
        async with asyncio.timeout(within_s):
            yield
    except HttpResponseError as error:
        raise _mapped(error, vault, verb, key) from None
    except AzureError as error:
        raise KeyUnavailable(f"{vault} cannot be reached to {verb} {key} ({type(error).__name__})") from None
    except TimeoutError:
        raise KeyUnavailable(f"{vault} did not {verb} {key} within {within_s:g} s") from None
    except ValueError:
        # The SDK refuses whoever asks for a token that is not for Key Vault.
        raise KeyUnavailable(f"{vault} is not answered by Azure Key Vault: check its address and the network") from None


def is_absent(error: HttpResponseError) -> bool:
    """Return whether the vault says so; a proxy's 404 proves nothing."""
    return error.status_code == 404 and code_of(error) == "KeyNotFound"


def code_of(error: HttpResponseError) -> str:
    """Return the vault's innermost code, such as ``ForbiddenByRbac``."""
    found = ""
    if error.error is not None:
        inner = error.error.innererror or {}
        found = str(inner.get("code") or error.error.code or "")
    return found if _CODE.fullmatch(found) else type(error).__name__


def _mapped(error: HttpResponseError, vault: str, verb: str, key: str) -> ServiceError:
    from azure.core.exceptions import ClientAuthenticationError

    if isinstance(error, ClientAuthenticationError):
        return KeyUnavailable(
            f"{vault} has no valid token to {verb} {key}: check the app's identity ({code_of(error)})"
        )
    if is_absent(error):
        return KeyNotFound(f"{key} is not in {vault}")
    if error.status_code == 400 and verb == UNWRAP:
        return SealBroken("a wrapped key was changed")
    code = code_of(error)
    remedy = _REMEDIES.get(code, "see the vault's log")
    kind = KeyRefused if error.status_code == 403 else KeyUnavailable
    return kind(f"{vault} does not {verb} {key}: {error.status_code} {code}; {remedy}")


def _credential(client_id: str | None) -> Credential:
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    # On Azure the app's identity and nothing else; the default tries a dozen sources, slowly.
    if "IDENTITY_ENDPOINT" in os.environ:
        return ManagedIdentityCredential(client_id=client_id)
    return DefaultAzureCredential(managed_identity_client_id=client_id)


def _transport() -> AioHttpTransport:
    import aiohttp
    from azure.core.pipeline.transport import AioHttpTransport

    # aiohttp's own certificate authorities are those of the moment it was imported, maybe before settings were read.
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    session = aiohttp.ClientSession(
        connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )
    return AioHttpTransport(session=session, connection_timeout=CONNECT_S, read_timeout=READ_S)
