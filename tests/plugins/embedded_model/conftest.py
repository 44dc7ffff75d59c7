"""The plugin, started once with the real weights; they are fetched on the first run and come from the cache later."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from plugins import embedded_model
from plugins.embedded_model.engine import Engine
from plugins.embedded_model.tokenizer import Tokenizer
from sluicegate import ChatRequest, Chunk, CompletionRequest, Usage


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def config() -> AsyncIterator[embedded_model.Config]:
    config = embedded_model.Config(context_length=768, slots=2)
    await embedded_model.startup(config)
    yield config
    await embedded_model.shutdown(config)


@pytest.fixture(scope="session")
def engine(config: embedded_model.Config) -> Engine:
    assert config._engines is not None
    return config._engines.engine


@pytest.fixture(scope="session")
def tokenizer(engine: Engine) -> Tokenizer:
    return engine.tokenizer


@dataclass(frozen=True)
class Answered:
    """An answer's chunks, and what they come to."""

    chunks: list[Chunk]

    def choice(self, index: int = 0) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.index == index]

    def text(self, index: int = 0) -> str:
        return "".join(chunk.text for chunk in self.choice(index))

    def finish(self, index: int = 0) -> str | None:
        return self.choice(index)[-1].finish_reason

    def call(self) -> tuple[str | None, dict[str, Any]]:
        pieces = [piece for chunk in self.chunks for piece in chunk.tool_calls]
        return pieces[0].name, json.loads("".join(piece.arguments for piece in pieces))

    @property
    def usage(self) -> Usage:
        assert self.chunks[-1].usage is not None
        return self.chunks[-1].usage


def chat_request(**body: Any) -> ChatRequest:
    return ChatRequest.model_validate_json(json.dumps({"temperature": 0, **body}))


def completion_request(**body: Any) -> CompletionRequest:
    return CompletionRequest.model_validate_json(json.dumps({"temperature": 0, **body}))


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="session")
def chat(config: embedded_model.Config) -> Callable[..., Any]:
    async def ask(question: str | None = None, **body: Any) -> Answered:
        if question is not None:
            body["messages"] = user(question)
        return Answered([chunk async for chunk in embedded_model.inference(chat_request(**body), None, config)])

    return ask


@pytest.fixture(scope="session")
def complete(config: embedded_model.Config) -> Callable[..., Any]:
    async def ask(prompt: Any, **body: Any) -> Answered:
        request = completion_request(prompt=prompt, **body)
        return Answered([chunk async for chunk in embedded_model.inference(request, None, config)])

    return ask
