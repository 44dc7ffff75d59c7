"""``kill -9`` while signals wait to be written: what was flushed is counted, what was not is lost, and nothing is counted twice."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from plugins import local_folder
from sluicegate.monitoring.counters import Counters
from sluicegate.testing import FrozenClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROCESS = """
import asyncio, sys
from datetime import datetime, UTC
from plugins import local_folder
from sluicegate.abuse import Signal
from sluicegate.monitoring.counters import Counters
from sluicegate.monitoring.observing import Observer
from sluicegate.types import Outcome, utc_now

async def main():
    counters = Counters(local_folder.open_storage(sys.argv[1]), utc_now)
    observer = Observer(lambda location: counters)
    signal = Signal("contoso", "chat", datetime(2026, 1, 1, 12, tzinfo=UTC), Outcome.COMPLETED)
    for _ in range(3):
        observer.note("local", signal)
    await observer.flush()
    for _ in range(2):
        observer.note("local", signal)
    print("noted", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def test_a_process_that_is_killed_loses_what_it_has_not_flushed_and_nothing_else(tmp_path):
    url = f"folder:{tmp_path / 'storage'}"
    root = Path(__file__).parents[2]
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", PROCESS, url], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "noted\n"
            process.kill()

    blobs = local_folder.open_storage(url)
    [(_, hour)] = await Counters(blobs, FrozenClock(NOON)).read("contoso", NOON, NOON + timedelta(hours=1))
    await blobs.close()

    assert hour.total.requests == 2 * 3
