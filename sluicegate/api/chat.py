"""Chat answers on the wire: a stream of chunks as events in Azure's order, or collected into one body.

The order is: verdicts on the prompt, each choice's role, content, each choice's end, usage, ``[DONE]``. All roles come first
and in order, because the SDK's ``stream()`` helper numbers the choices in the order in which it meets them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sluicegate.api.encoding import encode
from sluicegate.api.generation import DONE, Envelope, Frames, collected
from sluicegate.api.sse import Events
from sluicegate.requests import ChatRequest, CustomTool
from sluicegate.types import Chunk, ToolCall, Usage


def events(chunks: AsyncIterator[Chunk], request: ChatRequest, envelope: Envelope) -> Events:
    """Return the answer as server-sent events, ending with ``[DONE]``; for ``sse.EventStream``.

    Verdicts on the prompt are those of ``request.prompt_filter_results``. The events own ``chunks``: closing them closes it,
    started or not. ``[DONE]`` is sent when ``chunks`` has ended, so whatever its finalisers raise takes its place.
    """
    return Events(_frames(chunks, request, envelope), chunks)


async def collect(chunks: AsyncIterator[Chunk], request: ChatRequest, envelope: Envelope) -> bytes:
    """Return the answer as one JSON body; ``chunks`` is closed, and whatever it raises is passed on."""
    new_choice = partial(_Choice, _Calls(request))
    return await collected("chat.completion", chunks, request, envelope, new_choice)


# --- streamed --------------------------------------------------------------------------------------------------------


async def _frames(chunks: AsyncIterator[Chunk], request: ChatRequest, envelope: Envelope) -> AsyncIterator[bytes]:
    frames = Frames("chat.completion.chunk", b'"delta":{}', request, envelope)
    calls = _Calls(request)
    usage: Usage | None = None
    if prompt := frames.prompt():
        yield prompt
    for index in range(request.choices):
        yield frames.choice(index, b'"delta":{"role":"assistant","content":""}')
    async for chunk in chunks:
        usage = chunk.usage or usage
        for frame in frames.of(chunk, _delta(chunk, calls), chunk.logprobs, calls.finish_reason(chunk.finish_reason)):
            yield frame
    if usage and request.include_usage:
        yield frames.usage(usage)
    yield DONE


def _delta(chunk: Chunk, calls: _Calls) -> bytes | None:
    if not (chunk.tool_calls or chunk.refusal):
        return b'"delta":{"content":' + encode(chunk.text) + b"}" if chunk.text else None
    delta: dict[str, Any] = {"content": chunk.text} if chunk.text else {}
    if chunk.refusal:
        delta["refusal"] = chunk.refusal
    return b'"delta":' + encode(delta | calls.pieces(chunk))


# --- collected -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    form: _Calls
    text: str = ""
    refusal: str = ""
    calls: dict[int, ToolCall] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None

    def add(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.refusal += chunk.refusal
        for piece in chunk.tool_calls:
            self.calls[piece.index] = _joined(self.calls.get(piece.index), piece)
        for name, tokens in (chunk.logprobs or {}).items():
            self.logprobs.setdefault(name, []).extend(tokens or ())
        self.finish_reason = chunk.finish_reason or self.finish_reason

    def fields(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "message": self._message(),
            "logprobs": {"content": None, "refusal": None} | self.logprobs if self.logprobs else None,
            "finish_reason": self.form.finish_reason(self.finish_reason),
        }

    def _message(self) -> dict[str, Any]:
        if self.finish_reason == "content_filter" and not (self.text or self.refusal or self.calls):
            return {"role": "assistant"}
        content = self.text if self.text or not (self.refusal or self.calls) else None
        calls = [call for _, call in sorted(self.calls.items())]
        return {
            "role": "assistant",
            "content": content,
            "refusal": self.refusal or None,
            **(self.form.whole(calls) if calls else {}),
        }


def _joined(call: ToolCall | None, piece: ToolCall) -> ToolCall:
    if call is None:
        return piece
    return ToolCall(call.index, call.id or piece.id, call.name or piece.name, call.arguments + piece.arguments)


# --- tool calls ------------------------------------------------------------------------------------------------------


class _Calls:
    """Writes tool calls in the form the request asked for: tools, custom tools, or the older functions."""

    def __init__(self, request: ChatRequest) -> None:
        self._legacy = bool(request.functions) and not request.tools
        self._custom_tools = {tool.custom.get("name") for tool in request.tools or () if isinstance(tool, CustomTool)}
        self._custom: set[tuple[int, int]] = set()

    def finish_reason(self, reason: str | None) -> str | None:
        """Return the finish reason as that form names it."""
        return "function_call" if self._legacy and reason == "tool_calls" else reason

    def pieces(self, chunk: Chunk) -> dict[str, Any]:
        """Return the members of a delta that say the chunk's pieces of tool calls."""
        if not chunk.tool_calls:
            return {}
        if self._legacy:
            first, arguments = chunk.tool_calls[0], "".join(piece.arguments for piece in chunk.tool_calls)
            return {
                "function_call": {"name": first.name, "arguments": arguments}
                if first.name
                else {"arguments": arguments}
            }
        return {"tool_calls": [self._piece(chunk.index, piece) for piece in chunk.tool_calls]}

    def whole(self, calls: list[ToolCall]) -> dict[str, Any]:
        """Return the members of a message that say ``calls``."""
        if self._legacy:
            return {"function_call": {"name": calls[0].name, "arguments": calls[0].arguments}}
        return {"tool_calls": [self._whole(call) for call in calls]}

    def _piece(self, choice: int, piece: ToolCall) -> dict[str, Any]:
        if piece.name in self._custom_tools:
            self._custom.add((choice, piece.index))
        kind, text = ("custom", "input") if (choice, piece.index) in self._custom else ("function", "arguments")
        said = {"name": piece.name, text: piece.arguments} if piece.name else {text: piece.arguments}
        head = {"id": piece.id, "type": kind} if piece.id else {}
        return {"index": piece.index, **head, kind: said}

    def _whole(self, call: ToolCall) -> dict[str, Any]:
        kind, text = ("custom", "input") if call.name in self._custom_tools else ("function", "arguments")
        return {"id": call.id, "type": kind, kind: {"name": call.name, text: call.arguments}}
