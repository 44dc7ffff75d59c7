"""Answers of an upstream as chunks; whatever is not a whole, well-formed answer is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from sluicegate import Chunk, ToolCall, Usage

from . import failures
from .verdicts import offsets, verdicts

_WRONG_SHAPE = (AttributeError, KeyError, TypeError, ValueError)


class StreamedAnswer:
    """Reads the events of one streamed answer.

    A choice's ``finish_reason`` is held until the end: Azure's asynchronous filter sends verdicts, and even another
    ``finish_reason``, after the one that ended the text.

    Args:
        choices: How many the answer must have.
        done_required: Whether the stream must end with ``[DONE]``, before which such verdicts may still come.
        where: For the log.
    """

    def __init__(self, choices: int, *, done_required: bool, where: str) -> None:
        self.done = False
        self._choices = choices
        self._done_required = done_required
        self._where = where
        self._finished: dict[int, str] = {}
        self._usage: Usage | None = None

    def read(self, event: bytes) -> list[Chunk]:
        """Return what one event says, possibly nothing.

        Raises:
            ApiError: The event reports an error, or is none that we understand.
        """
        if event.strip() == b"[DONE]":
            self.done = True
            return []
        try:
            frame = from_json(event)
            if frame.get("error"):
                raise failures.reported(frame["error"], self._where)
            return self._chunks(frame)
        except _WRONG_SHAPE:
            raise failures.malformed(self._where) from None

    def end(self) -> list[Chunk]:
        """Return the last chunk of each choice.

        Raises:
            ModelUnavailable: The stream ended before the answer did.
        """
        if len(self._finished) != self._choices or (self._done_required and not self.done):
            raise failures.broken_off(self._where)
        return [
            Chunk(index=index, finish_reason=reason, usage=self._usage)
            for index, reason in sorted(self._finished.items())
        ]

    def _chunks(self, frame: Mapping[str, Any]) -> list[Chunk]:
        usage = _usage(frame)
        self._usage = usage or self._usage
        chunks = _prompt_chunks(frame)
        for choice in frame.get("choices") or ():
            chunk = _chunk(choice, choice.get("delta") or {}, self._choices, usage)
            if reason := choice.get("finish_reason"):
                self._finished[chunk.index] = _text(reason)
            if chunk.text or chunk.tool_calls or chunk.refusal or chunk.logprobs or chunk.content_filter_results:
                chunks.append(chunk)
        return chunks


def whole(body: bytes, choices: int, where: str) -> list[Chunk]:
    """Return an answer that was not streamed: one chunk per choice, after one with the verdicts on the prompt.

    Raises:
        ModelUnavailable: It is not an answer with this many finished choices.
    """
    try:
        answer = from_json(body)
        usage = _usage(answer)
        parts = [_chunk(choice, choice.get("message") or {}, choices, usage, end=True) for choice in answer["choices"]]
        if len({part.index for part in parts}) != choices or len(parts) != choices:
            raise ValueError("choices")
        return _prompt_chunks(answer) + parts
    except _WRONG_SHAPE:
        raise failures.malformed(where) from None


def _prompt_chunks(frame: Mapping[str, Any]) -> list[Chunk]:
    results = {
        item.get("prompt_index", 0): verdicts(item.get("content_filter_results"))
        for item in frame.get("prompt_filter_results") or ()
    }
    return [Chunk(prompt_filter_results=results)] if results else []


def _chunk(
    choice: Mapping[str, Any], part: Mapping[str, Any], choices: int, usage: Usage | None, *, end: bool = False
) -> Chunk:
    """Return a choice of either operation; ``part`` is its delta or message, empty for completions.

    Args:
        end: Whether it must be finished; otherwise its ``finish_reason`` is left out.
    """
    index = choice.get("index", 0)
    if not (isinstance(index, int) and 0 <= index < choices):
        raise ValueError("index")
    return Chunk(
        text=_text(part.get("content") or choice.get("text")),
        index=index,
        tool_calls=_tool_calls(part.get("tool_calls")),
        refusal=_text(part.get("refusal")),
        logprobs=choice.get("logprobs") or None,
        finish_reason=_text(choice["finish_reason"], required=True) if end else None,
        content_filter_results=verdicts(choice.get("content_filter_results")),
        content_filter_offsets=offsets(choice.get("content_filter_offsets")),
        usage=usage,
    )


def _tool_calls(calls: Any) -> tuple[ToolCall, ...]:
    """A call that was not streamed has no index but its place."""
    if not calls:
        return ()
    return tuple(
        ToolCall(
            index=call.get("index", place),
            id=call.get("id"),
            name=call["function"].get("name"),
            arguments=_text(call["function"].get("arguments")),
        )
        for place, call in enumerate(calls)
    )


def _text(value: Any, *, required: bool = False) -> str:
    if isinstance(value, str) and (value or not required):
        return value
    if value is None and not required:
        return ""
    raise TypeError("not a text")


def _usage(frame: Mapping[str, Any]) -> Usage | None:
    usage = frame.get("usage")
    if not usage:
        return None
    return Usage(
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
