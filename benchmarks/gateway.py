"""What a proxied chat costs: Sluicegate's CPU time per request beside a bare forwarder's.

    python -m benchmarks.gateway [--rounds 3] [--requests 600]

A mock upstream, the gateway and the load generator are processes of their own, on loopback. Printed is the gateway's CPU time
(user and system): per answer that is not streamed, per stream of 50 chunks sent back to back, and per stream of 50 chunks
10 ms apart, 16 at once. The gateways take turns in each round; a figure is the median of the rounds. CPU time holds on a busy
machine; latency does not, so none is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 16
CHUNKS = 50
TICKS = os.sysconf("SC_CLK_TCK")
BODY = {
    "model": "chat",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Summarise in one paragraph how a gateway works. " * 4},
    ],
    "max_tokens": 200,
}
FILTERS = 'pre_filter = ["blocklists"]\npost_filter = ["blocklists"]\n'
RETENTION = 'retain = ["keep_encrypted"]\n'
VARIANTS = {
    "sluicegate, no filter, nothing kept": "",
    "sluicegate, blocklists": FILTERS,
    "sluicegate, retention": RETENTION,
    "sluicegate, blocklists and retention": FILTERS + RETENTION,
}
DEPLOYMENT = """
storage = "%SLUICEGATE_STORAGE%"
keys = "%SLUICEGATE_KEYS%"
region = "%SLUICEGATE_REGION%"
[pipeline]
authenticate = ["api_keys"]
models = ["openai_upstream"]
{stages}
[plugins.blocklists.lists]
bench = ["forbiddenword", "another forbidden phrase"]
[[plugins.openai_upstream.upstreams]]
kind = "compatible"
endpoint = "{upstream}"
[[plugins.openai_upstream.upstreams.models]]
id = "mock"
operations = ["chat.completions"]
retention = "nothing"
"""


@dataclass
class Gateway:
    """A running gateway and what was measured of it, in milliseconds of CPU per request."""

    process: subprocess.Popen[str]
    url: str
    headers: dict[str, str]
    costs: dict[str, list[float]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600, help="per round; a third of it for streams")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mock = stack.enter_context(_process([sys.executable, "-m", "benchmarks.upstream_client", "--serve"], {}))
        assert mock.stdout is not None
        upstream = f"http://127.0.0.1:{int(mock.stdout.readline())}/v1"
        gateways = {"forwarder (aiohttp, uvicorn)": _floor(stack, upstream)}
        for number, (name, stages) in enumerate(VARIANTS.items()):
            gateways[name] = _sluicegate(stack, folder / str(number), stages, upstream)
        asyncio.run(_measure(gateways, options.rounds, options.requests))
    _print(gateways)


async def _measure(gateways: dict[str, Gateway], rounds: int, requests: int) -> None:
    modes = {"whole": (requests, False, 0), "stream": (requests // 3, True, 0), "paced": (requests // 6, True, 10)}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for gateway in gateways.values():
            await _load(session, gateway, 2 * AT_ONCE, True, 0)
        for _ in range(rounds):
            for mode, (count, stream, gap_ms) in modes.items():
                for gateway in gateways.values():
                    before = _cpu_s(gateway.process.pid)
                    await _load(session, gateway, count, stream, gap_ms)
                    cost = 1000 * (_cpu_s(gateway.process.pid) - before) / count
                    gateway.costs.setdefault(mode, []).append(cost)


async def _load(session: aiohttp.ClientSession, gateway: Gateway, count: int, stream: bool, gap_ms: int) -> None:
    # The mock knows by this parameter that it is to pace its stream.
    body = {**BODY, "stream": stream, **({"top_p": 0.5} if gap_ms else {})}
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            async with session.post(gateway.url, json=body, headers=gateway.headers) as reply:
                data = await reply.read()
                if reply.status != 200 or (stream and b"[DONE]" not in data[-20:]):
                    raise RuntimeError(f"HTTP {reply.status}")

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def _print(gateways: dict[str, Gateway]) -> None:
    floor = next(iter(gateways.values()))
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; CPU ms of the gateway, median"
    )
    print("| gateway | whole answer | stream of 50 | paced stream of 50 | µs per paced chunk |")
    print("|---|---|---|---|---|")
    for name, gateway in gateways.items():
        cells = []
        for mode in ("whole", "stream", "paced"):
            cost, least = statistics.median(gateway.costs[mode]), statistics.median(floor.costs[mode])
            cells.append(f"{cost:.2f} ({cost / least:.1f}×)")
        chunk = 1000 * statistics.median(gateway.costs["paced"]) / (CHUNKS + 2)
        print(f"| {name} | {' | '.join(cells)} | {chunk:.0f} |")


def _floor(stack: ExitStack, upstream: str) -> Gateway:
    port = 0
    command = [sys.executable, "-m", "uvicorn", "benchmarks.floor:app", "--port", str(port), "--no-access-log"]
    process = stack.enter_context(_process(command, {"UPSTREAM": upstream}, stderr=True))
    return Gateway(process, _listening(process) + "/chat/completions", {})


def _sluicegate(stack: ExitStack, data: Path, stages: str, upstream: str) -> Gateway:
    data.mkdir()
    deployment = data / "deployment.toml"
    deployment.write_text(DEPLOYMENT.format(stages=stages, upstream=upstream))
    command = [sys.executable, "-m", "sluicegate", "serve", "--port", "0", "--data", str(data)]
    process = stack.enter_context(_process(command, {"SLUICEGATE_CONFIG": str(deployment)}))
    url = _listening(process)
    key = json.loads((data / "credentials.json").read_text())["api_key"]
    return Gateway(process, f"{url}/openai/v1/chat/completions", {"api-key": key})


def _listening(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise RuntimeError("a gateway did not start")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def _process(
    command: list[str], environment: dict[str, str], *, stderr: bool = False
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if stderr else None,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


if __name__ == "__main__":
    main()
