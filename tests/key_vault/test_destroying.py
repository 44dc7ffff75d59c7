"""``plugins/azure_key_vault``: a key is gone when the vault has it in neither place, and not before."""

import asyncio
from datetime import timedelta

import pytest

from sluicegate.errors import KeyNotFound, KeyUnavailable

SECRET = bytes(range(32))
DAY = "ret-20260101"
EC = {"kty": "EC"}


@pytest.fixture
def day_key(vault):
    vault.make(DAY, {"kty": "RSA", "key_size": 3072})


async def test_deletes_purges_and_looks_in_both_places(vault, day_key, keys):
    assert await keys.destroy(DAY) is True

    assert [operation for operation, _ in vault.calls] == ["delete", "get deleted", "purge", "get deleted", "get"]
    assert vault.keys == vault.deleted == {}


async def test_all_versions_go_together(vault, keys):
    old = await keys.wrap(DAY, SECRET)
    vault.answer("rotate", DAY, "", {}, {})

    assert await keys.destroy(DAY) is True

    with pytest.raises(KeyNotFound):
        await keys.unwrap(old)


async def test_a_destroyed_key_wraps_nothing_more_here(vault, keys):
    old = await keys.wrap(DAY, SECRET)
    await keys.destroy(DAY)

    new = await keys.wrap(DAY, SECRET)

    assert new.key_id != old.key_id


async def test_a_key_that_never_was_is_gone(keys):
    assert await keys.destroy(DAY) is True


async def test_a_key_that_somebody_else_deleted_is_purged(vault, day_key, keys):
    vault.answer("delete", DAY, "", {}, {})

    assert await keys.destroy(DAY) is True
    assert vault.deleted == {}


async def test_the_vault_is_given_time_to_delete(vault, day_key, keys):
    vault.hidden_looks = 1

    assert await keys.destroy(DAY) is True
    assert vault.deleted == {}


@pytest.mark.parametrize("hidden_looks", [1, 2, 3, 5])
async def test_a_key_that_is_being_deleted_is_not_taken_for_gone(vault, day_key, keys, hidden_looks):
    """Meanwhile it is in neither place: this is what a second purger, or the one after a crash, finds."""
    vault.hidden_looks = hidden_looks
    vault.answer("delete", DAY, "", {}, {})

    assert await keys.destroy(DAY) is True
    assert vault.deleted == {}


async def test_a_deletion_that_does_not_end_is_not_taken_for_one(vault, day_key, keys):
    vault.hidden_looks = 10**6
    vault.answer("delete", DAY, "", {}, {})

    assert await keys.destroy(DAY) is False


async def test_the_vault_is_given_time_to_purge(vault, day_key, keys):
    vault.lingering_looks = 3

    assert await keys.destroy(DAY) is True
    assert vault.lingering == {}


async def test_a_purge_that_does_not_end_is_not_taken_for_one(vault, day_key, keys):
    vault.lingering_looks = 10**6

    assert await keys.destroy(DAY) is False


async def test_purge_protection_leaves_the_key_recoverable_and_says_until_when(vault, day_key, keys, clock):
    vault.purge_protection = True

    assert await keys.destroy(DAY) is False

    assert await keys.recoverable_until(DAY) == clock.now + timedelta(days=7)
    assert await keys.names("ret-") == (DAY,)


async def test_when_its_time_is_over_a_protected_key_is_gone(vault, day_key, keys, clock):
    vault.purge_protection = True
    await keys.destroy(DAY)

    clock.advance(timedelta(days=7))

    assert await keys.destroy(DAY) is True
    assert await keys.recoverable_until(DAY) is None
    assert await keys.names("ret-") == ()


@pytest.mark.parametrize("operation", ["delete", "purge", "get", "get deleted"])
async def test_without_the_permission_nothing_is_proven_and_with_it_the_next_time_is(vault, day_key, keys, operation):
    vault.forbidden.add(operation)
    assert await keys.destroy(DAY) is False

    vault.forbidden.clear()

    assert await keys.destroy(DAY) is True


async def test_a_vault_that_will_not_say_whether_it_purged_proves_nothing(vault, keys):
    """The key is in neither place, but perhaps it is only being deleted."""
    vault.forbidden.add("purge")

    assert await keys.destroy(DAY) is False


@pytest.mark.parametrize("operation", ["delete", "purge", "get", "get deleted"])
async def test_lost_answers_change_nothing(stand_in, vault, day_key, keys, operation):
    stand_in.lose(operation)

    assert await keys.destroy(DAY) is True
    assert vault.keys == vault.deleted == {}


