"""What one process has observed and not written yet: counted in memory, written in groups every few seconds.

The request path does no more than make a signal and change some dicts; a task of its own writes. A process that dies loses what it
counted in the last :data:`FLUSH_S` seconds, or since storage failed; never content, for which an answer waits. Where storage fails for
longer than :data:`~sluicegate.monitoring.counters.LATE`, counts of that time are lost, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from sluicegate.abuse import Signal
from sluicegate.errors import SluicegateError
from sluicegate.monitoring.counters import LATE, Counters
from sluicegate.monitoring.counting import Counts, Hour
from sluicegate.monitoring.types import FlaggedExchange
from sluicegate.types import utc_now

FLUSH_S = 5.0
MOST_PENDING = 10_000
"""Signals that wait for plugins; further ones are counted, and no plugin sees them."""
MOST_QUIET = 100_000
"""End users of an hour, of all accounts, whose exchanges are remembered in case that something of theirs is flagged later."""
LOUD = timedelta(hours=24)
"""How long after something was flagged everything of that end user is counted: few mistakes of filters in much use are no abuse."""
MOST_LOUD = 100_000
_AT_ONCE = 16

log = logging.getLogger(__name__)


class Observer:
    """Counts signals; one object per process.

    Args:
        counters_of: Returns the counters of a location.
        hand_over: Gives a batch of signals to the plugins that observe; None where none does.
        pause: Waits some seconds.
    """

    def __init__(
        self,
        counters_of: Callable[[str], Counters],
        hand_over: Callable[[Sequence[Signal]], Awaitable[None]] | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._counters_of = counters_of
        self._hand_over = hand_over
        self._clock = clock
        self._pause = pause
        self._parts: dict[tuple[str, str, datetime], Hour] = {}
        self._signals: list[Signal] = []
        self._hour: datetime | None = None
        self._quiet: dict[tuple[str, str], int] = {}
        self._loud: dict[tuple[str, str], datetime] = {}
        self._writing, self._telling = asyncio.Lock(), asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None
        self._teller: asyncio.Task[None] | None = None

    def note(self, location: str, signal: Signal) -> None:
        """Count one exchange of an account whose data is in ``location``; it is written within :data:`FLUSH_S` seconds."""
        start = signal.at.replace(minute=0, second=0, microsecond=0)
        if start != self._hour:
            self._hour = start
            self._quiet.clear()
            self._loud = {known: at for known, at in self._loud.items() if at > start - LOUD}
        key = location, signal.account, start
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = Hour()
        deployment = signal.deployment.lower()
        counts = part.deployments.get(deployment)
        if counts is None:
            counts = part.deployments[deployment] = Counts()
        counts.add(signal)
        is_flagged = signal.is_flagged
        if signal.user is not None:
            self._note_user(part, signal, signal.user, is_flagged)
        if is_flagged and signal.exchange is not None:
            categories = tuple(sorted({finding.category for finding in signal.findings}))
            part.refer(FlaggedExchange(signal.exchange, signal.at, signal.deployment, categories, signal.user))
        if self._hand_over is not None and len(self._signals) < MOST_PENDING:
            self._signals.append(signal)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_soon())

    async def flush(self) -> None:
        """Write what was counted until now, and tell plugins; what cannot be written waits for the next time."""
        await self._write_all()
        await self._tell()

    async def close(self) -> None:
        """Write what there is, once, and stop."""
        if self._writer is not None:
            # Not while it writes: what it has taken to write would be lost.
            async with self._writing:
                self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self.flush()

    def _note_user(self, part: Hour, signal: Signal, user: str, is_flagged: bool) -> None:
        known = signal.account, user
        if is_flagged:
            if known not in self._loud:
                part.row(user).requests += self._quiet.pop(known, 0)
            self._remember(known, signal.at)
        if known in self._loud:
            part.row(user).add(signal)
        elif known in self._quiet:
            self._quiet[known] += 1
        elif len(self._quiet) < MOST_QUIET:
            self._quiet[known] = 1

    def _remember(self, known: tuple[str, str], at: datetime) -> None:
        self._loud.pop(known, None)
        self._loud[known] = at
        if len(self._loud) > MOST_LOUD:
            del self._loud[next(iter(self._loud))]

    async def _write_soon(self) -> None:
        while self._parts or self._signals:
            await self._pause(FLUSH_S)
            await self._write_all()
            # Beside the writing, which a plugin that takes its time must not hold up.
            if self._teller is None or self._teller.done():
                self._teller = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        async with self._telling:
            signals, self._signals = self._signals, []
            if signals and self._hand_over is not None:
                await self._hand_over(signals)

    async def _write_all(self) -> None:
        async with self._writing:
            parts, self._parts = self._parts, {}
            waiting = list(parts.items())
            for batch in (waiting[at : at + _AT_ONCE] for at in range(0, len(waiting), _AT_ONCE)):
                await asyncio.gather(*(self._write(*each) for each in batch))

    async def _write(self, key: tuple[str, str, datetime], part: Hour) -> None:
        location, account, start = key
        try:
            hour = await self._counters_of(location).add(account, start, part)
        except SluicegateError as error:
            if self._clock() - start > LATE:
                log.error("signals of an hour are lost, because storage failed for too long (%s)", type(error).__name__)
                return
            log.warning("signals of an hour wait to be written (%s)", type(error).__name__)
            part.merge(self._parts.get(key, Hour()))
            self._parts[key] = part
            return
        # Of whom another process had something flagged, this one counts everything from now on, too.
        for user, counts in hour.users.items():
            if counts.flagged and (account, user) not in self._loud:
                self._remember((account, user), start)
