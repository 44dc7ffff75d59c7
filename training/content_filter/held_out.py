"""Write held-out rows in the benchmark's schema: the ``test`` split, or the sources that the first stage never saw."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plugins.content_filter.classifier import HEADS as NAMES
from training.content_filter.data import HEADS, UNSEEN, Row, rows, written

BLOCKING = ("hate", "sexual", "violence", "self_harm", "jailbreak")
LONGER = dict(zip(HEADS, NAMES, strict=True))


def line(row: Row) -> dict[str, Any]:
    """Return a row as the benchmark reads it."""
    source = "document" if "indirect" in row.labels else "prompt"
    labels = {LONGER[head]: value for head, value in row.labels.items()}
    blocking = [labels.get(head) for head in BLOCKING]
    if 1 in blocking or None not in blocking:
        labels["filtered"] = int(1 in blocking)
    return {"text": row.text, "source": source, "labels": labels, "group": row.source}


def main() -> None:
    """Read the command line and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--written", type=Path)
    parser.add_argument("--unseen", action="store_true", help="all rows of the sources in data.UNSEEN")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found: list[Row] = []
    if arguments.unseen:
        found += [row for split in ("train", "test") for row in rows(arguments.pool, split) if row.source in UNSEEN]
    else:
        found += rows(arguments.pool, "test")
    if arguments.written:
        found += written(arguments.written, "test")
    lines = [json.dumps(line(row), ensure_ascii=False) for row in found]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} rows")


if __name__ == "__main__":
    main()
