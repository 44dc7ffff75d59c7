"""Limits: what a capacity allows, alone and together with other processes, and how many requests run at once."""

from __future__ import annotations

from contextlib import suppress

import pytest

from sluicegate.errors import StorageUnavailable, TooManyRequests
from sluicegate.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from sluicegate.tenancy import limits as module
from sluicegate.tenancy import rate_sharing
from sluicegate.tenancy.deployments import Deployment
from sluicegate.tenancy.limits import Limits, estimate
from sluicegate.tenancy.rates import Allowance, allowance
from sluicegate.testing import MemoryStorage


def chat(text: str = "hi", **options) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": text}], **options}, strict=False)


def of_capacity(units: int | None, name: str = "chat") -> Deployment:
    return Deployment(name, "parrot", None, units)


class Clock:
    def __init__(self) -> None:
        # The beginning of a minute.
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def blobs():
    return MemoryStorage()


async def at_once(_: float) -> None:
    """Pause for no time."""


@pytest.fixture
async def limits(blobs, clock):
    limits = Limits(blobs, 2, clock, at_once)
    yield limits
    await limits.close()


async def admitted(limits: Limits, deployment: Deployment, count: int, request=None, account: str = "contoso") -> int:
    """Return how many of ``count`` requests were let through."""
    passed = 0
    for _ in range(count):
        with suppress(TooManyRequests):
            await limits.admit(account, deployment, request or chat())
            passed += 1
    return passed


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        (1, Allowance(1000, 1, 10)),
        (10, Allowance(10_000, 10, 10)),
        (100, Allowance(100_000, 10, 1)),
        (600, Allowance(600_000, 60, 1)),
    ],
)
def test_a_unit_is_a_thousand_tokens_and_six_requests_a_minute_spread_evenly(units, expected):
    assert allowance(units) == expected


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (chat("x" * 400), 100),
        (chat("x" * 401, max_tokens=50), 151),
        (chat("x" * 400, max_completion_tokens=50, n=3), 250),
        (CompletionRequest(prompt="x" * 40, max_tokens=10, best_of=4), 50),
        (EmbeddingRequest(input=("x" * 40, "y" * 40)), 20),
        (EmbeddingRequest(input=((1, 2, 3),)), 3),
    ],
)
def test_tokens_are_estimated_by_characters_and_by_what_may_be_answered(request_, tokens):
    assert estimate(request_) == tokens


async def test_a_deployment_without_capacity_has_no_limit(limits):
    assert await limits.admit("contoso", of_capacity(None), chat()) is None


async def test_requests_are_let_through_up_to_the_limit_of_their_window(limits, clock):
    assert await admitted(limits, of_capacity(10), 15) == 10
    clock.now += 9.9
    assert await admitted(limits, of_capacity(10), 1) == 0
    clock.now += 0.2
    assert await admitted(limits, of_capacity(10), 15) == 10


async def test_a_refused_request_is_told_when_to_come_back_and_how_the_limits_stand(limits, clock):
    clock.now += 3
    first = await limits.admit("contoso", of_capacity(1), chat("x" * 400))

    with pytest.raises(TooManyRequests, match="The requests of this deployment are used up") as refused:
        await limits.admit("contoso", of_capacity(1), chat())

    assert first.headers == {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-requests": "7",
        "x-ratelimit-reset-tokens": "57",
    }
    assert refused.value.retry_after_s == pytest.approx(7)
    assert refused.value.headers.keys() == first.headers.keys()


async def test_tokens_are_counted_by_the_minute(limits, clock):
    request = chat("x" * 4 * 600)
    assert await admitted(limits, of_capacity(1), 1, request) == 1
    clock.now += 10
    assert await admitted(limits, of_capacity(1), 1, request) == 1
    clock.now += 10
    with pytest.raises(TooManyRequests, match="The tokens") as refused:
        await limits.admit("contoso", of_capacity(1), request)
    assert refused.value.retry_after_s == pytest.approx(40)
    clock.now += 40
    assert await admitted(limits, of_capacity(1), 1, request) == 1


async def test_deployments_and_accounts_have_limits_of_their_own(limits):
    assert await admitted(limits, of_capacity(10), 20) == 10
    assert await admitted(limits, of_capacity(10, "other"), 20) == 10
    assert await admitted(limits, of_capacity(10), 20, account="fabrikam") == 10


async def test_a_deployment_has_one_limit_whatever_the_case_of_its_name(limits):
    assert (
        await admitted(limits, of_capacity(10, "Chat"), 10) + await admitted(limits, of_capacity(10, "chat"), 10) == 10
    )


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.fixture
async def processes(blobs, clock):
    found = [Limits(blobs, 2, clock, at_once) for _ in range(4)]
    yield found
    for each in found:
        await each.close()


async def test_processes_keep_to_one_limit_together_within_the_stated_tolerance(processes, clock):
    deployment = of_capacity(600)
    allowed = allowance(600)
    passed = 0
    for _ in range(60):
        for each in processes:
            passed += await admitted(each, deployment, 2 * allowed.requests, chat("x" * 400))
        for each in processes:
            await each._sharing.exchange()
        clock.now += rate_sharing.SHARE_S

    tokens, limit = passed * 100, allowed.tokens
    assert limit <= tokens <= limit * (1 + len(processes) / 60)


async def test_a_process_that_ends_leaves_no_counts(processes, blobs):
    await admitted(processes[0], of_capacity(10), 10)
    await processes[0]._sharing.exchange()
    assert [blob.name async for blob in blobs.list("limits")]

    await processes[0].close()

    assert [blob.name async for blob in blobs.list("limits")] == []


async def test_counts_of_a_process_that_was_killed_are_removed_in_time(processes, blobs, clock):
    await admitted(processes[0], of_capacity(10), 10)
    await processes[0]._sharing.exchange()
    clock.now += rate_sharing.STALE_S + 1

    await processes[1]._sharing.exchange()

    assert [blob.name async for blob in blobs.list("limits")] == [processes[1]._sharing._process]


async def test_a_process_goes_on_alone_while_storage_is_away(limits, blobs, monkeypatch):
    async def away(*_, **__):
        raise StorageUnavailable("away")

    monkeypatch.setattr(blobs, "put", away)

    assert await admitted(limits, of_capacity(10), 15) == 10


async def test_storage_is_not_called_for_each_request(limits, blobs, monkeypatch):
    calls = []
    put = blobs.put

    async def counted(*arguments, **options):
        calls.append(arguments)
        return await put(*arguments, **options)

    monkeypatch.setattr(blobs, "put", counted)
    await admitted(limits, of_capacity(10_000), 500)

    assert calls == []


# --- at once ---------------------------------------------------------------------------------------------------------


async def test_so_many_requests_of_an_account_run_at_once(limits):
    with limits.running("contoso"), limits.running("contoso"):
        with pytest.raises(TooManyRequests, match="2 requests of this resource are running"), limits.running("contoso"):
            pass
        with limits.running("fabrikam"):
            pass
    with limits.running("contoso"):
        pass


async def test_who_floods_waits_for_refusals(blobs, clock):
    paused = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    limits = Limits(blobs, 2, clock, sleep)
    await admitted(limits, of_capacity(1), module.FLOOD)
    assert paused == []
    await admitted(limits, of_capacity(1), 100)
    await limits.close()

    assert len(paused) == 100
    assert all(0.5 * module.PAUSE_S <= each <= 1.5 * module.PAUSE_S for each in paused)
    assert sum(paused) == pytest.approx(100 * module.PAUSE_S, rel=0.05)
