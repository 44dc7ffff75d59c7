"""Runs the command line under a clock that a test moves: ``python -m tests.wire.shifted serve …``.

Whatever Python code asks for the time of day, or the date, is told a time that is shifted by the seconds in the file that
``SHIFTED_CLOCK`` names. The monotonic clock stays, and with it every wait. Nothing has to be compiled, preloaded or installed, so it
works wherever Python does.
"""

from __future__ import annotations

import datetime
import mmap
import os
import runpy
import struct
import sys
import time
from pathlib import Path

_SHIFT = struct.Struct("<d")
SETTING = "SHIFTED_CLOCK"


class Clock:
    """A test's side: makes the file, and moves the clock of whoever reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(_SHIFT.pack(0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _SHIFT.size)

    def move(self, moment: datetime.datetime) -> None:
        """Make it ``moment`` now."""
        _SHIFT.pack_into(self._shared, 0, moment.timestamp() - time.time())

    def close(self) -> None:
        self._shared.close()


def shift(path: str) -> None:
    """Shift the clock of this process by what the file says, whenever somebody looks."""
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), _SHIFT.size, access=mmap.ACCESS_READ)
    real_time = time.time
    real = {name: getattr(time, name) for name in ("localtime", "gmtime", "ctime")}
    real_strftime = time.strftime

    def now() -> float:
        return real_time() + _SHIFT.unpack_from(shared)[0]

    time.time = now
    time.time_ns = lambda: int(now() * 1e9)
    for name, function in real.items():
        setattr(time, name, lambda seconds=None, function=function: function(now() if seconds is None else seconds))
    time.strftime = lambda form, moment=None: real_strftime(form, time.localtime() if moment is None else moment)

    class Kind(type):
        """What the interpreter itself makes is one of these too."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, cls.__mro__[1])

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, cls.__mro__[1])

    class ShiftedDatetime(datetime.datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return cls.fromtimestamp(now(), tz)

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return cls.fromtimestamp(now(), datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> datetime.datetime:
            return cls.fromtimestamp(now())

    class ShiftedDate(datetime.date, metaclass=Kind):
        @classmethod
        def today(cls) -> datetime.date:
            return cls.fromtimestamp(now())

    datetime.datetime = ShiftedDatetime
    datetime.date = ShiftedDate


if __name__ == "__main__":
    shift(os.environ[SETTING])
    sys.argv[0] = "sluicegate"
    runpy.run_module("sluicegate", run_name="__main__", alter_sys=True)
