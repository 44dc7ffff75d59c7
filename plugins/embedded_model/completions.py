"""Answer completion requests, the older kind: the model goes on from a text."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from plugins.embedded_model import sampling
from plugins.embedded_model.choices import Choice, Meter, Send, budget, merged, refuse_huge
from plugins.embedded_model.engine import Lease, Voice
from plugins.embedded_model.logprobs import for_completions
from plugins.embedded_model.release import Release, Unit, unit_of
from sluicegate import Chunk, CompletionRequest, Unsupported

_MAX_TOKENS = 16
"""For a request that names no limit, as OpenAI has it."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """One prompt of a request, translated.

    Attributes:
        number: Which prompt it is, from 0.
        limit: Tokens each completion may have.
        owner: The same object for all prompts of a request.
    """

    number: int
    text: str
    ids: list[int]
    options: Mapping[str, Any]
    limit: int
    owner: object


async def complete(request: CompletionRequest, voice: Voice, defaults: sampling.Defaults) -> AsyncGenerator[Chunk]:
    """Yield the chunks of all choices: ``n`` for the first prompt, then ``n`` for the second …

    Raises:
        InvalidRequest: Too long, or an option that the model cannot follow.
        ModelUnavailable: Too many requests wait.
    """
    if request.echo and request.logprobs is not None:
        raise Unsupported("Setting 'echo' and 'logprobs' at the same time is not supported.", param="logprobs")
    plans = await asyncio.to_thread(_plans, request, voice, defaults)
    writer = _Writer(request, voice, Meter(sum(len(plan.ids) for plan in plans)))
    async with aclosing(merged([*writer.choices(plans)], voice.parallel)) as chunks:
        async for chunk in chunks:
            yield chunk


def _plans(request: CompletionRequest, voice: Voice, defaults: sampling.Defaults) -> list[_Plan]:
    tokenizer, owner = voice.tokenizer, object()
    logprobs = request.logprobs if request.best_of is None else request.logprobs or 0
    top = 0 if logprobs is None else max(1, logprobs)
    options = sampling.options(request, tokenizer, defaults, top)
    plans = []
    for number, text in enumerate(request.prompts):
        refuse_huge(len(text), tokenizer.longest, voice.context_length, "prompt")
        ids = tokenizer.encode(text) or [tokenizer.beginning]
        limit = budget(len(ids), request.max_tokens, _MAX_TOKENS, voice.context_length, "prompt")
        plans.append(_Plan(number, text, ids, options, limit, owner))
    return plans


class _Writer:
    """Writes the choices of one request."""

    def __init__(self, request: CompletionRequest, voice: Voice, meter: Meter) -> None:
        self._request = request
        self._voice = voice
        self._meter = meter
        self._n = request.n or 1

    def choices(self, plans: Sequence[_Plan]) -> list[Choice]:
        """Return what writes the answer, in the order of the prompts."""
        if self._request.best_of is not None and self._request.best_of > self._n:
            return [partial(self._write_best, plan, self._request.best_of) for plan in plans]
        return [partial(self._write, plan, number) for plan in plans for number in range(self._n)]

    async def _write(self, plan: _Plan, number: int, send: Send) -> None:
        """Write one completion as it comes."""
        index = plan.number * self._n + number
        offset = len(plan.text)
        await self._echo(plan, index, send)
        async with (
            self._voice.lease(plan.ids, plan.owner) as lease,
            aclosing(self._generate(lease, plan, number)) as steps,
        ):
            async for units, finish in steps:
                await send(self._chunk(units, index, offset, finish))
                offset += sum(len(unit.text) for unit in units)

    async def _write_best(self, plan: _Plan, candidates: int, send: Send) -> None:
        """Write the ``n`` of several completions whose tokens were the likeliest on average."""
        written: list[tuple[list[Unit], str | None]] = []
        async with self._voice.lease(plan.ids, plan.owner) as lease:
            for number in range(candidates):
                async with aclosing(self._generate(lease, plan, number)) as steps:
                    parts = [step async for step in steps]
                written.append(([unit for units, _ in parts for unit in units], parts[-1][1]))
        written.sort(key=lambda candidate: _mean_logprob(candidate[0]), reverse=True)
        for number, (units, finish) in enumerate(written[: self._n]):
            index = plan.number * self._n + number
            await self._echo(plan, index, send)
            await send(self._chunk(units, index, len(plan.text), finish))

    async def _generate(self, lease: Lease, plan: _Plan, number: int) -> AsyncGenerator[tuple[list[Unit], str | None]]:
        """Yield a completion's units as they may go; the last time with the ``finish_reason``."""
        if plan.limit == 0:
            yield [], "length"
            return
        release = Release(sampling.stops(self._request))
        options = {**plan.options, **sampling.seed(self._request, number), "max_tokens": plan.limit}
        async with aclosing(lease.run(plan.ids, options)) as pieces:
            async for piece in pieces:
                self._meter.completion_tokens += piece.new
                if number == 0 and piece.generated == piece.new:
                    self._meter.cached_tokens += lease.cached or 0
                units = release.feed(unit_of(piece, self._voice.tokenizer))
                if release.matched is not None:
                    yield units, "stop"
                    return
                if piece.finish_reason:
                    units += release.rest()
                if units or piece.finish_reason:
                    yield units, piece.finish_reason

    async def _echo(self, plan: _Plan, index: int, send: Send) -> None:
        if self._request.echo and plan.text:
            await send(Chunk(plan.text, index, usage=self._meter.usage))

    def _chunk(self, units: Sequence[Unit], index: int, offset: int, finish: str | None) -> Chunk:
        top, logprobs = self._request.logprobs, None
        if top is not None and any(unit.text for unit in units):
            logprobs = for_completions(units, self._voice.tokenizer, top, offset)
        text = "".join(unit.text for unit in units)
        return Chunk(text, index, logprobs=logprobs, finish_reason=finish, usage=self._meter.usage)


def _mean_logprob(units: Sequence[Unit]) -> float:
    numbers = [entry["logprob"] for unit in units for entry in unit.logprobs]
    return sum(numbers) / len(numbers) if numbers else -math.inf
