"""Size, speed and false alarms of ``protected_material``: ``python -m benchmarks.protected_material [FILE.jsonl]``.

Works: the help topics and modules of Python's standard library, half of them, chosen by a hash of their names. Answers: quotations planted
at random in other text; then the other half, and the rows' ``text`` of the file if one is given, which quote nothing on purpose.
"""

from __future__ import annotations

import json
import random
import sys
import sysconfig
import tempfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from pydoc_data.topics import topics

from plugins.protected_material import Config
from plugins.protected_material.corpus import works
from plugins.protected_material.index import Index, build, load, save
from plugins.protected_material.scan import Scan
from plugins.protected_material.tokens import Kind, tokens

PIECE = 4
"""Characters of an answer that arrive together."""


def main() -> None:
    """Print what was measured."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    halves = [[], []], [[], []]
    for name, text in sorted(topics.items()):
        halves[0][zlib.crc32(name.encode()) % 2].append(text)
    for module in modules:
        halves[1][zlib.crc32(module.name.encode()) % 2].append(module.read_text(errors="replace"))
    config = Config()
    for kind, (indexed, others) in zip(Kind, halves, strict=True):
        index = _index(kind, indexed, config)
        limits = config.thresholds()[kind]
        planted = random.Random(1)
        found = 0
        for _ in range(500):
            host, work = planted.choice(others).split(), planted.choice([each for each in indexed if len(each) > 5000])
            cut = list(tokens(work, kind))
            start = planted.randrange(len(cut) - limits.guarantee)
            quotation = work[cut[start].start : cut[start + limits.guarantee - 1].end]
            place = planted.randrange(len(host))
            answer = " ".join([*host[max(0, place - 50) : place], quotation, *host[place : place + 50]])
            found += _is_quoted(answer, kind, index)
        print(f"{kind}: {found} of 500 planted quotations found (each of {limits.guarantee} tokens)")
        quoting = sum(_is_quoted(text, kind, index) for text in others)
        print(f"{kind}: {quoting} of {len(others)} other works share {limits.noise} tokens with an indexed one")
        _report_speed(kind, index, others)
        if len(sys.argv) > 1:
            rows = [json.loads(line)["text"] for line in Path(sys.argv[1]).read_text().split("\n") if line]
            print(
                f"{kind}: {sum(_is_quoted(text, kind, index) for text in rows)} of {len(rows)} rows are said to quote"
            )


def _index(kind: Kind, texts: Iterable[str], config: Config) -> Index:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, text in enumerate(texts):
            (folder / f"{number}.txt").write_text(text)
        (folder / "works.toml").write_text(f'[[sources]]\nfiles = ["*.txt"]\nkind = "{kind}"\n')
        size = sum(path.stat().st_size for path in folder.glob("*.txt"))
        begun = time.process_time()
        index = build(works(folder / "works.toml"), config.thresholds())
        seconds = time.process_time() - begun
        save(index, folder / "works.index")
        bytes_ = (folder / "works.index").stat().st_size
        begun = time.process_time()
        index = load(folder / "works.index")
        loading = time.process_time() - begun
    megabytes = size / 1e6
    print(
        f"{kind}: {megabytes:.2f} MB of works; index {bytes_ / 1e3 / megabytes:.0f} KB, built in {seconds / megabytes:.1f} s, "
        f"loaded in {loading * 1000 / megabytes:.1f} ms, a MB of works"
    )
    return index


def _is_quoted(text: str, kind: Kind, index: Index) -> bool:
    scan = Scan(kind, index[kind], holds=True, is_json=False)
    scan.feed(text, True)
    return scan.quotation is not None


def _report_speed(kind: Kind, index: Index, others: list[str]) -> None:
    text = max((each for each in others if not _is_quoted(each, kind, index)), key=len)
    held: list[int] = []
    scan = Scan(kind, index[kind], holds=True, is_json=False)
    begun = time.process_time()
    for start in range(0, len(text), PIECE):
        held.append(min(start + PIECE, len(text)) - scan.feed(text[start : start + PIECE], False))
    seconds = time.process_time() - begun
    held.sort()
    print(
        f"{kind}: {seconds / len(text) * 1024 * 1000:.2f} ms a KB in pieces of {PIECE} characters; "
        f"held: median {held[len(held) // 2]}, 99 % {held[len(held) * 99 // 100]}, most {held[-1]} characters"
    )


if __name__ == "__main__":
    main()
