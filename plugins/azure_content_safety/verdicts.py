"""What several calls found, as one, and the resource's blocklists as a policy has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sluicegate import Policy, Source
from sluicegate.policies import Blocklist, BlocklistUse

from .service import Analysis


def with_blocklists(policy: Policy, names: Sequence[str]) -> Policy:
    """Return the policy with these lists of the resource, blocking in prompts and answers, in place of its own.

    Its own have items, and are another plugin's to match.
    """
    uses = (BlocklistUse(Blocklist(name, ()), source) for name in names for source in Source)
    return replace(policy, blocklists=tuple(uses))


def worst(analyses: Iterable[Analysis]) -> Analysis:
    """Return what was found in texts that were analysed one by one: of each category the highest severity, and all hits."""
    severity: dict[str, int] = {}
    hits: frozenset[str] = frozenset()
    for analysis in analyses:
        hits |= analysis.blocklists
        for category, level in analysis.severity.items():
            severity[category] = max(level, severity.get(category, 0))
    return Analysis(severity, hits)
