import asyncio
import base64
import io
import json
import logging
import struct
import subprocess
import sys
import textwrap
import time
import tomllib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from pydantic import ValidationError

from plugins import openai_upstream
from plugins.openai_upstream import Config
from plugins.openai_upstream import config as config_module
from plugins.openai_upstream.sse import EventReader
from sluicegate import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    EmbeddingRequest,
    FilterOffsets,
    InvalidRequest,
    Model,
    ModelUnavailable,
    Refused,
    ToolCall,
    TooManyRequests,
    UpstreamError,
    Usage,
)
from sluicegate.config import Pipeline
from sluicegate.errors import ApiError, PayloadTooLarge, StartupError
from sluicegate.plugins import Plugins
from tests.plugins.loopback import served

CANARY = "canary-4711"
KEY_SETTING = "TEST_UPSTREAM_KEY"
SAFE = {"hate": {"filtered": False, "severity": "safe"}, "violence": {"filtered": False, "severity": "safe"}}
PROMPT_SAFE = {**SAFE, "jailbreak": {"filtered": False, "detected": False}}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
DONE = b"data: [DONE]\n\n"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# --- a loopback upstream ---------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """One request as the upstream got it."""

    path: str
    headers: dict[str, str]
    body: dict
    peer: object


@dataclass
class Upstream:
    """A server that answers each request by the next handler of its script, and any further one by the last."""

    root: str = ""
    script: list[Handler] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a caller has gone away before its answer was complete."""

    def answers(self, *handlers: Handler) -> None:
        self.script = list(handlers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        peer = request.transport.get_extra_info("peername")
        self.seen.append(Seen(request.path_qs, dict(request.headers), json.loads(await request.read()), peer))
        handler = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        try:
            return await handler(request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise


@pytest.fixture
async def upstream(monkeypatch) -> AsyncIterator[Upstream]:
    monkeypatch.setenv(KEY_SETTING, "key-of-the-upstream")
    upstream = Upstream()
    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    async with served(app) as upstream.root:
        yield upstream


@pytest.fixture
async def configured(upstream) -> AsyncIterator[Callable[..., Config]]:
    """Returns a function from an upstream's settings to the plugin's; what it opens is shut down."""
    opened = []

    def make(kind="azure", *, model=None, **settings) -> Config:
        served = {
            "id": "gpt",
            "name": "gpt-deployment",
            "operations": ["chat.completions", "completions", "embeddings"],
        }
        endpoint = upstream.root if kind == "azure" else f"{upstream.root}/v1"
        entry = {"kind": kind, "endpoint": endpoint, "retry_wait_s": 0.001, "models": [{**served, **(model or {})}]}
        if kind == "compatible":
            entry["models"][0].setdefault("retention", "nothing")
        elif not settings.get("entra_id"):
            entry["api_key_setting"] = KEY_SETTING
        opened.append(Config.model_validate({"upstreams": [{**entry, **settings}]}))
        return opened[-1]

    yield make
    for config in opened:
        await openai_upstream.shutdown(config)


def reply(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    async def handler(request):
        return web.json_response(body, status=status, headers=headers)

    return handler


def stream(*pieces: bytes, then: Callable[[web.Request], Awaitable[None]] | None = None) -> Handler:
    """Answer with server-sent events; ``then`` runs before the answer's regular end."""

    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if then is not None:
            await then(request)
        await response.write_eof()
        return response

    return handler


async def cut_off(request) -> None:
    request.transport.abort()


async def for_ever(request) -> None:
    await asyncio.Event().wait()


async def never(request) -> web.StreamResponse:
    await asyncio.Event().wait()


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def frame(*choices: dict, **fields) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1732000000, "model": "gpt-4o-2024-11-20"}
    return event({**head, "system_fingerprint": "fp_1", "choices": list(choices), "usage": None, **fields})


def said(text: str, *, index: int = 0, **fields) -> dict:
    delta = {"content": text}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **fields}


def finish(reason: str = "stop", *, index: int = 0) -> dict:
    return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason, "content_filter_results": {}}


def prompt_frame(results: dict = PROMPT_SAFE, prompt_index: int = 0) -> bytes:
    """Azure's first event."""
    verdicts = [{"prompt_index": prompt_index, "content_filter_results": results}]
    return event({"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": verdicts})


def answer(*choices: dict, **fields) -> dict:
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1732000000, "model": "gpt-4o-2024-11-20"}
    return {**head, "choices": list(choices), "usage": USAGE, **fields}


def choice(content: str | None = "Hello", *, index: int = 0, reason: str = "stop", **message) -> dict:
    message = {"role": "assistant", "content": content, "refusal": None, **message}
    return {
        "index": index, "message": message, "logprobs": None, "finish_reason": reason, "content_filter_results": SAFE,
    }  # fmt: skip


WHOLE_STREAM = [
    prompt_frame(),
    frame(said("", role="assistant")),
    frame(said("Hel", content_filter_results=SAFE)),
    frame(said("lo", content_filter_results=SAFE)),
    frame(finish()),
    frame(usage=USAGE),
    DONE,
]
"""Azure's order: semantic-kernel#7250, and wire-true in api-version 2024-10-21."""

MODEL = Model("gpt", frozenset({"chat.completions", "completions", "embeddings"}))
COUNTED = Usage(prompt_tokens=9, completion_tokens=5, cached_tokens=4, reasoning_tokens=3)


