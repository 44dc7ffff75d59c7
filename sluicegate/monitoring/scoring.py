"""The abuse score: what is stored of an account, or of one of its end users, as a number from 0 to 1 that can be explained.

::

    frequency = (1 - exp(-n / 10)) * s / (s + 0.1)        n flagged exchanges, s their share of all
    severity  = mean weight of what was found in them     1 for severity 6, 0.4 for severity 4, see WEIGHTS for the others
    intent    = (jailbreaks + repeats) / (n + 5)          repeats: blocked within 6 hours after being blocked; at most 1
    trend     = (1 - exp(-h / 4)) * d                     h hours with something flagged; d: the rate of the last day
                                                          over that of the window, 0.3 to 1
    value     = (frequency * severity * intent * trend) ** (1 / 4)

Each part alone keeps the value down: many mistakes of a filter in much traffic have little frequency, a novel with a fight in it
little severity, one bad evening little trend. Trials behind the constants: ``docs/decisions/0013-abuse-score.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import exp, prod

from sluicegate.monitoring.counting import Counts, Hour, total
from sluicegate.monitoring.types import Score
from sluicegate.policies import SEVERITIES

MANY = 10
"""So many flagged exchanges make most of the frequency."""
USUAL_SHARE = 0.1
"""The share of flagged exchanges that halves the frequency; filters' mistakes are far below."""
FEW = 5
"""So many flagged exchanges without intent are assumed beside those that there are."""
AGAIN = timedelta(hours=6)
LASTING_HOURS = 4
DAY = timedelta(days=1)
LEAST_DIRECTION = 0.3
HARM_WEIGHTS: Mapping[int, float] = {4: 0.4, 6: 1.0}
"""By severity of a harm."""
WEIGHTS: Mapping[str, float] = {
    "jailbreak": 0.5,
    # It is in what a document says, and whoever sends the document may not know.
    "indirect_attack": 0.1,
    "protected_material_text": 0.1,
    "protected_material_code": 0.1,
}
"""By category without a severity."""


def score_of(hours: Sequence[tuple[datetime, Counts]], since: datetime, until: datetime) -> Score:
    """Return the score of a subject from its counts by hour.

    Args:
        hours: When each hour began, and its counts; within the window, in order.
        since, until: The window, aware.
    """
    counts = total(each for _, each in hours)
    n = counts.flagged
    if not n:
        return Score(0.0, 0.0, 0.0, 0.0, 0.0, (f"nothing flagged in {counts.requests} exchanges",))
    share = n / max(counts.requests, n)
    frequency = (1 - exp(-n / MANY)) * share / (share + USUAL_SHARE)
    severity = min(1.0, _weight(counts) / n)
    jailbreaks, repeats = counts.of("jailbreak"), _repeats(hours)
    intent = min(1.0, (jailbreaks + repeats) / (n + FEW))
    lasting = sum(1 for _, each in hours if each.flagged)
    last_day = sum(each.flagged for start, each in hours if start >= until - DAY)
    direction = min(1.0, max(LEAST_DIRECTION, last_day / n * ((until - since) / DAY)))
    trend = (1 - exp(-lasting / LASTING_HOURS)) * direction
    parts = (frequency, severity, intent, trend)
    return Score(
        prod(parts) ** (1 / len(parts)),
        *parts,
        (
            f"frequency {frequency:.2f}: {n} of {counts.requests} exchanges flagged",
            f"severity {severity:.2f}: {_listed(counts)}",
            f"intent {intent:.2f}: {jailbreaks} jailbreaks, {repeats} blocked within 6 hours after being blocked",
            f"trend {trend:.2f}: flagged in {lasting} hours, {last_day} times in the last day",
        ),
    )


def scores(hours: Sequence[tuple[datetime, Hour]], since: datetime, until: datetime) -> dict[str | None, Score]:
    """Return the scores of an account, under None, and of each end user with something flagged, by keyed hash."""
    whole = [(start, hour.total) for start, hour in hours]
    rows: dict[str, list[tuple[datetime, Counts]]] = {}
    for start, hour in hours:
        for user, counts in hour.users.items():
            rows.setdefault(user, []).append((start, counts))
    found: dict[str | None, Score] = {None: score_of(whole, since, until)}
    flagged = {user: own for user, own in rows.items() if any(counts.flagged for _, counts in own)}
    return found | {user: score_of(own, since, until) for user, own in flagged.items()}


def _repeats(hours: Sequence[tuple[datetime, Counts]]) -> int:
    repeats = 0
    last: datetime | None = None
    for start, counts in hours:
        if counts.blocked:
            repeats += counts.blocked - (last is None or start - last > AGAIN)
            last = start
    return repeats


def _weight(counts: Counts) -> float:
    return sum(count * _weight_of(finding) for finding, count in counts.findings.items())


def _weight_of(finding: str) -> float:
    category, severity, _ = finding.rsplit(".", 2)
    return HARM_WEIGHTS.get(int(severity), 0.0) or WEIGHTS.get(category, 0.0)


def _listed(counts: Counts) -> str:
    found = sorted(counts.findings.items())
    return ", ".join(f"{count} x {_in_words(finding)}" for finding, count in found if _weight_of(finding))


def _in_words(finding: str) -> str:
    category, severity, source = finding.rsplit(".", 2)
    return f"{category} {source}" if severity == "0" else f"{category} {SEVERITIES[int(severity)]} {source}"
