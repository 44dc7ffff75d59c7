"""Which keys of a vault may be used, and what a vault's settings mean for destroying them.

azure-keyvault-keys 4.11 wraps with disabled keys, and with expired ones whose id it was given; and for a symmetric key that
does not show itself it wraps under random bytes that nobody keeps. So all of it is checked here.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sluicegate.errors import KeyRefused, KeyUnavailable

if TYPE_CHECKING:
    from azure.keyvault.keys import KeyProperties, KeyVaultKey

RSA_BITS = 3072
CURVE = "P-256"
SHORTEST_DAYS = 7
"""The least that a vault can be set to keep deleted keys."""
_COORDINATE = 32


def check_wrapping_key(key: KeyVaultKey, now: datetime) -> None:
    """Raise ``KeyUnavailable``, with what to change, unless the key may wrap at ``now``."""
    kind = _kind(key)
    if kind not in (f"RSA {RSA_BITS}", f"RSA-HSM {RSA_BITS}"):
        raise KeyUnavailable(f"{_named(key)} is of type {kind}: use RSA of {RSA_BITS} bits")
    _check_state(key, "wrapKey", now)


def check_signing_key(key: KeyVaultKey) -> None:
    """Raise ``KeyUnavailable`` unless the key is for ES256; the vault itself checks the rest when it signs."""
    kind = _kind(key)
    if kind not in (f"EC {CURVE}", f"EC-HSM {CURVE}"):
        raise KeyUnavailable(f"{_named(key)} is of type {kind}: signing needs EC {CURVE}")


def public_jwk(key: KeyVaultKey) -> dict[str, str]:
    """Return the public half of a signing key; ``KeyUnavailable`` when it is none."""
    check_signing_key(key)
    jwk: Any = key.key
    x, y = (base64.urlsafe_b64encode(part.rjust(_COORDINATE, b"\0")).rstrip(b"=").decode() for part in (jwk.x, jwk.y))
    return {"kty": "EC", "crv": CURVE, "x": x, "y": y, "alg": "ES256", "kid": str(key.id)}


def is_purge_protected(any_key: KeyProperties) -> bool:
    """Return whether the key's vault refuses to purge; every key of a vault says the same."""
    return "Purgeable" not in (any_key.recovery_level or "")


def weaknesses_of(any_key: KeyProperties) -> list[str]:
    """Return what the settings of the key's vault do to the destruction of its keys."""
    days = any_key.recoverable_days or 0
    if is_purge_protected(any_key):
        return [f"purge protection is on: a destroyed key can be recovered for {days} days"]
    if days > SHORTEST_DAYS:
        return [
            f"soft delete lasts {days} days, not {SHORTEST_DAYS}: so long can a key be recovered that is not purged"
        ]
    return []


def _check_state(key: KeyVaultKey, operation: str, now: datetime) -> None:
    state = key.properties
    if not state.enabled:
        raise KeyRefused(f"{_named(key)} is disabled: enable it")
    if state.not_before is not None and now < state.not_before:
        raise KeyRefused(f"{_named(key)} is not valid before {state.not_before.isoformat()}")
    if state.expires_on is not None and now >= state.expires_on:
        raise KeyRefused(f"{_named(key)} expired at {state.expires_on.isoformat()}: rotate it, or let it last longer")
    if operation not in key.key_operations:
        raise KeyRefused(f"{_named(key)} does not permit {operation}: add it to the key's permitted operations")


def _kind(key: KeyVaultKey) -> str:
    jwk: Any = key.key
    kty = str(getattr(jwk.kty, "value", jwk.kty))
    if kty.startswith("RSA"):
        return f"{kty} {int.from_bytes(jwk.n).bit_length()}"
    if kty.startswith("EC"):
        return f"{kty} {getattr(jwk.crv, 'value', jwk.crv)}"
    return kty


def _named(key: KeyVaultKey) -> str:
    return f"key {key.name!r}, version {key.properties.version}, in {key.properties.vault_url}"
