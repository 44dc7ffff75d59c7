"""Run the chat model in this process, on the event loop's terms.

xllamacpp is llama.cpp's server as a library: it decodes all running requests in one batch on a thread of its own. A request
blocks the thread that made it, so each gets one from a pool, and its tokens come back through a queue. Closing the generator
stops the runtime at its next token, or within a prompt at its next batch.

Two things that the runtime must be told with every request were found by trying: ``lora`` in full, because without it a
request may run on a cache computed under another's adapter; and a proof that its grammar works, because one that it
cannot compile is dropped in silence (see ``Lease.constrain``).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from plugins.embedded_model.slots import Slot, Slots
from plugins.embedded_model.tokenizer import Tokenizer
from sluicegate import ModelUnavailable

_COMPACT = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


class SchemaNotSupported(Exception):
    """The runtime cannot hold an answer to this JSON schema. Its caller knows which field to blame."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step of a run produced.

    Attributes:
        text: Whole characters; the bytes of an unfinished one are held back.
        new: Tokens it took; more than one for a character of several, none at the end.
        generated: Tokens of this run so far.
        logprobs: The runtime's entries ``{"id", "bytes", "logprob", "top_logprobs"}``, one a token.
        finish_reason: ``stop`` or ``length`` on the last piece.
    """

    text: str
    new: int
    generated: int
    logprobs: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str | None = None


class Engine:
    """A loaded model; :func:`plugins.embedded_model.loading.load` makes one.

    Args:
        server: The runtime, an ``xllamacpp.Server``.

    Attributes:
        adapters: The fine-tuned weights that were loaded beside the model, by their ids.
        parallel: Requests that run at once.
        context_length: Tokens of prompt and answer together, for each slot.
    """

    def __init__(
        self,
        server: Any,
        tokenizer: Tokenizer,
        slots: int,
        context_length: int,
        max_waiting: int,
        adapters: Sequence[str] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.adapters = tuple(adapters)
        self.context_length = context_length
        self.parallel = slots
        self.slots = Slots(slots, max_waiting)
        self._server = server
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="embedded-model")
        self._running: set[_Run] = set()
        self._closed = False

    @asynccontextmanager
    async def lease(self, prompt: Sequence[int], owner: object, adapter: str | None = None) -> AsyncIterator[Lease]:
        """Wait for a slot and hold it. It is free again as soon as the runtime has stopped, not before.

        Args:
            owner: The same object for all leases of one request, which may share what they read.
            adapter: Which of ``adapters`` is at work; None for the model as it is.

        Raises:
            ModelUnavailable: The queue is full, or the model was closed.
        """
        lease = Lease(self, await self.slots.acquire(prompt, owner, adapter), owner, adapter)
        try:
            yield lease
        finally:
            lease.end()

    def start(self, body: Mapping[str, Any]) -> _Run:
        """Hand a request to the runtime, on a thread of its own."""
        if self._closed:
            raise ModelUnavailable("The model was shut down.")
        run = _Run(self._threads, self._server, body)
        self._running.add(run)
        run.done.add_done_callback(lambda _: self._running.discard(run))
        return run

    async def close(self) -> None:
        """Stop what runs, and unload the model."""
        self._closed = True
        for run in self._running:
            run.cancelled.set()
        await asyncio.to_thread(self._unload)

    def _unload(self) -> None:
        self._threads.shutdown()
        self._server = None


@dataclass(frozen=True, slots=True)
class Voice:
    """An engine with one of its adapters at work, or none: what answers a request."""

    engine: Engine
    adapter: str | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    @property
    def context_length(self) -> int:
        return self.engine.context_length

    @property
    def parallel(self) -> int:
        return self.engine.parallel

    def lease(self, prompt: Sequence[int], owner: object) -> AbstractAsyncContextManager[Lease]:
        """See :meth:`Engine.lease`."""
        return self.engine.lease(prompt, owner, self.adapter)


class _Run:
    """One call of the runtime.

    Attributes:
        done: When the runtime has returned.
        cancelled: Asks it to.
    """

    def __init__(self, threads: Executor, server: Any, body: Mapping[str, Any]) -> None:
        self.cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.done = self._loop.run_in_executor(threads, server.handle_completions, body, self._on_chunk)
        self.done.add_done_callback(self._on_done)

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield the runtime's chunks; raise what it raised."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
        await self.done

    def _on_chunk(self, chunk: dict[str, Any]) -> bool:
        """Take a chunk, on the pool's thread; True stops the runtime, which swallows exceptions from here."""
        try:
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)
        except RuntimeError:  # The loop is closed: nobody reads any more.
            return True
        return self.cancelled.is_set()

    def _on_done(self, done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            done.exception()  # Seen: if nobody reads any more, asyncio would log its message.
        self._chunks.put_nowait(None)


class Lease:
    """A slot, while one choice of an answer holds it. Runs follow one another; a new one stops the one before.

    Attributes:
        cached: Tokens of the first prompt that the slot still knew.
    """

    def __init__(self, engine: Engine, slot: Slot, owner: object, adapter: str | None) -> None:
        self.cached: int | None = None
        self._engine = engine
        self._slot = slot
        self._owner = owner
        self._adapter = adapter
        # All of them, each time: where one is left out, the runtime goes on from what it read under another.
        self._lora = [{"id": id, "scale": float(name == adapter)} for id, name in enumerate(engine.adapters)]
        self._run: _Run | None = None

    async def run(self, prompt: Sequence[int], options: Mapping[str, Any]) -> AsyncGenerator[Piece]:
        """Yield what the model adds to ``prompt``. Closing the generator, or the lease, stops the runtime.

        Args:
            options: In the runtime's names; ``max_tokens`` is at least 1.

        Raises:
            ModelUnavailable: The model was shut down meanwhile.
        """
        await self._stopped()
        slot = self._slot
        body = {
            **options,
            "prompt": list(prompt),
            "id_slot": slot.number,
            "cache_prompt": slot.remembers(prompt, self._owner, self._adapter),
            "lora": self._lora,
            "stream": True,
            "return_progress": True,
            "verbose": True,
        }
        slot.tokens, slot.owner, slot.adapter = [], self._owner, self._adapter
        run = self._run = self._engine.start(body)
        ids: list[int] = []
        piece: Piece | None = None
        try:
            async for chunk in run.chunks():
                if "prompt_progress" in chunk:
                    self.cached = chunk["prompt_progress"]["cache"] if self.cached is None else self.cached
                    continue
                piece = _piece(chunk, piece.generated if piece else 0)
                ids += chunk["__verbose"]["tokens"]
                yield piece
            if piece is None or piece.finish_reason is None:
                raise ModelUnavailable("The model was stopped.")
            # Of a character that took several tokens not all ids are reported: then nobody may continue.
            if len(ids) == piece.generated:
                slot.tokens = [*prompt, *ids]
        finally:
            run.cancelled.set()

    async def constrain(
        self, prompt: Sequence[int], options: Mapping[str, Any], schema: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return options that hold a run to JSON of this schema, proven to work; ``prompt`` is read on the way.

        The runtime drops a grammar that it cannot compile, without a word. So one token is asked for, with all weight on
        a letter that no JSON begins with: when it comes, the grammar is not there.

        Raises:
            SchemaNotSupported: The schema uses something that the grammar cannot express, or nothing can satisfy it.
        """
        options = {**options, "json_schema": {**schema, **_COMPACT}}
        (letter,) = self._engine.tokenizer.encode("z")
        probe = {**options, "max_tokens": 1, "temperature": 0.0, "n_probs": 0, "logit_bias": [[letter, 100.0]]}
        async for piece in self.run(prompt, probe):
            if piece.text.startswith("z"):
                raise SchemaNotSupported
        return options

    def end(self) -> None:
        """Give the slot back, once the runtime is done with it."""
        slots, slot = self._engine.slots, self._slot
        if self._run is None or self._run.done.done():
            slots.release(slot)
        else:
            self._run.cancelled.set()
            self._run.done.add_done_callback(lambda _: slots.release(slot))

    async def _stopped(self) -> None:
        if self._run is not None:
            self._run.cancelled.set()
            await asyncio.wait([self._run.done])


def _piece(chunk: Mapping[str, Any], before: int) -> Piece:
    if "error" in chunk:
        # Its message may quote the request, so only its kind is passed on.
        raise RuntimeError(f"the runtime refused: {chunk['error'].get('type')}")
    (choice,) = chunk["choices"]
    logprobs = (choice["logprobs"] or {}).get("content", ())
    generated = chunk["__verbose"]["tokens_predicted"]
    return Piece(choice["text"], generated - before, generated, tuple(logprobs), choice["finish_reason"])
