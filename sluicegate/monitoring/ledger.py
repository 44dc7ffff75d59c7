"""The ledger: what is held of one account, and what was made of it, for its customer to see; without content and without reviewers' names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sluicegate.accounts import Account
from sluicegate.config import Abuse
from sluicegate.monitoring.actions import Standing
from sluicegate.monitoring.appeals import Answer
from sluicegate.monitoring.cases import Case
from sluicegate.monitoring.counting import Hour
from sluicegate.monitoring.scoring import scores
from sluicegate.regions import Region
from sluicegate.store import Store

MOST_USERS = 500
"""End users whose scores are shown."""
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """What is stored of an account.

    Attributes:
        retained: Records and bytes by plugin and day (``YYYYMMDD``); no key is needed to count them.
        files: How many files are uploaded, and how many bytes they have.
        models: Ids of the fine-tuned models.
    """

    retained: Mapping[str, Mapping[str, tuple[int, int]]]
    files: tuple[int, int]
    models: tuple[str, ...]

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        days = [
            {"plugin": plugin, "day": day, "records": records, "bytes": size}
            for plugin, by_day in self.retained.items()
            for day, (records, size) in by_day.items()
        ]
        return {
            "retained": days,
            "records": sum(each["records"] for each in days),
            "files": {"count": self.files[0], "bytes": self.files[1]},
            "models": list(self.models),
        }


async def held(region: Region, account: str) -> Held:
    """Count what is stored of an account.

    Raises:
        SealBroken: Something was changed, so that it cannot be counted.
    """
    stores: dict[str, Store] = {name: region.vault.store(account, name) for name in await region.vault.plugins(account)}
    retained = {name: await store.by_day() for name, store in stores.items()}
    count, size, after, more = 0, 0, None, True
    while more:
        files, more = await region.files.page(account, purpose=None, after=after, limit=_PAGE, newest_first=False)
        count, size = count + len(files), size + sum(file.bytes for file in files)
        after = files[-1].id if files else None
        more = more and bool(files)
    models = tuple(model.id for model in await region.tuned_models.list(account))
    return Held(retained, (count, size), models)


async def abuse_scores(
    region: Region, account: Account, thresholds: Abuse, now: datetime, user: str | None
) -> dict[str, Any]:
    """Return the account's score, and those of its end users with something flagged, with what they are made of.

    Args:
        user: Keyed hash of the end user who is meant; None for all, the :data:`MOST_USERS` with the highest scores.
    """
    since = now - timedelta(days=thresholds.window_days)
    hours = await region.counters.read(account.name, since, now)
    # Hundreds of end users over a week take a good part of a second, in which requests must go on.
    return await asyncio.to_thread(_scores, hours, since, now, thresholds, user)


def _scores(
    hours: list[tuple[datetime, Hour]], since: datetime, now: datetime, thresholds: Abuse, user: str | None
) -> dict[str, Any]:
    found = scores(hours, since, now)
    whole = found.pop(None)
    meant = [each for each in found.items() if user in (None, each[0])]
    highest = sorted(meant, key=lambda each: each[1].value, reverse=True)[:MOST_USERS]
    return {
        "since": since.isoformat(),
        "account": {**whole.document, "threshold": thresholds.account_threshold},
        "end_users_flagged": len(found),
        "end_users": [
            {"user": each, **score.document, "threshold": thresholds.user_threshold} for each, score in highest
        ],
    }


def looked_into(case: Case) -> dict[str, Any]:
    """Return a case as the customer sees it: what was flagged and what was decided, and not by whom."""
    return {
        "id": case.id,
        "user": case.user,
        "status": case.status,
        "opened": case.opened.isoformat(),
        "updated": case.updated.isoformat(),
        "category": case.category or None,
        "guideline": case.decisions[-1].guideline if case.decisions else None,
        "score": case.score.document,
        "flagged": [each.document for each in case.flagged],
    }


def consequence(standing: Standing, account: Account, now: datetime) -> dict[str, Any]:
    """Return what followed from a case, as the customer sees it."""
    inner = {name: value for name, value in standing.document.items() if name in _SHOWN}
    penalty = next((each for each in account.penalties if each.case == standing.case), None)
    is_in_force = penalty is not None and penalty.holds(penalty.user, now)
    return {**inner, "abusePenalty": penalty.arm if penalty is not None and is_in_force else None}


def answered(answer: Answer) -> dict[str, Any]:
    """Return an answer as the customer sees it."""
    return {name: value for name, value in answer.document.items() if name not in ("ruled_by", "filed_by", "is_done")}


_SHOWN = frozenset({"case", "user", "category", "step", "begun", "due", "is_waiting", "is_answered"})
