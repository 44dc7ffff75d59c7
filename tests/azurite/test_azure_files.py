"""The tests of large files, with Azurite in place of memory: ``blobs`` is this folder's fixture."""

from tests.storage.test_files import *  # noqa: F403 - the tests, and the other fixtures

del blobs  # noqa: F821 - the one in memory
# These have stores of their own.
del test_any_range_is_read  # noqa: F821
del test_a_write_may_be_interrupted_at_any_change  # noqa: F821
del test_a_deletion_may_be_interrupted_at_any_change  # noqa: F821
del test_a_failed_commit_that_had_landed_is_taken_back  # noqa: F821
del test_memory_is_bounded_whatever_the_size  # noqa: F821
