"""What asking an upstream costs: the ``openai`` package over two transports, plain aiohttp, and the plugin.

    python -m benchmarks.upstream_client [--rounds 5]

A mock upstream runs in a process of its own. Printed is this process's CPU time (user and system): for an answer that is
not streamed, for a stream of 50 chunks sent back to back and one sent 10 ms apart, and for 16 embeddings of 1,536
dimensions. The clients take turns in each round; a figure is the median of the rounds.
Source of the mock's shapes: Azure OpenAI, api-version 2024-10-21.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, cast

import aiohttp
import uvloop
from openai import AsyncOpenAI, DefaultAioHttpClient
from pydantic_core import from_json

from plugins import openai_upstream
from plugins.openai_upstream.sse import EventReader
from sluicegate import ChatRequest, EmbeddingRequest, Model

CHUNKS = 50
GAP_S = 0.01
INPUTS = 16
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Summarise in one paragraph how a gateway works. " * 4},
]
PACED = b'"top_p":0.5'
"""In a body, asks the mock for a paced stream: a parameter that every gateway passes on."""
MODES = {"whole": (300, 4), "stream": (60, 4), "paced": (32, 16), "embed": (60, 4)}
"""Mode -> how many requests in a round, and how many at once."""
SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}


# --- the mock upstream -----------------------------------------------------------------------------------------------


def _frame(choice: dict[str, Any]) -> bytes:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "gpt-4o-2024-11-20"}
    event = {**frame, "choices": [{"index": 0, "logprobs": None, **choice}], "system_fingerprint": "fp_1"}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _answer(body: dict[str, Any]) -> bytes:
    data = json.dumps(body, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)


def _events() -> list[bytes]:
    said: list[dict[str, Any]] = [
        {"delta": {"content": f"word{number} "}, "finish_reason": None, "content_filter_results": SAFE}
        for number in range(CHUNKS)
    ]
    finish: dict[str, Any] = {"delta": {}, "finish_reason": "stop", "content_filter_results": {}}
    return [_frame(choice) for choice in (*said, finish)] + [b"data: [DONE]\n\n"]


USAGE = {"prompt_tokens": 40, "completion_tokens": 100, "total_tokens": 140}
CHOICE = {"index": 0, "finish_reason": "stop", "logprobs": None, "content_filter_results": SAFE}
WHOLE = _answer(
    {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "gpt-4o", "usage": USAGE,
        "choices": [{**CHOICE, "message": {"role": "assistant", "content": "word " * 100, "refusal": None}}],
    }
)  # fmt: skip
VECTOR = base64.b64encode(struct.pack("<1536f", 1.0, *[0.0] * 1535)).decode()
VECTORS = _answer(
    {
        "object": "list", "model": "text-embedding-3-small", "usage": {"prompt_tokens": 16, "total_tokens": 16},
        "data": [{"object": "embedding", "index": index, "embedding": VECTOR} for index in range(INPUTS)],
    }
)  # fmt: skip
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Mock(asyncio.Protocol):
    """Answers requests by their path and body; each event is a write of its own."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if not separator or len(body) < length:
            return
        self.received = b""
        body = body.replace(b" ", b"")
        paced = b"/paced/" in head or PACED in body
        if b"/embeddings " in head:
            self.transport.write(VECTORS)
        elif b'"stream":true' not in body:
            self.transport.write(WHOLE)
        else:
            self.stream = asyncio.ensure_future(self._send(GAP_S if paced else 0.0))

    async def _send(self, gap_s: float) -> None:
        self.transport.write(STREAM_HEAD)
        for event in EVENTS:
            self.transport.write(_http_chunk(event))
            await asyncio.sleep(gap_s)
        self.transport.write(b"0\r\n\r\n")


EVENTS = _events()


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Mock, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# --- the clients -----------------------------------------------------------------------------------------------------

Ask = Callable[[str], Awaitable[int]]
"""Asks in one mode and returns how many characters, or vectors, came back."""


def _chat(stream: bool) -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, "temperature": 0.2, "max_tokens": 200, "stream": stream}


def openai_package(root: str, stack: AsyncExitStack, *, transport: str, raw: bool = False) -> Ask:
    """Return the package as its documentation uses it or, ``raw``, with its parsing left out."""

    def client(base: str) -> AsyncOpenAI:
        http_client = DefaultAioHttpClient() if transport == "aiohttp" else None
        opened = AsyncOpenAI(api_key="k", base_url=base, http_client=http_client, max_retries=0)
        stack.push_async_callback(opened.close)
        return opened

    clients = {mode: client(f"{root}/paced/v1" if mode == "paced" else f"{root}/v1") for mode in MODES}

    async def ask(mode: str) -> int:
        api: Any = clients[mode]
        if mode == "embed":
            return len((await api.embeddings.create(model="m", input=["text"] * INPUTS)).data)
        if raw:
            streaming = api.chat.completions.with_streaming_response.create(**_chat(mode != "whole"))
            async with streaming as response:
                return await _length(response.iter_bytes(), from_json, mode != "whole")
        if mode == "whole":
            return len((await api.chat.completions.create(**_chat(False))).choices[0].message.content)
        length = 0
        async for event in await api.chat.completions.create(**_chat(True)):
            length += len(event.choices[0].delta.content or "") if event.choices else 0
        return length

    return ask


