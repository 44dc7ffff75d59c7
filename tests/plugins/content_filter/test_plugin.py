"""The plugin's hooks, called as the core calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.content_filter.classifier import HEADS
from plugins.content_filter.pieces import OVERLAP, PIECE, pieces
from sluicegate import Classification
from sluicegate.errors import PluginFailed
from sluicegate.plugins import Plugins

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plugins() -> Plugins:
    plugins = Plugins()
    plugins.load_one(ROOT / "plugins", "content_filter")
    return plugins


async def test_it_classifies_text_that_is_in_no_request(plugins):
    await plugins.call("content_filter", "startup", object)

    text = "All immigrants are vermin and should be exterminated."
    found = await plugins.call("content_filter", "classify", Classification, text=text, source="prompt")

    assert found.scores.keys() == found.thresholds.keys() == set(HEADS)
    assert found.severity["hate"] >= 4
    assert found.flagged == {
        head for head, score in found.scores.items() if score >= found.thresholds[head] and head != "indirect_attack"
    }


async def test_a_very_long_text_is_as_bad_as_its_worst_piece(plugins):
    await plugins.call("content_filter", "startup", object)
    hateful = "All immigrants are vermin and should be exterminated. I hate every one of them. " * 40
    harmless = "The committee met on Tuesday and talked about garden fences. " * 40_000

    async def classified(text):
        return await plugins.call("content_filter", "classify", Classification, text=text, source="prompt")

    alone, within, without = [await classified(text) for text in (hateful, harmless + hateful, harmless)]

    assert alone.severity["hate"] >= 4
    assert within.severity["hate"] > without.severity["hate"] == 0
    assert within.scores["hate"] > without.scores["hate"]


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_pieces_overlap_and_leave_nothing_out(length):
    text = "".join(chr(0x100 + place % 7_919) for place in range(length))

    parts = list(pieces(text))

    assert parts[0] + "".join(part[OVERLAP:] for part in parts[1:]) == text
    assert max(map(len, parts)) <= PIECE


async def test_it_does_not_classify_before_it_is_started(plugins):
    with pytest.raises(PluginFailed):
        await plugins.call("content_filter", "classify", Classification, text="hello", source="prompt")
