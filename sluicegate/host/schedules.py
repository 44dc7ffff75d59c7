"""When a timer is due: NCRONTAB expressions and .NET time spans.

NCRONTAB has five or six fields, seconds first when there are six. Unlike in cron, a day must satisfy both the day of the
month **and** the day of the week; Sunday is 0, and there is no ``7``, ``L``, ``W``, ``#`` or ``?``.

Source: atifaziz/NCrontab, which Azure's host uses.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

_MONTHS = frozenset(("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"))
_WEEKDAYS = frozenset(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"))
_TIME_SPAN = re.compile(r"(?:(\d+)\.)?([01]?\d|2[0-3]):([0-5]?\d)(?::([0-5]?\d))?")


def next_run(schedule: str, after: datetime) -> datetime:
    """Return the first moment later than ``after`` at which the schedule is due, in its time zone.

    Args:
        schedule: NCRONTAB, or ``[d.]hh:mm[:ss]``, which counts from ``after``.
        after: Aware; its time zone is that of the schedule.

    Raises:
        ValueError: Azure's host would not take this schedule, or it never comes.
    """
    if len(schedule.split()) in (5, 6):
        return _next_ncrontab(schedule, after)
    if span := _TIME_SPAN.fullmatch(schedule):
        days, hours, minutes, seconds = (int(part or 0) for part in span.groups())
        if every := timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds):
            return (after.astimezone(UTC) + every).astimezone(after.tzinfo)
    raise ValueError(f"schedule {schedule!r} is neither NCRONTAB nor a time span such as 00:05:00")


def _next_ncrontab(schedule: str, after: datetime) -> datetime:
    fields = schedule.upper().split()
    fields = ["0", *fields] if len(fields) == 5 else fields
    _check_fields(schedule, fields)
    try:
        calendar = CronSim(" ".join(fields), after)
        # CronSim joins the two day fields by cron's rule, which is OR once both are restricted.
        calendar.day_and = True
        # CronSim also counts Sunday as 7, which a step such as 1/2 would reach.
        calendar.weekdays.discard(7)
        return next(calendar)
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"schedule {schedule!r}: {str(error) or 'never comes'}") from None


def _check_fields(schedule: str, fields: list[str]) -> None:
    for number, text in enumerate(fields):
        names = {4: _MONTHS, 5: _WEEKDAYS}.get(number, frozenset())
        ends = re.split("[,-]", re.sub(r"/\d+", "", text))
        if not all(end in names or re.fullmatch(r"\*|\d+", end) for end in ends) or (number == 5 and "7" in ends):
            raise ValueError(f"schedule {schedule!r}: {text!r} is not NCRONTAB")
