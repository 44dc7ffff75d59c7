"""Timer functions: run when due, never two runs of one timer at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from sluicegate.errors import StartupError
from sluicegate.host.functions import TimerFunction
from sluicegate.host.schedules import next_run

log = logging.getLogger(__name__)

LATE = timedelta(seconds=1)
"""A run that starts later than this after its time is past due."""

Fire = Callable[[TimerFunction, bool], Awaitable[None]]
"""Calls a function; the flag is the timer's ``past_due``. Whatever it raises makes the run a failed one."""


class Clock(Protocol):
    """What timers need to know of time; tests pass their own."""

    def now(self) -> datetime:
        """Return the current time, aware."""

    async def sleep_until(self, moment: datetime) -> None:
        """Return at ``moment`` or later, as after a suspension of the machine."""


class WallClock:
    """The system's clock, in a time zone."""

    def __init__(self, time_zone: tzinfo) -> None:
        self._time_zone = time_zone

    def now(self) -> datetime:
        return datetime.now(self._time_zone)

    async def sleep_until(self, moment: datetime) -> None:
        # In pieces, because the event loop's clock stands still while the machine is suspended.
        while True:
            left = (moment - self.now().astimezone(UTC)).total_seconds()
            if left <= 0:
                return
            await asyncio.sleep(min(left, 60))


class Timers:
    """The timer functions of an app, their schedules and their runs.

    Raises:
        StartupError: A schedule cannot be used.
    """

    def __init__(self, functions: Iterable[TimerFunction], fire: Fire, clock: Clock) -> None:
        self._functions = {function.name.upper(): function for function in functions}
        self._fire = fire
        self._clock = clock
        self._running = {name: asyncio.Lock() for name in self._functions}
        self._schedules: set[asyncio.Task[None]] = set()
        self._runs: set[asyncio.Task[bool]] = set()
        self._stopping = False
        for function in self._functions.values():
            self._next_after(function, clock.now())

    def find(self, name: str) -> TimerFunction | None:
        """Return the timer function with this name, ignoring case."""
        return self._functions.get(name.upper())

    def start(self) -> None:
        """Follow the schedules of the functions that are not disabled."""
        for function in self._functions.values():
            if not function.disabled:
                self._schedules.add(asyncio.create_task(self._follow(function)))

    def begin(self, function: TimerFunction, *, past_due: bool = False) -> asyncio.Task[bool]:
        """Run a function once, after the run in progress if there is one.

        Returns:
            Whether the function returned; a failure has been logged where it was called.
        """
        run = asyncio.create_task(self._run(function, past_due))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        return run

    async def stop(self, grace: timedelta) -> None:
        """Begin no further run, let those in progress end for at most ``grace``, then cancel them."""
        self._stopping = True
        for schedule in self._schedules:
            schedule.cancel()
        await asyncio.gather(*self._schedules, return_exceptions=True)
        if not self._runs:
            return
        _, unfinished = await asyncio.wait(self._runs, timeout=grace.total_seconds())
        for run in unfinished:
            run.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        if unfinished:
            log.warning("%d timer runs did not end within %s and were cancelled", len(unfinished), grace)

    async def _run(self, function: TimerFunction, past_due: bool) -> bool:
        async with self._running[function.name.upper()]:
            if self._stopping:
                return False
            try:
                await self._fire(function, past_due)
            except Exception:  # noqa: BLE001 # the app's; the caller of the function has logged it
                return False
            return True

    async def _follow(self, function: TimerFunction) -> None:
        """Run a function whenever it is due, for ever.

        When a run takes longer than the time to the next one, the runs that were missed are made up for by a single one
        that is past due. Nothing is remembered across restarts.
        """
        if function.run_on_startup:
            await asyncio.shield(self.begin(function))
        due = self._next_after(function, self._clock.now())
        while True:
            await self._clock.sleep_until(due)
            started = self._clock.now()
            # Shielded: the end of the schedule does not cut the current run off.
            await asyncio.shield(self.begin(function, past_due=started - due > LATE))
            due = self._next_after(function, max(due, started).astimezone(started.tzinfo))

    def _next_after(self, function: TimerFunction, moment: datetime) -> datetime:
        """Return when a function is due, in UTC: of two times in one zone, Python compares what the hands of the clock show.

        When clocks go back and an hour comes twice, that is an hour off.
        """
        try:
            return next_run(function.schedule, moment).astimezone(UTC)
        except ValueError as error:
            raise StartupError(f"function {function.name}: {error}") from None
