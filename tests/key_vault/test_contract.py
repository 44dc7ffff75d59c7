"""``check_keys`` passes services that keep the contract, and finds each way of breaking it."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from plugins import local_keys
from sluicegate.errors import KeyNotFound, KeyUnavailable
from sluicegate.services import key_reference
from sluicegate.testing import MemoryKeys, check_keys


class Makes(MemoryKeys):
    async def wrap(self, name, secret, *, create=True):
        return await super().wrap(name, secret, create=create or "/" not in name)


class IgnoresThePin(MemoryKeys):
    async def wrap(self, name, secret, *, create=True):
        return await super().wrap(name if create else key_reference(name)[0], secret, create=create)


class SignsInDer(MemoryKeys):
    async def sign(self, name, data):
        signature = await super().sign(name, data)
        halves = (int.from_bytes(signature.value[:32]), int.from_bytes(signature.value[32:]))
        return replace(signature, value=encode_dss_signature(*halves))


class SignsTheBeginning(MemoryKeys):
    async def sign(self, name, data):
        return await super().sign(name, data[:1000])


class SignsUnderAnotherName(MemoryKeys):
    async def sign(self, name, data):
        return replace(await super().sign(name, data), key_id=f"{name}/0")


class MakesAKeyToShow(MemoryKeys):
    async def public_key(self, name):
        if "/" not in name:
            await self.sign(name, b"")
        return await super().public_key(name)


class ShowsTheSecret(MemoryKeys):
    async def public_key(self, name):
        return await super().public_key(name) | {"d": "AA"}


class ShowsTheLatest(MemoryKeys):
    async def public_key(self, name):
        return await super().public_key(key_reference(name)[0])


class KeepsTheSigningKey(MemoryKeys):
    def __init__(self):
        super().__init__()
        self.kept = {}

    async def sign(self, name, data):
        if name in self.kept and name not in self._keys:
            self._keys[name] = self.kept[name]
        signature = await super().sign(name, data)
        self.kept[name] = self._keys[name]
        return signature


class DestroysNothing(MemoryKeys):
    async def destroy(self, name):
        return True


class ProvesNothing(MemoryKeys):
    async def destroy(self, name):
        return not await super().destroy(name)


class RecoversTheLiving(MemoryKeys):
    async def recoverable_until(self, name):
        return datetime(2026, 1, 1, tzinfo=UTC) if name in self._keys else await super().recoverable_until(name)


class RecoversTheDestroyed(MemoryKeys):
    def __init__(self):
        super().__init__()
        self.destroyed = set()

    async def destroy(self, name):
        self.destroyed.add(name)
        return await super().destroy(name)

    async def recoverable_until(self, name):
        return datetime(2026, 1, 1, tzinfo=UTC) if name in self.destroyed else await super().recoverable_until(name)


class ListsWeaknesses(MemoryKeys):
    async def weaknesses(self):
        return ["no tuple"]


class TriesOutWeaknesses(MemoryKeys):
    async def weaknesses(self):
        await self.create("probe")
        return ()


class WrapsWithAnything(MemoryKeys):
    async def wrap(self, name, secret, *, create=True):
        try:
            return await super().wrap(name, secret, create=create)
        except KeyUnavailable:
            return await super().wrap(f"{name}-w", secret)


BROKEN = [
    (Makes, "wrap of a missing key"),
    (IgnoresThePin, "wrap under a missing version"),
    (SignsInDer, "signature"),
    (SignsTheBeginning, "signature"),
    (SignsUnderAnotherName, "kid of public_key"),
    (MakesAKeyToShow, "public_key before the first signature"),
    (ShowsTheSecret, "members of public_key"),
    (ShowsTheLatest, "public_key of a missing version"),
    (KeepsTheSigningKey, "a signing key made after destroy is the old one"),
    (DestroysNothing, "unwrap after a race and destroy"),
    (ProvesNothing, "destroy"),
    (RecoversTheLiving, "recoverable_until of a living key"),
    (RecoversTheDestroyed, "recoverable_until after destroy"),
    (ListsWeaknesses, "weaknesses: expected a tuple"),
    (TriesOutWeaknesses, "names after weaknesses"),
    (WrapsWithAnything, "wrap with a signing key"),
]


async def test_keys_in_memory_keep_the_contract():
    memory = MemoryKeys()

    await check_keys(lambda: memory)


async def test_keys_in_a_folder_keep_the_contract(tmp_path):
    await check_keys(lambda: local_keys.open_keys(f"folder:{tmp_path / 'keys'}"))


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
async def test_each_way_of_breaking_the_contract_is_found(broken, message):
    keys = broken()

    with pytest.raises(AssertionError, match=message):
        await check_keys(lambda: keys)


async def test_a_signing_key_in_a_folder_is_a_json_web_key(tmp_path):
    signature = await local_keys.open_keys(f"folder:{tmp_path}").sign("audit", b"data")

    jwk = json.loads((tmp_path / "audit.jwk").read_text())
    assert {member: jwk[member] for member in ("kty", "crv", "kid", "key_ops")} == {
        "kty": "EC",
        "crv": "P-256",
        "kid": signature.key_id,
        "key_ops": ["sign", "verify"],
    }
    assert {len(base64.urlsafe_b64decode(jwk[part] + "=")) for part in "dxy"} == {32}


@pytest.mark.parametrize(
    "change", [{"crv": "P-384"}, {"d": "AAAA"}, {"x": "A" * 43}, {"kid": "other/1"}, {"kty": "RSA"}]
)
async def test_a_damaged_signing_key_is_never_used(tmp_path, change):
    keys = local_keys.open_keys(f"folder:{tmp_path}")
    await keys.sign("audit", b"data")
    path = tmp_path / "audit.jwk"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(KeyUnavailable, match="'audit' is damaged"):
        await keys.sign("audit", b"data")


async def test_a_signing_key_of_another_curve_is_not_shown(tmp_path):
    keys = local_keys.open_keys(f"folder:{tmp_path}")
    await keys.sign("audit", b"data")
    path = tmp_path / "audit.jwk"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crv": "P-384"}))

    with pytest.raises(KeyUnavailable, match="'audit' is damaged"):
        await keys.public_key("audit")


async def test_a_signing_key_in_a_folder_unwraps_nothing(tmp_path):
    keys = local_keys.open_keys(f"folder:{tmp_path}")
    wrapped = await keys.wrap("a", bytes(32))
    signature = await keys.sign("audit", b"data")

    with pytest.raises(KeyNotFound):
        await keys.unwrap(replace(wrapped, key_id=signature.key_id))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("key", ("key", "")), ("Key-1/0a", ("Key-1", "0a")), ("x" * 127 + "/" + "0" * 64, ("x" * 127, "0" * 64))],
)
def test_a_reference_is_a_name_with_or_without_a_version(reference, expected):
    assert key_reference(reference) == expected
