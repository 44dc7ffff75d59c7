"""Measure how answers are best cut for the classifier: ``python -m benchmarks.content_filter.windows FILE.jsonl``.

The file is one of ``benchmarks.content_filter``. Harmful texts of one or two sentences that the classifier finds by themselves
are put at random places into harmless answers, and each answer goes through ``sluicegate.vetting``, cut in several ways.
Printed is how many are still found, of how many a part was sent before, how many harmless answers are ended wrongly, and what
reading costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from plugins.content_filter import completions
from plugins.content_filter.classifier import SEVERITY_HEADS, Classifier
from sluicegate import Chunk, FilterResults, Refused
from sluicegate.policies import DEFAULT_V2
from sluicegate.testing import chat_request
from sluicegate.vetting import Windows, vet

CUTS = {
    "64 new, 64 again": Windows(overlap=64, first=64, largest=64),
    "160 new, 160 again": Windows(overlap=160, first=64, largest=160),
    "256 new, 128 again": Windows(overlap=128, first=64, largest=256),
    "400 new, 160 again": Windows(overlap=160, first=64, largest=400),
}
LEAST, MOST = 40, 250
"""Characters of a harmful text."""
ANSWER = 3000
"""Characters of harmless text in an answer."""


@dataclass
class Reader:
    """The classifier as a detector; counts what it is shown.

    Attributes:
        by_sentence: Whether the sentences of a window are read too, as the plugin does.
    """

    classifier: Classifier
    by_sentence: bool
    calls: int = 0
    seconds: float = 0

    def level(self, text: str) -> int:
        """Return the worst severity of a window."""
        started = time.process_time()
        texts = [text, *(completions.sentences(text) if self.by_sentence else ())]
        level = max(completions.levels([self.classifier.classify(each, "completion") for each in texts]).values())
        self.seconds += time.process_time() - started
        self.calls += 1
        return level

    async def __call__(self, text: str) -> FilterResults:
        return {"harm": {"filtered": self.level(text) >= 4}}


async def sent(text: str, reader: Reader, windows: Windows) -> int:
    """Return how many characters of an answer go."""

    async def chunks() -> AsyncIterator[Chunk]:
        yield Chunk(text, finish_reason="stop")

    length = 0
    async with vet(chunks(), reader, chat_request("?"), DEFAULT_V2, windows) as vetted:
        try:
            async for chunk in vetted:
                length += len(chunk.text)
        except Refused:
            pass
    return length


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--answers", type=int, default=150)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    classifier, chance = Classifier.load(), random.Random(7)
    rows = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    chance.shuffle(rows)
    reader = Reader(classifier, by_sentence=False)
    harmful = [
        row["text"]
        for row in rows
        if any(row["labels"].get(head, 0) > 0.5 for head in SEVERITY_HEADS)
        and LEAST <= len(row["text"]) <= MOST
        and reader.level(row["text"]) >= 4
    ][: arguments.answers]
    harmless = [
        row["text"]
        for row in rows[: 20 * arguments.answers]
        if row["labels"].keys() >= {"harm", *SEVERITY_HEADS}
        and not any(row["labels"].values())
        and len(row["text"]) > 80
        and reader.level(row["text"]) < 4
    ]
    asyncio.run(measure(classifier, harmful, harmless, chance))


async def measure(classifier: Classifier, harmful: list[str], harmless: list[str], chance: random.Random) -> None:
    """Print a row for each way to cut."""
    answers = [prose(harmless, chance) for _ in harmful]
    places = [chance.choice([place for place, char in enumerate(answer) if char == "\n"]) for answer in answers]
    print(f"{len(harmful)} harmful texts in answers of about {ANSWER} characters")
    print(
        "| window | sentences too | found | sent in part | harmless answers ended | calls per 1,000 | CPU ms per 1,000 |"
    )
    print("|---|---|---|---|---|---|---|")
    for (name, windows), by_sentence in product(CUTS.items(), (False, True)):
        plain, mixed, passed, found, leaked = Reader(classifier, by_sentence), Reader(classifier, by_sentence), 0, 0, 0
        for answer, place, harm in zip(answers, places, harmful, strict=True):
            if await sent(answer, plain, windows) < len(answer):
                continue
            passed += 1
            text = f"{answer[:place]}\n{harm}{answer[place:]}"
            went = await sent(text, mixed, windows)
            found += went < len(text)
            leaked += place + 1 < went < len(text)
        thousands = sum(map(len, answers)) / 1000
        print(
            f"| {name} | {'yes' if by_sentence else 'no'} | {found / passed:.0%} | {leaked / passed:.0%} "
            f"| {1 - passed / len(harmful):.1%} | {plain.calls / thousands:.1f} | {1000 * plain.seconds / thousands:.0f} |",
            flush=True,
        )


def prose(harmless: list[str], chance: random.Random) -> str:
    """Return an answer of harmless texts, a line each."""
    answer = ""
    while len(answer) < ANSWER:
        answer += chance.choice(harmless) + "\n"
    return answer


if __name__ == "__main__":
    main()
