"""Signals are counted in memory, written in groups, and lost only with a process, a few seconds of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from sluicegate.abuse import Finding, Signal
from sluicegate.errors import StorageUnavailable
from sluicegate.monitoring import counting, observing
from sluicegate.monitoring.counters import LATE, Counters
from sluicegate.monitoring.observing import Observer
from sluicegate.testing import FrozenClock, MemoryStorage
from sluicegate.types import Outcome

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALICE, BOB = "a1" * 32, "b0" * 32
JAILBREAK = (Finding("jailbreak", "prompt", 0, True),)


def signal(user=None, findings=(), *, at=NOON, exchange=None, deployment="chat", account="contoso"):
    outcome = Outcome.BLOCKED if findings else Outcome.COMPLETED
    return Signal(account, deployment, at, outcome, findings, user=user, exchange=exchange)


@pytest.fixture
def clock():
    return FrozenClock(NOON)


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def counters(blobs, clock):
    return Counters(blobs, clock)


@pytest.fixture
async def open_observer(counters, clock):
    """Return a function that makes the observer of a process, whose pauses end only by ``flush``."""
    observers = []

    async def never(_):
        await asyncio.Event().wait()

    def open(hand_over=None, pause=never):
        observers.append(Observer(lambda location: counters, hand_over, clock=clock, pause=pause))
        return observers[-1]

    yield open
    for each in observers:
        await each.close()


async def hour(counters, account="contoso"):
    [(_, hour)] = await counters.read(account, NOON - timedelta(days=1), NOON + timedelta(days=1))
    return hour


async def test_two_processes_count_in_the_same_hour(open_observer, counters):
    one, other = open_observer(), open_observer()
    one.note("local", signal(ALICE, JAILBREAK))
    other.note("local", signal(ALICE, JAILBREAK, deployment="Chat"))
    other.note("local", signal(BOB, deployment="other"))

    await asyncio.gather(one.flush(), other.flush())

    found = await hour(counters)
    assert {name: each.requests for name, each in found.deployments.items()} == {"chat": 2, "other": 1}
    assert found.users[ALICE].findings == {"jailbreak.0.prompt": 2}
    assert (found.total.blocked, found.total.flagged) == (2, 2)


async def test_noting_a_signal_calls_no_storage_and_a_pause_later_it_is_written(open_observer, counters):
    pauses = asyncio.Queue()
    proceed = asyncio.Event()

    async def pause(seconds):
        pauses.put_nowait(seconds)
        await proceed.wait()

    observer = open_observer(pause=pause)
    observer.note("local", signal())
    assert await pauses.get() == observing.FLUSH_S
    assert await counters.read("contoso", NOON, NOON + timedelta(hours=1)) == []

    proceed.set()
    await observer.close()

    assert (await hour(counters)).total.requests == 1


async def test_who_had_nothing_flagged_leaves_no_row(open_observer, counters, blobs):
    observer = open_observer()
    observer.note("local", signal(ALICE))
    observer.note("local", signal(ALICE, (Finding("profanity", "prompt"),)))

    await observer.flush()

    assert (await hour(counters)).users == {}
    assert ALICE.encode() not in (await blobs.get("signals", "contoso/2026010112")).data


async def test_the_row_of_who_is_flagged_counts_the_whole_hour(open_observer, counters):
    observer = open_observer()
    for findings in [(), (), JAILBREAK, ()]:
        observer.note("local", signal(ALICE, findings))
        await observer.flush()

    found = (await hour(counters)).users[ALICE]

    assert (found.requests, found.flagged) == (4, 1)


async def test_a_flagged_exchange_can_be_found_unless_its_content_is_not_kept(open_observer, counters):
    observer = open_observer()
    observer.note("local", signal(ALICE, JAILBREAK, exchange="kept"))
    observer.note("local", signal(ALICE, JAILBREAK, exchange=None))
    observer.note("local", signal(ALICE, exchange="harmless"))

    await observer.flush()

    [flagged] = (await hour(counters)).flagged
    assert (flagged.id, flagged.at, flagged.categories, flagged.user) == ("kept", NOON, ("jailbreak",), ALICE)


async def test_what_cannot_be_written_waits_and_is_given_up_only_when_its_hour_is_long_over(
    open_observer, counters, clock, monkeypatch, caplog
):
    async def fail(*_):
        raise StorageUnavailable("away")

    observer = open_observer()
    observer.note("local", signal())
    with monkeypatch.context() as broken:
        broken.setattr(counters, "add", fail)
        await observer.flush()
        observer.note("local", signal())
        await observer.flush()
    await observer.flush()
    assert (await hour(counters)).total.requests == 2

    observer.note("local", signal())
    clock.advance(LATE + timedelta(seconds=1))
    with monkeypatch.context() as broken:
        broken.setattr(counters, "add", fail)
        await observer.flush()
    await observer.flush()

    assert (await hour(counters)).total.requests == 2
    assert "lost" in caplog.text


async def test_memory_and_documents_are_bounded_and_what_is_too_much_counts_all_the_same(
    open_observer, counters, monkeypatch
):
    monkeypatch.setattr(counting, "MOST_USERS", 2)
    monkeypatch.setattr(counting, "MOST_FLAGGED", 3)
    monkeypatch.setattr(counting, "MOST_FLAGGED_OF_USER", 1)
    monkeypatch.setattr(observing, "MOST_QUIET", 1)
    monkeypatch.setattr(observing, "MOST_PENDING", 4)
    given = []

    async def hand_over(signals):
        given.extend(signals)

    observer = open_observer(hand_over)
    for number in range(5):
        for exchange in ("first", "second"):
            observer.note("local", signal(f"{number}" * 64, JAILBREAK, exchange=f"{exchange}-{number}"))
        observer.note("local", signal(f"quiet-{number}"))
        await observer.flush()
    for number in range(5):
        observer.note("local", signal(f"quiet-{number}"))

    found = await hour(counters)
    assert (found.total.requests, found.total.flagged) == (15, 10)
    assert (len(found.users), found.others.flagged) == (2, 6)
    assert [each.id for each in found.flagged] == ["first-0", "first-1", "first-2"]
    assert len(observer._quiet) == 1
    assert len(observer._signals) == 4
    assert len(given) == 15


async def test_a_plugin_that_takes_its_time_does_not_hold_up_the_counting(open_observer, counters):
    paused, proceed, told = asyncio.Queue(), asyncio.Queue(), []

    async def pause(_):
        paused.put_nowait(None)
        await proceed.get()

    begun, slow = asyncio.Event(), asyncio.Event()

    async def hand_over(signals):
        told.extend(signals)
        begun.set()
        await slow.wait()

    observer = open_observer(hand_over, pause)
    for _ in range(2):
        observer.note("local", signal())
        await paused.get()
        proceed.put_nowait(None)
        await begun.wait()
    await paused.get()

    assert (await hour(counters)).total.requests == 2
    assert len(told) == 1
    slow.set()
    await observer.close()
    assert len(told) == 2


async def test_closing_while_a_write_is_in_progress_loses_nothing(open_observer, counters, monkeypatch):
    writing, proceed = asyncio.Event(), asyncio.Event()
    add = counters.add

    async def slowly(*arguments):
        writing.set()
        await proceed.wait()
        return await add(*arguments)

    async def at_once(_):
        await asyncio.sleep(0)

    monkeypatch.setattr(counters, "add", slowly)
    observer = open_observer(pause=at_once)
    observer.note("local", signal())
    await writing.wait()
    closing = asyncio.create_task(observer.close())
    observer.note("local", signal())
    proceed.set()

    await closing

    assert (await hour(counters)).total.requests == 2
