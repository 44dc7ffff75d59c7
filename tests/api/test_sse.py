import asyncio
import gc
import logging
import sys

import anyio
import pytest
from azurefunctions.extensions.base import ResponseTrackerMeta
from azurefunctions.extensions.http.fastapi import StreamingResponse

from sluicegate import Chunk, ModelUnavailable
from sluicegate.api import chat as chats
from sluicegate.api.sse import Events, EventStream
from tests.api.support import ENVELOPE
from tests.api.support import chat as chat_request

OLD, NEW = {"type": "http", "asgi": {"spec_version": "2.3"}}, {"type": "http", "asgi": {"spec_version": "2.4"}}
VERSIONS = pytest.mark.parametrize("scope", [OLD, NEW], ids=["2.3", "2.4"])


class Connection:
    """A caller: keeps what it is sent, and goes away when told to, in the manner of either ASGI version."""

    def __init__(self, scope):
        self.scope = scope
        self.sent = []
        self.gone = asyncio.Event()
        self.arrived = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if self.gone.is_set() and self.scope is NEW:
            raise OSError("gone")
        self.sent.append(message)
        if message.get("body"):
            self.arrived.set()
        await asyncio.sleep(0)

    async def serve(self, response):
        await response(self.scope, self.receive, self.send)

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def is_complete(self):
        return self.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


class Clock:
    """Time that passes only when a test lets it."""

    def __init__(self):
        self.time_s = 0.0
        self._sleepers = []

    def now(self):
        return self.time_s

    async def sleep(self, seconds):
        woken = asyncio.Event()
        self._sleepers.append((self.time_s + seconds, woken))
        await woken.wait()

    async def advance(self, seconds):
        await anyio.wait_all_tasks_blocked()
        self.time_s += seconds
        for end, woken in self._sleepers:
            if end <= self.time_s:
                woken.set()
        await anyio.wait_all_tasks_blocked()


class Source:
    """Frames from a generator that notes how it ends."""

    def __init__(self, *frames, error=None, hang=False, slow_close=None):
        self.ended = None
        self.closing = asyncio.Event()
        self._frames, self._error, self._hang, self._slow_close = frames, error, hang, slow_close
        self.frames = self._run()

    async def _run(self):
        self.ended = "unfinished"
        try:
            for frame in self._frames:
                yield frame
            if self._error:
                raise self._error
            if self._hang:
                await asyncio.Event().wait()
        finally:
            self.closing.set()
            if self._slow_close:
                await self._slow_close.wait()
            self.ended = "closed"


async def none():
    return
    yield


def stream(source, **options):
    return EventStream(Events(source.frames, none()), **options)


@VERSIONS
async def test_frames_are_sent_as_they_are(scope):
    source, connection = Source(b"data: 1\n\n", b"data: [DONE]\n\n"), Connection(scope)

    await connection.serve(stream(source))

    assert connection.body == b"data: 1\n\ndata: [DONE]\n\n"
    assert connection.is_complete
    assert source.ended == "closed"


async def test_headers_say_that_nothing_may_hold_the_stream_back():
    connection = Connection(OLD)

    await connection.serve(stream(Source(), headers={"x-request-id": "1"}))

    headers = {name.decode(): value.decode() for name, value in connection.sent[0]["headers"]}
    assert headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-request-id": "1",
    }
    assert connection.sent[0]["status"] == 200


@VERSIONS
async def test_an_exception_becomes_an_error_event_and_no_done(scope):
    source, connection = Source(b"data: 1\n\n", error=ModelUnavailable("busy")), Connection(scope)

    await connection.serve(stream(source))

    first, error, rest = connection.body.split(b"\n\n")
    assert first == b"data: 1"
    assert error.startswith(b'data: {"error":{')
    assert b"busy" in error
    assert rest == b""
    assert connection.is_complete


async def test_an_unexpected_exception_is_not_quoted():
    connection = Connection(OLD)

    await connection.serve(stream(Source(error=ValueError("secret"))))

    assert b'"code":"server_error"' in connection.body
    assert b"secret" not in connection.body


@VERSIONS
async def test_a_caller_who_leaves_a_silent_stream_ends_it(scope):
    source, connection = Source(b"data: 1\n\n", hang=True), Connection(scope)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connection.serve(stream(source)))
        await anyio.wait_all_tasks_blocked()
        connection.gone.set()

    assert source.ended == "closed"
    assert not connection.is_complete


@VERSIONS
async def test_a_caller_who_leaves_a_flowing_stream_ends_it(scope):
    source, connection = Source(*[b"data: 1\n\n"] * 1000), Connection(scope)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connection.serve(stream(source)))
        await connection.arrived.wait()
        connection.gone.set()

    assert source.ended == "closed"
    assert len(connection.sent) < 20


@VERSIONS
async def test_the_answer_is_closed_when_the_caller_left_before_its_first_byte(scope):
    closed = []

    class Answer:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise AssertionError

        async def aclose(self):
            closed.append(True)

    connection = Connection(scope)

    async def refuse(message):
        raise OSError("gone")

    await EventStream(chats.events(Answer(), chat_request(stream=True), ENVELOPE))(scope, connection.receive, refuse)

    assert closed == [True]


