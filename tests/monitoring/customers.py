"""An app in folders under a clock that is moved, and the customers whose story the tests of this folder tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sluicegate.app import Sluicegate
from sluicegate.monitoring.questions import ATTESTATIONS, CRITERIA, Kind
from sluicegate.testing import FrozenClock
from tests.inside import APPLICATIONS, Tenant, folders, open_app

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
WHY = "ticket 4711"


class World:
    """Processes of one app, whose places are regions in folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FrozenClock(NOON)
        self.apps: list[Sluicegate] = []

    def open(self, *regions: str, more: str = "", stages: str = "") -> Sluicegate:
        """Open the app as one more process does."""
        self.apps.append(
            open_app(
                self.folder, folders(self.folder, *(regions or ("local",))), now=self.clock, more=more, stages=stages
            )
        )
        return self.apps[-1]

    def found(self, text: str) -> list[str]:
        """Return the files that hold a text."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path.name for path in files if text.encode() in path.read_bytes()]

    async def close(self) -> None:
        """Shut all processes down."""
        for app in self.apps:
            await app.shutdown()


def answers(kind: Kind = Kind.ABUSE_MONITORING, **changed: Any) -> dict[str, Any]:
    """Return a complete application, as it is sent."""
    return {
        "kind": kind,
        "criteria": [next(iter(CRITERIA[kind]))],
        "use_case": "A hospital's assistant for its own doctors.",
        "justification": "What doctors say of their patients is secret by law.",
        "attestations": dict.fromkeys(ATTESTATIONS[kind], True),
        **changed,
    }


async def file(tenant: Tenant, kind: Kind = Kind.ABUSE_MONITORING) -> str:
    """File an application and return its id."""
    filed = await tenant.caller.post(APPLICATIONS, json=answers(kind))
    assert filed.status_code == 201, filed.text
    return filed.json()["id"]


async def approve(tenant: Tenant, id: str, days: int = 30) -> dict[str, Any]:
    """Approve an application as the account's operator, who is everybody's."""
    expires = (tenant.gate.now() + days * DAY).isoformat()
    body = {"decision": "approve", "expires": expires, "reason": WHY}
    decided = await tenant.operator.post(f"{APPLICATIONS}/{id}/decision", json=body)
    assert decided.status_code == 200, decided.text
    return decided.json()


async def events(app: Sluicegate, region: str = "local") -> list[tuple[str, str | None, str | None]]:
    """Return action, account and subject of what is in a region's audit log, oldest first."""
    entries = app.regions.of(region).audit.entries()
    return [(each.event.action, each.event.account, each.event.subject) async for each in entries]
