"""What it costs to know a caller, and what one tenant's flood costs another.

    python -m benchmarks.tenants [--rounds 5] [--seconds 4]

First, in this process: CPU time per request of authentication (by key, and by a token of Entra ID), of looking up the
account, the deployment and its policy, and of counting the request against its limits; everything warm, as in a worker that
has served before.

Then, over loopback: the latency of a tenant that asks twice at a time, with and without another tenant that floods a deployment of
ten units over 64 connections, asking again at once whenever it is refused. Both take turns in each round; the ratio is between
medians of the rounds. A mock upstream, the server and the two tenants' clients are processes of their own or share this one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.gateway import _process, _sluicegate
from plugins import api_keys, entra_id
from sluicegate import ChatRequest, Role
from sluicegate.accounts import Accounts
from sluicegate.tenancy.deployments import Deployment, Deployments
from sluicegate.tenancy.limits import Limits
from sluicegate.testing import MemoryKeys, MemoryStorage

CALLS = 20_000
FLOOD = 64
VICTIM = 2
BODY = {"model": "chat", "messages": [{"role": "user", "content": "Say hello. " * 10}], "max_tokens": 50}
ARM = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/b/providers/Microsoft.CognitiveServices/accounts"
VERSION = {"api-version": "2025-09-01"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print("\n| per request, warm | µs of CPU |\n|---|---|")
    for name, cost_us in asyncio.run(_costs()).items():
        print(f"| {name} | {cost_us:.1f} |")
    alone, flooded, refused = asyncio.run(_flood(options.rounds, options.seconds))
    print("\n| latency of a tenant, ms | median | p99 |\n|---|---|---|")
    for name, rounds in (("alone", alone), ("beside a flood", flooded)):
        print(f"| {name} | {_median(rounds, 50):.1f} | {_median(rounds, 99):.1f} |")
    print(f"\np99 beside a flood / alone: {_median(flooded, 99) / _median(alone, 99):.2f}; ", end="")
    print(f"the flood was refused {refused / (options.rounds * options.seconds):.0f} times a second")


async def _costs() -> dict[str, float]:
    blobs = MemoryStorage()
    accounts, deployments = Accounts(blobs, MemoryKeys()), Deployments(blobs)
    await accounts.create("contoso", location="local")
    await accounts.assign_role("contoso", "oid", Role.CALLER)
    await deployments.create("contoso", Deployment("chat", "mock", None, 1_000_000))
    limits = Limits(blobs, 100)
    request = ChatRequest.model_validate_json(json.dumps(BODY))
    by_key = {"api-key": (await accounts.api_keys("contoso"))["key1"]}
    config, by_token = _entra()

    async def find() -> None:
        await accounts.get("contoso")
        deployment = await deployments.get("contoso", "chat")
        assert deployment is not None
        await limits.admit("contoso", deployment, request)

    costs = {
        "authentication by key": await _cpu_us(lambda: api_keys.authenticate(by_key, accounts)),
        "authentication by token": await _cpu_us(
            lambda: entra_id.authenticate(by_token, Role.CALLER, accounts, config)
        ),
        "account, deployment, limits": await _cpu_us(find),
    }
    await limits.close()
    return costs


def _entra() -> tuple[entra_id.Config, dict[str, str]]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    config = entra_id.Config(tenant="t", audiences=("a",))
    claims = {"iss": "https://sts.windows.net/t/", "aud": "a", "exp": int(time.time()) + 3600, "oid": "oid", "tid": "t"}
    token = jwt.encode(claims, key, "RS256", headers={"kid": "k"})
    # As after the first request: the token was checked, and is known for five minutes.
    config._tokens.remember(token, claims)
    return config, {"authorization": f"Bearer {token}"}


async def _cpu_us(call: Callable[[], Awaitable[object]]) -> float:
    found = []
    for _ in range(5):
        before = time.process_time()
        for _ in range(CALLS):
            await call()
        found.append((time.process_time() - before) / CALLS * 1e6)
    return statistics.median(found)


async def _flood(rounds: int, seconds: float) -> tuple[list[list[float]], list[list[float]], int]:
    alone: list[list[float]] = []
    flooded: list[list[float]] = []
    refused = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mock = stack.enter_context(_process([sys.executable, "-m", "benchmarks.upstream_client", "--serve"], {}))
        assert mock.stdout is not None
        upstream = f"http://127.0.0.1:{int(mock.stdout.readline())}/v1"
        gateway = _sluicegate(stack, folder / "data", "", upstream)
        operator = json.loads((folder / "data" / "credentials.json").read_text())["operator_key"]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            base = gateway.url.removesuffix("/openai/v1/chat/completions")
            victim = await _tenant(session, base, operator, "victim", 1_000_000)
            flooder = await _tenant(session, base, operator, "flooder", 10)
            for _ in range(rounds):
                alone.append(await _ask(session, gateway.url, victim, VICTIM, seconds))
                counts = [0] * FLOOD
                storm = [
                    asyncio.create_task(_storm(session, gateway.url, flooder, counts, one)) for one in range(FLOOD)
                ]
                flooded.append(await _ask(session, gateway.url, victim, VICTIM, seconds))
                for task in storm:
                    task.cancel()
                await asyncio.gather(*storm, return_exceptions=True)
                refused += sum(counts)
    return alone, flooded, refused


async def _tenant(session: aiohttp.ClientSession, base: str, operator: str, name: str, capacity: int) -> dict[str, str]:
    headers = {"authorization": f"Bearer {operator}"}
    account = {"location": "local", "kind": "OpenAI", "sku": {"name": "S0"}}
    deployment = {
        "sku": {"name": "Standard", "capacity": capacity},
        "properties": {"model": {"format": "OpenAI", "name": "mock", "version": "1"}},
    }
    for path, body in ((f"{ARM}/{name}", account), (f"{ARM}/{name}/deployments/chat", deployment)):
        async with session.put(base + path, json=body, headers=headers, params=VERSION) as reply:
            reply.raise_for_status()
    async with session.post(f"{base}{ARM}/{name}/listKeys", headers=headers, params=VERSION) as reply:
        return {"api-key": (await reply.json())["key1"]}


async def _ask(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], at_once: int, seconds: float
) -> list[float]:
    """Return latencies in milliseconds of a tenant that asks and, 20 ms after the answer, asks again."""
    found: list[float] = []
    until = time.monotonic() + seconds

    async def worker() -> None:
        while time.monotonic() < until:
            before = time.perf_counter()
            async with session.post(url, json=BODY, headers=headers) as reply:
                await reply.read()
                reply.raise_for_status()
            found.append(1000 * (time.perf_counter() - before))
            await asyncio.sleep(0.02)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return found


async def _storm(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], counts: list[int], one: int
) -> None:
    while True:
        async with session.post(url, json=BODY, headers=headers) as reply:
            await reply.read()
            counts[one] += reply.status == 429


def _median(rounds: list[list[float]], percentile: int) -> float:
    return statistics.median(statistics.quantiles(each, n=100)[percentile - 1] for each in rounds)


if __name__ == "__main__":
    main()
