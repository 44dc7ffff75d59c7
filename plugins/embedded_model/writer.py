"""Write one choice of a chat answer: text, JSON of a schema, or a tool call."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from plugins.embedded_model import sampling
from plugins.embedded_model.choices import Meter, Send
from plugins.embedded_model.engine import Lease, Piece, SchemaNotSupported, Voice
from plugins.embedded_model.logprobs import for_chat
from plugins.embedded_model.release import Release, Unit, unit_of
from plugins.embedded_model.tools import ANY_ARGUMENTS, CALL_MARK, NAME_OPENING, NO_ARGUMENTS, Tools, arguments_opening
from sluicegate import ChatRequest, Chunk, ToolCall, Unsupported
from sluicegate.requests import Function


@dataclass(frozen=True, slots=True)
class Plan:
    """A chat request, translated.

    Attributes:
        options: The runtime's, but for seed and length.
        schema: What a JSON answer must fit; None for text.
        limit: Tokens an answer may have.
    """

    request: ChatRequest
    prompt: list[int]
    options: Mapping[str, Any]
    tools: Tools
    schema: Mapping[str, Any] | None
    limit: int


class Writer:
    """Writes one choice, in one slot, as one run of the runtime or, with tools, several.

    Args:
        owner: The same object for all choices of a request.
    """

    def __init__(self, voice: Voice, plan: Plan, meter: Meter, index: int, owner: object) -> None:
        self._voice = voice
        self._plan = plan
        self._meter = meter
        self._index = index
        self._owner = owner
        self._spent = 0
        self._begun = False

    async def write(self, send: Send) -> None:
        """Write the choice, its last chunk with a ``finish_reason``."""
        async with self._voice.lease(self._plan.prompt, self._owner) as lease:
            if self._plan.tools.forced:
                await self._write_call(lease, self._plan.prompt, send)
            else:
                await self._write_text(lease, send)

    async def _write_text(self, lease: Lease, send: Send) -> None:
        """Write text, and go on with a tool call when the model begins one."""
        plan, tokenizer = self._plan, self._voice.tokenizer
        stops = sampling.stops(plan.request)
        may_call = bool(plan.tools.functions) and CALL_MARK not in stops
        release = Release([*stops, CALL_MARK] if may_call else stops)
        options = await self._text_options(lease)
        written, finish = "", "stop"
        async with aclosing(lease.run(plan.prompt, options)) as pieces:
            async for piece in pieces:
                self._count(lease, piece)
                units = release.feed(unit_of(piece, tokenizer))
                if piece.finish_reason and release.matched is None:
                    finish = piece.finish_reason
                    units += release.rest()
                text = "".join(unit.text for unit in units)
                if text:
                    written += text
                    await send(Chunk(text, self._index, logprobs=self._logprobs(units), usage=self._meter.usage))
                if release.matched is not None:
                    break
        if may_call and release.matched == CALL_MARK:
            await self._write_call(lease, [*plan.prompt, *tokenizer.encode(written)], send)
        else:
            await send(Chunk(index=self._index, finish_reason=finish, usage=self._meter.usage))

    async def _write_call(self, lease: Lease, prompt: Sequence[int], send: Send) -> None:
        """Write a tool call: its name, unless there is only one function, and then its arguments."""
        functions = {function.name: function for function in self._plan.tools.functions}
        name: str | None = next(iter(functions))
        if len(functions) > 1:
            name = await self._written_name(lease, prompt, list(functions))
        finish = "length"
        if name is not None:
            call = ToolCall(0, id=f"call_{secrets.token_hex(12)}", name=name)
            await send(Chunk(index=self._index, tool_calls=(call,), usage=self._meter.usage))
            finish = await self._write_arguments(lease, prompt, functions[name], send)
        await send(Chunk(index=self._index, finish_reason=finish, usage=self._meter.usage))

    async def _written_name(self, lease: Lease, prompt: Sequence[int], names: list[str]) -> str | None:
        """Return the function that the model calls; None when it may not write enough to say."""
        prompt = [*prompt, *self._voice.tokenizer.encode(NAME_OPENING)]
        text, finish = "", "length"
        if options := await self._part_options(lease, prompt, {"enum": names}):
            async with aclosing(lease.run(prompt, options)) as pieces:
                async for piece in pieces:
                    self._count(lease, piece)
                    text, finish = text + piece.text, piece.finish_reason or finish
        return str(json.loads(text)) if finish == "stop" else None

    async def _write_arguments(self, lease: Lease, prompt: Sequence[int], function: Function, send: Send) -> str:
        """Write the arguments as they come; return the choice's ``finish_reason``."""
        prompt = [*prompt, *self._voice.tokenizer.encode(arguments_opening(function.name))]
        options = await self._arguments_options(lease, prompt, function)
        finish = "length"
        if not options:
            return finish
        async with aclosing(lease.run(prompt, options)) as pieces:
            async for piece in pieces:
                self._count(lease, piece)
                if piece.text:
                    part = ToolCall(0, arguments=piece.text)
                    await send(Chunk(index=self._index, tool_calls=(part,), usage=self._meter.usage))
                if piece.finish_reason == "stop":
                    finish = "tool_calls"
        return finish

    # --- options -----------------------------------------------------------------------------------------------------

    async def _text_options(self, lease: Lease) -> Mapping[str, Any]:
        plan = self._plan
        options = self._options(plan.limit)
        if plan.schema is None:
            return options
        try:
            return await lease.constrain(plan.prompt, options, plan.schema)
        except SchemaNotSupported:
            raise _unsupported("response_format", "The schema of 'response_format' uses") from None

    async def _arguments_options(
        self, lease: Lease, prompt: Sequence[int], function: Function
    ) -> Mapping[str, Any] | None:
        """Without ``strict`` a schema is followed as far as possible, which for a schema beyond the grammar is: JSON."""
        schema = {"type": "object", **(function.parameters or NO_ARGUMENTS)}
        try:
            return await self._part_options(lease, prompt, schema)
        except SchemaNotSupported:
            if function.strict:
                raise _unsupported("tools", f"The strict function {function.name!r} uses") from None
            return await self._part_options(lease, prompt, ANY_ARGUMENTS)

    async def _part_options(
        self, lease: Lease, prompt: Sequence[int], schema: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Return options for a part of a tool call; None when there is no room for it."""
        left = min(self._plan.limit - self._spent, self._voice.context_length - len(prompt))
        return await lease.constrain(prompt, {**self._options(left), "n_probs": 0}, schema) if left > 0 else None

    def _options(self, max_tokens: int) -> dict[str, Any]:
        return {**self._plan.options, **sampling.seed(self._plan.request, self._index), "max_tokens": max_tokens}

    # --- numbers -----------------------------------------------------------------------------------------------------

    def _count(self, lease: Lease, piece: Piece) -> None:
        self._spent += piece.new
        self._meter.completion_tokens += piece.new
        if self._index == 0 and not self._begun:
            self._meter.cached_tokens = lease.cached or 0
        self._begun = True

    def _logprobs(self, units: Sequence[Unit]) -> Mapping[str, Any] | None:
        request = self._plan.request
        return for_chat(units, self._voice.tokenizer, request.top_logprobs or 0) if request.logprobs else None


def _unsupported(param: str, what: str) -> Unsupported:
    message = f"{what} something that this model's grammar cannot express, or that nothing can satisfy."
    return Unsupported(message, code="unsupported_schema", param=param)
