"""Abuse monitoring of one region: what it is made of, and in what order the timer takes its steps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from sluicegate.abuse import FlaggedContent, Notice, ReviewVerdict
from sluicegate.accounts import Accounts
from sluicegate.config import Deployment
from sluicegate.monitoring.access import Access
from sluicegate.monitoring.actions import Actions
from sluicegate.monitoring.appeals import Appeals
from sluicegate.monitoring.applications import Applications
from sluicegate.monitoring.cases import Cases
from sluicegate.monitoring.notices import Notices
from sluicegate.monitoring.patterns import Patterns
from sluicegate.monitoring.reviewing import Review
from sluicegate.monitoring.timer import Step
from sluicegate.plugins import Plugins
from sluicegate.regions import Region, Residents
from sluicegate.store import Store

REVIEW_S = 20.0
"""How long a plugin may look at one exchange."""
log = logging.getLogger(__name__)


class RegionMonitoring:
    """Abuse monitoring of the accounts in a region; one object per process.

    Args:
        store_of: Returns where an account's exchanges are retained; None where none are, or may not be read.
        applications: Of all accounts, for the home region; None for the others.

    Attributes:
        cases: Patterns of abuse that people look into.
        access: Who may read the exchanges of a case, or of a request that is debugged.
        actions: What follows when a violation is confirmed.
        appeals: What customers answer.
        notices: What customers are told.
        steps: What the timer does, by name, in order.
    """

    def __init__(
        self,
        region: Region,
        deployment: Deployment,
        plugins: Plugins,
        accounts: Accounts,
        store_of: Callable[[str], Awaitable[Store | None]],
        applications: Applications | None,
        clock: Callable[[], datetime],
    ) -> None:
        pipeline = deployment.pipeline
        self._region = region
        self._plugins = plugins
        self._accounts = accounts
        self._reviewers = [step.plugin for step in pipeline.review]
        self._patterns = Patterns(region.counters, deployment.abuse, clock)
        notifying = [step.plugin for step in pipeline.notify]
        self.notices = Notices(region.blobs, notifying, self._deliver, self._give_up, clock)
        self.actions = Actions(region.blobs, region.audit, accounts, self.notices, deployment.penalties, clock)
        self.appeals = Appeals(region.blobs, region.large_files, region.audit, self.actions, self.notices, clock)
        self.cases = Cases(
            region.blobs,
            region.audit,
            self.actions.decided,
            clock,
            keep_days=deployment.review.keep_days,
            is_reviewed=bool(self._reviewers),
        )
        self.access = Access(region.blobs, region.audit, clock, minutes=deployment.review.access_minutes)
        self.steps: dict[str, Step] = {
            "patterns": self._report_patterns,
            "reviews": Review(self.cases, store_of, self._ask).advance,
            "cases": self.cases.advance,
            **({"applications": applications.advance} if applications is not None else {}),
            # Before the penalties: an answer that has just come keeps the next step waiting.
            "appeals": self.appeals.advance,
            "penalties": self.actions.advance,
            "notices": self.notices.deliver,
        }

    async def forget(self, account: str) -> None:
        """Delete everything about an account, whose name may be used anew."""
        for part in (self.cases, self.access, self.appeals, self.actions, self.notices):
            await part.delete(account)

    async def _report_patterns(self) -> None:
        names = await Residents(self._region, await self._accounts.census()).names()
        async for pattern in self._patterns.found(names):
            subject = "the account" if pattern.user is None else "an end user"
            log.warning("abuse pattern: account %s, %s, score %.2f", pattern.account, subject, pattern.score.value)
            await self.cases.report(pattern)

    async def _ask(self, flagged: FlaggedContent) -> ReviewVerdict:
        [plugin] = self._reviewers
        async with asyncio.timeout(REVIEW_S):
            verdict: ReviewVerdict = await self._plugins.call(plugin, "review", ReviewVerdict, flagged=flagged)
        return verdict

    async def _deliver(self, plugin: str, notice: Notice) -> object:
        return await self._plugins.call(plugin, "notify", object, notice=notice)

    def _give_up(self, plugin: str, notice: Notice) -> None:
        log.error("plugin %r could not deliver notice %s to account %s", plugin, notice.id, notice.account)