def chat(**fields) -> ChatRequest:
    messages = [{"role": "user", "content": f"Say hello, {CANARY}"}]
    return ChatRequest.model_validate_json(json.dumps({"model": "mine", "messages": messages, **fields}))


def completion(**fields) -> CompletionRequest:
    return CompletionRequest.model_validate_json(json.dumps({"model": "mine", "prompt": CANARY, **fields}))


def embedding(*inputs: str, **fields) -> EmbeddingRequest:
    return EmbeddingRequest.model_validate_json(json.dumps({"input": inputs or [CANARY], **fields}))


async def chunks(config: Config, request, got: list[Chunk] | None = None) -> list[Chunk]:
    """Return the answer; ``got`` holds what came of it if it fails. The limit only keeps a broken test from hanging."""
    got = [] if got is None else got
    async with asyncio.timeout(20), aclosing(openai_upstream.inference(request, MODEL, None, config)) as answer:
        async for chunk in answer:
            got.append(chunk)
    return got


# --- settings --------------------------------------------------------------------------------------------------------

AZURE = {"kind": "azure", "endpoint": "https://contoso.openai.azure.com", "api_key_setting": KEY_SETTING}
OPENAI = {"kind": "openai", "api_key_setting": KEY_SETTING}
COMPATIBLE = {"kind": "compatible", "endpoint": "http://127.0.0.1:8000/v1"}
CHAT_MODEL = {"id": "a/b", "operations": ["chat.completions"], "retention": "nothing"}


def settings(upstream: dict, **model) -> Config:
    return Config.model_validate({"upstreams": [{"models": [{**CHAT_MODEL, **model}], **upstream}]})


async def test_the_plugin_passes_the_checks_of_the_loader_and_registers_its_models(monkeypatch):
    monkeypatch.setenv(KEY_SETTING, "secret")
    plugins = Plugins()
    model = {"id": "gpt", "operations": ["chat.completions"], "features": ["tools"], "context_length": 128000}

    plugins.add(openai_upstream, "openai_upstream")
    pipeline = Pipeline.model_validate({"authenticate": [], "models": ["openai_upstream"]})
    plugins.configure({"openai_upstream": {"upstreams": [{**AZURE, "models": [model]}]}}, pipeline)

    registered, plugin = plugins.models()["gpt"]
    assert plugin == "openai_upstream"
    assert registered.operations == {"chat.completions"}
    assert registered.features == {"tools"}
    assert registered.context_length == 128000
    assert "30 days" in registered.retention


def test_the_example_of_the_settings_is_valid():
    example = textwrap.dedent((config_module.__doc__ or "").partition("::\n")[2])

    table = tomllib.loads(example)["plugins"]["openai_upstream"]

    assert [model.id for model in Config.model_validate(table).models()] == ["gpt-4o"]


def test_importing_the_plugin_imports_no_client():
    code = "import sys, plugins.openai_upstream; print(*sys.modules)"

    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "plugins.openai_upstream" in imported
    assert not {"aiohttp", "openai", "azure.identity", "numpy"} & set(imported)


@pytest.mark.parametrize("config", [settings(AZURE), settings(OPENAI)])
def test_a_key_that_is_not_set_stops_the_start_and_is_named(config, monkeypatch):
    monkeypatch.delenv(KEY_SETTING, raising=False)

    with pytest.raises(StartupError, match=KEY_SETTING):
        openai_upstream.register_models(config)


@pytest.mark.parametrize(
    ("upstream", "model", "problem"),
    [
        ({**AZURE, "api_key": "sk-123"}, {}, "api_key"),
        ({**AZURE, "api_key_setting": None}, {}, "api_key_setting is missing"),
        ({**AZURE, "entra_id": True}, {}, "exclude each other"),
        ({**OPENAI, "entra_id": True}, {}, "are for kind azure"),
        ({**OPENAI, "api_version": "2024-10-21"}, {}, "are for kind azure"),
        ({**AZURE, "endpoint": ""}, {}, "endpoint is missing"),
        ({**COMPATIBLE, "endpoint": "ftp://host/v1"}, {}, "must be a URL"),
        ({**AZURE, "endpoint": "https://host?api-version=1"}, {}, "must be a URL"),
        ({**COMPATIBLE, "endpoint": "http://vllm:8000/v1"}, {}, "must be https"),
        (COMPATIBLE, {"retention": None}, "needs retention"),
        (AZURE, {"features": ["tools", "functions"]}, "cannot be offered: functions"),
        (AZURE, {"operations": []}, "operations"),
        (AZURE, {"operations": ["images"]}, "operations"),
    ],
)
def test_settings_that_cannot_work_are_refused(upstream, model, problem):
    with pytest.raises(ValidationError, match=problem) as raised:
        settings(upstream, **model)

    assert "sk-123" not in str(raised.value)


@pytest.mark.parametrize(
    ("upstream", "url"),
    [
        (AZURE, "https://contoso.openai.azure.com/openai/v1/chat/completions"),
        (
            {**AZURE, "api_version": "2024-10-21"},
            "https://contoso.openai.azure.com/openai/deployments/a%2Fb/chat/completions?api-version=2024-10-21",
        ),
        (OPENAI, "https://api.openai.com/v1/chat/completions"),
        (COMPATIBLE, "http://127.0.0.1:8000/v1/chat/completions"),
        ({**COMPATIBLE, "endpoint": "http://vllm:8000/", "plain_http": True}, "http://vllm:8000/chat/completions"),
    ],
)
def test_each_kind_has_its_address(upstream, url):
    [entry] = settings(upstream).upstreams

    assert entry.url(entry.models[0], "chat.completions") == url


