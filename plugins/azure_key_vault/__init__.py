"""Keys in an Azure Key Vault: data keys are wrapped in this process, and unwrapped by the vault.

``keys`` is ``https://NAME.vault.azure.net``, opened by managed identity (``AZURE_CLIENT_ID`` names a user-assigned one) or
on a developer's machine by ``DefaultAzureCredential``. Proxies and certificate authorities come from the environment:
``HTTPS_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``.

Wrapping keys are RSA of 3,072 bits, wrapping is RSA-OAEP-256; signing keys are P-256, signing is ES256 by the vault. A
public key is read again every four minutes, so that a key which was disabled, expired or deleted wraps nothing five
minutes later. The vault itself unwraps nothing with a disabled or deleted key from that moment on, but goes on unwrapping
with one that has expired.

Give it a vault of its own, with purge protection off, seven days of soft delete, and no permission to back keys up. A
customer's own key is the vault's URL as ``open_keys`` takes it, and ``NAME`` or ``NAME/VERSION`` as ``wrap(...,
create=False)`` takes it; the app needs to read, wrap and unwrap with it, nothing more.
"""

from __future__ import annotations

import re

from sluicegate import hookimpl
from sluicegate.errors import StartupError
from sluicegate.services import KeyService

_URL = re.compile(r"https://([a-z0-9.-]+)(?::443)?(?:[/?#](.*))?", re.IGNORECASE)
_VAULT = re.compile(r"[a-z](?:-?[a-z0-9]){2,23}\.vault\.(?:azure\.net|azure\.cn|usgovcloudapi\.net)")
_HSM = re.compile(r"[a-z0-9-]+\.managedhsm\.(?:azure\.net|azure\.cn|usgovcloudapi\.net)")


@hookimpl
def open_keys(url: str, identity: str | None) -> KeyService | None:
    """Open a vault of any Azure cloud by its URL."""
    match = _URL.fullmatch(url)
    host = match[1].lower() if match else ""
    if _HSM.fullmatch(host):
        # With a symmetric key of an HSM, azure-keyvault-keys 4.11 wraps under random bytes that nobody keeps.
        raise StartupError(f"{host} is a Managed HSM, whose keys the SDK does not use safely: use a vault's RSA keys")
    if match is None or not _VAULT.fullmatch(host):
        return None
    if match[2]:
        raise StartupError(f"the key URL must be the vault alone, https://{host}; keys are named elsewhere")
    from plugins.azure_key_vault.vault import KeyVault

    return KeyVault(f"https://{host}", identity=identity)
