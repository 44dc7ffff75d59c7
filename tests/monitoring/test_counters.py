"""Counts end with their account's days, and rows of end users with a deletion, in every process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sluicegate.errors import CountsUnreadable
from sluicegate.monitoring.counters import CONTAINER, FORGOTTEN, LATE, Counters
from sluicegate.monitoring.counting import Counts, Hour
from sluicegate.monitoring.types import FlaggedExchange
from sluicegate.storage.day_layout import Tally
from sluicegate.testing import FrozenClock, MemoryStorage
from sluicegate.types import OfAccount, OfUser

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ALICE, BOB = "a1" * 32, "b0" * 32


def part():
    """What a process counted: Alice and Bob were flagged once each, and so was somebody who is not named."""
    counts = {user: Counts(1, 1, 1, {"jailbreak.0.prompt": 1}) for user in (ALICE, BOB)}
    flagged = [FlaggedExchange(f"of-{user}", NOON, "chat", ("jailbreak",), user) for user in (ALICE, BOB, None)]
    return Hour({"chat": Counts(9, 3, 3, {"jailbreak.0.prompt": 3})}, counts, Counts(), flagged)


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
def elsewhere(blobs, clock):
    """The same counts in another process."""
    return Counters(blobs, clock)


async def found(counters, account="contoso"):
    return await counters.read(account, NOON - 40 * DAY, NOON + 40 * DAY)


async def names(blobs, container=CONTAINER):
    return [blob.name async for blob in blobs.list(container)]


async def texts(blobs):
    return b"".join([(await blobs.get(CONTAINER, name)).data for name in await names(blobs)])


@pytest.mark.parametrize("data", [b"[]", b"{}", b"no JSON", b'{"v": 2}'])
async def test_what_somebody_else_wrote_is_an_error_and_goes_when_it_is_time(counters, blobs, clock, data):
    await blobs.put(CONTAINER, "contoso/2026010112", data)

    for work in (found(counters), counters.add("contoso", NOON, part()), counters.forget("contoso", OfUser(ALICE))):
        with pytest.raises(CountsUnreadable, match="contoso/2026010112"):
            await work

    with pytest.raises(CountsUnreadable):
        await counters.purge(lambda _: 30, clock())
    clock.advance(30 * DAY)
    await counters.purge(lambda _: 30, clock())
    assert await names(blobs) == []


def test_an_hour_survives_being_written_down():
    assert Hour.from_document(part().document) == part()


async def test_hours_are_read_in_order_and_of_one_account(counters):
    for start in (NOON, NOON - DAY, NOON - HOUR):
        await counters.add("contoso", start, part())
    await counters.add("contoso2", NOON, part())

    assert [start for start, _ in await found(counters)] == [NOON - DAY, NOON - HOUR, NOON]
    assert [start for start, _ in await counters.read("contoso", NOON - HOUR, NOON)] == [NOON - HOUR]


@pytest.fixture
def meanwhile(blobs, monkeypatch):
    """Return a function that has something done once, just before the next write of an hour."""

    def do(work):
        put = blobs.put
        waiting = [work]

        async def late(container, name, data, **conditions):
            if container == CONTAINER and waiting:
                await waiting.pop()
            return await put(container, name, data, **conditions)

        monkeypatch.setattr(blobs, "put", late)

    return do


async def test_what_another_process_adds_meanwhile_counts_too(counters, elsewhere, meanwhile):
    for total in (6, 12):
        meanwhile(elsewhere.add("contoso", NOON, part()))

        whole = await counters.add("contoso", NOON, part())

        assert whole.total.flagged == total
    assert (await found(counters))[0][1].total.flagged == 12


async def test_what_another_process_adds_during_a_deletion_is_deleted_and_counts_in_the_total(
    counters, elsewhere, blobs, meanwhile
):
    await counters.add("contoso", NOON, part())
    meanwhile(elsewhere.add("contoso", NOON, part()))

    assert await counters.forget("contoso", OfUser(ALICE)) == 0

    [(_, hour)] = await found(counters)
    assert (set(hour.users), hour.total.flagged) == ({BOB}, 6)
    assert ALICE.encode() not in await texts(blobs)


@pytest.mark.parametrize(("scope", "left"), [(OfUser(ALICE), {BOB}), (OfAccount(), set())])
async def test_a_deletion_takes_rows_and_references_and_leaves_totals(counters, elsewhere, blobs, scope, left):
    for start in (NOON - DAY, NOON):
        await counters.add("contoso", start, part())
    await counters.add("fabrikam", NOON, part())

    assert await counters.forget("contoso", scope) == 0

    for _, hour in await found(elsewhere):
        assert set(hour.users) == left
        assert {each.user for each in hour.flagged} == (left | {None} if left else set())
        assert hour.total.flagged == 3
    assert set((await found(elsewhere, "fabrikam"))[0][1].users) == {ALICE, BOB}
    await counters.delete("fabrikam")
    assert ALICE.encode() not in await texts(blobs)


async def test_what_another_process_writes_after_a_deletion_is_not_shown_and_goes_with_the_next_purge(
    counters, elsewhere, blobs, clock
):
    await counters.add("contoso", NOON, part())
    await counters.forget("contoso", OfUser(ALICE))
    await elsewhere.add("contoso", NOON, part())

    assert [set(hour.users) for _, hour in await found(counters)] == [{BOB}]

    await counters.purge(lambda _: 30, clock())

    assert ALICE.encode() not in await texts(blobs)
    assert await names(blobs, FORGOTTEN) == [f"contoso/{ALICE}"]


async def test_a_deletion_is_remembered_until_nobody_can_come_late_and_covers_nothing_after_its_hour(
    counters, blobs, clock
):
    await counters.forget("contoso", OfUser(ALICE))
    clock.advance(LATE + HOUR)
    await counters.add("contoso", NOON + HOUR, part())

    assert [set(hour.users) for _, hour in await found(counters)] == [{ALICE, BOB}]

    await counters.purge(lambda _: 30, clock())

    assert await names(blobs, FORGOTTEN) == []
    assert [set(hour.users) for _, hour in await found(counters)] == [{ALICE, BOB}]


async def test_what_a_deletion_will_take_is_counted_before_and_is_nothing_after(counters):
    await counters.add("contoso", NOON, part())

    async def counted():
        tally = Tally(counts_records=True)
        await counters.count("contoso", OfUser(ALICE), tally)
        return tally.found().records

    assert await counted() == 2
    await counters.forget("contoso", OfUser(ALICE))
    assert await counted() == 0


@pytest.mark.parametrize(("days", "kept"), [(1, 1), (7, 2), (30, 3), (99, 3)])
async def test_hours_go_before_they_are_older_than_their_account_allows_and_than_the_ceiling(
    counters, blobs, clock, days, kept
):
    for age in (DAY - 2 * HOUR, DAY, 8 * DAY, 30 * DAY):
        await counters.add("contoso", NOON - age, part())

    gone = await counters.purge(lambda _: days, clock())

    assert (len(await names(blobs)), gone) == (kept, 4 - kept)


async def test_of_a_deleted_account_nothing_is_left(counters, blobs):
    await counters.add("contoso", NOON, part())
    await counters.add("contoso2", NOON, part())
    await counters.forget("contoso", OfUser(ALICE))

    await counters.delete("contoso")

    assert await names(blobs) == ["contoso2/2026010112"]
    assert await names(blobs, FORGOTTEN) == []