# --- what the upstream is told ---------------------------------------------------------------------------------------


async def test_an_upstream_is_told_the_request_and_nothing_of_who_sent_it(upstream, configured):
    upstream.answers(reply(answer(choice())))
    context = {"end_user_id": "someone", "source_ip": "192.0.2.1"}
    request = chat(
        user="someone", safety_identifier="someone", user_security_context=context, metadata={}, stop=None, seed=7
    )

    await chunks(configured(), request)

    [seen] = upstream.seen
    assert seen.body == {
        "model": "gpt-deployment",
        "messages": [{"role": "user", "content": f"Say hello, {CANARY}"}],
        "seed": 7,
        "store": False,
    }
    assert seen.path == "/openai/v1/chat/completions"
    assert seen.headers.keys() == {
        "Host", "api-key", "Content-Type", "Content-Length", "Accept", "Accept-Encoding", "User-Agent",
    }  # fmt: skip
    assert seen.headers["api-key"] == "key-of-the-upstream"


@pytest.mark.parametrize("kind", ["openai", "compatible"])
async def test_other_kinds_get_the_key_as_a_bearer_token_where_there_is_one(kind, upstream, configured):
    upstream.answers(reply(answer(choice())))

    await chunks(configured(kind, api_key_setting=KEY_SETTING), chat())

    [seen] = upstream.seen
    assert seen.headers["Authorization"] == "Bearer key-of-the-upstream"
    assert seen.path == "/v1/chat/completions"


async def test_a_compatible_server_may_need_no_key(upstream, configured):
    upstream.answers(reply(answer(choice())))

    await chunks(configured("compatible"), chat())

    [seen] = upstream.seen
    assert not {"Authorization", "api-key"} & seen.headers.keys()


async def test_the_end_user_is_passed_on_only_where_the_settings_say_so(upstream, configured):
    upstream.answers(reply(answer(choice())))

    await chunks(configured(send_user=True), chat(user="someone", safety_identifier="hash"))

    [seen] = upstream.seen
    assert (seen.body["user"], seen.body["safety_identifier"]) == ("someone", "hash")


async def test_fields_that_a_server_refuses_can_be_left_out(upstream, configured):
    upstream.answers(stream(*WHOLE_STREAM))

    await chunks(configured(store_field=False, usage_field=False), chat(stream=True))

    [seen] = upstream.seen
    assert not {"store", "stream_options"} & seen.body.keys()


@pytest.mark.parametrize("asked", [None, {"include_usage": False, "include_obfuscation": False}])
async def test_a_stream_is_asked_for_with_its_usage_whatever_the_caller_wants_of_it(asked, upstream, configured):
    upstream.answers(stream(*WHOLE_STREAM))

    await chunks(configured(), chat(stream=True, stream_options=asked))

    [seen] = upstream.seen
    assert (seen.body["stream"], seen.body["stream_options"]) == (True, {"include_usage": True})


async def test_a_caller_who_does_not_stream_gets_an_answer_that_was_not_streamed(upstream, configured):
    upstream.answers(reply(answer(choice())))

    await chunks(configured(), chat(stream=False))

    [seen] = upstream.seen
    assert not {"stream", "stream_options"} & seen.body.keys()


async def test_tools_and_schemas_arrive_as_they_were_sent(upstream, configured):
    upstream.answers(reply(answer(choice())))
    parameters = {"type": "object", "properties": {"city": {"type": "string", "default": None}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters, "strict": True}}]
    schema = {"type": "json_schema", "json_schema": {"name": "out", "schema": {"const": None}}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]  # fmt: skip

    await chunks(configured(), chat(messages=messages, tools=tools, response_format=schema))

    [seen] = upstream.seen
    assert seen.body["messages"] == messages
    assert seen.body["tools"] == tools
    assert seen.body["response_format"] == schema


async def test_a_prompt_of_several_mebibytes_arrives(upstream, configured):
    upstream.answers(reply(answer(choice())))
    long = "long " * 500_000

    await chunks(configured(), chat(messages=[{"role": "user", "content": long}]))

    assert upstream.seen[0].body["messages"][0]["content"] == long


# --- streamed answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["azure", "openai", "compatible"])
async def test_a_stream_becomes_chunks_in_its_order(kind, upstream, configured):
    upstream.answers(stream(*WHOLE_STREAM))

    got = await chunks(configured(kind), chat(stream=True))

    assert got == [
        Chunk(prompt_filter_results={0: PROMPT_SAFE}),
        Chunk("Hel", content_filter_results=SAFE),
        Chunk("lo", content_filter_results=SAFE),
        Chunk(finish_reason="stop", usage=COUNTED),
    ]


async def test_a_chunk_is_passed_on_before_the_next_one_is_there(upstream, configured):
    more = asyncio.Event()

    async def wait(request):
        await more.wait()

    upstream.answers(stream(frame(said("first")), then=wait))

    async with aclosing(openai_upstream.inference(chat(stream=True), MODEL, None, configured())) as answer:
        first = await anext(answer)
        more.set()

    assert first.text == "first"


