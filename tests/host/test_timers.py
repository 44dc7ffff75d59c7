import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from sluicegate.errors import StartupError
from sluicegate.host.functions import TimerFunction
from sluicegate.host.timers import Timers, WallClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
GRACE = timedelta(seconds=30)


class HandClock:
    """Stands still until a test moves it."""

    def __init__(self, time: datetime) -> None:
        self.time = time
        self.asked_for: asyncio.Queue[datetime] = asyncio.Queue()
        self._woken = asyncio.Semaphore(0)

    def now(self) -> datetime:
        return self.time

    async def sleep_until(self, moment: datetime) -> None:
        self.asked_for.put_nowait(moment)
        await self._woken.acquire()

    def wake(self, time: datetime) -> None:
        self.time = time
        self._woken.release()


@pytest.fixture
def clock():
    return HandClock(NOON)


@pytest.fixture
def function():
    return TimerFunction(
        name="purge",
        handler=lambda timer: None,
        parameter="timer",
        takes_context=False,
        disabled=False,
        schedule="0 */10 * * * *",
        run_on_startup=False,
    )


async def test_a_timer_runs_when_it_is_due(clock, function):
    runs = asyncio.Queue()

    async def fire(function, past_due):
        runs.put_nowait((function.name, past_due))

    timers = Timers([function], fire, clock)
    timers.start()
    due = await clock.asked_for.get()
    clock.wake(due)

    assert due == NOON + timedelta(minutes=10)
    assert await runs.get() == ("purge", False)
    assert await clock.asked_for.get() == NOON + timedelta(minutes=20)
    await timers.stop(GRACE)


async def test_a_run_that_starts_late_is_past_due_and_stands_for_all_that_were_missed(clock, function):
    runs = asyncio.Queue()

    async def fire(function, past_due):
        runs.put_nowait(past_due)

    timers = Timers([function], fire, clock)
    timers.start()
    await clock.asked_for.get()
    clock.wake(NOON + timedelta(minutes=35))

    assert await runs.get() is True
    assert await clock.asked_for.get() == NOON + timedelta(minutes=40)
    assert runs.empty()
    await timers.stop(GRACE)


async def test_a_run_that_overruns_the_next_one_is_followed_by_one_that_is_past_due(clock, function):
    runs = asyncio.Queue()

    async def fire(function, past_due):
        runs.put_nowait(past_due)
        clock.time += timedelta(minutes=25)

    timers = Timers([function], fire, clock)
    timers.start()
    first = await clock.asked_for.get()
    clock.wake(first)
    assert await runs.get() is False
    second = await clock.asked_for.get()
    clock.wake(clock.time)

    assert second == first + timedelta(minutes=10)
    assert await runs.get() is True
    await timers.stop(GRACE)


async def test_run_on_startup_does_not_wait_for_the_schedule(clock, function):
    runs = asyncio.Queue()

    async def fire(function, past_due):
        runs.put_nowait(past_due)

    timers = Timers([dataclasses.replace(function, run_on_startup=True)], fire, clock)
    timers.start()

    assert await runs.get() is False
    await timers.stop(GRACE)


async def test_a_timer_never_overlaps_itself(clock, function):
    events = []
    release = asyncio.Event()

    async def fire(function, past_due):
        events.append("begin")
        await release.wait()
        events.append("end")

    timers = Timers([function], fire, clock)
    first, second = timers.begin(function), timers.begin(function)
    release.set()

    assert await first
    assert await second
    assert events == ["begin", "end", "begin", "end"]


async def test_a_run_that_fails_says_so_and_the_schedule_goes_on(clock, function):
    async def fire(function, past_due):
        raise ValueError

    timers = Timers([function], fire, clock)
    timers.start()
    clock.wake(await clock.asked_for.get())

    assert await clock.asked_for.get() == NOON + timedelta(minutes=20)
    assert not await timers.begin(function)
    await timers.stop(GRACE)


async def test_a_disabled_timer_runs_only_when_asked_to(clock, function):
    runs = []

    async def fire(function, past_due):
        runs.append(function.name)

    timers = Timers([dataclasses.replace(function, disabled=True, run_on_startup=True)], fire, clock)
    timers.start()
    await timers.begin(timers.find("PURGE"))

    assert clock.asked_for.empty()
    assert runs == ["purge"]
    await timers.stop(GRACE)


async def test_stopping_lets_the_current_run_end_and_begins_no_other(clock, function):
    events = []
    begun, release = asyncio.Event(), asyncio.Event()

    async def fire(function, past_due):
        begun.set()
        await release.wait()
        events.append("end")

    timers = Timers([function], fire, clock)
    timers.start()
    clock.wake(await clock.asked_for.get())
    await begun.wait()
    queued = timers.begin(function)
    stopping = asyncio.create_task(timers.stop(GRACE))
    await asyncio.wait({stopping}, timeout=0)
    release.set()
    await stopping

    assert events == ["end"]
    assert await queued is False


async def test_a_run_that_outlasts_the_grace_period_is_cancelled(clock, function):
    begun = asyncio.Event()

    async def fire(function, past_due):
        begun.set()
        await asyncio.Event().wait()

    timers = Timers([function], fire, clock)
    run = timers.begin(function)
    await begun.wait()
    await timers.stop(timedelta(0))

    assert run.cancelled()


async def test_a_schedule_that_cannot_be_used_stops_the_app_by_name(clock, function):
    with pytest.raises(StartupError, match="function purge: schedule 'daily'"):
        Timers([dataclasses.replace(function, schedule="daily")], None, clock)


@pytest.mark.parametrize("schedule", ["0 */10 * * * *", "00:10:00"])
async def test_an_hour_that_comes_twice_is_an_hour_like_any_other(function, schedule):
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    clock = HandClock(start.astimezone(berlin))
    runs = asyncio.Queue()

    async def fire(function, past_due):
        runs.put_nowait((clock.time.astimezone(UTC), past_due))

    timers = Timers([dataclasses.replace(function, schedule=schedule)], fire, clock)
    timers.start()
    for number in range(1, 16):
        due = await clock.asked_for.get()
        assert due == start + timedelta(minutes=10 * number)
        clock.wake(due.astimezone(berlin))
        assert await runs.get() == (due, False)
    await timers.stop(GRACE)


@pytest.mark.parametrize("fold", [0, 1])
async def test_the_clock_of_the_system_waits_for_the_right_one_of_two_equal_times(fold):
    berlin = ZoneInfo("Europe/Berlin")
    now = datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=berlin)

    class Standing(WallClock):
        def now(self):
            return now

    waits = asyncio.ensure_future(Standing(berlin).sleep_until(datetime(2026, 10, 25, 2, 0, fold=1, tzinfo=berlin)))
    await asyncio.wait({waits}, timeout=0)

    assert waits.done() is (fold == 1)
    waits.cancel()
