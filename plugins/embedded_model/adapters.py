"""Serve fine-tuned models beside the model they were made of: which adapters are loaded, and when the runtime is changed.

The runtime reads adapters when it starts and at no other time. So a model that is asked for the first time brings a new
runtime, with the adapters of the old one and its own; new requests go there, those that run end where they are, and then
the old runtime goes. It takes a second, for those who wait for that model alone.

A deleted model must not stay in memory: who has it is asked every :data:`SWEEP_S` whether it is still there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from plugins.embedded_model.engine import Engine, Voice
from sluicegate import NotFound
from sluicegate.errors import ServiceError
from sluicegate.training import Weights

SWEEP_S = 30.0
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
        self._changing = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def voice(self, weights: Weights | None) -> AsyncIterator[Voice]:
        """Give what answers with some weights, or as the base model; its runtime stays meanwhile.

        Raises:
            NotFound: The fine-tuned model was deleted.
            ServiceError: Its weights cannot be read now.
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
            gone = []
            for id, weights in list(self._weights.items()):
                # What cannot be asked about now is asked about the next time.
                with suppress(ServiceError):
                    if not await weights.exist():
                        gone.append(id)
            if gone:
                await self._change({id: weights for id, weights in self._weights.items() if id not in gone})

    async def close(self) -> None:
        """Unload everything."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        engines = {self.engine, *self._uses}
        await asyncio.gather(*(engine.close() for engine in engines), *self._closing)

    async def _add(self, weights: Weights) -> None:
        async with self._changing:
            if weights.id in self._weights:
                return
            kept = list(self._weights.items())[max(0, len(self._weights) - self._most + 1) :]
            await self._change({**dict(kept), weights.id: weights}, weights.id)
            if weights.id not in self._weights:
                raise NotFound("The requested model does not exist.", code="model_not_found", param="model")
            if self._sweeper is None:
                self._sweeper = asyncio.create_task(self._sweep_on())

    async def _change(self, wanted: Mapping[str, Weights], needed: str | None = None) -> None:
        """Start a runtime with these adapters, but for those that are gone, and send new requests there.

        One that cannot be read now, such as that of an account whose key is away, is left out as well and loaded when it is
        asked for again: it must keep no other account's from being loaded or dropped.

        Args:
            needed: The one that somebody waits for, and whose failure they are told.
        """
        adapters: dict[str, bytes] = {}
        for id, weights in wanted.items():
            try:
                adapters[id] = b"".join([piece async for piece in weights.read()])
            except NotFound:
                continue
            except ServiceError:
                if id == needed:
                    raise
        before, self.engine = self.engine, await self._load(adapters)
        self._weights = OrderedDict((id, wanted[id]) for id in adapters)
        self._uses[before] += 0
        self._retire(before)

    def _retire(self, engine: Engine) -> None:
        """Close a runtime that nobody uses and nobody will."""
        if engine is self.engine or self._uses[engine]:
            return
        del self._uses[engine]
        task = asyncio.create_task(engine.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - the next sweep tries again
                log.warning("looking for deleted models failed (%s)", type(error).__name__)
