"""Several choices of one answer at once, as far as slots allow, and what all of them cost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sluicegate import Chunk, InvalidRequest, Usage

Send: TypeAlias = Callable[[Chunk], Awaitable[None]]
Choice: TypeAlias = Callable[[Send], Awaitable[None]]
"""Writes one choice, chunk by chunk."""
_Item: TypeAlias = Chunk | Exception | None
"""A chunk, what ended the answer badly, or None when nobody writes any more."""
_MUCH = 256


@dataclass(slots=True)
class Meter:
    """The tokens of one request so far, over all its choices.

    Attributes:
        prompt_tokens: Of each prompt once, however many choices it has; ``cached_tokens`` likewise.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.completion_tokens, self.cached_tokens)


def budget(prompt_tokens: int, asked: int | None, default: int, context_length: int, param: str) -> int:
    """Return how many tokens an answer may have.

    Args:
        asked: The request's own limit.
        default: The limit of a request that names none; it never makes a request too long.

    Raises:
        InvalidRequest: Prompt and answer do not fit, with code ``context_length_exceeded``.
    """
    left = context_length - prompt_tokens
    if left < 1 or (asked or 0) > left:
        raise too_long(context_length, f"{prompt_tokens} tokens in the {param}", asked, param)
    return min(default, left) if asked is None else asked


def too_long(context_length: int, prompt: str, asked: int | None, param: str) -> InvalidRequest:
    """Return the error for more tokens than the model can take."""
    completion = "" if asked is None else f" and {asked} for the completion"
    return InvalidRequest(
        f"This model's maximum context length is {context_length} tokens. However, you requested {prompt}{completion}. "
        f"Please reduce the length of the {param} or of the completion.",
        code="context_length_exceeded",
        param=param,
    )


def refuse_huge(length: int, longest_token: int, context_length: int, param: str) -> None:
    """Refuse a text that cannot fit whatever its tokens are, because counting them could take seconds.

    Args:
        length: Characters, of which each is at least a byte.
        longest_token: Bytes of the longest token.
    """
    least = length // longest_token
    if least > context_length:
        raise too_long(context_length, f"at least {least} tokens in the {param}", None, param)


async def merged(choices: Sequence[Choice], parallel: int) -> AsyncGenerator[Chunk]:
    """Yield the chunks of all choices as they come, ``parallel`` choices at a time; the first failure ends all.

    A choice that was begun is written to its end however slow the reader is, because it holds a slot of the model; with
    much unread, no other one is begun.
    """
    waiting = deque(choices)
    ready: asyncio.Queue[_Item] = asyncio.Queue()
    room = asyncio.Event()
    tasks = [asyncio.create_task(_work(waiting, ready, room)) for _ in range(min(parallel, len(choices)))]
    try:
        working = len(tasks)
        while working:
            if ready.qsize() <= _MUCH:
                room.set()
            item = await ready.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                working -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(waiting: deque[Choice], ready: asyncio.Queue[_Item], room: asyncio.Event) -> None:
    end: Exception | None = None
    try:
        while waiting:
            await waiting.popleft()(ready.put)
            if ready.qsize() > _MUCH:
                room.clear()
            await room.wait()
    except Exception as error:  # noqa: BLE001 - raised again where the choices meet
        end = error
    await ready.put(end)
