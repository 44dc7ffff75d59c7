"""Several choices at once."""

import asyncio
from contextlib import aclosing
from functools import partial

import pytest

from plugins.embedded_model import choices
from plugins.embedded_model.choices import Send, merged
from sluicegate import Chunk


async def write(index: int, send: Send, begun: list[int] | None = None) -> None:
    if begun is not None:
        begun.append(index)
    for text in "abc":
        await send(Chunk(text, index))
        await asyncio.sleep(0)


async def test_every_chunk_of_every_choice_comes_in_its_order():
    chunks = [chunk async for chunk in merged([partial(write, index) for index in range(5)], 2)]

    texts = ["".join(chunk.text for chunk in chunks if chunk.index == index) for index in range(5)]
    assert texts == ["abc"] * 5


async def test_no_more_choices_run_at_once_than_allowed():
    running, most = 0, 0

    async def one(send: Send) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    assert [chunk async for chunk in merged([one] * 7, 3)] == []
    assert most == 3


async def test_the_first_failure_ends_all():
    ended: list[str] = []

    async def fails(send: Send) -> None:
        raise LookupError

    async def endless(send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("endless")

    with pytest.raises(LookupError):
        async for _ in merged([endless, fails], 2):
            pass

    assert ended == ["endless"]


async def test_a_slow_reader_does_not_keep_a_choice_from_its_end():
    done = asyncio.Event()

    async def one(send: Send) -> None:
        for number in range(1000):
            await send(Chunk(str(number)))
        done.set()

    async with aclosing(merged([one], 1)) as chunks:
        await anext(chunks)
        await done.wait()

        assert len([chunk async for chunk in chunks]) == 999


async def test_with_much_unread_no_other_choice_is_begun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choices, "_MUCH", 1)
    begun: list[int] = []

    async with aclosing(merged([partial(write, index, begun=begun) for index in range(9)], 1)) as chunks:
        await anext(chunks)
        for _ in range(100):
            await asyncio.sleep(0)
        assert begun == [0]

        assert len([chunk async for chunk in chunks]) == 9 * 3 - 1
    assert begun == list(range(9))
