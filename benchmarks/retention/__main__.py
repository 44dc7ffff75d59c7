"""What retention costs, beside its targets.

    python -m benchmarks.retention [--rounds 5] [--seconds 2]

Azurite runs in a process of its own with everything in memory; the folder is a temporary one on disk. Within a table the
variants take turns, and a figure is the median of the rounds. Ratios hold on a busy machine; absolute figures do not. CPU time
is that of the process that keeps records, with all its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform

from benchmarks.retention import exporting, purging, writing
from benchmarks.retention.places import places

WRITERS = (64, 256)
DAYS = ((1_000, 1), (10_000, 50), (100_000, 50))
"""Records of a day, and of how many accounts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each variant of writing in each round")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; medians of {options.rounds}"
    )
    with places() as urls:
        asyncio.run(_measure(urls, options.rounds, options.seconds))


async def _measure(urls: dict[str, str], rounds: int, seconds: float) -> None:
    for writers in WRITERS:
        print(f"\n| {writers} writers, 4 KiB records | records/s | × | CPU µs per record |\n|---|---|---|---|")
        for place, url in urls.items():
            rates = await writing.throughput(url, writers, rounds, seconds)
            grouped = rates["group commit"][0]
            for name, (rate, cpu) in rates.items():
                print(f"| {place}, {name} | {rate:,.0f} | {grouped / rate:.1f} | {cpu:.0f} |", flush=True)
    print("\n| one writer, p50 in ms | kept | bare PUT | × |\n|---|---|---|---|")
    for place, url in urls.items():
        kept, put, ratio = await writing.alone(url, rounds, 200)
        print(f"| {place} | {kept:.2f} | {put:.2f} | {ratio:.2f} |", flush=True)
    print(
        "\n| purge of a day | keys destroyed | blobs deleted | containers dropped | s | peak MiB |\n|---|---|---|---|---|---|"
    )
    for records, accounts in DAYS:
        calls, took, peak = await purging.purge(urls["Azurite"], records, accounts)
        counts = " | ".join(str(count) for count in calls.values())
        print(f"| Azurite, {records:,} records, {accounts} accounts | {counts} | {took:.2f} | {peak:.1f} |", flush=True)
    print(
        "\n| export of 4 KiB records | MB/s | reading alone, MB/s | CPU ms per MB | peak MiB |\n|---|---|---|---|---|"
    )
    for place, url in urls.items():
        for mebibytes in (32, 128):
            found = await exporting.rate(url, mebibytes, rounds)
            cells = f"{found.rate:.0f} | {found.bare:.0f} | {found.cpu:.0f} | {found.peak:.1f}"
            print(f"| {place}, {mebibytes} MiB | {cells} |", flush=True)


if __name__ == "__main__":
    main()
