"""What the tests of the wire layer share."""

import json
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from typing import Any

import httpx2
import openai

from sluicegate import ChatRequest, Chunk, CompletionRequest
from sluicegate.api import body
from sluicegate.api.generation import Envelope

ENVELOPE = Envelope("chatcmpl-1", 1700000000, "parrot")
SAFE = {"hate": {"filtered": False, "severity": "safe"}}
HATE = {"hate": {"filtered": True, "severity": "high"}}


async def answer(*chunks: Chunk) -> AsyncGenerator[Chunk]:
    for chunk in chunks:
        yield chunk


def chat(**fields: Any) -> ChatRequest:
    """A chat request whose frames are not padded, so that they can be compared."""
    return _request(ChatRequest, {"messages": [{"role": "user", "content": "hi"}], **fields})


def completion(**fields: Any) -> CompletionRequest:
    return _request(CompletionRequest, {"prompt": "hi", **fields})


def _request(kind: type[Any], fields: dict[str, Any]) -> Any:
    if fields.get("stream"):
        fields["stream_options"] = {"include_obfuscation": False, **fields.get("stream_options", {})}
    return body.parse(kind, json.dumps(fields).encode())


async def joined(events: AsyncIterable[bytes]) -> bytes:
    return b"".join([frame async for frame in events])


async def frames(events: AsyncIterable[bytes]) -> list[Any]:
    """The events' data: parsed JSON, or the text ``[DONE]``."""
    texts = [frame.decode().removeprefix("data: ").removesuffix("\n\n") async for frame in events]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def sdk(
    content: bytes, status: int = 200, headers: Mapping[str, str] | None = None, seen: list[Any] | None = None
) -> openai.AsyncOpenAI:
    """The OpenAI SDK, to which every request is answered with ``content``; requests go to ``seen``."""
    kind = "text/event-stream" if content.startswith((b"data:", b":")) else "application/json"

    def respond(request: httpx2.Request) -> httpx2.Response:
        if seen is not None:
            seen.append(request)
        return httpx2.Response(status, content=content, headers={"content-type": kind, **(headers or {})})

    client = openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(respond))
    return openai.AsyncOpenAI(api_key="k", base_url="https://gate.test/openai/v1/", http_client=client)
