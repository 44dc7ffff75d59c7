"""Logs what filters found as numbers: every few seconds a line of JSON for each account, for Azure Monitor or any other log store.

A line has no content and names no end user: how many exchanges there were, how many were blocked or flagged, how many end users that was,
and what was found in how many, by source, category and severity. Application Insights keeps such lines in ``traces``.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence

from sluicegate import PluginConfig, hookimpl
from sluicegate.abuse import Signal

log = logging.getLogger(__name__)


class Config(PluginConfig):
    """The table ``[plugins.metrics_log]``."""

    only_findings: bool = True
    """Whether there is no line where nothing was found."""


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def observe(signals: Sequence[Signal], config: Config) -> None:
    by_account: dict[str, list[Signal]] = {}
    for signal in signals:
        by_account.setdefault(signal.account, []).append(signal)
    for account, observed in by_account.items():
        if not config.only_findings or any(signal.findings for signal in observed):
            log.info("signals %s", json.dumps({"account": account, **numbers(observed)}))


def numbers(signals: Sequence[Signal]) -> dict[str, object]:
    """Return what a line says of one account's signals."""
    flagged = [signal for signal in signals if signal.is_flagged]
    found = Counter(
        f"{source}/{category}/{severity}" if severity else f"{source}/{category}"
        for signal in signals
        for category, source, severity, _ in signal.findings
    )
    return {
        "requests": len(signals),
        "outcomes": dict(Counter(signal.outcome.value for signal in signals)),
        "blocked": sum(signal.is_blocked for signal in signals),
        "flagged": len(flagged),
        "flagged_users": len({signal.user for signal in flagged if signal.user is not None}),
        "found": dict(sorted(found.items())),
    }
