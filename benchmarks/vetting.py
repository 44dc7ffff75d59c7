"""What vetting streamed answers costs: the event loop's lag, CPU per chunk, and the delay of the first text.

    python -m benchmarks.vetting [--streams 16] [--rounds 3]

In one process, 16 answers stream at once, a chunk of four characters every 20 ms each, through nothing, through
``sluicegate.vetting`` with a detector that does nothing (one, two and three filters in a row), and through the plugin
``content_filter`` with its classifier. Beside them a clock asks every 2 ms how late the event loop wakes it. The ways take
turns in each round; a figure is the median of the rounds. On a busy machine only the ratios mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

import uvloop

from plugins.content_filter import completions
from plugins.content_filter.classifier import Classifier
from sluicegate import Chunk, FilterResults
from sluicegate.policies import DEFAULT_V2
from sluicegate.testing import chat_request
from sluicegate.vetting import Detector, vet

GAP_S = 0.02
SIZE = 4
TEXT = (
    "A gateway reads each request, decides what may pass, and hands it on. It keeps no state between two requests, so "
    "many of them can run at once; what they share is a table of routes. When a server fails, the gateway tries another. "
) * 6
REQUEST = chat_request("How does a gateway work?", stream=True)
TICK_S = 0.002

_Chunks: TypeAlias = AsyncIterator[Chunk]


@dataclass
class Way:
    """A way that answers take.

    Attributes:
        detectors: One for each filter in a row.
        lag_ms: The event loop's lag, the 99th percentile of each round.
        loop_us: CPU of the event loop's thread per chunk, in each round.
        cpu_us: CPU of the whole process per chunk, in each round.
        delay_ms: Until the first text came, the median of each round.
        first: Characters that the model had made by then.
    """

    detectors: list[Detector]
    lag_ms: list[float] = field(default_factory=list)
    loop_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    delay_ms: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


async def nothing(text: str) -> FilterResults:
    """Detect nothing."""
    return {}


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    classifying = completions.detector(Classifier.load(), DEFAULT_V2)
    assert classifying is not None
    ways = {
        "no filter": Way([]),
        "one filter that detects nothing": Way([nothing]),
        "two in a row": Way([nothing] * 2),
        "three in a row": Way([nothing] * 3),
        "content_filter": Way([classifying]),
    }
    for _ in range(options.rounds):
        for way in ways.values():
            uvloop.run(_round(way, options.streams))
    _print(ways, options.streams)


async def _round(way: Way, streams: int) -> None:
    lags: list[float] = []
    clock = asyncio.create_task(_clock(lags.append))
    loop_s, cpu_s = time.thread_time(), time.process_time()
    firsts = await asyncio.gather(*(_answer(way, place * GAP_S / streams) for place in range(streams)))
    chunks = streams * len(TEXT) / SIZE
    way.loop_us.append(1e6 * (time.thread_time() - loop_s) / chunks)
    way.cpu_us.append(1e6 * (time.process_time() - cpu_s) / chunks)
    clock.cancel()
    way.lag_ms.append(1000 * statistics.quantiles(lags, n=100)[98])
    way.delay_ms.append(1000 * statistics.median(delay for delay, _ in firsts))
    way.first.append(statistics.median(made for _, made in firsts))


async def _clock(note: Callable[[float], None]) -> None:
    while True:
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        note(time.perf_counter() - due)


async def _answer(way: Way, start_s: float) -> tuple[float, int]:
    """Return how long the first text took, and how many characters the model had made by then."""
    await asyncio.sleep(start_s)
    made = 0

    async def model() -> _Chunks:
        nonlocal made
        due = time.perf_counter()
        for start in range(0, len(TEXT), SIZE):
            due += GAP_S
            await asyncio.sleep(max(0, due - time.perf_counter()))
            made = start + SIZE
            yield Chunk(TEXT[start : start + SIZE])
        yield Chunk(finish_reason="stop")

    first: tuple[float, int] | None = None
    began = time.perf_counter()
    async with AsyncExitStack() as stack:
        chunks: _Chunks = await stack.enter_async_context(aclosing(model()))
        for detect in way.detectors:
            chunks = await stack.enter_async_context(vet(chunks, detect, REQUEST, DEFAULT_V2))
        async for chunk in chunks:
            if first is None and chunk.text:
                first = time.perf_counter() - began, made
    assert first is not None
    return first


def _print(ways: dict[str, Way], streams: int) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; {streams} streams at once")
    print("| through | loop lag, p99 | CPU of the loop per chunk | CPU per chunk | first text after | added |")
    print("|---|---|---|---|---|---|")
    least = next(iter(ways.values()))
    for name, way in ways.items():
        lag, loop, cpu = (statistics.median(each) for each in (way.lag_ms, way.loop_us, way.cpu_us))
        lag_0, loop_0, cpu_0 = (statistics.median(each) for each in (least.lag_ms, least.loop_us, least.cpu_us))
        added = statistics.median(way.delay_ms) - statistics.median(least.delay_ms)
        print(
            f"| {name} | {lag:.2f} ms ({lag / lag_0:.1f}×) | {loop:.0f} µs ({loop / loop_0:.1f}×) "
            f"| {cpu:.0f} µs ({cpu / cpu_0:.1f}×) | {statistics.median(way.first):.0f} characters | {added:.0f} ms |"
        )


if __name__ == "__main__":
    main()