@pytest.mark.parametrize("operation", ["get", "get deleted"])
async def test_a_404_that_is_not_the_vaults_own_proves_nothing(stand_in, vault, keys, operation):
    stand_in.fail(404, operation=operation)

    with pytest.raises(KeyUnavailable, match="404"):
        await keys.destroy(DAY)


async def test_an_outage_in_between_leaves_the_rest_for_the_next_time(stand_in, vault, day_key, keys):
    stand_in.fail(503, operation="purge", times=99)
    with pytest.raises(KeyUnavailable, match=f"does not destroy key '{DAY}': 503 ServiceUnavailable"):
        await keys.destroy(DAY)
    assert await keys.names("ret-") == (DAY,)

    stand_in.mend()
    assert await keys.destroy(DAY) is True


async def test_what_is_recoverable_is_listed_with_what_lives_page_by_page(vault, keys):
    for number in range(60):
        vault.make(f"ret-{number:08d}", EC)
    for number in range(0, 60, 2):
        vault.answer("delete", f"ret-{number:08d}", "", {}, {})
    vault.make("audit", EC)

    assert await keys.names("ret-") == tuple(f"ret-{number:08d}" for number in range(60))
    assert (vault.count("list"), vault.count("list deleted")) == (2, 2)


async def test_what_was_never_deleted_is_not_recoverable(vault, day_key, keys):
    assert await keys.recoverable_until(DAY) is None
    assert await keys.recoverable_until("other") is None


PROTECTED = "purge protection is on: a destroyed key can be recovered for {} days"
LONG = "soft delete lasts {} days, not 7: so long can a key be recovered that is not purged"
DELETE = "this identity may not delete keys (vaults/keys/delete): it can destroy none"
PURGE = "this identity may not purge keys (vaults/keys/purge/action): a deleted key can be recovered"
BACKUP = "this identity may back keys up (vaults/keys/backup/action): a backup outlives its key"


@pytest.mark.parametrize(
    ("settings", "forbidden", "expected"),
    [
        ({}, {"backup"}, ()),
        ({"retention_days": 90}, {"backup"}, (LONG.format(90),)),
        ({"retention_days": 8}, {"backup"}, (LONG.format(8),)),
        ({"purge_protection": True}, {"backup"}, (PROTECTED.format(7),)),
        ({"purge_protection": True, "retention_days": 90}, {"backup", "purge"}, (PROTECTED.format(90),)),
        ({}, {"backup", "delete", "purge"}, (DELETE, PURGE)),
        ({}, set(), (BACKUP,)),
    ],
)
async def test_says_what_weakens_destruction_and_changes_nothing(vault, keys, settings, forbidden, expected):
    vault.make("any", EC)
    for setting, value in settings.items():
        setattr(vault, setting, value)
    vault.forbidden |= forbidden

    assert await keys.weaknesses() == expected

    assert list(vault.keys) == ["any"]
    assert vault.deleted == {}


async def test_an_empty_vault_shows_no_settings_but_permissions(vault, keys):
    vault.purge_protection = True
    vault.forbidden.add("delete")

    assert await keys.weaknesses() == (DELETE, BACKUP)


async def test_whoever_may_not_look_learns_nothing(vault, keys):
    vault.forbidden.add("list")

    with pytest.raises(KeyUnavailable, match="give this app's identity a role"):
        await keys.weaknesses()


async def test_a_name_whose_key_can_still_be_recovered_is_not_taken_again(vault, day_key, keys):
    vault.answer("delete", DAY, "", {}, {})

    with pytest.raises(KeyUnavailable, match="409 ObjectIsDeletedButRecoverable; purge or recover the deleted key"):
        await keys.wrap(DAY, SECRET)


async def test_another_process_may_make_the_key_first(stand_in, vault, keys):
    create = stand_in.hold("create")
    wrapping = asyncio.create_task(keys.wrap(DAY, SECRET))
    await create.arrival()
    made = vault.make(DAY, {"kty": "RSA", "key_size": 3072})
    create.refuse(409, "Conflict")

    wrapped = await wrapping

    assert wrapped.key_id.endswith(made.id)


async def test_one_destroys_while_another_wraps(vault, keys, opened, clock):
    """Whoever still holds the public half wraps for nobody, for four minutes at most."""
    other = opened(vault)
    await other.wrap(DAY, SECRET)
    await keys.destroy(DAY)

    lost = await other.wrap(DAY, SECRET)
    clock.advance(timedelta(minutes=4))
    kept = await other.wrap(DAY, SECRET)

    with pytest.raises(KeyNotFound):
        await other.unwrap(lost)
    assert await other.unwrap(kept) == SECRET
