"""Chat and completions: one request to the upstream, streamed or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import closing

from sluicegate import Chunk
from sluicegate.requests import GenerationRequest

from . import answers, bodies
from .connection import Connection
from .sse import EventReader
from .upstream import UpstreamModel


async def streamed(request: GenerationRequest, model: UpstreamModel, connection: Connection) -> AsyncGenerator[Chunk]:
    """Yield the answer as it arrives; closing this closes the connection, which stops the model."""
    body = bodies.generation(request, model, connection.upstream, stream=True)
    with closing(await connection.post(model, request.operation, body)) as response:
        done_required = connection.upstream.kind != "compatible"
        answer = answers.StreamedAnswer(request.choices, done_required=done_required, where=response.where)
        events = EventReader()
        while not answer.done:
            block = await response.read()
            for event in events.feed(block) if block else events.end():
                for chunk in answer.read(event):
                    yield chunk
            if not block:
                break
        for chunk in answer.end():
            yield chunk
        await response.finish()


async def whole(request: GenerationRequest, model: UpstreamModel, connection: Connection) -> AsyncGenerator[Chunk]:
    """Yield the answer when it is complete."""
    body = bodies.generation(request, model, connection.upstream, stream=False)
    with closing(await connection.post(model, request.operation, body)) as response:
        answer = await response.read_all()
    for chunk in answers.whole(answer, request.choices, response.where):
        yield chunk
