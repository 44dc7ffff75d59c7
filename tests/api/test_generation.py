import pytest

from sluicegate import Chunk
from sluicegate.api import chat as chats
from sluicegate.api.generation import Resumed
from tests.api.support import ENVELOPE, answer, chat


async def test_a_resumed_answer_is_whole():
    chunks = answer(Chunk("a"), Chunk("b"), Chunk("c"))

    resumed = Resumed(await anext(chunks), chunks)

    assert [chunk.text async for chunk in resumed] == ["a", "b", "c"]


@pytest.mark.parametrize("frames", [0, 1, 2, 3])
async def test_closing_the_events_closes_a_resumed_answer_however_little_was_read(frames):
    ended = []

    async def retained():
        try:
            yield Chunk("a")
            yield Chunk("b", finish_reason="stop")
        finally:
            ended.append(True)

    chunks = retained()
    events = chats.events(Resumed(await anext(chunks), chunks), chat(stream=True), ENVELOPE)
    iterator = aiter(events)
    for _ in range(frames):
        await anext(iterator)

    await events.aclose()

    assert ended == [True]
