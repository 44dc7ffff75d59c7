"""``check_keys``: does a key service keep the contract of :class:`sluicegate.services.KeyService`?

For authors of key plugins::

    async def test_my_keys(tmp_path):
        await check_keys(lambda: my_plugin.open_keys(f"mine:{tmp_path}"))
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace

from sluicegate.errors import KeyNotFound, SealBroken
from sluicegate.services import KeyService
from sluicegate.testing._expect import expect_equal, expect_raises

BAD_NAMES = ("", "Upper", "under_score", "a/b", "..", "a.b", "a b", "naïve", "x" * 101, "new\n")


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


async def _racing_creators_agree(one: KeyService, other: KeyService, name: str) -> None:
    data_keys = [os.urandom(32) for _ in range(8)]
    wrapped = await asyncio.gather(
        *((one, other)[number % 2].wrap(name, secret) for number, secret in enumerate(data_keys))
    )
    expect_equal("the ids that racing wraps use", len({each.key_id for each in wrapped}), 1)
    expect_equal("what racing wraps hold", [await one.unwrap(each) for each in wrapped], data_keys)


async def _destroyed_is_gone(one: KeyService, other: KeyService, name: str) -> None:
    wrapped = await one.wrap(name, os.urandom(32))
    await other.unwrap(wrapped)
    expect_equal("destroy", await one.destroy(name), True)
    expect_equal("names after destroy", await other.names(name), ())
    for service in (one, other):
        await expect_raises("unwrap after destroy", KeyNotFound, service.unwrap(wrapped))
    expect_equal("a second destroy", await other.destroy(name), True)
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


async def _names_are_sorted(one: KeyService, other: KeyService, name: str) -> None:
    for suffix in ("b", "a", "20260101"):
        await one.create(f"{name}-{suffix}")
    expect_equal("names", await other.names(name), (f"{name}-20260101", f"{name}-a", f"{name}-b"))
    expect_equal("names that begin with", await other.names(f"{name}-2"), (f"{name}-20260101",))


async def _bad_names_are_refused(one: KeyService, other: KeyService, name: str) -> None:
    for bad in BAD_NAMES:
        await expect_raises(f"create of {bad!r}", ValueError, one.create(bad))
        await expect_raises(f"wrap with {bad!r}", ValueError, one.wrap(bad, bytes(32)))
        await expect_raises(f"destroy of {bad!r}", ValueError, one.destroy(bad))


_CHECKS: tuple[Callable[[KeyService, KeyService, str], Awaitable[None]], ...] = (
    _unwraps_what_was_wrapped,
    _a_changed_ciphertext_does_not_open,
    _keys_do_not_open_for_each_other,
    _create_is_a_no_op_the_second_time,
    _racing_creators_agree,
    _destroyed_is_gone,
    _a_new_key_of_an_old_name_is_another,
    _names_are_sorted,
    _bad_names_are_refused,
)