async def test_tool_calls_refusals_and_log_probabilities_are_passed_on(upstream, configured):
    logprobs = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}], "refusal": None}

    def call(**piece) -> bytes:
        return frame({"index": 0, "delta": {"tool_calls": [{"index": 1, **piece}]}, "finish_reason": None})

    upstream.answers(
        stream(
            frame(said("Hi", logprobs=logprobs)),
            call(id="call_1", type="function", function={"name": "weather", "arguments": ""}),
            call(function={"arguments": '{"ci'}),
            frame({"index": 0, "delta": {"refusal": "I cannot."}, "finish_reason": None}),
            frame(finish("tool_calls")),
            DONE,
        )
    )

    got = await chunks(configured(), chat(stream=True))

    assert got == [
        Chunk("Hi", logprobs=logprobs),
        Chunk(tool_calls=(ToolCall(1, "call_1", "weather"),)),
        Chunk(tool_calls=(ToolCall(1, arguments='{"ci'),)),
        Chunk(refusal="I cannot."),
        Chunk(finish_reason="tool_calls"),
    ]


async def test_text_in_fields_that_no_filter_reads_is_not_passed_on(upstream, configured):
    results = {
        "personally_identifiable_information": {"filtered": False, "detected": True, "redacted_text": CANARY},
        "custom_blocklists": [{"filtered": True, "id": "names"}],
    }
    delta = {"content": "Hi", "reasoning_content": CANARY, "annotations": [{"text": CANARY}], "audio": {"data": CANARY}}
    upstream.answers(
        stream(frame(said("", delta=delta, content_filter_results=results), obfuscation=CANARY), frame(finish()), DONE)
    )

    got = await chunks(configured(), chat(stream=True))

    assert CANARY not in repr(got)
    assert got[0].content_filter_results == {
        "personally_identifiable_information": {"filtered": False, "detected": True},
        "custom_blocklists": {"filtered": True, "details": [{"filtered": True, "id": "names"}]},
    }


async def test_verdicts_of_the_asynchronous_filter_count_though_they_come_after_the_text(upstream, configured):
    places = {"check_offset": 8, "start_offset": 8, "end_offset": 13}
    late = {"index": 0, "finish_reason": None, "content_filter_results": SAFE, "content_filter_offsets": places}
    hit = {"hate": {"filtered": True, "severity": "high"}}
    annotation = {"id": "", "object": "", "created": 0, "model": ""}
    upstream.answers(
        stream(
            prompt_frame(),
            frame(said("Hello")),
            frame(finish("stop")),
            frame(late, **annotation),
            frame({**late, "finish_reason": "content_filter", "content_filter_results": hit}, **annotation),
            DONE,
        )
    )

    got = await chunks(configured(), chat(stream=True))

    assert got[1:] == [
        Chunk("Hello"),
        Chunk(content_filter_results=SAFE, content_filter_offsets=FilterOffsets(8, 8, 13)),
        Chunk(content_filter_results=hit, content_filter_offsets=FilterOffsets(8, 8, 13)),
        Chunk(finish_reason="content_filter"),
    ]


