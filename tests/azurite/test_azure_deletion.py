"""The tests of deletion, with Azurite in place of memory: ``blobs`` is this folder's fixture."""

from tests.retention.test_deletion import *  # noqa: F403 - the tests, and the other fixtures

del blobs  # noqa: F821 - the one in memory
# Its stores are always in memory.
del test_a_deletion_may_be_interrupted_at_any_change_and_run_again  # noqa: F821
