"""Notices: what customers are told, kept for them to read, and delivered by plugins until that has worked or is given up.

In the container ``notices`` of the account's region::

    notice/{account}/{id}     the notice, and how far each plugin is with it
    waiting/{account}/{id}    empty: some plugin is not done with it
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sluicegate.abuse import Notice
from sluicegate.errors import BlobExists, SluicegateError
from sluicegate.services import BlobStore
from sluicegate.storage.documents import Documents
from sluicegate.types import utc_now

CONTAINER = "notices"
NOTIFY_S = 20.0
"""How long a plugin may take for one notice."""
FIRST_WAIT = timedelta(minutes=5)
"""Before a delivery that failed is tried again; it doubles each time."""
LONGEST_WAIT = timedelta(hours=12)
MOST_TRIES = 12
"""After which a delivery is given up, three days after the first."""


@dataclass(frozen=True, slots=True)
class Told:
    """A notice, and what became of it by plugin: ``waiting``, ``delivered`` or ``given_up``."""

    notice: Notice
    deliveries: Mapping[str, str]


class Notices:
    """The notices of the accounts in one region; one object per process.

    Args:
        plugins: Which deliver, in the order of the pipeline.
        deliver: Has one plugin deliver one notice: ``deliver(plugin, notice)``.
        give_up: Tells the operator that a plugin could not deliver a notice.
    """

    def __init__(
        self,
        blobs: BlobStore,
        plugins: Sequence[str],
        deliver: Callable[[str, Notice], Awaitable[Any]],
        give_up: Callable[[str, Notice], None],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._notices = Documents(blobs, CONTAINER, "notice/")
        self._waiting = Documents(blobs, CONTAINER, "waiting/")
        self._plugins = plugins
        self._deliver = deliver
        self._give_up = give_up
        self._now = now

    async def send(self, notice: Notice) -> None:
        """Keep a notice, from when on the customer can read it, and have it delivered by the timer; the same one once only."""
        name = f"{notice.account}/{notice.id}"
        due = self._now().isoformat()
        deliveries = {plugin: {"state": "waiting", "tries": 0, "next": due} for plugin in self._plugins}
        if deliveries:
            # First, so that one that is kept is never forgotten; one that is only waiting is nothing.
            with suppress(BlobExists):
                await self._waiting.put(name, {}, etag=None)
        with suppress(BlobExists):
            await self._notices.put(name, {"notice": notice.document, "deliveries": deliveries}, etag=None)

    async def of_account(self, account: str) -> list[Told]:
        """Return an account's notices, the newest first."""
        names = await self._notices.names(f"{account}/")
        found = [_told(each.content) for each in await self._notices.all(names)]
        return sorted(found, key=lambda told: (told.notice.at, told.notice.id), reverse=True)

    async def deliver(self) -> None:
        """Deliver what is due; for the timer."""
        for name in await self._waiting.names():
            found = await self._notices.get(name)
            if found is None:
                continue
            notice = Notice.of(found.content["notice"])
            deliveries = {plugin: dict(each) for plugin, each in found.content["deliveries"].items()}
            for plugin, delivery in deliveries.items():
                if delivery["state"] == "waiting" and datetime.fromisoformat(delivery["next"]) <= self._now():
                    await self._try(plugin, notice, delivery)
            await self._notices.change(name, lambda old, new=deliveries: {**(old or {}), "deliveries": new})  # type: ignore[misc]
            if all(each["state"] != "waiting" for each in deliveries.values()):
                await self._waiting.delete(name)

    async def delete(self, account: str) -> None:
        """Delete an account's notices."""
        for documents in (self._waiting, self._notices):
            for name in await documents.names(f"{account}/"):
                await documents.delete(name)

    async def _try(self, plugin: str, notice: Notice, delivery: dict[str, Any]) -> None:
        delivery["tries"] += 1
        try:
            async with asyncio.timeout(NOTIFY_S):
                await self._deliver(plugin, notice)
        except (SluicegateError, TimeoutError):
            wait = min(FIRST_WAIT * 2 ** (delivery["tries"] - 1), LONGEST_WAIT)
            delivery["next"] = (self._now() + wait).isoformat()
            if delivery["tries"] >= MOST_TRIES:
                delivery["state"] = "given_up"
                self._give_up(plugin, notice)
        else:
            delivery["state"] = "delivered"


def _told(content: Mapping[str, Any]) -> Told:
    states = {plugin: each["state"] for plugin, each in content["deliveries"].items()}
    return Told(Notice.of(content["notice"]), states)
