"""The keys of one vault, answering as Azure Key Vault does: the data plane behind ``server.py``, without HTTP.

Answers and failures have the form of recorded ones. What Azure does not document, and no recording shows, is a guess:
the inner codes of a key outside its validity, of an operation that a key does not permit, and of purge protection.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

PRIVATE = ("decrypt", "sign", "unwrapKey")
"""Refused on a disabled key; the others are not."""
FORWARD = ("encrypt", "sign", "wrapKey")
"""Refused outside a key's validity; the others are not, so that nothing is locked in."""
RSA_OPS = ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"]
EC_OPS = ["sign", "verify"]
PAGE = 25
DAY = 86400
OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)


class Failure(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, code: str, message: str = "", inner: str = "", **headers: str) -> None:
        super().__init__(code)
        self.status = status
        self.headers = headers
        self.body = {"error": {"code": code, "message": message} | ({"innererror": {"code": inner}} if inner else {})}


@dataclass
class Version:
    """A key's version; times in Unix seconds."""

    id: str
    kty: str
    material: Any
    ops: list[str]
    created: int
    enabled: bool = True
    nbf: int | None = None
    exp: int | None = None


@dataclass
class Deleted:
    """A deleted key; nobody sees it in the next ``hidden`` looks."""

    versions: list[Version]
    at: int
    hidden: int