@VERSIONS
@pytest.mark.parametrize("silent", [True, False])
async def test_closing_is_not_cut_short_by_the_caller_who_left(scope, silent):
    retained, connection = asyncio.Event(), Connection(scope)
    source = Source(*[b"data: 1\n\n"] * (1 if silent else 1000), hang=silent, slow_close=retained)

    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(connection.serve(stream(source)))
        await connection.arrived.wait()
        connection.gone.set()
        await source.closing.wait()
        await anyio.wait_all_tasks_blocked()
        assert not serving.done()
        retained.set()

    assert source.ended == "closed"


@VERSIONS
@pytest.mark.parametrize("silent", [True, False])
async def test_a_cancelled_scope_around_the_response_does_not_cut_closing_short(scope, silent):
    retained, connection = asyncio.Event(), Connection(scope)
    source = Source(*[b"data: 1\n\n"] * (1 if silent else 1000), hang=silent, slow_close=retained)

    async with anyio.create_task_group() as middleware:
        middleware.start_soon(connection.serve, stream(source))
        await connection.arrived.wait()
        middleware.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await source.closing.wait()
            await anyio.wait_all_tasks_blocked()
            retained.set()

    assert source.ended == "closed"


async def test_closing_is_given_up_after_a_while(monkeypatch):
    monkeypatch.setattr("sluicegate.api.sse.CLOSE_S", 0)
    connection = Connection(OLD)
    source = Source(b"data: 1\n\n", hang=True, slow_close=asyncio.Event())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connection.serve(stream(source)))
        await connection.arrived.wait()
        connection.gone.set()

    assert source.ended == "unfinished"


async def test_a_server_that_fails_is_not_mistaken_for_a_caller_who_left():
    source = Source(b"data: 1\n\n")

    async def send(message):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await stream(source)(OLD, Connection(OLD).receive, send)


async def test_no_generator_is_left_to_the_garbage_collector():
    left, connection = [], Connection(OLD)
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=left.append)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connection.serve(stream(Source(*[b"data: 1\n\n"] * 1000))))
        await connection.arrived.wait()
        connection.gone.set()
    gc.collect()
    sys.set_asyncgen_hooks(*hooks)

    assert left == []


async def test_a_failure_while_closing_is_logged_without_its_message(caplog):
    class Answer(Source):
        async def aclose(self):
            raise ValueError("secret")

    connection = Connection(OLD)

    with caplog.at_level(logging.ERROR):
        await connection.serve(EventStream(Events(Source(b"data: 1\n\n").frames, Answer())))

    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text
    assert connection.is_complete


async def test_fifteen_seconds_of_silence_are_filled_with_a_comment():
    clock, connection = Clock(), Connection(OLD)
    response = stream(Source(b"data: 1\n\n", hang=True), now=clock.now, sleep=clock.sleep)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connection.serve(response))
        await clock.advance(14.9)
        before = connection.body
        await clock.advance(0.1)
        after = connection.body
        await clock.advance(15)
        connection.gone.set()

    assert before == b"data: 1\n\n"
    assert after == b"data: 1\n\n: ping\n\n"
    assert connection.body == b"data: 1\n\n: ping\n\n: ping\n\n"


async def test_an_answer_that_flows_needs_no_comment():
    clock, connection, more = Clock(), Connection(OLD), asyncio.Queue()

    async def frames():
        while frame := await more.get():
            yield frame

    async with asyncio.TaskGroup() as tasks:
        response = EventStream(Events(frames(), none()), now=clock.now, sleep=clock.sleep)
        tasks.create_task(connection.serve(response))
        for _ in range(5):
            await clock.advance(10)
            more.put_nowait(b"data: 1\n\n")
        more.put_nowait(b"")

    assert connection.body == b"data: 1\n\n" * 5


async def test_a_comment_never_interrupts_a_frame_that_is_being_sent():
    clock, connection, sending = Clock(), Connection(OLD), asyncio.Event()
    busy = 0

    async def send(message):
        nonlocal busy
        busy += 1
        assert busy == 1
        if message.get("body"):
            await sending.wait()
        await connection.send(message)
        busy -= 1

    async with asyncio.TaskGroup() as tasks:
        response = stream(Source(b"data: 1\n\n"), now=clock.now, sleep=clock.sleep)
        tasks.create_task(response(OLD, connection.receive, send))
        await clock.advance(60)
        sending.set()

    assert connection.is_complete


async def test_a_comment_that_finds_the_caller_gone_ends_the_answer():
    clock, connection = Clock(), Connection(NEW)
    source = Source(b"data: 1\n\n", hang=True)
    response = stream(source, now=clock.now, sleep=clock.sleep)

    async def receive():
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(response(NEW, receive, connection.send))
        await anyio.wait_all_tasks_blocked()
        connection.gone.set()
        await clock.advance(15)

    assert source.ended == "closed"


async def test_no_task_is_left_behind():
    before = asyncio.all_tasks()

    await Connection(OLD).serve(stream(Source(b"data: 1\n\n")))

    assert asyncio.all_tasks() == before


def test_the_functions_extension_takes_it_for_a_streaming_response():
    assert issubclass(EventStream, StreamingResponse)
    assert ResponseTrackerMeta.check_type(EventStream)


async def test_what_the_answers_finaliser_raises_takes_the_place_of_done():
    async def answer():
        try:
            yield Chunk("Hi", finish_reason="stop")
        finally:
            raise ModelUnavailable("not retained")

    connection = Connection(OLD)

    await connection.serve(EventStream(chats.events(answer(), chat_request(stream=True), ENVELOPE)))

    assert b"[DONE]" not in connection.body
    assert connection.body.endswith(b'"type":"server_error"}}\n\n')
