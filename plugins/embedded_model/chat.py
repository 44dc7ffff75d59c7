"""Answer chat requests: what a request asks of the model, translated, and its choices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from plugins.embedded_model import sampling
from plugins.embedded_model.choices import Meter, budget, merged, refuse_huge
from plugins.embedded_model.engine import Voice
from plugins.embedded_model.template import chat_prompt, turns
from plugins.embedded_model.tools import Tools, offered
from plugins.embedded_model.writer import Plan, Writer
from sluicegate import ChatRequest, Chunk, Unsupported
from sluicegate.requests import JsonSchemaFormat

_MAX_SCHEMA = 65_536


async def answer(request: ChatRequest, voice: Voice, defaults: sampling.Defaults) -> AsyncGenerator[Chunk]:
    """Yield the chunks of all choices.

    Raises:
        InvalidRequest: Too long, or an option or schema that the model cannot follow.
        ModelUnavailable: Too many requests wait.
    """
    plan = await asyncio.to_thread(_plan, request, voice, defaults)
    meter, owner = Meter(len(plan.prompt)), object()
    choices = [Writer(voice, plan, meter, index, owner).write for index in range(request.choices)]
    async with aclosing(merged(choices, voice.parallel)) as chunks:
        async for chunk in chunks:
            yield chunk


def _plan(request: ChatRequest, voice: Voice, defaults: sampling.Defaults) -> Plan:
    tools, schema = offered(request), _schema(request)
    _check_schemas(tools, schema)
    spoken = turns(request, _instructions(request, tools))
    size = sum(len(turn.text) for turn in spoken)
    refuse_huge(size, voice.tokenizer.longest, voice.context_length, "messages")
    prompt = chat_prompt(spoken, voice.tokenizer)
    limit = budget(len(prompt), request.max_output_tokens, defaults.max_tokens, voice.context_length, "messages")
    top = max(1, request.top_logprobs or 0) if request.logprobs else 0
    return Plan(request, prompt, sampling.options(request, voice.tokenizer, defaults, top), tools, schema, limit)


def _schema(request: ChatRequest) -> Mapping[str, Any] | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    return (wanted.json_schema.schema_ if isinstance(wanted, JsonSchemaFormat) else None) or {"type": "object"}


def _check_schemas(tools: Tools, schema: Mapping[str, Any] | None) -> None:
    if schema is not None and tools.functions and not tools.forced:
        raise Unsupported(
            "This model cannot choose between JSON and a tool call: set 'tool_choice' to none or required.",
            param="response_format",
        )
    # The runtime compiles a schema on the thread that decodes for everybody.
    for param, one in [("response_format", schema), *(("tools", function.parameters) for function in tools.functions)]:
        if one is not None and len(json.dumps(one)) > _MAX_SCHEMA:
            raise Unsupported(f"This model takes schemas of at most {_MAX_SCHEMA} characters.", param=param)


def _instructions(request: ChatRequest, tools: Tools) -> list[str]:
    instructions = [tools.instructions()] if tools.functions else []
    wanted = request.response_format
    if isinstance(wanted, JsonSchemaFormat) and wanted.json_schema.schema_ and not tools.forced:
        schema = json.dumps(wanted.json_schema.schema_, ensure_ascii=False)
        instructions.append(f"Answer with JSON that fits this schema:\n{schema}")
    return instructions
