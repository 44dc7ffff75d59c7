"""The plugin's hooks, called as the core calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.content_filter.classifier import HEADS
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


async def test_it_does_not_classify_before_it_is_started(plugins):
    with pytest.raises(PluginFailed):
        await plugins.call("content_filter", "classify", Classification, text="hello", source="prompt")