async def test_usage_that_comes_with_every_frame_is_passed_on_with_every_chunk(upstream, configured):
    counted = [{"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens} for tokens in (1, 2)]
    upstream.answers(
        stream(frame(said("Hel"), usage=counted[0]), frame({**finish(), "delta": {"content": "lo"}}, usage=counted[1]))
    )

    got = await chunks(configured("compatible"), chat(stream=True))

    assert got == [
        Chunk("Hel", usage=Usage(9, 1)),
        Chunk("lo", usage=Usage(9, 2)),
        Chunk(finish_reason="stop", usage=Usage(9, 2)),
    ]


async def test_choices_are_told_apart_and_each_is_finished(upstream, configured):
    upstream.answers(
        stream(
            frame(said("a", index=1)),
            frame(said("b"), said("c", index=1)),
            frame(finish("length", index=1)),
            frame(said("d")),
            frame(finish()),
            DONE,
        )
    )

    got = await chunks(configured(), chat(stream=True, n=2))

    assert [(chunk.index, chunk.text or chunk.finish_reason) for chunk in got] == [
        (1, "a"), (0, "b"), (1, "c"), (0, "d"), (0, "stop"), (1, "length"),
    ]  # fmt: skip


async def test_completions_keep_their_own_form_of_log_probabilities(upstream, configured):
    logprobs = {"tokens": ["Hi"], "token_logprobs": [-0.1], "top_logprobs": [{"Hi": -0.1}], "text_offset": [0]}
    texts = [{"index": 3, "text": "Hi", "logprobs": logprobs, "finish_reason": None}]
    ends = [{"index": index, "text": "", "logprobs": None, "finish_reason": "stop"} for index in range(4)]
    upstream.answers(stream(prompt_frame(SAFE, prompt_index=1), frame(*texts), frame(*ends), DONE))
    request = completion(prompt=["one", "two"], n=2, logprobs=1, stream=True)

    got = await chunks(configured(api_version="2024-10-21"), request)

    assert got[:2] == [Chunk(prompt_filter_results={1: SAFE}), Chunk("Hi", index=3, logprobs=logprobs)]
    assert [(chunk.index, chunk.finish_reason) for chunk in got[2:]] == [(index, "stop") for index in range(4)]
    [seen] = upstream.seen
    assert seen.path == "/openai/deployments/gpt-deployment/completions?api-version=2024-10-21"
    assert seen.body["prompt"] == ["one", "two"]
    assert "store" not in seen.body


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_events_do_not_depend_on_how_the_network_cuts_the_stream(line_end):
    lines = [
        b": comment",
        b"event: message",
        b'data: {"a":1}',
        b"",
        b"data:[1,",
        b"data: 2]",
        b"",
        b"id: 7",
        b"",
        DONE[:-1],
    ]
    sent = line_end.join(lines)
    whole = [b"1", b"[1,2]", b"[DONE]"]

    for first in range(len(sent)):
        for second in range(first, len(sent), 7):
            reader = EventReader()
            blocks = (sent[:first], sent[first:second], sent[second:])
            events = [event for block in blocks for event in reader.feed(block)] + reader.end()
            cleaned = [b"".join(event.split()).removeprefix(b'{"a":').removesuffix(b"}") for event in events]
            assert cleaned == whole


# --- answers that are not streamed -----------------------------------------------------------------------------------


async def test_a_whole_answer_becomes_one_chunk_per_choice(upstream, configured):
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
        {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    prompt = [{"prompt_index": 0, "content_filter_results": PROMPT_SAFE}]
    upstream.answers(
        reply(
            answer(choice(), choice(None, index=1, reason="tool_calls", tool_calls=calls), prompt_filter_results=prompt)
        )
    )

    got = await chunks(configured(), chat(n=2))

    assert got == [
        Chunk(prompt_filter_results={0: PROMPT_SAFE}),
        Chunk("Hello", finish_reason="stop", content_filter_results=SAFE, usage=COUNTED),
        Chunk(
            index=1,
            tool_calls=(ToolCall(0, "call_1", "weather", "{}"), ToolCall(1, "call_2", "time", "{}")),
            finish_reason="tool_calls",
            content_filter_results=SAFE,
            usage=COUNTED,
        ),
    ]


async def test_a_choice_that_the_upstream_filtered_has_no_text(upstream, configured):
    filtered = {"hate": {"filtered": True, "severity": "high"}}
    cut = {"index": 1, "finish_reason": "content_filter", "message": {"role": "assistant"}, "logprobs": None}
    upstream.answers(reply(answer(choice(), {**cut, "content_filter_results": filtered})))

    got = await chunks(configured(), chat(n=2))

    assert got[1] == Chunk(index=1, finish_reason="content_filter", content_filter_results=filtered, usage=COUNTED)


async def test_whole_completions_keep_their_order_and_log_probabilities(upstream, configured):
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": None, "text_offset": [0]}
    choices = [
        {"index": index, "text": f"{index}", "logprobs": logprobs, "finish_reason": "length"} for index in (1, 0)
    ]
    upstream.answers(reply(answer(*choices)))

    got = await chunks(configured(), completion(prompt=["one", "two"], best_of=1, logprobs=0))

    assert [(chunk.index, chunk.text, chunk.logprobs) for chunk in got] == [(1, "1", logprobs), (0, "0", logprobs)]


# --- answers that are none -------------------------------------------------------------------------------------------

BROKEN_STREAMS = {
    "nothing": [],
    "done without an answer": [DONE],
    "no finish_reason": [frame(said("Hello")), DONE],
    "one choice of two": [frame(finish()), DONE],
    "no [DONE]": [frame(finish()), frame(finish(index=1))],
    "cut in an event": [frame(said("Hello")), frame(finish())[:40]],
    "not JSON": [b"data: {oops\n\n", DONE],
    "not an object": [event([1]), DONE],
    "a choice too many": [frame(said("Hello", index=2)), DONE],
    "a negative choice": [frame(said("Hello", index=-1)), DONE],
    "content that is no text": [frame(said("", delta={"content": [{"text": CANARY}]})), DONE],
    "not a stream": [json.dumps(answer(choice())).encode()],
}


@pytest.mark.parametrize("pieces", BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
async def test_a_stream_that_is_no_whole_answer_is_an_error(pieces, upstream, configured, caplog):
    upstream.answers(stream(*pieces))

    with pytest.raises(ModelUnavailable):
        await chunks(configured(), chat(stream=True, n=2))

    assert caplog.messages
    assert CANARY not in caplog.text
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    "body",
    [
        "text",
        {},
        answer(),
        answer(choice(), choice()),
        answer(choice()),
        answer(choice(), choice(index=1), choice(index=1)),
        answer(choice(), choice(index=2)),
        answer(choice(), choice(index=1, reason=None)),
        answer(choice(), choice(index=1, content=[CANARY])),
        answer(choice(), choice(index=1), usage={"total_tokens": 3}),
    ],
)
async def test_a_body_that_is_no_whole_answer_is_an_error(body, upstream, configured):
    upstream.answers(reply(body))

    with pytest.raises(ModelUnavailable):
        await chunks(configured(), chat(n=2))


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (
            {"message": CANARY, "type": "server_error", "param": None, "code": None},
            ModelUnavailable,
            "serviceUnavailable",
        ),
        ({"message": CANARY, "code": "429", "status": 429}, TooManyRequests, "429"),
        (
            {"message": CANARY, "code": "context_length_exceeded", "status": 400},
            InvalidRequest,
            "context_length_exceeded",
        ),
        (CANARY, ModelUnavailable, "serviceUnavailable"),
    ],
)
async def test_an_error_event_is_an_error(error, expected, code, upstream, configured, caplog):
    upstream.answers(stream(frame(said("Hello")), event({"error": error}), DONE))

    with pytest.raises(expected) as raised:
        await chunks(configured(), chat(stream=True))

    assert raised.value.code == code
    assert CANARY not in shown(raised.value) + caplog.text


async def test_an_error_event_about_content_is_a_refusal(upstream, configured):
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": SAFE}
    upstream.answers(stream(event({"error": {"code": "content_filter", "innererror": inner}}), DONE))

    with pytest.raises(Refused) as raised:
        await chunks(configured(), chat(stream=True))

    assert raised.value.results == SAFE


async def test_a_connection_that_breaks_in_the_answer_is_an_error(upstream, configured):
    upstream.answers(stream(frame(said("Hello")), then=cut_off))

    with pytest.raises(ModelUnavailable):
        await chunks(configured(), chat(stream=True))

    assert len(upstream.seen) == 1


# --- refusals and failures -------------------------------------------------------------------------------------------

FILTERED = {"hate": {"filtered": True, "severity": "high"}, "jailbreak": {"filtered": False, "detected": False}}
POLICY = "ResponsibleAIPolicyViolation"
REFUSALS = {
    "form A": ({"code": "content_filter", "innererror": {"code": POLICY, "content_filter_result": FILTERED}}, FILTERED),
    "form B": (
        {"code": "content_filter", "inner_error": {"code": POLICY, "content_filter_results": FILTERED}},
        FILTERED,
    ),
    "no code outside": ({"code": None, "innererror": {"code": POLICY, "content_filter_result": FILTERED}}, FILTERED),
    "bare": ({"code": "content_filter"}, {}),
    "of OpenAI": ({"code": "content_policy_violation", "type": "invalid_request_error"}, {}),
}


@pytest.mark.parametrize(("error", "results"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_that_the_upstream_filters_is_refused_with_its_verdicts(
    error, results, streamed, upstream, configured, caplog
):
    body = {"error": {"message": f"The response was filtered: {CANARY}", "param": "prompt", "status": 400, **error}}
    upstream.answers(reply(body, 400))

    with pytest.raises(Refused) as raised:
        await chunks(configured(), chat(stream=streamed))

    assert raised.value.results == results
    assert not caplog.messages
    assert CANARY not in shown(raised.value)


def error(code: object = None, param: object = None, **fields) -> dict:
    return {"error": {"message": f"About {CANARY}", "type": None, "code": code, "param": param, **fields}}


UNAVAILABLE = (ModelUnavailable, 503, "serviceUnavailable", None)
FAILURES = [
    (400, error("context_length_exceeded", "messages"), (InvalidRequest, 400, "context_length_exceeded", "messages"), None),
    (400, error("unsupported_value", "messages[0].role"), (InvalidRequest, 400, "unsupported_value", "messages[0].role"), None),
    (400, error("invalid_prompt"), (InvalidRequest, 400, "invalid_prompt", None), None),
    (400, error(f"about {CANARY}", f"a {CANARY}"), (InvalidRequest, 400, None, None), None),
    (413, error("413"), (PayloadTooLarge, 413, "413", None), None),
    (422, {"detail": [{"loc": ["body"], "input": CANARY}]}, (InvalidRequest, 400, None, None), None),
    (401, error("401"), UNAVAILABLE, "ERROR"),
    (401, error("PermissionDenied"), UNAVAILABLE, "ERROR"),
    (403, error("Forbidden"), UNAVAILABLE, "ERROR"),
    (404, error("DeploymentNotFound"), UNAVAILABLE, "ERROR"),
    (410, "gone", UNAVAILABLE, "ERROR"),
    (307, "elsewhere", UNAVAILABLE, "ERROR"),
    (429, error("insufficient_quota"), UNAVAILABLE, "ERROR"),
    (429, error("429"), (TooManyRequests, 429, "429", None), None),
    (409, error("conflict"), (UpstreamError, 409, "conflict", None), "WARNING"),
    (500, error(f"about {CANARY}"), UNAVAILABLE, "WARNING"),
    (503, "<html>" + CANARY, UNAVAILABLE, "WARNING"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "expected", "level"), FAILURES)
async def test_each_failure_reaches_the_right_reader(status, body, expected, level, upstream, configured, caplog):
    upstream.answers(reply(body, status, {"apim-request-id": "support-1"}))

    with pytest.raises(ApiError) as raised:
        await chunks(configured(max_retries=0), chat(stream=True))

    error = raised.value
    assert (type(error), error.status, error.code, error.param) == expected
    assert [record.levelname for record in caplog.records] == ([level] if level else [])
    if level:
        assert f"HTTP {status}" in caplog.text
        assert "support-1" in caplog.text
        assert "gpt-deployment" in caplog.text
    assert CANARY not in shown(error) + caplog.text


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "2500", "retry-after": "3"}, 2.5),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize(("status", "expected"), [(429, TooManyRequests), (503, ModelUnavailable)])
async def test_the_wait_that_an_upstream_asks_for_is_passed_on(headers, wait_s, status, expected, upstream, configured):
    upstream.answers(reply(error(str(status)), status, headers))

    with pytest.raises(expected) as raised:
        await chunks(configured(max_retries=0), chat())

    assert raised.value.retry_after_s == wait_s


async def test_nothing_of_prompt_or_answer_is_logged_even_at_debug(upstream, configured, caplog):
    caplog.set_level(logging.DEBUG)
    upstream.answers(
        stream(frame(said(CANARY)), frame(finish()), DONE),
        reply(answer(choice(CANARY))),
        reply({"data": [{"index": 0, "embedding": [1.0]}], "note": CANARY}),
        reply(error(f"{CANARY} said"), 500, {"x-request-id": f"{CANARY} said", "retry-after": "100"}),
    )
    config = configured()

    await chunks(config, chat(stream=True))
    await chunks(config, chat())
    await openai_upstream.embed(embedding(), MODEL, config)
    with pytest.raises(ModelUnavailable):
        await chunks(config, chat())

    assert "HTTP 500" in caplog.text
    assert CANARY not in caplog.text


# --- retries ---------------------------------------------------------------------------------------------------------


async def drop(request) -> web.StreamResponse:
    """Close the connection without an answer."""
    request.transport.abort()
    raise ConnectionResetError


PASSING = {
    "500": reply(error(), 500),
    "503 with a wait": reply(error(), 503, {"retry-after-ms": "1"}),
    "408": reply("", 408),
    "no answer": drop,
}


@pytest.mark.parametrize("first", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_passing_failure_before_the_answer_is_retried(first, streamed, upstream, configured):
    upstream.answers(first, first, stream(*WHOLE_STREAM) if streamed else reply(answer(choice())))

    got = await chunks(configured(max_retries=2), chat(stream=streamed))

    assert "".join(chunk.text for chunk in got) == "Hello"
    assert [seen.body for seen in upstream.seen] == [upstream.seen[0].body] * 3


async def test_a_large_body_is_sent_whole_again(upstream, configured):
    upstream.answers(reply(error(), 500), reply(answer(choice())))
    long = "long " * 500_000

    await chunks(configured(), chat(messages=[{"role": "user", "content": long}]))

    assert [len(seen.body["messages"][0]["content"]) for seen in upstream.seen] == [len(long)] * 2


@pytest.mark.parametrize(
    ("status", "headers"),
    [(429, {}), (400, {}), (500, {"x-should-retry": "false"}), (503, {"retry-after": "3600"})],
)
async def test_what_will_not_pass_soon_is_not_retried(status, headers, upstream, configured):
    upstream.answers(reply(error(), status, headers))

    with pytest.raises(ApiError):
        await chunks(configured(max_retries=2), chat())

    assert len(upstream.seen) == 1


async def test_retries_end(upstream, configured):
    upstream.answers(reply(error(), 500))

    with pytest.raises(ModelUnavailable):
        await chunks(configured(max_retries=3), chat())

    assert len(upstream.seen) == 4


async def test_a_server_that_is_not_there_is_unavailable(configured, unused_tcp_port, caplog):
    config = configured("compatible", endpoint=f"http://127.0.0.1:{unused_tcp_port}/v1", max_retries=1)

    with pytest.raises(ModelUnavailable):
        await chunks(config, chat())

    assert caplog.text.count("ClientConnectorError") == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_does_not_begin_is_given_up_and_not_asked_for_again(streamed, upstream, configured):
    upstream.answers(never)

    with pytest.raises(ModelUnavailable):
        await chunks(configured(first_byte_timeout_s=0.5, max_retries=2), chat(stream=streamed))

    assert len(upstream.seen) == 1


async def test_an_answer_that_falls_silent_is_given_up(upstream, configured):
    upstream.answers(stream(frame(said("Hello")), frame(said("again")), then=for_ever))
    config = configured(first_byte_timeout_s=1000, idle_timeout_s=0.5)
    got: list[Chunk] = []

    with pytest.raises(ModelUnavailable):
        await chunks(config, chat(stream=True), got)

    assert [chunk.text for chunk in got] == ["Hello", "again"]


async def test_a_redirect_is_not_followed(upstream, configured):
    upstream.answers(reply("", 307, {"location": f"{upstream.root}/elsewhere"}), reply(answer(choice())))

    with pytest.raises(ModelUnavailable):
        await chunks(configured(), chat())

    assert len(upstream.seen) == 1


# --- closing ---------------------------------------------------------------------------------------------------------


async def test_a_generator_that_is_closed_hangs_up(upstream, configured):
    upstream.answers(stream(frame(said("Hello")), then=for_ever))

    async with aclosing(openai_upstream.inference(chat(stream=True), MODEL, None, configured())) as answer:
        await anext(answer)
        assert not upstream.left.is_set()

    async with asyncio.timeout(10):
        await upstream.left.wait()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_caller_who_leaves_while_the_model_thinks_hangs_up(streamed, upstream, configured):
    arrived = asyncio.Event()

    async def think(request):
        arrived.set()
        return await never(request)

    upstream.answers(think)
    asking = asyncio.create_task(chunks(configured(), chat(stream=streamed)))
    async with asyncio.timeout(10):
        await arrived.wait()

        asking.cancel()

        await upstream.left.wait()
        await asyncio.wait([asking])

    assert asking.cancelled()


async def test_a_connection_is_used_again_after_a_complete_answer(upstream, configured):
    upstream.answers(reply(answer(choice())))
    config = configured()

    await chunks(config, chat())
    await chunks(config, chat())

    first, second = upstream.seen
    assert first.peer == second.peer


async def test_a_connection_is_used_again_though_the_stream_s_end_comes_late(upstream, configured, monkeypatch):
    monkeypatch.setattr("plugins.openai_upstream.connection.DRAIN_S", 20)
    finished = asyncio.Event()

    async def wait(request):
        await finished.wait()

    upstream.answers(stream(*WHOLE_STREAM, then=wait))
    config = configured()

    async with aclosing(openai_upstream.inference(chat(stream=True), MODEL, None, config)) as got:
        async for chunk in got:
            if chunk.finish_reason:
                finished.set()
    await chunks(config, chat(stream=True))

    first, second = upstream.seen
    assert first.peer == second.peer


async def test_an_answer_is_over_with_done_even_if_the_server_holds_the_line(upstream, configured):
    upstream.answers(stream(*WHOLE_STREAM, then=for_ever))

    got = await chunks(configured(), chat(stream=True))

    assert got[-1].finish_reason == "stop"
    async with asyncio.timeout(10):
        await upstream.left.wait()


async def test_a_stream_that_waits_does_not_hold_up_another(upstream, configured):
    upstream.answers(stream(frame(said("slow")), then=for_ever), stream(*WHOLE_STREAM))
    config = configured()

    async with aclosing(openai_upstream.inference(chat(stream=True), MODEL, None, config)) as slow:
        await anext(slow)
        got = await chunks(config, chat(stream=True))

    assert got[-1].finish_reason == "stop"


async def test_after_a_shutdown_the_next_use_opens_a_new_connection(upstream, configured):
    upstream.answers(reply(answer(choice())))
    config = configured()
    await chunks(config, chat())

    await openai_upstream.shutdown(config)
    await chunks(config, chat())

    assert upstream.seen[0].peer != upstream.seen[1].peer


# --- Entra ID --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def identity(monkeypatch) -> AsyncIterator[list]:
    """App Service's endpoint for managed identities, on loopback; its list of answers is (status, body)."""
    answers = []

    async def token(request):
        assert request.headers["X-IDENTITY-HEADER"] == "proof"
        assert request.query["resource"] == "https://cognitiveservices.azure.com"
        status, body = answers[0]
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_get("/token", token)
    async with served(app) as root:
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{root}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "proof")
        yield answers


async def test_azure_can_be_asked_with_the_app_s_identity(identity, upstream, configured):
    identity.append((200, {"access_token": "a-token", "expires_on": str(int(time.time()) + 3600), "resource": "r"}))
    upstream.answers(reply(answer(choice())))

    await chunks(configured(entra_id=True), chat())

    [seen] = upstream.seen
    assert seen.headers["Authorization"] == "Bearer a-token"
    assert "api-key" not in seen.headers


async def test_without_an_identity_the_model_is_unavailable_and_the_log_says_why(
    identity, upstream, configured, caplog
):
    identity.append((400, {"error": "invalid_request", "error_description": "no identity"}))

    with pytest.raises(ModelUnavailable):
        await chunks(configured(entra_id=True), chat())

    assert "no token from Entra ID" in caplog.text
    assert not upstream.seen


# --- embeddings ------------------------------------------------------------------------------------------------------


def vector(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def vectors(*embeddings: object) -> dict:
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(embeddings)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 6, "total_tokens": 6}}


