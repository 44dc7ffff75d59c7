"""Models that do what the prompt's script says.

A prompt or an input that is ``play`` and a base64 JSON object ``{"name", "lines"}`` is a script; of a chat, the last message
is the prompt. When the answer of a script with a name has ended, however it did, the test is told ``closed NAME``. The lines::

    "text"                                      a piece of every choice's text
    {"text", "index", "refusal", "logprobs", "tool_calls", "finish_reason"}
                                                a chunk
    {"asked": true}                             the request as the model sees it, as JSON text
    {"cue": "name"}                             wait until the test gives this cue
    {"raise": "TooManyRequests", "message", "retry_after_s", "once": "name"}

Weights are the beginning of what is repeated. A choice that the script does not finish ends with ``stop``. Any other prompt is repeated: "You said: …". A word is a token;
token ids are UTF-8 bytes. A vector depends on its text only.
"""

import base64
import builtins
import hashlib
import json
import math
import struct
from dataclasses import replace

from pydantic import PrivateAttr

from rehearsal.cues import tell, wait_for
from sluicegate import (
    ChatRequest,
    Chunk,
    Embeddings,
    InvalidRequest,
    Model,
    PluginConfig,
    ToolCall,
    Usage,
    errors,
    hookimpl,
)
from sluicegate.requests import FEATURES

DIMENSIONS = 16


class Config(PluginConfig):
    retains: bool = False
    features: tuple[str, ...] = tuple(FEATURES)
    """What the models can do beyond plain text."""

    _raised: set[str] = PrivateAttr(default_factory=set)


@hookimpl
def register_config():
    return Config


@hookimpl
def register_models(config):
    features = frozenset(config.features)
    generation = frozenset({"chat.completions", "completions"})
    kept = "the script, in the theatre's archive"
    return [
        Model(
            "rehearsal-chat",
            generation,
            features,
            context_length=1000,
            created=1_700_000_000,
            retention=kept,
            retains=config.retains,
        ),
        Model("rehearsal-embedding", frozenset({"embeddings"}), features, dimensions=DIMENSIONS),
    ]


@hookimpl
def detokenize(tokens):
    try:
        return bytes(tokens).decode()
    except ValueError:
        raise InvalidRequest("Invalid token: these ids are not in this model's vocabulary.") from None


@hookimpl
async def inference(request, weights, config):
    learnt = "" if weights is None else b"".join([piece async for piece in weights.read()]).decode()
    prompts = _prompts(request)
    script = _script(prompts[0])
    lines = [{"index": index, "text": learnt + _reply(request, index)} for index in range(request.choices)]
    unfinished = set(range(request.choices))
    usage = Usage(sum(len(prompt.split()) for prompt in prompts))
    try:
        for line in script["lines"] if script else lines:
            for chunk in await _chunks(line, request, config):
                usage = replace(usage, completion_tokens=usage.completion_tokens + len(chunk.text.split()))
                unfinished -= {chunk.index} if chunk.finish_reason else set()
                yield replace(chunk, usage=usage)
        for index in sorted(unfinished):
            yield Chunk(index=index, finish_reason="stop")
    finally:
        if script and script["name"]:
            tell(f"closed {script['name']}")


@hookimpl
async def embed(request, config):
    for line in (_script(request.inputs[0]) or {"lines": ()})["lines"]:
        await _chunks(line, request, config)
    vectors = tuple(_vector(text, request.dimensions or DIMENSIONS) for text in request.inputs)
    return Embeddings(vectors, Usage(sum(len(text.split()) for text in request.inputs)))


def _prompts(request):
    return [_text(request.messages[-1].content)] if isinstance(request, ChatRequest) else list(request.prompts)


def _text(content):
    return content if isinstance(content, str) else "".join(part.text for part in content or () if part.type == "text")


def _script(prompt):
    word, _, script = prompt.partition(" ")
    return json.loads(base64.b64decode(script)) if word == "play" else None


def _reply(request, index):
    prompts = _prompts(request)
    return f"You said: {prompts[index * len(prompts) // request.choices]}"


async def _chunks(line, request, config):
    if isinstance(line, str):
        return [Chunk(line, index=index) for index in range(request.choices)]
    if "cue" in line:
        await wait_for(line["cue"])
        return []
    if "asked" in line:
        return [Chunk(json.dumps(request.body()))]
    if "raise" in line:
        _raise(line, config)
        return []
    calls = tuple(ToolCall(**call) for call in line.get("tool_calls", ()))
    return [Chunk(**{**line, "tool_calls": calls})]


def _raise(line, config):
    if line.get("once") in config._raised:
        return
    if "once" in line:
        config._raised.add(line["once"])
    kind = getattr(errors, line["raise"], None) or getattr(builtins, line["raise"])
    details = {name: line[name] for name in ("retry_after_s", "status", "code") if name in line}
    raise kind(line.get("message", "No."), **details)


def _vector(text, dimensions):
    digest = hashlib.shake_256(text.encode()).digest(dimensions)
    length = math.sqrt(sum(byte * byte for byte in digest))
    return struct.pack(f"<{dimensions}f", *(byte / length for byte in digest))
