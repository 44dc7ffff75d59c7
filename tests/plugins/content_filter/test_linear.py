"""The vectorised features equal a plain reading of their definition."""

import re
from itertools import pairwise

import numpy as np
import pytest

from plugins.content_filter.linear import LONGEST, Linear, features

BITS = 40
GOLDEN = [11209, 15600, 24696, 146012, 163344, 170543, 175681, 194462, 215907, 228890, 354582, 363141, 408168, 410704]
GOLDEN += [420893, 437550, 443869, 463144, 468400, 472236, 476781, 483101]


def plainly(text: str) -> int:
    framed = f" {text} "
    grams = {framed[start : start + size] for size in (3, 4, 5) for start in range(len(framed) - size + 1)}
    words = re.findall(r"[a-z0-9]+", framed)
    inner = {gram for gram in grams if " " not in gram[1:-1]}
    return len(inner) + len(set(words)) + len(set(pairwise(words)))


@pytest.mark.parametrize("text", ["a", "ab", "hello world", "you are, the best a b c!", "", "x y z hello hello hello"])
def test_counts_what_the_definition_names(text: str) -> None:
    assert len(features(text, BITS)) == plainly(text)


def test_a_word_is_the_same_feature_anywhere() -> None:
    early, late = features("kettle", BITS), features("some other words and then a kettle", BITS)

    assert set(early) <= set(late)


def test_features_never_change() -> None:
    """The table was trained on these rows."""
    assert features("the cat sat", 19).tolist() == GOLDEN


@pytest.mark.parametrize("text", ["\ud800", "\U0010ffff" * 5, "\x00", "ж" * 10, "a" * 100_000])
def test_takes_any_text(text: str) -> None:
    found = features(text, 19)

    assert len(found) <= 5 * (LONGEST + 2)
    assert ((found >= 0) & (found < 1 << 19)).all()


def test_logits_add_up_rows() -> None:
    rows = features("ab", 4)
    table = np.arange(32, dtype=np.int8).reshape(16, 2)
    weights = {"table": table, "scale": np.array([0.5, 2.0], np.float32), "bias": np.array([1.0, -1.0], np.float32)}

    expected = table[rows].sum(0) * [0.5, 2.0] / np.sqrt(len(rows)) + [1.0, -1.0]

    np.testing.assert_allclose(Linear(weights).logits("ab"), expected, rtol=1e-6)
