"""Several choices: a chain for each, one failure for all, and no more read than is asked for."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from sluicegate.errors import Refused
from sluicegate.fan_out import per_choice
from sluicegate.types import Chunk


class Source:
    """Chunks that are counted as they are taken."""

    def __init__(self, *chunks):
        self.taken = 0
        self.closed = False
        self._chunks = chunks

    async def __aiter__(self):
        try:
            for chunk in self._chunks:
                self.taken += 1
                yield chunk
        finally:
            self.closed = True


def interleaved(choices, count):
    return [Chunk(f"{number} ", index=index) for number in range(count) for index in range(choices)]


async def passing(index, chunks):
    async for chunk in chunks:
        yield chunk


async def merged(source, choices, chain=passing):
    async with aclosing(aiter(source)) as chunks, aclosing(per_choice(chunks, choices, chain)) as answer:
        return [chunk async for chunk in answer]


def texts(chunks, index):
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


async def let_others_run():
    for _ in range(200):
        await asyncio.sleep(0)


@pytest.mark.parametrize("choices", [1, 2, 5])
async def test_every_choice_arrives_whole_and_in_order(choices):
    passed = await merged(Source(*interleaved(choices, 50)), choices)

    expected = "".join(f"{number} " for number in range(50))
    assert [texts(passed, index) for index in range(choices)] == [expected] * choices


@pytest.mark.parametrize("choices", [1, 3])
async def test_a_chain_sees_its_own_choice_only(choices):
    seen = {}

    async def chain(index, chunks):
        async for chunk in chunks:
            seen.setdefault(index, set()).add(chunk.index)
            yield chunk

    await merged(Source(*interleaved(choices, 5)), choices, chain)

    assert seen == {index: {index} for index in range(choices)}


async def test_a_chain_that_ends_early_does_not_end_the_others():
    async def chain(index, chunks):
        async for chunk in chunks:
            if index == 1:
                return
            yield chunk

    passed = await merged(Source(*interleaved(3, 50)), 3, chain)

    assert texts(passed, 1) == ""
    assert texts(passed, 0) == texts(passed, 2) == "".join(f"{number} " for number in range(50))


async def test_nothing_more_is_read_once_every_chain_has_ended():
    async def chain(index, chunks):
        yield await anext(chunks)

    source = Source(*interleaved(2, 1000))

    passed = await merged(source, 2, chain)

    assert len(passed) == 2
    assert source.taken < 50
    assert source.closed


@pytest.mark.parametrize("error", [ValueError("x"), Refused({"x": {}}), asyncio.CancelledError()])
async def test_a_failing_chain_fails_the_whole(error):
    closed = []

    async def chain(index, chunks):
        try:
            async for chunk in chunks:
                if index == 1:
                    raise error
                yield chunk
        finally:
            closed.append(index)

    with pytest.raises(type(error)) as raised:
        await merged(Source(*interleaved(3, 50)), 3, chain)

    assert raised.value is error
    assert sorted(closed) == [0, 1, 2]


@pytest.mark.parametrize("choices", [1, 3])
async def test_a_failing_source_reaches_every_chain(choices):
    error = ValueError("x")
    reached = []

    async def source():
        yield Chunk("a", index=0)
        raise error

    async def chain(index, chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except ValueError:
            reached.append(index)
            raise

    async with aclosing(source()) as chunks, aclosing(per_choice(chunks, choices, chain)) as answer:
        with pytest.raises(ValueError, match="x"):
            _ = [chunk async for chunk in answer]

    assert reached[0] == 0


@pytest.mark.parametrize(("choices", "bound"), [(1, 1), (3, 40)])
async def test_a_slow_reader_slows_the_source(choices, bound):
    source = Source(*interleaved(choices, 10_000))

    async with aclosing(aiter(source)) as chunks, aclosing(per_choice(chunks, choices, passing)) as answer:
        await anext(answer)
        await let_others_run()
        taken = source.taken

    assert taken <= bound
    assert source.closed


async def test_a_reader_who_leaves_ends_every_chain_and_task():
    closed = []

    async def chain(index, chunks):
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await asyncio.sleep(0)
            closed.append(index)

    before = asyncio.all_tasks()

    async with (
        aclosing(aiter(Source(*interleaved(3, 100)))) as chunks,
        aclosing(per_choice(chunks, 3, chain)) as answer,
    ):
        await anext(answer)
        await let_others_run()

    assert sorted(closed) == [0, 1, 2]
    assert asyncio.all_tasks() == before