def in_base64(*values: float) -> str:
    return base64.b64encode(vector(*values)).decode()


async def test_vectors_come_in_the_order_of_their_inputs(upstream, configured):
    body = vectors(in_base64(0.6, 0.8), in_base64(1.0, 0.0))
    upstream.answers(reply({**body, "data": body["data"][::-1]}))
    request = embedding("one", "two", dimensions=2, user="someone", encoding_format="float", model="mine")

    got = await openai_upstream.embed(request, MODEL, configured())

    assert got.vectors == (vector(0.6, 0.8), vector(1.0, 0.0))
    assert got.usage == Usage(prompt_tokens=6)
    [seen] = upstream.seen
    assert seen.path == "/openai/v1/embeddings"
    assert seen.body == {
        "model": "gpt-deployment", "input": ["one", "two"], "dimensions": 2, "encoding_format": "base64",
    }  # fmt: skip


async def test_numbers_of_any_length_become_a_vector_of_unit_length(upstream, configured):
    upstream.answers(reply(vectors([3.0, 4.0])))

    got = await openai_upstream.embed(embedding(), MODEL, configured("compatible"))

    assert struct.unpack("<2f", got.vectors[0]) == pytest.approx((0.6, 0.8))


@pytest.mark.parametrize(
    "body",
    [
        {},
        vectors(),
        vectors(in_base64(1.0, 0.0), in_base64(1.0, 0.0)),
        {"data": [{"index": 1, "embedding": in_base64(1.0, 0.0)}]},
        vectors(in_base64(1.0, 0.0, 0.0)),
        vectors("not base64!"),
        vectors("AAAA"),
        vectors([0.0, 0.0]),
        vectors(in_base64(float("nan"), 1.0)),
        vectors([CANARY]),
        vectors(1.0),
        vectors(None),
    ],
)
async def test_anything_but_one_good_vector_per_input_is_an_error(body, upstream, configured, caplog):
    upstream.answers(reply(body))

    with pytest.raises(ModelUnavailable) as raised:
        await openai_upstream.embed(embedding(), MODEL, configured(model={"dimensions": 2}))

    assert CANARY not in shown(raised.value) + caplog.text


async def test_an_embedding_is_retried_and_refused_as_an_answer_is(upstream, configured):
    upstream.answers(reply(error(), 503), reply(error("invalid_input", "input"), 400))

    with pytest.raises(InvalidRequest) as raised:
        await openai_upstream.embed(embedding(), MODEL, configured())

    assert (raised.value.code, raised.value.param) == ("invalid_input", "input")


def shown(error: BaseException) -> str:
    """Return all that a traceback of ``error`` would show, its causes included."""
    out = io.StringIO()
    traceback.print_exception(error, file=out, chain=True)
    return out.getvalue() + repr(vars(error))
