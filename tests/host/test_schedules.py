import itertools
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from sluicegate.host.schedules import next_run

START = datetime(2026, 2, 27, 22, 58, 59, tzinfo=UTC)


def brute_force(expression: str, after: datetime):
    """Yield the moments of an NCRONTAB expression: every field matches, both day fields included."""
    names = dict(zip(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), "0123456", strict=True))
    names |= {"JAN": "1", "MAR": "3"}
    fields = expression.upper().split()
    fields = ["0", *fields] if len(fields) == 5 else fields
    for name, number in names.items():
        fields[4:] = [field.replace(name, number) for field in fields[4:]]
    lows, highs = (0, 0, 0, 1, 1, 0), (59, 59, 23, 31, 12, 6)
    seconds, minutes, hours, days, months, weekdays = map(numbers, fields, lows, highs)
    for day in itertools.count():
        date = after.date() + timedelta(days=day)
        if date.day in days and date.month in months and date.isoweekday() % 7 in weekdays:
            for hour, minute, second in itertools.product(sorted(hours), sorted(minutes), sorted(seconds)):
                moment = datetime.combine(date, time(hour, minute, second), UTC)
                if moment > after:
                    yield moment


def numbers(field: str, low: int, high: int) -> set[int]:
    found = set()
    for term in field.split(","):
        base, _, step = term.partition("/")
        first, _, last = base.partition("-")
        start = low if first == "*" else int(first)
        end = high if first == "*" or (step and not last) else int(last or first)
        found |= set(range(start, end + 1, int(step or 1)))
    return found


@pytest.mark.parametrize(
    "expression",
    [
        "* * * * * *",
        "*/7 * * * * *",
        "0 */5 * * * *",
        "30 10,40 2-5 * * *",
        "0 0 0 13 * FRI",
        "0 0 12 1-7 * 1",
        "0 30 9 * JAN-mar Mon-Fri",
        "0 0 */6 */10 * *",
        "0 0 0 31 * *",
        "0 0 0 29 2 *",
        "15 5/20 1 * * 0",
        "0 0 3 * * 1/2",
        "*/5 * * * *",
        "0 3 1 * */2",
    ],
)
def test_ncrontab_agrees_with_brute_force(expression):
    expected = list(itertools.islice(brute_force(expression, START), 40))

    moments = [START]
    while len(moments) <= len(expected):
        moments.append(next_run(expression, moments[-1]))

    assert moments[1:] == expected


@pytest.mark.parametrize(
    ("span", "seconds"), [("00:05:00", 300), ("1:30", 5400), ("2.00:00:01", 172801), ("23:59:59", 86399)]
)
def test_a_time_span_counts_from_the_last_moment(span, seconds):
    assert next_run(span, START) == START + timedelta(seconds=seconds)


def test_an_expression_is_read_in_its_time_zone_across_the_change_to_summer_time():
    berlin = ZoneInfo("Europe/Berlin")

    first = next_run("0 30 4 * * *", datetime(2026, 3, 28, 12, tzinfo=berlin))
    second = next_run("0 30 4 * * *", first)

    assert first == datetime(2026, 3, 29, 4, 30, tzinfo=berlin)
    assert second == datetime(2026, 3, 30, 4, 30, tzinfo=berlin)


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "* * * *",
        "0 0 0 * * 7",
        "0 0 0 * * 07",
        "0 0 0 * * 5-7",
        "0 0 0 * * 5L",
        "0 0 0 * * MON#2",
        "0 0 0 L * *",
        "0 0 0 15W * ?",
        "0 0 0 * * MONDAY",
        "0 0 0 * MON *",
        "60 * * * * *",
        "*/0 * * * * *",
        "0 0 0 31 2 MON",
        "0 0 0 30 2 *",
        "@daily",
        "00:00:00",
        "24:00:00",
        "5",
        "00:60:00",
    ],
)
def test_what_azure_would_refuse_or_never_run_is_refused(schedule):
    with pytest.raises(ValueError, match="schedule"):
        next_run(schedule, START)
