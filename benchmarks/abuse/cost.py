"""What signals cost a request: CPU on the request's path, and its share of the writing."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable

from sluicegate.call import Call
from sluicegate.monitoring.counters import Counters
from sluicegate.monitoring.observing import Observer
from sluicegate.monitoring.signals import signal_of
from sluicegate.requests import ChatRequest
from sluicegate.testing import Assembly, FakeModel, MemoryStorage, chat_request
from sluicegate.types import Chunk, Outcome, utc_now

ROUNDS = 5
REQUESTS = 4_000
CHUNKS = 200
USERS = 300
CONTEXT = {"application_name": "app", "end_user_id": "u", "end_user_tenant_id": "t", "source_ip": "203.0.113.7"}
CLEAN = {
    **{name: {"filtered": False, "severity": "safe"} for name in ("hate", "sexual", "violence", "self_harm")},
    **{name: {"filtered": False, "detected": False} for name in ("jailbreak", "indirect_attack", "profanity")},
}
FOUND = {**CLEAN, "violence": {"filtered": True, "severity": "high"}, "jailbreak": {"filtered": True, "detected": True}}


def report() -> None:
    """Measure and print."""
    cases: dict[str, Callable[[int], Call]] = {
        "nothing found, an end user": lambda n: _call(n, CLEAN, user=f"user-{n % USERS}"),
        "nothing found, user_security_context": lambda n: _call(n, CLEAN, user_security_context=CONTEXT),
        "flagged and blocked, an end user": lambda n: _call(n, FOUND, user=f"user-{n % USERS}"),
        f"nothing found, an answer of {CHUNKS} pieces": _call_of_pieces,
    }
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; µs of CPU, best of {ROUNDS} rounds\n")
    print("| a request | signal and counting | writing, its share | together |")
    print("|---|---|---|---|")
    for name, make in cases.items():
        path, writing = min(asyncio.run(_measured(make)) for _ in range(ROUNDS))
        print(f"| {name} | {path:.1f} | {writing:.1f} | {path + writing:.1f} |")


async def _measured(make: Callable[[int], Call]) -> tuple[float, float]:
    blobs = MemoryStorage()
    counters = Counters(blobs, utc_now)
    observer = Observer(lambda location: counters, _taken)
    calls = [make(n) for n in range(REQUESTS)]
    begin = time.process_time()
    for call in calls:
        observer.note("local", signal_of(call, utc_now()))
    path = time.process_time() - begin
    begin = time.process_time()
    await observer.close()
    return path / REQUESTS * 1e6, (time.process_time() - begin) / REQUESTS * 1e6


def _call_of_pieces(number: int) -> Call:
    """Return a call whose answer came in pieces that were vetted together, each fourth with the next window's verdicts."""
    call = _call(number, CLEAN, user=f"user-{number % USERS}")
    verdicts = [dict(CLEAN) for _ in range(CHUNKS // 4)]
    for piece in range(CHUNKS):
        call.record.sent(Chunk("word ", content_filter_results=verdicts[piece // 4]))
    return call


_assembly = Assembly(FakeModel())


def _call(number: int, results: dict[str, dict[str, object]], **fields: object) -> Call:
    request = chat_request("Hello", **fields)
    assert isinstance(request, ChatRequest)
    call = _assembly.call(request.annotate(results))
    call.id = f"call-{number}"
    call.outcome = Outcome.BLOCKED if results is FOUND else Outcome.COMPLETED
    return call


async def _taken(_: object) -> None:
    """Stand for a plugin."""
