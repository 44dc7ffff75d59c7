"""The weights are the ones that the model card describes, and few enough to ship."""

import hashlib
import re

from plugins.content_filter.classifier import WEIGHTS

CARD = WEIGHTS.with_name("MODEL_CARD.md")


def test_hashes_are_those_of_the_model_card() -> None:
    stated = dict(
        re.findall(r"^\| `([\w.]+)` \|.*\| `([0-9a-f]{64})` \|$", CARD.read_text(encoding="utf-8"), re.MULTILINE)
    )

    actual = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in WEIGHTS.iterdir()}

    assert actual == stated


def test_weights_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 32_000_000
