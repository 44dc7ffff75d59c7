"""Leases: one holder at a time, who renews; whoever dies is waited for, and no longer."""

import asyncio
import json
from datetime import timedelta

import pytest

from plugins import local_folder
from sluicegate.errors import StorageUnavailable
from sluicegate.storage.lease import CONTAINER, RENEWALS, TERM, Lease, LeaseHeld, LeaseLost
from sluicegate.testing import FrozenClock, MemoryStorage
from tests.audit.test_log import Watched

SECOND = timedelta(seconds=1)


class Pauses:
    """Pauses of a holder, each of which ends when it is told to."""

    def __init__(self):
        self._turns = asyncio.Queue()
        self._paused = asyncio.Queue()

    async def __call__(self, seconds):
        self._paused.put_nowait(seconds)
        await self._turns.get()

    async def begun(self):
        """Wait until the next pause has begun."""
        await self._paused.get()

    def end(self):
        """End the pause that is on."""
        self._turns.put_nowait(None)


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture(params=["memory", "folder"])
async def blobs(request, tmp_path):
    store = MemoryStorage() if request.param == "memory" else local_folder.open_storage(f"folder:{tmp_path}/storage")
    yield store
    await store.close()


@pytest.fixture
def pauses():
    return Pauses()


@pytest.fixture
def lease(blobs, clock, pauses):
    return Lease(blobs, "purge", clock=clock, pause=pauses)


@pytest.fixture
def other(blobs, clock):
    """The same lease in another process."""
    return Lease(blobs, "purge", clock=clock, pause=Pauses())


class Work:
    """Work that is held up until it is let go on."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.was_cancelled = False

    async def __call__(self):
        self.begun.set()
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return "done"


async def done():
    return "done"


async def begun(lease):
    work = Work()
    running = asyncio.create_task(lease.run(work))
    await work.begun.wait()
    return work, running


async def test_work_is_done_under_the_lease_which_is_then_given_back(lease, blobs):
    assert await lease.run(done) == "done"

    assert [blob.name async for blob in blobs.list(CONTAINER)] == []
    assert await lease.run(done) == "done"


async def test_nobody_else_is_at_it_meanwhile(lease, other):
    work, running = await begun(lease)

    with pytest.raises(LeaseHeld):
        await other.run(done)
    work.goes_on.set()

    assert await running == "done"
    assert await other.run(done) == "done"


async def test_of_many_that_begin_at_once_one_works(blobs, clock):
    works = [Work() for _ in range(8)]
    leases = [Lease(Watched(blobs), "purge", clock=clock, pause=Pauses()) for _ in works]
    running = [asyncio.create_task(lease.run(work)) for lease, work in zip(leases, works, strict=True)]
    while sum(each.done() for each in running) < 7:
        await asyncio.wait([each for each in running if not each.done()], return_when=asyncio.FIRST_COMPLETED)
    for work in works:
        work.goes_on.set()

    results = await asyncio.gather(*running, return_exceptions=True)

    assert [type(result) for result in results].count(LeaseHeld) == 7
    assert results.count("done") == 1


async def test_what_fails_gives_the_lease_back(lease, other):
    async def fail():
        raise KeyError("oops")

    with pytest.raises(KeyError):
        await lease.run(fail)
    assert await other.run(done) == "done"


async def test_who_is_cancelled_gives_the_lease_back_and_stops(lease, other):
    work, running = await begun(lease)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert work.was_cancelled
    assert await other.run(done) == "done"


async def test_whoever_died_is_waited_for_until_the_end_of_the_term(blobs, lease, clock):
    end = clock.now + TERM
    await blobs.put(CONTAINER, "purge", json.dumps({"holder": "dead", "until": end.isoformat()}).encode())

    clock.now = end - SECOND
    with pytest.raises(LeaseHeld):
        await lease.run(done)
    clock.now = end
    assert await lease.run(done) == "done"


async def test_a_holder_that_lives_keeps_the_lease_for_as_long_as_it_takes(lease, other, clock, pauses):
    work, running = await begun(lease)
    for _ in range(3 * RENEWALS):
        await pauses.begun()
        clock.advance(TERM / RENEWALS)
        pauses.end()
    await pauses.begun()

    with pytest.raises(LeaseHeld):
        await other.run(done)
    work.goes_on.set()
    assert await running == "done"


async def test_who_loses_the_lease_stops(lease, other, clock, pauses):
    work, running = await begun(lease)
    clock.advance(TERM)

    assert await other.run(done) == "done"
    await pauses.begun()
    pauses.end()

    with pytest.raises(LeaseLost):
        await running
    assert work.was_cancelled


async def test_a_short_outage_of_storage_is_lived_through_and_a_long_one_is_not(blobs, clock, pauses):
    is_down = False

    def fail(name, args):
        if is_down:
            raise StorageUnavailable("no route")

    lease = Lease(Watched(blobs, fail), "purge", clock=clock, pause=pauses)
    work, running = await begun(lease)
    is_down = True
    for _ in range(RENEWALS - 1):
        await pauses.begun()
        clock.advance(TERM / RENEWALS)
        pauses.end()
    await pauses.begun()
    assert not running.done()
    clock.advance(TERM / RENEWALS)
    pauses.end()

    with pytest.raises(LeaseLost):
        await running
    assert work.was_cancelled


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"until": 5}',
        b'{"until": "soon"}',
        b'{"until": "9999-01-01T00:00:00+00:00"}',
        b'{"until": "2026-01-01"}',
    ],
)
async def test_rubbish_stops_nothing_for_ever(blobs, lease, data):
    await blobs.put(CONTAINER, "purge", data)

    assert await lease.run(done) == "done"