def plain_aiohttp(root: str, stack: AsyncExitStack, *, loads: Callable[[bytes], Any]) -> Ask:
    """Return aiohttp with this project's reader of events and either JSON parser."""
    session = aiohttp.ClientSession(headers={"Authorization": "Bearer k", "Content-Type": "application/json"})
    stack.push_async_callback(session.close)

    async def ask(mode: str) -> int:
        base = f"{root}/paced/v1" if mode == "paced" else f"{root}/v1"
        if mode == "embed":
            body = {"model": "m", "input": ["text"] * INPUTS, "encoding_format": "base64"}
            async with session.post(f"{base}/embeddings", data=json.dumps(body).encode()) as response:
                return len([base64.b64decode(item["embedding"]) for item in loads(await response.read())["data"]])
        data = json.dumps(_chat(mode != "whole")).encode()
        async with session.post(f"{base}/chat/completions", data=data) as response:
            return await _length(response.content.iter_any(), loads, mode != "whole")

    return ask


async def _length(blocks: AsyncIterator[bytes], loads: Callable[[bytes], Any], stream: bool) -> int:
    if not stream:
        return len(loads(b"".join([block async for block in blocks]))["choices"][0]["message"]["content"])
    events, length = EventReader(), 0
    async for block in blocks:
        for event in events.feed(block):
            if event.strip() != b"[DONE]":
                length += len(loads(event)["choices"][0]["delta"].get("content") or "")
    return length


def plugin(root: str, stack: AsyncExitStack) -> Ask:
    """Return the plugin's hooks, from a request to chunks or vectors."""
    models = [{"id": "m", "operations": ["chat.completions", "embeddings"], "retention": "nothing"}]
    upstreams = [{"kind": "openai", "api_key_setting": "PATH", "models": models}]
    config = {
        paced: openai_upstream.Config.model_validate(
            {"upstreams": [{**upstreams[0], "endpoint": f"{root}/paced/v1" if paced else f"{root}/v1"}]}
        )
        for paced in (False, True)
    }
    for settings in config.values():
        stack.push_async_callback(settings.close)
    model = Model("m", frozenset({"chat.completions", "embeddings"}))
    chat = {stream: ChatRequest.model_validate_json(json.dumps(_chat(stream))) for stream in (False, True)}
    embedding = EmbeddingRequest(input=("text",) * INPUTS)

    async def ask(mode: str) -> int:
        settings = config[mode == "paced"]
        if mode == "embed":
            return len((await openai_upstream.embed(embedding, model, settings)).vectors)
        answer: Any = openai_upstream.inference(chat[mode != "whole"], model, None, settings)
        async with aclosing(answer) as chunks:
            return sum([len(chunk.text) async for chunk in chunks])

    return ask


# --- measuring -------------------------------------------------------------------------------------------------------


async def cost_ms(ask: Ask, mode: str) -> float:
    """Return CPU milliseconds per request."""
    count, at_once = MODES[mode]
    expected = {"embed": INPUTS, "whole": 500}.get(mode, sum(len(f"word{number} ") for number in range(CHUNKS)))

    async def some(number: int) -> None:
        for _ in range(number):
            assert await ask(mode) == expected, mode

    began = time.process_time()
    await asyncio.gather(*(some(count // at_once) for _ in range(at_once)))
    return (time.process_time() - began) * 1000 / count


async def measure(root: str, rounds: int) -> None:
    costs: dict[tuple[str, str], list[float]] = {}
    async with AsyncExitStack() as stack:
        clients = {
            "openai, default transport": openai_package(root, stack, transport="default"),
            "openai, aiohttp transport": openai_package(root, stack, transport="aiohttp"),
            "openai, aiohttp transport, raw": openai_package(root, stack, transport="aiohttp", raw=True),
            "aiohttp, json": plain_aiohttp(root, stack, loads=json.loads),
            "aiohttp, pydantic_core.from_json": plain_aiohttp(root, stack, loads=from_json),
            "plugin openai_upstream": plugin(root, stack),
        }
        for number in range(rounds + 1):
            for mode in MODES:
                for name, ask in clients.items():
                    cost = await cost_ms(ask, mode)
                    if number:  # the first round opens connections
                        costs.setdefault((name, mode), []).append(cost)
    report({name: {mode: statistics.median(costs[name, mode]) for mode in MODES} for name in clients})


def report(rows: dict[str, dict[str, float]]) -> None:
    """Print a table; in brackets the ratio to the last row."""
    base = list(rows.values())[-1]
    print("| CPU ms | whole | stream | paced | µs per paced chunk | embed |\n|---|---|---|---|---|---|")
    for name, row in rows.items():
        cells = {mode: f"{cost:.2f} ({cost / base[mode]:.1f}×)" for mode, cost in row.items()}
        per_chunk = row["paced"] * 1000 / CHUNKS
        print(
            f"| {name} | {cells['whole']} | {cells['stream']} | {cells['paced']} | {per_chunk:.0f} | {cells['embed']} |"
        )


def import_cost_ms(module: str) -> float:
    """Return the CPU milliseconds of importing a module into a fresh interpreter; the least of five."""
    code = f"import time; began = time.process_time(); import {module}; print((time.process_time() - began) * 1000)"
    return min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return uvloop.run(serve())
    mock = subprocess.Popen([sys.executable, "-m", "benchmarks.upstream_client", "--serve"], stdout=subprocess.PIPE)
    try:
        assert mock.stdout is not None
        uvloop.run(measure(f"http://127.0.0.1:{int(mock.stdout.readline())}", options.rounds))
    finally:
        mock.terminate()
        mock.wait()
    for module in ("openai", "aiohttp", "sluicegate", "plugins.openai_upstream"):
        print(f"import {module}: {import_cost_ms(module):.0f} ms CPU")
    return None


if __name__ == "__main__":
    main()
