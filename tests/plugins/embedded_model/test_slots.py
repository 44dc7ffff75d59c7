"""Who runs, who waits, and who may continue from what a slot remembers."""

import asyncio

import pytest

from plugins.embedded_model.slots import Slot, Slots
from sluicegate import ModelUnavailable


async def test_who_waits_longest_gets_the_next_slot():
    slots = Slots(1, max_waiting=8)
    slot = await slots.acquire([1], object())
    order: list[int] = []

    async def wait(number: int) -> None:
        mine = await slots.acquire([1], object())
        order.append(number)
        slots.release(mine)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(wait(number))
        await asyncio.sleep(0)
        slots.release(slot)

    assert order == [0, 1, 2]
    assert slots.free == 1


async def test_who_leaves_the_queue_loses_no_slot():
    slots = Slots(1, max_waiting=8)
    slot = await slots.acquire([1], object())
    waiting = [asyncio.create_task(slots.acquire([1], object())) for _ in range(3)]
    await asyncio.sleep(0)

    waiting[0].cancel()
    await asyncio.sleep(0)
    slots.release(slot)
    waiting[1].cancel()

    slots.release(await waiting[2])
    assert slots.free == 1
    assert all(task.cancelled() for task in waiting[:2])


async def test_a_full_queue_refuses():
    slots = Slots(1, max_waiting=0)
    await slots.acquire([1], object())

    with pytest.raises(ModelUnavailable) as refused:
        await slots.acquire([1], object())

    assert refused.value.retry_after_s == 5


@pytest.mark.parametrize(
    ("prompt", "continues"),
    [
        ([1, 2, 3, 4, 5], True),
        ([1, 2, 3, 4], True),
        ([1, 2, 3], False),
        ([1, 2, 9, 4, 5], False),
        ([9], False),
    ],
    ids=["next turn", "the same", "the prompt only", "another", "nothing of it"],
)
async def test_only_a_prompt_that_repeats_everything_may_continue(prompt, continues):
    slots = Slots(1, max_waiting=0)
    slot = await slots.acquire([1, 2], object())
    slot.tokens = [1, 2, 3, 4]

    assert slot.remembers(prompt, object()) is continues


async def test_a_slot_that_remembers_nothing_continues_nothing():
    slot = await Slots(1, max_waiting=0).acquire([1], object())

    assert not slot.remembers([1, 2], object())


async def test_the_slot_that_remembers_the_prompt_is_preferred():
    slots = Slots(3, max_waiting=0)
    held = [await slots.acquire([1], object()) for _ in range(3)]
    held[1].tokens = [1, 2]
    for slot in held:
        slots.release(slot)

    assert await slots.acquire([1, 2, 3], object()) is held[1]
    assert await slots.acquire([7], object()) is held[0]


async def test_nobody_continues_from_what_was_read_under_other_weights():
    slot = Slot(0, tokens=[1, 2], owner="same", adapter="one")

    assert slot.remembers([1, 2, 3], "other", "one")
    assert not slot.remembers([1, 2, 3], "same", None)
    assert not slot.remembers([1, 2, 3], "same", "two")
