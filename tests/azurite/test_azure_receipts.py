"""The tests of receipts for whatever goes, with Azurite and a Key Vault in place of the local defaults."""

import pytest

from plugins.azure_key_vault.connection import connect
from tests.key_vault.conftest import _running, opened, stand_in
from tests.retention.test_removal_receipts import *  # noqa: F403 - the tests, and the other fixtures
from tests.retention.test_removal_receipts import NOON, FrozenClock

FIXTURES = _running, opened, stand_in
# Those of the local defaults.
del blobs, keys, clock, services, protected  # noqa: F821
# Its stores are always in memory.
del test_a_process_may_die_at_any_call_and_there_is_one_receipt_for_each_removal  # noqa: F821


@pytest.fixture
def clock(stand_in):
    stand_in.clock = FrozenClock(NOON)
    return stand_in.clock


@pytest.fixture
def keys(stand_in, opened):
    return opened(stand_in.vault("contoso"))


@pytest.fixture
async def protected(stand_in, opened):
    """A vault with purge protection."""
    vault = stand_in.vault("protected")
    vault.purge_protection = True
    service = opened(vault)

    async def recover(name):
        client, credential = connect(f"https://{vault.host}", None)
        async with client, credential:
            await client.recover_deleted_key(name)

    service.recover = recover
    return service
