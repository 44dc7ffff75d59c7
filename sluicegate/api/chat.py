"""Chat answers on the wire: a stream of chunks as events in Azure's order, or collected into one body.

The order is: verdicts on the prompt, each choice's role, content, each choice's end, usage, ``[DONE]``. All roles come first
and in order, because the SDK's ``stream()`` helper takes the choices in the order in which it meets them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from sluicegate.api.generation import DONE, Envelope, Frames, encode, prompt_filter_results, usage_fields
from sluicegate.api.sse import Events, closing
from sluicegate.requests import ChatRequest, CustomTool
from sluicegate.types import Chunk, ToolCall, Usage

_ROLE = b'"delta":{"role":"assistant","content":""}'
_EMPTY = b'"delta":{}'


def events(chunks: AsyncIterator[Chunk], request: ChatRequest, envelope: Envelope) -> Events:
    """Return the answer as server-sent events, ending with ``[DONE]``; for ``sse.EventStream``.

    Verdicts on the prompt are those of ``request.prompt_filter_results``. The events own ``chunks``: closing them closes it,
    started or not. ``[DONE]`` is sent when ``chunks`` has ended, so whatever its finalisers raise takes its place.
    """
    return Events(_frames(chunks, request, envelope), chunks)


async def _frames(chunks: AsyncIterator[Chunk], request: ChatRequest, envelope: Envelope) -> AsyncIterator[bytes]:
    frames = Frames("chat.completion.chunk", request, envelope)
    calls = _Calls(request)
    usage: Usage | None = None
    if prompt := frames.prompt():
        yield prompt
    for index in range(request.choices):
        yield frames.choice(index, _ROLE)
    async for chunk in chunks:
        usage = chunk.usage or usage
        for frame in _content_and_end(chunk, frames, calls):
            yield frame
    if usage and request.include_usage:
        yield frames.usage(usage)
    yield DONE


def _content_and_end(chunk: Chunk, frames: Frames, calls: _Calls) -> list[bytes]:
    """Return the chunk's frames: its content, if any, and its choice's end, if it is the last."""
    written = []
    results = chunk.content_filter_results
    has_content = bool(chunk.text or chunk.tool_calls or chunk.refusal)
    if has_content or (results and not chunk.finish_reason):
        delta = _delta(chunk, calls) if has_content else _EMPTY
        written.append(frames.choice(chunk.index, delta, logprobs=chunk.logprobs, results=results))
    if chunk.finish_reason:
        # The end repeats only a verdict that explains it.
        explains = chunk.finish_reason == "content_filter" or not has_content
        reason = calls.finish_reason(chunk.finish_reason)
        written.append(frames.choice(chunk.index, _EMPTY, finish_reason=reason, results=results if explains else None))
    return written


def _delta(chunk: Chunk, calls: _Calls) -> bytes:
    if chunk.text and not chunk.tool_calls and not chunk.refusal:
        return b'"delta":{"content":' + encode(chunk.text) + b"}"
    delta: dict[str, Any] = {"content": chunk.text} if chunk.text else {}
    if chunk.refusal:
        delta["refusal"] = chunk.refusal
    return b'"delta":' + encode(delta | calls.pieces(chunk.index, chunk.tool_calls))


async def collect(chunks: AsyncIterator[Chunk], request: ChatRequest, envelope: Envelope) -> bytes:
    """Return the answer as one JSON body; ``chunks`` is closed, and whatever it raises is passed on."""
    choices = [_Choice() for _ in range(request.choices)]
    usage: Usage | None = None
    async with closing(chunks):
        async for chunk in chunks:
            usage = chunk.usage or usage
            choices[chunk.index].add(chunk)
    calls = _Calls(request)
    body = envelope.fields("chat.completion")
    body["choices"] = [choice.fields(index, calls, envelope) for index, choice in enumerate(choices)]
    if envelope.annotations and (results := prompt_filter_results(request)):
        body["prompt_filter_results"] = results
    if usage:
        body["usage"] = usage_fields(usage)
    return encode(body)


@dataclass(slots=True)
class _Choice:
    """One choice, being collected."""

    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: dict[int, ToolCall] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None
    results: dict[str, Any] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> None:
        self.text.append(chunk.text)
        self.refusal.append(chunk.refusal)
        for piece in chunk.tool_calls:
            self.calls[piece.index] = _joined(self.calls.get(piece.index), piece)
        for name, tokens in (chunk.logprobs or {}).items():
            self.logprobs.setdefault(name, []).extend(tokens or ())
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.results.update(chunk.content_filter_results)

    def fields(self, index: int, calls: _Calls, envelope: Envelope) -> dict[str, Any]:
        fields = {
            "index": index,
            "message": self._message(calls),
            "logprobs": {"content": None, "refusal": None} | self.logprobs if self.logprobs else None,
            "finish_reason": calls.finish_reason(self.finish_reason),
        }
        return fields | {"content_filter_results": self.results} if envelope.annotations else fields

    def _message(self, calls: _Calls) -> dict[str, Any]:
        text, refusal = "".join(self.text), "".join(self.refusal)
        if self.finish_reason == "content_filter" and not (text or refusal or self.calls):
            return {"role": "assistant"}
        content = text if text or not (refusal or self.calls) else None
        whole = [self.calls[index] for index in sorted(self.calls)]
        return {"role": "assistant", "content": content, "refusal": refusal or None, **calls.whole(whole)}


def _joined(call: ToolCall | None, piece: ToolCall) -> ToolCall:
    if call is None:
        return piece
    return ToolCall(call.index, call.id or piece.id, call.name or piece.name, call.arguments + piece.arguments)


class _Calls:
    """Writes tool calls in the form the request asked for: tools, custom tools, or the older functions."""

    def __init__(self, request: ChatRequest) -> None:
        self._legacy = bool(request.functions) and not request.tools
        self._custom_tools = {tool.custom.get("name") for tool in request.tools or () if isinstance(tool, CustomTool)}
        self._custom: set[tuple[int, int]] = set()

    def finish_reason(self, reason: str | None) -> str | None:
        return "function_call" if self._legacy and reason == "tool_calls" else reason

    def pieces(self, choice: int, pieces: tuple[ToolCall, ...]) -> dict[str, Any]:
        """Return the members of a delta that say ``pieces``."""
        if not pieces:
            return {}
        if self._legacy:
            named = {"name": pieces[0].name} if pieces[0].name else {}
            return {"function_call": {**named, "arguments": "".join(piece.arguments for piece in pieces)}}
        return {"tool_calls": [self._piece(choice, piece) for piece in pieces]}

    def whole(self, calls: list[ToolCall]) -> dict[str, Any]:
        """Return the members of a message that say ``calls``."""
        if not calls:
            return {}
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
