"""Operators get numbers for each account, without content and without anybody's name."""

from __future__ import annotations

import json
import logging

import pytest

from plugins import metrics_log
from sluicegate.abuse import Finding, Signal
from sluicegate.testing import check_plugin
from sluicegate.types import Outcome, utc_now

ALICE = "a1" * 32
BLOCKED = (Finding("hate", "prompt", 6, True), Finding("jailbreak", "prompt", 0, True))


def signal(account, outcome=Outcome.COMPLETED, findings=(), **fields):
    return Signal(account, "chat", utc_now(), outcome, findings, **fields)


def test_it_is_a_plugin():
    check_plugin(metrics_log)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "plugins.metrics_log")
    return lambda: [json.loads(record.getMessage().removeprefix("signals ")) for record in caplog.records]


async def test_a_batch_is_a_line_for_each_account_in_which_something_was_found(lines):
    batch = [
        signal("contoso"),
        signal("fabrikam"),
        signal("contoso", Outcome.BLOCKED, BLOCKED, user=ALICE, address="b0" * 32, exchange="id-1"),
        signal("contoso", Outcome.CUT, (Finding("hate", "completion", 6, True),), user=ALICE),
    ]

    await metrics_log.observe(batch, metrics_log.Config())

    assert lines() == [
        {
            "account": "contoso",
            "requests": 3,
            "outcomes": {"completed": 1, "blocked": 1, "cut": 1},
            "blocked": 2,
            "flagged": 2,
            "flagged_users": 1,
            "found": {"completion/hate/6": 1, "prompt/hate/6": 1, "prompt/jailbreak": 1},
        }
    ]


async def test_lines_for_everybody_are_a_setting(lines):
    await metrics_log.observe([signal("contoso")], metrics_log.Config(only_findings=False))

    assert [(line["account"], line["requests"]) for line in lines()] == [("contoso", 1)]
