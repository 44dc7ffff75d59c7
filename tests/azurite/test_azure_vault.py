"""The tests of the vault, with Azurite in place of memory: ``blobs`` is this folder's fixture."""

from tests.storage.test_vault import *  # noqa: F403 - the tests, and the other fixtures

del blobs  # noqa: F821 - the one in memory
