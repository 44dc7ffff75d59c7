"""Signals: what filters found in an exchange, taken from the verdicts it carries anyway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from sluicegate.abuse import Finding, FindingSource, Signal
from sluicegate.call import Call
from sluicegate.policies import SEVERITIES
from sluicegate.requests import ChatRequest, UserSecurityContext
from sluicegate.types import FilterResults

_LEVELS = {name: level for level, name in SEVERITIES.items()}


def signal_of(call: Call, at: datetime) -> Signal:
    """Return the signal of a call that is over at ``at``."""
    account, request = call.account, call.request
    context = (request.user_security_context if isinstance(request, ChatRequest) else None) or UserSecurityContext()
    findings = [
        *found_in(request.prompt_filter_results.values(), "prompt"),
        *found_in(call.record.verdicts(), "completion"),
    ]
    return Signal(
        account=account.name,
        deployment=call.deployment,
        at=at,
        outcome=call.outcome,
        findings=tuple(findings),
        user=account.user_hash(request.end_user),
        application=account.attribution_hash("application_name", context.application_name),
        tenant=account.attribution_hash("end_user_tenant_id", context.end_user_tenant_id),
        address=account.attribution_hash("source_ip", context.source_ip),
        exchange=call.id if account.content_logging else None,
    )


def found_in(texts: Iterable[FilterResults], source: FindingSource) -> Iterator[Finding]:
    """Yield what verdicts say was found, each category once, at its worst of all texts."""
    found: dict[str, Finding] = {}
    for results in texts:
        for category, result in results.items():
            severity = _LEVELS.get(result.get("severity", "safe"), 0)
            blocked = bool(result.get("filtered"))
            # A blocklist that only annotates has neither a severity nor ``detected``: what it hit is in its details.
            if not (severity or blocked or result.get("detected") or result.get("details")):
                continue
            before = found.get(category)
            if before is not None:
                severity, blocked = max(severity, before.severity), blocked or before.blocked
            found[category] = Finding(category, source, severity, blocked)
    yield from found.values()