@dataclass
class Vault:
    """One vault.

    Attributes:
        now: Returns Unix seconds.
        rsa: Makes an RSA key of so many bits.
        retention_days: Of soft delete.
        hidden_looks: For how many looks a key that was deleted is neither here nor among the deleted.
        lingering_looks: For how many looks a key that was purged is still among the deleted.
        forbidden: Operations that the caller may not do.
        calls: Operation and key of every call with a valid token, in order.
    """

    host: str
    now: Callable[[], float]
    rsa: Callable[[int], rsa.RSAPrivateKey]
    retention_days: int = 7
    purge_protection: bool = False
    hidden_looks: int = 0
    lingering_looks: int = 0
    forbidden: set[str] = field(default_factory=set)
    calls: list[tuple[str, str]] = field(default_factory=list)
    keys: dict[str, list[Version]] = field(default_factory=dict)
    deleted: dict[str, Deleted] = field(default_factory=dict)
    lingering: dict[str, tuple[Deleted, int]] = field(default_factory=dict)

    def answer(self, operation: str, name: str, version: str, body: Mapping[str, Any], query: Mapping[str, str]) -> Any:
        """Return an operation's JSON, or None for an empty answer; ``Failure`` otherwise."""
        self._sweep()
        if operation in self.forbidden:
            raise Failure(403, "Forbidden", _not_allowed(operation), "ForbiddenByRbac")
        if operation in RSA_OPS:
            return self._compute(operation, name, version, body)
        match operation:
            case "create" | "rotate":
                return self._bundle(name, self.make(name, body if operation == "create" else self._template(name)))
            case "get":
                return self._bundle(name, self._version(name, version))
            case "update":
                return self._bundle(name, self._update(self._version(name, version), body))
            case "versions":
                return self._page(
                    [self._item(name, each, each.id) for each in self._versions(name)], f"keys/{name}/versions", query
                )
            case "list":
                return self._page(
                    [self._item(each, kept[-1]) for each, kept in sorted(self.keys.items())], "keys", query
                )
            case "delete":
                return self._delete(name)
            case "get deleted":
                return self._deleted_bundle(name, self._look(name))
            case "list deleted":
                shown = [each for each, deleted in sorted(self.deleted.items()) if not deleted.hidden]
                return self._page([self._deleted_item(each) for each in shown], "deletedkeys", query)
            case "purge":
                return self._purge(name)
            case "recover":
                self.keys[name] = self._found_deleted(name).versions
                del self.deleted[name]
                return self._bundle(name, self.keys[name][-1])
            case "backup":
                self._versions(name)
                return {"value": _encoded(os.urandom(64))}
        raise Failure(400, "BadParameter", f"The stand-in has no operation {operation}")

    def make(self, name: str, spec: Mapping[str, Any]) -> Version:
        """Make a key, or a new version of one, from the body of a create request."""
        if name in self.deleted:
            inner = "ObjectIsBeingDeleted" if self.deleted[name].hidden else "ObjectIsDeletedButRecoverable"
            raise Failure(409, "Conflict", f"Key {name} is currently in a deleted but recoverable state.", inner)
        kty, attributes = spec["kty"], spec.get("attributes") or {}
        made = Version(
            secrets.token_hex(16),
            kty,
            self._material(kty, spec),
            list(spec.get("key_ops") or (EC_OPS if kty.startswith("EC") else RSA_OPS)),
            int(self.now()),
            attributes.get("enabled", True),
            attributes.get("nbf"),
            attributes.get("exp"),
        )
        self.keys.setdefault(name, []).append(made)
        return made

    def set(self, name: str, **attributes: Any) -> None:
        """Change attributes of a key's latest version, as its owner would in the portal."""
        for attribute, value in attributes.items():
            setattr(self.keys[name][-1], attribute, value)

    def count(self, *operations: str) -> int:
        """Return how often any of these operations was called."""
        return sum(operation in operations for operation, _ in self.calls)

    def _material(self, kty: str, spec: Mapping[str, Any]) -> Any:
        if kty in ("RSA", "RSA-HSM"):
            return self.rsa(spec.get("key_size") or 2048)
        if kty in ("EC", "EC-HSM"):
            curves = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}
            return ec.generate_private_key(curves[spec.get("crv") or "P-256"]())
        if kty in ("oct", "oct-HSM"):
            return os.urandom(32)
        raise Failure(400, "BadParameter", f"kty {kty} is not supported")

    def _template(self, name: str) -> dict[str, Any]:
        latest = self._versions(name)[-1]
        if not latest.enabled:
            raise Failure(403, "Forbidden", "Operation rotate is not allowed on a disabled key.", "KeyDisabled")
        size = latest.material.key_size if latest.kty.startswith("RSA") else None
        return {"kty": latest.kty, "key_ops": latest.ops, "key_size": size}

    def _update(self, version: Version, body: Mapping[str, Any]) -> Version:
        attributes = body.get("attributes") or {}
        for attribute in ("enabled", "nbf", "exp"):
            if attribute in attributes:
                setattr(version, attribute, attributes[attribute])
        version.ops = body.get("key_ops") or version.ops
        return version

    def _versions(self, name: str) -> list[Version]:
        if name not in self.keys:
            raise Failure(404, "KeyNotFound", f"A key with (name/id) {name} was not found in this key vault.")
        return self.keys[name]

    def _version(self, name: str, version: str) -> Version:
        for each in reversed(self._versions(name)):
            if version in ("", each.id):
                return each
        raise Failure(404, "KeyNotFound", f"A key with (name/id) {name}/{version} was not found in this key vault.")

    def _delete(self, name: str) -> dict[str, Any]:
        versions = self._versions(name)
        self.deleted[name] = Deleted(versions, int(self.now()), self.hidden_looks)
        del self.keys[name]
        return self._deleted_bundle(name, self.deleted[name])

    def _look(self, name: str) -> Deleted:
        if name in self.lingering:
            deleted, looks = self.lingering.pop(name)
            if looks > 1:
                self.lingering[name] = (deleted, looks - 1)
            return deleted
        deleted = self._found_deleted(name)
        if deleted.hidden:
            deleted.hidden -= 1
            raise Failure(404, "KeyNotFound", f"Deleted Key not found: {name}")
        return deleted

    def _found_deleted(self, name: str) -> Deleted:
        if name not in self.deleted:
            raise Failure(404, "KeyNotFound", f"Deleted Key not found: {name}")
        return self.deleted[name]

    def _purge(self, name: str) -> None:
        deleted = self._found_deleted(name)
        if deleted.hidden:
            deleted.hidden -= 1
            raise Failure(409, "Conflict", "Key is currently being deleted.", "ObjectIsBeingDeleted")
        if self.purge_protection:
            message = 'Operation "purge" is not allowed because purge protection is enabled for this vault.'
            raise Failure(403, "Forbidden", message)
        del self.deleted[name]
        if self.lingering_looks:
            self.lingering[name] = (deleted, self.lingering_looks)

    def _sweep(self) -> None:
        for name, deleted in list(self.deleted.items()):
            if self.now() >= deleted.at + self.retention_days * DAY:
                del self.deleted[name]

    def _compute(self, operation: str, name: str, wanted: str, body: Mapping[str, Any]) -> dict[str, str]:
        version = self._version(name, wanted)
        if operation not in version.ops:
            raise Failure(
                403, "Forbidden", f"Operation {operation} is not permitted on this key.", "KeyOperationForbidden"
            )
        if operation in PRIVATE and not version.enabled:
            raise Failure(403, "Forbidden", f"Operation {operation} is not allowed on a disabled key.", "KeyDisabled")
        begin, end = version.nbf or 0, float("inf") if version.exp is None else version.exp
        if operation in FORWARD and not begin <= self.now() < end:
            raise Failure(403, "Forbidden", f"Operation {operation} is not allowed on an expired key.", "KeyExpired")
        try:
            result = _computed(operation, body["alg"], version.material, _decoded(body["value"]))
        except ValueError:
            raise Failure(400, "BadParameter", "The parameter is incorrect.\r\n") from None
        return {"kid": self._kid(name, version), "value": _encoded(result)}

    def _kid(self, name: str, version: Version) -> str:
        return f"https://{self.host}/keys/{name}/{version.id}"

    def _attributes(self, version: Version) -> dict[str, Any]:
        customized = "" if self.retention_days == 90 else "Customized"
        shown = {
            "enabled": version.enabled,
            "created": version.created,
            "updated": version.created,
            "recoveryLevel": f"{customized}Recoverable{'' if self.purge_protection else '+Purgeable'}",
            "recoverableDays": self.retention_days,
            "exportable": False,
        }
        validity = {"nbf": version.nbf, "exp": version.exp}
        return shown | {each: time for each, time in validity.items() if time is not None}

    def _bundle(self, name: str, version: Version) -> dict[str, Any]:
        jwk = {"kid": self._kid(name, version), "kty": version.kty, "key_ops": version.ops}
        return {"key": jwk | _public(version.material), "attributes": self._attributes(version), "tags": {}}

    def _deletion(self, name: str, deleted: Deleted) -> dict[str, Any]:
        return {
            "recoveryId": f"https://{self.host}/deletedkeys/{name}",
            "deletedDate": deleted.at,
            "scheduledPurgeDate": deleted.at + self.retention_days * DAY,
        }

    def _deleted_bundle(self, name: str, deleted: Deleted) -> dict[str, Any]:
        return self._bundle(name, deleted.versions[-1]) | self._deletion(name, deleted)

    def _item(self, name: str, version: Version, id: str = "") -> dict[str, Any]:
        kid = f"https://{self.host}/keys/{name}" + (f"/{id}" if id else "")
        return {"kid": kid, "attributes": self._attributes(version), "tags": {}}

    def _deleted_item(self, name: str) -> dict[str, Any]:
        return self._item(name, self.deleted[name].versions[-1]) | self._deletion(name, self.deleted[name])

    def _page(self, items: list[dict[str, Any]], path: str, query: Mapping[str, str]) -> dict[str, Any]:
        start, size = int(query.get("$skiptoken", 0)), int(query.get("maxresults", PAGE))
        following = (
            f"https://{self.host}/{path}?api-version={query['api-version']}&$skiptoken={start + size}&maxresults={size}"
        )
        return {"value": items[start : start + size], "nextLink": following if start + size < len(items) else None}


