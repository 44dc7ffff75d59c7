"""The tests of retention, with Azurite in place of memory: ``blobs`` is this folder's fixture."""

from tests.retention.test_purging import *  # noqa: F403 - the tests, and the other fixtures

del blobs  # noqa: F821 - the one in memory
# Hundreds of purges: of the calendar, which storage has no part in.
del test_hourly_runs_keep_every_record_for_nearly_its_days_and_never_longer  # noqa: F821
