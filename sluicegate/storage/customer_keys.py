"""Customers' own encryption keys: which key an account names, and the vaults that hold such keys.

What an account says has ARM's shape, ``properties.encryption`` of ``Microsoft.CognitiveServices/accounts``::

    {"keySource": "Microsoft.KeyVault",
     "keyVaultProperties": {"keyVaultUri": "https://NAME.vault.azure.net", "keyName": "...", "keyVersion": "...",
                            "identityClientId": "..."}}

``keyVersion`` and ``identityClientId`` may be left out: then the key's latest version counts, and the app's own identity asks
for it. ``{"keySource": "Microsoft.CognitiveServices"}`` says that the account has no key of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from sluicegate.config import describe
from sluicegate.services import KeyService, key_reference

VAULTS = 64
"""So many customers' vaults stay open when nobody uses them."""
_IDENTITY = r"\A(?i:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\z"


@dataclass(frozen=True, slots=True)
class CustomerKey:
    """A customer's RSA key in the customer's vault.

    Attributes:
        vault: The vault's URL, without a slash at its end.
        version: Empty for the latest.
        identity: Client id of the identity that may use it; None for the app's own.
    """

    vault: str
    name: str
    version: str = ""
    identity: str | None = None

    @property
    def reference(self) -> str:
        """The key as ``KeyService.wrap(..., create=False)`` takes it."""
        return f"{self.name}/{self.version}" if self.version else self.name

    @property
    def label(self) -> str:
        """The key as messages name it; the vault's address is its owner's business."""
        return f"{self.name!r}, version {self.version}" if self.version else f"{self.name!r}"

    @property
    def document(self) -> dict[str, Any]:
        """The key in ARM's shape."""
        properties = {
            "keyVaultUri": self.vault,
            "keyName": self.name,
            "keyVersion": self.version or None,
            "identityClientId": self.identity,
        }
        return {
            "keySource": "Microsoft.KeyVault",
            "keyVaultProperties": {name: value for name, value in properties.items() if value is not None},
        }


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, alias_generator=to_camel)


class _Properties(_Part):
    key_vault_uri: str = Field(min_length=1, max_length=1024)
    key_name: str
    key_version: str | None = None
    identity_client_id: str | None = Field(None, pattern=_IDENTITY)


class _Encryption(_Part):
    key_source: Literal["Microsoft.KeyVault", "Microsoft.CognitiveServices"] = "Microsoft.CognitiveServices"
    key_vault_properties: _Properties | None = None


def customer_key(encryption: Mapping[str, Any] | None) -> CustomerKey | None:
    """Return the key that ``encryption`` names in ARM's shape, or None when it names none.

    Raises:
        ValueError: It has not that shape; the message names the field to change.
    """
    if encryption is None:
        return None
    try:
        given = _Encryption.model_validate(encryption)
    except ValidationError as error:
        raise ValueError(f"encryption: {describe(error)}") from None
    properties = given.key_vault_properties
    if given.key_source != "Microsoft.KeyVault":
        if properties is not None:
            raise ValueError("encryption.keyVaultProperties: only with keySource Microsoft.KeyVault")
        return None
    if properties is None:
        raise ValueError("encryption.keyVaultProperties: missing; it names the key for keySource Microsoft.KeyVault")
    key = CustomerKey(
        properties.key_vault_uri.rstrip("/"),
        properties.key_name,
        properties.key_version or "",
        properties.identity_client_id,
    )
    try:
        if key_reference(key.reference) != (key.name, key.version):
            raise ValueError("a name with a version in it")
    except ValueError:
        raise ValueError(
            "encryption.keyVaultProperties: keyName has letters, digits and hyphens, keyVersion letters and digits"
        ) from None
    return key


class CustomerVaults:
    """The vaults of customers, opened when one is used and closed when too many are open.

    Args:
        open: Opens the key service of a URL with an identity; ``StartupError`` when it may not be a customer's.
    """

    def __init__(self, open: Callable[[str, str | None], KeyService]) -> None:
        self._open = open
        self._vaults: OrderedDict[tuple[str, str | None], _Vault] = OrderedDict()

    @asynccontextmanager
    async def using(self, url: str, identity: str | None) -> AsyncIterator[KeyService]:
        """Hold a vault open.

        Raises:
            StartupError: No plugin opens such a URL, or it may not be a customer's.
        """
        vault = self._vaults.get((url, identity))
        if vault is None:
            vault = self._vaults[url, identity] = _Vault(self._open(url, identity))
        self._vaults.move_to_end((url, identity))
        vault.users += 1
        try:
            yield vault.keys
        finally:
            vault.users -= 1
            await self._close_some()

    async def close(self) -> None:
        """Close all of them."""
        while self._vaults:
            _, vault = self._vaults.popitem()
            await vault.keys.close()

    async def _close_some(self) -> None:
        idle = [place for place, vault in self._vaults.items() if not vault.users]
        for place in idle[: max(0, len(self._vaults) - VAULTS)]:
            await self._vaults.pop(place).keys.close()


@dataclass(slots=True)
class _Vault:
    keys: KeyService
    users: int = 0