def _computed(operation: str, algorithm: str, material: Any, value: bytes) -> bytes:
    match operation, algorithm, material:
        case "wrapKey", "RSA-OAEP-256", rsa.RSAPrivateKey():
            return material.public_key().encrypt(value, OAEP)
        case "unwrapKey", "RSA-OAEP-256", rsa.RSAPrivateKey():
            return material.decrypt(value, OAEP)
        case "sign", "ES256", ec.EllipticCurvePrivateKey(curve=ec.SECP256R1()):
            halves = decode_dss_signature(material.sign(value, ec.ECDSA(Prehashed(SHA256()))))
            return b"".join(half.to_bytes(32) for half in halves)
    raise ValueError("the key cannot do that")


def _public(material: Any) -> dict[str, str]:
    match material:
        case rsa.RSAPrivateKey():
            numbers = material.public_key().public_numbers()
            return {"n": _encoded(numbers.n.to_bytes(material.key_size // 8)), "e": _encoded(numbers.e.to_bytes(3))}
        case ec.EllipticCurvePrivateKey():
            point = material.public_key().public_numbers()
            size = (material.key_size + 7) // 8
            crv = f"P-{material.key_size}"
            return {"crv": crv, "x": _encoded(point.x.to_bytes(size)), "y": _encoded(point.y.to_bytes(size))}
    return {}


def _not_allowed(operation: str) -> str:
    return (
        "Caller is not authorized to perform action on resource.\r\nCaller: appid=6f4a8e0c;oid=1d2c3b4a;iss=https://sts."
        f"windows.net/\r\nAction: 'Microsoft.KeyVault/vaults/keys/{operation}/action'\r\nAssignment: (not found)\r\n"
    )


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
