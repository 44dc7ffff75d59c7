"""Limits of use: a deployment's requests and tokens per minute, and how many requests of an account run at once."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from sluicegate.errors import TooManyRequests
from sluicegate.monitoring.penalties import Penalty
from sluicegate.requests import GenerationRequest, Request
from sluicegate.services import BlobStore
from sluicegate.tenancy.deployments import Deployment
from sluicegate.tenancy.rate_sharing import Sharing
from sluicegate.tenancy.rates import CHARACTERS_PER_TOKEN, Allowance, Standing, Usage, allowance, charge, part_of

MOST_DEPLOYMENTS = 10_000
"""Deployments whose use is remembered; one that is forgotten begins anew."""
UNLIMITED = 10
"""The capacity of which a throttle leaves a part where a deployment has no limit of its own: 60 requests, 10,000 tokens a minute."""
SHARED_FROM = 0.1
"""Which part of a limit a process uses alone before it tells the others."""
GOLDEN_RATIO = 0.618034
PAUSE_S = 1.0
"""How long, on the average, a refusal waits in a flood, so that whoever asks again at once takes nobody else's time."""
FLOOD = 20
"""Refusals of a deployment in one window, from which on it is a flood."""
MOST_PAUSING = 256


class Limits:
    """Counts requests and tokens; one object per worker.

    Args:
        at_once: How many requests of one account may run at once in this process.
    """

    def __init__(
        self,
        blobs: BlobStore,
        at_once: int,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._own: OrderedDict[str, Usage] = OrderedDict()
        self._sharing = Sharing(blobs, self._own, clock)
        self._at_once = at_once
        self._clock = clock
        self._sleep = sleep
        self._running: defaultdict[str, int] = defaultdict(int)
        self._pausing = 0

    async def admit(
        self, account: str, deployment: Deployment, request: Request, throttles: Sequence[Penalty] = ()
    ) -> Standing | None:
        """Count a request of a deployment, and return how the deployment stands; None where it has no limit.

        Args:
            throttles: Penalties that leave a part of the limits; one for an end user counts their requests by themselves.

        Raises:
            TooManyRequests: Its requests or tokens are used up; it says when to come back.
        """
        if deployment.capacity is None and not throttles:
            return None
        key, tokens = f"{account}/{deployment.name.lower()}", estimate(request)
        for throttle in throttles:
            whole = allowance(UNLIMITED if deployment.capacity is None else deployment.capacity)
            allowed = part_of(whole, throttle.percentage)
            await self._charge(f"{key}/{throttle.user or ''}/{throttle.percentage}", allowed, tokens, throttle)
        if deployment.capacity is None:
            return None
        return await self._charge(key, allowance(deployment.capacity), tokens, None)

    async def _charge(self, key: str, allowed: Allowance, tokens: int, throttle: Penalty | None) -> Standing:
        own = self._own.get(key)
        if own is None:
            own = self._own[key] = Usage()
            if len(self._own) > MOST_DEPLOYMENTS:
                self._own.popitem(last=False)
        standing = charge(own, self._sharing.others(key), allowed, tokens, self._clock())
        if own.requests > SHARED_FROM * allowed.requests or own.tokens > SHARED_FROM * allowed.tokens:
            self._sharing.want()
        if standing.retry_after_s is None:
            return standing
        await self._pause(own.requests - allowed.requests)
        used_up = (
            f"The {standing.what} of this deployment are used up: it has {allowed.requests_per_minute} requests and "
            f"{allowed.tokens} tokens a minute, {allowed.requests} requests in any {allowed.window_s} s. "
        )
        come_back = "Come back after the time in 'retry-after-ms'"
        raise TooManyRequests(
            used_up
            + (
                f"{come_back}. {throttle.told()}" if throttle else f"{come_back}, or give the deployment more capacity."
            ),
            retry_after_s=standing.retry_after_s,
            headers=standing.headers,
            inner=None if throttle is None else throttle.inner,
        )

    @contextmanager
    def running(self, account: str) -> Iterator[None]:
        """Run one of an account's requests.

        Raises:
            TooManyRequests: As many as may are running.
        """
        if self._running[account] >= self._at_once:
            raise TooManyRequests(
                f"{self._at_once} requests of this resource are running: wait until one is done.", retry_after_s=1
            )
        self._running[account] += 1
        try:
            yield
        finally:
            self._running[account] -= 1
            if not self._running[account]:
                del self._running[account]

    async def close(self) -> None:
        """Stop sharing counts with other processes."""
        await self._sharing.close()

    async def _pause(self, refused: int) -> None:
        if refused < FLOOD or self._pausing >= MOST_PAUSING:
            return
        self._pausing += 1
        try:
            # Evenly spread, so that those who were refused together do not come back together.
            await self._sleep(PAUSE_S * (0.5 + refused * GOLDEN_RATIO % 1))
        finally:
            self._pausing -= 1


def estimate(request: Request) -> int:
    """Return how many tokens a request is charged with on arrival: by its characters, and what it may be answered with."""
    characters = (
        sum(len(text.value) for text in request.texts()) + sum(map(len, request.token_lists())) * CHARACTERS_PER_TOKEN
    )
    prompt = -(-characters // CHARACTERS_PER_TOKEN)
    if not isinstance(request, GenerationRequest):
        return prompt
    most = getattr(request, "max_completion_tokens", None) or request.max_tokens or 0
    return prompt + most * max(request.choices, getattr(request, "best_of", None) or 1)
