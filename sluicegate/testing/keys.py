"""``check_keys``: does a key service keep the contract of :class:`sluicegate.services.KeyService`?

For authors of key plugins::

    async def test_my_keys(tmp_path):
        await check_keys(lambda: my_plugin.open_keys(f"mine:{tmp_path}"))
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from sluicegate.errors import KeyNotFound, KeyUnavailable, SealBroken
from sluicegate.services import KeyService, Signature
from sluicegate.testing._expect import expect_equal, expect_raises

BAD_NAMES = ("", "Upper", "under_score", "a/b", "..", "a.b", "a b", "naïve", "x" * 101, "new\n")
BAD_REFERENCES = ("", "under_score", "a/b/c", "../a", "a/..", "a/", "/a", "a b", "naïve", "x" * 128, "new\n")


async def check_keys(open: Callable[[], KeyService]) -> None:
    """Raise ``AssertionError`` naming the first clause of the contract that does not hold.

    Args:
        open: Returns the service. It is called twice, and both must hold the same keys; keys of other names than the
            checks' own are left alone.
    """
    one, other = open(), open()
    try:
        for check in _CHECKS:
            name = f"check-{secrets.token_hex(8)}"
            try:
                await check(one, other, name)
            finally:
                for each in await one.names(name):
                    await one.destroy(each)
    finally:
        await one.close()
        await other.close()


async def _unwraps_what_was_wrapped(one: KeyService, other: KeyService, name: str) -> None:
    secret = os.urandom(32)
    wrapped = await one.wrap(name, secret)
    expect_equal("unwrap", await other.unwrap(wrapped), secret)
    expect_equal("unwrap of a copy", await one.unwrap(replace(wrapped)), secret)
    if secret in wrapped.ciphertext or not wrapped.key_id:
        raise AssertionError("wrap: the secret is not wrapped, or the key has no id")
    await expect_raises("wrap of 31 bytes", ValueError, one.wrap(name, secret[:31]))


async def _a_changed_ciphertext_does_not_open(one: KeyService, other: KeyService, name: str) -> None:
    wrapped = await one.wrap(name, os.urandom(32))
    for position in (0, len(wrapped.ciphertext) // 2, len(wrapped.ciphertext) - 1):
        changed = bytearray(wrapped.ciphertext)
        changed[position] ^= 1
        await expect_raises(
            f"unwrap with byte {position} changed",
            SealBroken,
            other.unwrap(replace(wrapped, ciphertext=bytes(changed))),
        )
    await expect_raises(
        "unwrap of a cut ciphertext", SealBroken, other.unwrap(replace(wrapped, ciphertext=wrapped.ciphertext[:-8]))
    )
    await expect_raises("unwrap of nothing", SealBroken, other.unwrap(replace(wrapped, ciphertext=b"")))


async def _keys_do_not_open_for_each_other(one: KeyService, other: KeyService, name: str) -> None:
    wrapped = await one.wrap(f"{name}-a", os.urandom(32))
    foreign = await one.wrap(f"{name}-b", os.urandom(32))
    await expect_raises("unwrap with another key", SealBroken, other.unwrap(replace(wrapped, key_id=foreign.key_id)))


async def _create_is_a_no_op_the_second_time(one: KeyService, other: KeyService, name: str) -> None:
    await one.create(name)
    secret = os.urandom(32)
    wrapped = await one.wrap(name, secret)
    await other.create(name)
    expect_equal("unwrap after a second create", await other.unwrap(wrapped), secret)


async def _racing_creators_lose_nothing(one: KeyService, other: KeyService, name: str) -> None:
    """A race may leave the key with several versions; all of them open, and all of them go."""
    data_keys = [os.urandom(32) for _ in range(8)]
    wrapped = await asyncio.gather(
        *((one, other)[number % 2].wrap(name, secret) for number, secret in enumerate(data_keys))
    )
    expect_equal("what racing wraps hold", [await one.unwrap(each) for each in wrapped], data_keys)
    expect_equal("destroy after a race", await one.destroy(name), True)
    for each in wrapped:
        await expect_raises("unwrap after a race and destroy", KeyNotFound, other.unwrap(each))


async def _a_key_of_somebody_elses_is_not_made(one: KeyService, other: KeyService, name: str) -> None:
    secret = os.urandom(32)
    await expect_raises("wrap of a missing key", KeyNotFound, one.wrap(name, secret, create=False))
    expect_equal("names after a wrap without create", await one.names(name), ())
    made = await other.wrap(name, secret)
    expect_equal("unwrap", await other.unwrap(await one.wrap(name, secret, create=False)), secret)
    reference = f"{name}/{_version(made.key_id)}"
    pinned = await one.wrap(reference, secret, create=False)
    expect_equal("the key that a pinned wrap uses", pinned.key_id, made.key_id)
    expect_equal("unwrap of a pinned wrap", await other.unwrap(pinned), secret)
    await expect_raises("wrap under a missing version", KeyNotFound, one.wrap(f"{name}/00", secret, create=False))
    await expect_raises("wrap under a version, with create", ValueError, one.wrap(reference, secret))
    for bad in BAD_REFERENCES:
        await expect_raises(f"wrap under {bad!r}", ValueError, one.wrap(bad, secret, create=False))


async def _signatures_hold_with_the_public_key_alone(one: KeyService, other: KeyService, name: str) -> None:
    await expect_raises("public_key before the first signature", KeyNotFound, one.public_key(name))
    expect_equal("names after public_key", await one.names(name), ())
    signature = await one.sign(name, b"data")
    public = await other.public_key(name)
    expect_equal("members of public_key", sorted(public), ["alg", "crv", "kid", "kty", "x", "y"])
    expect_equal("kid of public_key", public["kid"], signature.key_id)
    expect_equal("algorithm of sign", (signature.algorithm, public["alg"]), ("ES256", "ES256"))
    expect_equal("signature", _holds(public, b"data", signature), True)
    expect_equal("signature of other data", _holds(public, b"Data", signature), False)
    for empty_or_long in (b"", bytes(1 << 20)):
        again = await other.sign(name, empty_or_long)
        expect_equal("signature", (_holds(public, empty_or_long, again), again.key_id), (True, signature.key_id))
    pinned = await one.public_key(f"{name}/{_version(signature.key_id)}")
    expect_equal("public_key of the signing version", pinned, public)
    await expect_raises("public_key of a missing version", KeyNotFound, one.public_key(f"{name}/00"))
    for bad in BAD_REFERENCES:
        await expect_raises(f"public_key of {bad!r}", ValueError, one.public_key(bad))


async def _racing_signers_lose_nothing(one: KeyService, other: KeyService, name: str) -> None:
    signatures = await asyncio.gather(*((one, other)[number % 2].sign(name, b"data") for number in range(4)))
    for signature in signatures:
        public = await one.public_key(f"{name}/{_version(signature.key_id)}")
        expect_equal("signature of a racing signer", _holds(public, b"data", signature), True)


async def _a_destroyed_signing_key_is_gone(one: KeyService, other: KeyService, name: str) -> None:
    old = await one.sign(name, b"data")
    expect_equal("destroy of a signing key", await other.destroy(name), True)
    await expect_raises("public_key after destroy", KeyNotFound, one.public_key(name))
    new = await one.sign(name, b"data")
    if new.key_id == old.key_id or _holds(await one.public_key(name), b"data", old):
        raise AssertionError("a signing key made after destroy is the old one")


async def _wrapping_and_signing_keys_are_kept_apart(one: KeyService, other: KeyService, name: str) -> None:
    await one.wrap(f"{name}-w", bytes(32))
    await one.sign(f"{name}-s", b"data")
    await expect_raises("sign with a wrapping key", KeyUnavailable, other.sign(f"{name}-w", b"data"))
    await expect_raises("public_key of a wrapping key", KeyUnavailable, other.public_key(f"{name}-w"))
    await expect_raises("wrap with a signing key", KeyUnavailable, other.wrap(f"{name}-s", bytes(32)))
    expect_equal("names", await other.names(name), (f"{name}-s", f"{name}-w"))


async def _destroyed_is_gone(one: KeyService, other: KeyService, name: str) -> None:
    wrapped = await one.wrap(name, os.urandom(32))
    await other.unwrap(wrapped)
    expect_equal("destroy", await one.destroy(name), True)
    expect_equal("names after destroy", await other.names(name), ())
    for service in (one, other):
        await expect_raises("unwrap after destroy", KeyNotFound, service.unwrap(wrapped))
    expect_equal("a second destroy", await other.destroy(name), True)
    expect_equal("recoverable_until after destroy", await other.recoverable_until(name), None)
    await expect_raises(
        "unwrap of an unknown key", KeyNotFound, one.unwrap(replace(wrapped, key_id=f"{wrapped.key_id}0"))
    )


async def _a_new_key_of_an_old_name_is_another(one: KeyService, other: KeyService, name: str) -> None:
    old = await one.wrap(name, os.urandom(32))
    await one.destroy(name)
    new = await other.wrap(name, os.urandom(32))
    if old.key_id == new.key_id:
        raise AssertionError("a key made after destroy has the id of the old one")
    await expect_raises("unwrap with a successor's name", KeyNotFound, one.unwrap(old))


async def _what_lives_is_not_recoverable(one: KeyService, other: KeyService, name: str) -> None:
    expect_equal("recoverable_until before create", await one.recoverable_until(name), None)
    await one.create(name)
    expect_equal("recoverable_until of a living key", await other.recoverable_until(name), None)


async def _weaknesses_are_sentences(one: KeyService, other: KeyService, name: str) -> None:
    await one.create(name)
    before = await one.names()
    found = await one.weaknesses()
    if not isinstance(found, tuple) or not all(isinstance(each, str) and each for each in found):
        raise AssertionError(f"weaknesses: expected a tuple of sentences, found {type(found).__name__}")
    expect_equal("names after weaknesses", await one.names(), before)


async def _names_are_sorted(one: KeyService, other: KeyService, name: str) -> None:
    for suffix in ("b", "a", "20260101"):
        await one.create(f"{name}-{suffix}")
    expect_equal("names", await other.names(name), (f"{name}-20260101", f"{name}-a", f"{name}-b"))
    expect_equal("names that begin with", await other.names(f"{name}-2"), (f"{name}-20260101",))


async def _bad_names_are_refused(one: KeyService, other: KeyService, name: str) -> None:
    for bad in BAD_NAMES:
        await expect_raises(f"create of {bad!r}", ValueError, one.create(bad))
        await expect_raises(f"wrap with {bad!r}", ValueError, one.wrap(bad, bytes(32)))
        await expect_raises(f"sign with {bad!r}", ValueError, one.sign(bad, b"data"))
        await expect_raises(f"destroy of {bad!r}", ValueError, one.destroy(bad))
        await expect_raises(f"recoverable_until of {bad!r}", ValueError, one.recoverable_until(bad))


def _version(key_id: str) -> str:
    return key_id.rpartition("/")[2]


def _holds(public: Mapping[str, str], data: bytes, signature: Signature) -> bool:
    """Check a signature by the JSON Web Key alone."""
    if len(signature.value) != 64 or (public["kty"], public["crv"]) != ("EC", "P-256"):
        return False
    x, y = (int.from_bytes(base64.urlsafe_b64decode(public[part] + "=")) for part in "xy")
    r, s = int.from_bytes(signature.value[:32]), int.from_bytes(signature.value[32:])
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


_CHECKS: tuple[Callable[[KeyService, KeyService, str], Awaitable[None]], ...] = (
    _unwraps_what_was_wrapped,
    _a_changed_ciphertext_does_not_open,
    _keys_do_not_open_for_each_other,
    _create_is_a_no_op_the_second_time,
    _racing_creators_lose_nothing,
    _a_key_of_somebody_elses_is_not_made,
    _signatures_hold_with_the_public_key_alone,
    _racing_signers_lose_nothing,
    _a_destroyed_signing_key_is_gone,
    _wrapping_and_signing_keys_are_kept_apart,
    _destroyed_is_gone,
    _a_new_key_of_an_old_name_is_another,
    _what_lives_is_not_recoverable,
    _weaknesses_are_sentences,
    _names_are_sorted,
    _bad_names_are_refused,
)
