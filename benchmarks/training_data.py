"""How fast training data is validated and in how much memory: chats of three sizes, and what parsing alone takes.

    python -m benchmarks.training_data [--lines 500000] [--rounds 3]

Printed is CPU time: for rows of each size. The parser takes turns with the validator in each
round; a figure is the median of the rounds. Memory is the process's peak less what it was before the first byte.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Iterator

from pydantic_core import from_json

from sluicegate.training_data import validate

SIZES = {"short (about 480 bytes)": (20, 30), "medium (about 1 kB)": (60, 80), "long (about 4 kB)": (300, 330)}
"""Rows -> words of the question and of the answer."""
MEGABYTES = 64
"""Of each size, that are timed."""
TEXT = (
    "the a to of in and is for with on breakfast guest room key night porter lift stairs towel window quiet early late please where "
    "when how many train station luggage bill receipt deposit parking bicycle garden terrace coffee tea bread umbrella"
)
"""Words to choose from."""
CHUNK = 1 << 20


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    _whole(options.lines)
    print("| rows | validated, CPU | of each row | parsed alone | examples a second |")
    print("|---|---|---|---|---|")
    for name, words in SIZES.items():
        _size(name, words, options.rounds)


def _whole(lines: int) -> None:
    read = 0

    def chunks() -> Iterator[bytes]:
        nonlocal read
        for chunk in _chunks(_rows(lines, SIZES["short (about 480 bytes)"])):
            read += len(chunk)
            yield chunk

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert validate(chunks()).training.lines == lines
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{lines:,} lines, {read / 1e6:.0f} MB: {(peak - before) / 1024:.0f} MiB more at the peak\n")


def _size(name: str, words: tuple[int, int], rounds: int) -> None:
    each = len(next(_rows(1, words)))
    rows = list(_rows(MEGABYTES * 1_000_000 // each, words))
    chunks = list(_chunks(iter(rows)))
    size = sum(map(len, rows)) / 1e6
    validated, parsed = [], []
    for _ in range(rounds):
        began = time.process_time()
        validate(chunks)
        validated.append(time.process_time() - began)
        began = time.process_time()
        for row in rows:
            from_json(row, cache_strings="none")
        parsed.append(time.process_time() - began)
    slow, fast = statistics.median(validated), statistics.median(parsed)
    print(
        f"| {name} | {size / slow:.0f} MB/s | {1e6 * slow / len(rows):.1f} µs | {size / fast:.0f} MB/s "
        f"| {len(rows) / slow:,.0f} |"
    )


def _rows(count: int, words: tuple[int, int]) -> Iterator[bytes]:
    choose, vocabulary = random.Random(1), TEXT.split()
    for number in range(count):
        question, answer = (" ".join(choose.choices(vocabulary, k=many)).capitalize() for many in words)
        messages = [
            {"role": "system", "content": "You are the night porter of a small hotel and answer in few words."},
            {"role": "user", "content": f"{question} {number}?"},
            {"role": "assistant", "content": f"{answer}."},
        ]
        yield json.dumps({"messages": messages}).encode() + b"\n"


def _chunks(rows: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row)
        if size >= CHUNK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


if __name__ == "__main__":
    main()
