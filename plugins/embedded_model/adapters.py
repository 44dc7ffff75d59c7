"""Serve fine-tuned models beside the model they were made of: which adapters are loaded, and when the runtime is changed.

The runtime reads adapters when it starts and at no other time. So a model that is asked for the first time brings a new
runtime, with the adapters of the old one and its own; new requests go there, those that run end where they are, and then
the old runtime goes. It takes a second, for those who wait for that model alone. Each runtime takes memory, so at most
:data:`MOST_ENDING` are kept for what still runs there.

A deleted model must not stay in memory: who has it is asked every :data:`SWEEP_S` whether it is still there, and what it is
still answering is broken off :data:`DELETED_S` later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress

from plugins.embedded_model.engine import Engine, Voice
from sluicegate import ModelUnavailable, NotFound
from sluicegate.errors import ServiceError
from sluicegate.training import Weights

SWEEP_S = 30.0
DELETED_S = 20.0
"""With the sweep before it, a deleted model is out of memory within a minute."""
MOST_ENDING = 2
"""Old runtimes that still answer something; a model that would bring a further one waits."""
WAIT_S = 60.0
"""How long it waits."""
log = logging.getLogger(__name__)


class Engines:
    """The runtime of the moment, and those before it that still have something to end.

    Args:
        load: Starts a runtime with adapters, by their ids.
        most: Adapters that are loaded at once; of more, the one that was not asked for the longest goes.

    Attributes:
        engine: Where new requests go.
    """

    def __init__(self, engine: Engine, load: Callable[[Mapping[str, bytes]], Awaitable[Engine]], most: int) -> None:
        self.engine = engine
        self._load = load
        self._most = most
        self._weights: OrderedDict[str, Weights] = OrderedDict()
        self._uses: Counter[Engine] = Counter()
        self._adding, self._changing = asyncio.Lock(), asyncio.Lock()
        self._ended = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._breaking: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def voice(self, weights: Weights | None) -> AsyncIterator[Voice]:
        """Give what answers with some weights, or as the base model; its runtime stays meanwhile.

        Raises:
            NotFound: The fine-tuned model was deleted.
            ServiceError: Its weights cannot be read now.
            ModelUnavailable: Models change too fast.
        """
        if weights is not None and weights.id not in self._weights:
            await self._add(weights)
        if weights is not None:
            self._weights.move_to_end(weights.id)
        engine = self.engine
        self._uses[engine] += 1
        try:
            yield Voice(engine, None if weights is None else weights.id)
        finally:
            self._uses[engine] -= 1
            self._retire(engine)

    async def sweep(self) -> None:
        """Drop the adapters whose models were deleted."""
        async with self._changing:
            gone = set()
            for id, weights in list(self._weights.items()):
                # What cannot be asked about now is asked about the next time.
                with suppress(ServiceError):
                    if not await weights.exist():
                        gone.add(id)
            if gone:
                left = {id: weights for id, weights in self._weights.items() if id not in gone}
                await self._change(left, gone=gone)

    async def close(self) -> None:
        """Unload everything."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for task in self._breaking:
            task.cancel()
        await asyncio.gather(*self._breaking, return_exceptions=True)
        engines = {self.engine, *self._uses}
        await asyncio.gather(*(engine.close() for engine in engines), *self._closing)

    async def _add(self, weights: Weights) -> None:
        async with self._adding:
            if weights.id in self._weights:
                return
            await self._wait_for_room()
            await self._bring(weights)

    async def _bring(self, weights: Weights) -> None:
        async with self._changing:
            kept = list(self._weights.items())[max(0, len(self._weights) - self._most + 1) :]
            await self._change({**dict(kept), weights.id: weights}, weights.id)
            if weights.id not in self._weights:
                raise NotFound("The requested model does not exist.", code="model_not_found", param="model")
            if self._sweeper is None:
                self._sweeper = asyncio.create_task(self._sweep_on())

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while len(self._uses.keys() - {self.engine}) >= MOST_ENDING:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            raise ModelUnavailable("Too many fine-tuned models are asked for by turns: try again.") from None

    async def _change(
        self, wanted: Mapping[str, Weights], needed: str | None = None, gone: Collection[str] = ()
    ) -> None:
        """Start a runtime with these adapters, but for those that are gone, and send new requests there.

        One that cannot be read now, such as that of an account whose key is away, is left out as well and loaded when it is
        asked for again: it must keep no other account's from being loaded or dropped.

        Args:
            needed: The one that somebody waits for, and whose failure they are told.
            gone: Those that were deleted.
        """
        adapters: dict[str, bytes] = {}
        deleted = set(gone)
        for id, weights in wanted.items():
            try:
                adapters[id] = b"".join([piece async for piece in weights.read()])
            except NotFound:
                deleted.add(id)
            except ServiceError:
                if id == needed:
                    raise
        before, self.engine = self.engine, await self._load(adapters)
        self._weights = OrderedDict((id, wanted[id]) for id in adapters)
        self._uses[before] += 0
        self._retire(before)
        for engine in self._uses.keys() - {self.engine}:
            if deleted & set(engine.adapters):
                self._break_off(engine)

    def _retire(self, engine: Engine) -> None:
        """Close a runtime that nobody uses and nobody will."""
        if engine is self.engine or self._uses[engine]:
            return
        del self._uses[engine]
        self._ended.set()
        _keep(asyncio.create_task(engine.close()), self._closing)

    def _break_off(self, engine: Engine) -> None:
        """Close a runtime before long, whatever it still answers."""

        async def break_off() -> None:
            await asyncio.sleep(DELETED_S)
            await engine.close()

        _keep(asyncio.create_task(break_off()), self._breaking)

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - the next sweep tries again
                log.warning("looking for deleted models failed (%s)", type(error).__name__)


def _keep(task: asyncio.Task[None], tasks: set[asyncio.Task[None]]) -> None:
    """Hold on to a task until it is done; the event loop does not."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
