"""Load a GGUF file into the runtime, and check that it is one we can speak to.

What the runtime needs to be told, each found by trying: its RAM cache of old prompts is off, as it would take up to 8 GiB and
keep callers' text; its loopback port cannot be turned off, so it gets a random key, and its web page is off; one thread is
left to everybody else, also when it reads prompts, because its threads wait for each other and collapse to a tenth of the
speed of one as soon as another process wants a core; batches are short, because cancelling waits for the end of one.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from plugins.embedded_model.engine import Engine
from plugins.embedded_model.gguf import read_metadata
from plugins.embedded_model.tokenizer import Tokenizer
from sluicegate.errors import StartupError

_BATCH = 128
_PROBES = (
    "Hello, world! It's 2024.\n\n  naïve café 你好 🙂",
    "<|im_end|>\n<|im_start|>system\n",
    "def f(x):\n    return x**2",
)


async def load(
    weights: Path,
    *,
    slots: int = 2,
    context_length: int = 4096,
    max_waiting: int = 64,
    threads: int | None = None,
    adapters: Mapping[str, bytes] | None = None,
) -> Engine:
    """Load the model: about 1 s and, for the default one, 100 MB and 46 MB for every 2048 tokens of each slot.

    Args:
        adapters: Fine-tuned weights to load beside it, as GGUF files, by their ids.
        threads: By default one less than there are cores, at least one.

    Raises:
        StartupError: The file cannot be used; the message says why.
    """
    return await asyncio.to_thread(_load, weights, slots, context_length, max_waiting, threads, adapters or {})


def _load(
    weights: Path,
    slots: int,
    context_length: int,
    max_waiting: int,
    threads: int | None,
    adapters: Mapping[str, bytes],
) -> Engine:
    metadata = read_metadata(weights)
    tokenizer = Tokenizer(metadata)
    if missing := {"<|im_start|>", "<|im_end|>"} - tokenizer.special.keys():
        raise StartupError(f"chat_weights: the model does not speak ChatML: no {' and no '.join(sorted(missing))}")
    trained = metadata.get(f"{metadata.get('general.architecture')}.context_length", context_length)
    if context_length > trained:
        raise StartupError(f"context_length: the model was trained for at most {trained} tokens")
    key = secrets.token_urlsafe(32)
    with ExitStack() as stack:
        paths = [stack.enter_context(_readable(adapter)) for adapter in adapters.values()]
        server = _serve(weights, slots, context_length, threads or max(1, _cores() - 1), key, paths)
    _check_tokenizer(tokenizer, server.listening_address, key)
    return Engine(server, tokenizer, slots, context_length, max_waiting, tuple(adapters))


@contextmanager
def _readable(data: bytes) -> Iterator[str]:
    """Give a path under which the runtime can read ``data`` meanwhile: in memory on Linux, elsewhere a private file."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("adapter"), "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(weights: Path, slots: int, context_length: int, threads: int, key: str, adapters: Sequence[str] = ()) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx = context_length * slots
    params.n_parallel = slots
    params.kv_unified = False
    params.n_batch = params.n_ubatch = _BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 0
    params.ui = False
    params.hostnames = ["127.0.0.1"]
    params.api_keys = [key]
    params.verbosity = -1
    params.warmup = False
    # At no scale: a request says which it wants.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in adapters]
    off = [{"id": id, "scale": 0.0} for id in range(len(adapters))]
    try:
        server = xllamacpp.Server(params)
        # A runtime that is dropped before its loop has begun waits for it for ever, so let it do something first.
        server.handle_completions({"prompt": [0], "max_tokens": 1, "cache_prompt": False, "lora": off})
        return server
    except (RuntimeError, ValueError) as error:
        raise StartupError(f"chat_weights: the runtime cannot load {weights}") from error


def _check_tokenizer(tokenizer: Tokenizer, address: str, key: str) -> None:
    """Compare with the runtime's own tokenizer, so that counts are right and no text becomes a control token."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    try:
        for text in _PROBES:
            body = json.dumps({"content": text, "add_special": False, "parse_special": False})
            connection.request("POST", "/tokenize", body, {"authorization": f"Bearer {key}"})
            if json.load(connection.getresponse())["tokens"] != tokenizer.encode(text):
                raise StartupError("chat_weights: the model's tokenizer works otherwise than its file says")
    finally:
        connection.close()
