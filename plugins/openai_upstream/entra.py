"""Tokens of Entra ID for Azure upstreams: the app's managed identity, or what a developer is signed in with."""

from __future__ import annotations

import logging

from azure.core.exceptions import AzureError
from azure.identity.aio import DefaultAzureCredential, get_bearer_token_provider

from sluicegate import ModelUnavailable

SCOPE = "https://cognitiveservices.azure.com/.default"

log = logging.getLogger(__name__)


class EntraToken:
    """A bearer token for the running event loop, renewed before it ends."""

    def __init__(self) -> None:
        self._credential = DefaultAzureCredential()
        self._provider = get_bearer_token_provider(self._credential, SCOPE)

    async def header(self) -> str:
        """Return the ``Authorization`` header's value.

        Raises:
            ModelUnavailable: There is no identity, or Entra ID cannot be reached; the class is logged.
        """
        try:
            return f"Bearer {await self._provider()}"
        except AzureError as error:
            log.error("no token from Entra ID: %s", type(error).__name__)
            raise ModelUnavailable("The model is not available: its upstream is not set up for it.") from None

    async def close(self) -> None:
        """Close the credential's own connections."""
        await self._credential.close()
