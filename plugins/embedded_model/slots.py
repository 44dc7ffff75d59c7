"""The runtime's slots: how many requests run at once, who waits, and who may continue from what a slot remembers.

A slot keeps the attention cache of its last request, so a conversation's next turn need not read the earlier turns
again. That memory must not tell one caller what another one asked, neither by speed nor by ``cached_tokens``. So a slot is
continued only by a prompt that repeats all of it, the model's answer included, or by the same request; and never by a request
for other weights, under which the cache would mean something else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sluicegate.errors import ModelUnavailable


@dataclass(eq=False, slots=True)
class Slot:
    """One place in the runtime.

    Attributes:
        tokens: What its cache holds, prompt and answer; empty when nobody may continue from it.
        owner: The request that used it last.
        adapter: The fine-tuned weights under which it did, or None.
    """

    number: int
    tokens: list[int] = field(default_factory=list)
    owner: object | None = None
    adapter: str | None = None

    def remembers(self, prompt: Sequence[int], owner: object, adapter: str | None = None) -> bool:
        """Whether this request may continue from the slot's cache."""
        if adapter != self.adapter:
            return False
        held = len(self.tokens)
        return self.owner is owner or (held > 0 and list(prompt[:held]) == self.tokens)


class Slots:
    """A first-come, first-served pool.

    Args:
        count: Requests that run at once.
        max_waiting: Requests that wait at most; one more is refused.
    """

    def __init__(self, count: int, max_waiting: int) -> None:
        self._free = deque(Slot(number) for number in range(count))
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._max_waiting = max_waiting

    @property
    def free(self) -> int:
        """How many slots nobody uses."""
        return len(self._free)

    async def acquire(self, prompt: Sequence[int], owner: object, adapter: str | None = None) -> Slot:
        """Return a slot: one that remembers ``prompt``, or else the least recently used.

        Raises:
            ModelUnavailable: Too many wait already.
        """
        if self._free:
            slot = next((slot for slot in self._free if slot.remembers(prompt, owner, adapter)), self._free[0])
            self._free.remove(slot)
            return slot
        if len(self._waiting) >= self._max_waiting:
            raise ModelUnavailable("The model is busy and its queue is full: try again later.", retry_after_s=5)
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(turn.result())
            raise

    def release(self, slot: Slot) -> None:
        """Give a slot back; the longest waiting request gets it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(slot)
                return
        self._free.append(slot)
