"""The whole server under a clock that is moved on: what was kept goes on its day, and no turn of the calendar breaks anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.wire.conftest import raw
from tests.wire.serving import ROOT, Server, environment
from tests.wire.shifted import SETTING, Clock

REASON = {"reason": "ticket 4711"}
DAY_0 = datetime(2026, 1, 15, 10, tzinfo=UTC)
EVERY_SECOND = "* * * * * *"


@pytest.fixture
def clock(tmp_path) -> Iterator[Clock]:
    clock = Clock(tmp_path / "clock")
    clock.move(DAY_0)
    yield clock
    clock.close()


@pytest.fixture
def server(tmp_path, clock, cues) -> Iterator[Server]:
    settings = {
        SETTING: str(clock.path),
        "REHEARSAL_CUES": str(cues.path),
        "PURGE_SCHEDULE": EVERY_SECOND,
        "WEBSITE_TIME_ZONE": "Europe/Berlin",
        "TZ": "Europe/Berlin",
    }
    with Server(tmp_path / "data", "full", launch=("-m", "tests.wire.shifted"), **settings) as server:
        yield server


@pytest.fixture
def officer(server) -> Iterator[httpx.Client]:
    headers = {"api-key": server.credentials["officer_key"]}
    with httpx.Client(base_url=server.endpoint, headers=headers, params=REASON, timeout=60) as client:
        yield client


@pytest.fixture
def say(server, officer):
    """Have a chat, and return its id and when it began by what is kept of it."""

    def say() -> tuple[str, datetime]:
        body = {"model": "chat", "messages": [{"role": "user", "content": "good morning"}]}
        with raw(server) as caller:
            response = caller.post("/openai/v1/chat/completions", json=body)
        assert response.status_code == 200
        record = response.headers["x-request-id"]
        kept = officer.get(f"/governance/retained/{record}").json()["record"]
        return record, datetime.fromisoformat(kept["started"])

    return say


def retained(officer: httpx.Client, day: str | None = None) -> set[str]:
    found = officer.get("/governance/retained", params={**REASON, "limit": 100} | ({"day": day} if day else {}))
    assert found.status_code == 200
    return {record["id"] for record in found.json()["data"]}


def kept_of_day_0(data: Path) -> list[str]:
    """Return what there is of the first day in storage and keys; the checkpoint of the audit log has no content."""
    names = [str(path.relative_to(data)) for path in data.glob("*/**/*") if path.is_file()]
    return [name for name in names if "20260115" in name and not name.startswith("storage/audit-checkpoints/")]


def run(*arguments: object, **settings: str) -> str:
    """Run the command line, and return what it prints."""
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment("full", **settings), capture_output=True, text=True, check=True
    )
    return done.stdout


def test_what_was_kept_on_day_0_is_gone_on_day_30_by_the_timer_and_no_backup_brings_it_back(
    server, officer, say, clock, cues, tmp_path
):
    first, told = say()
    assert timedelta() <= told - DAY_0 < timedelta(minutes=1)
    backup = {name: (server.data / name).read_bytes() for name in kept_of_day_0(server.data)}
    in_storage = {name: data for name, data in backup.items() if name.startswith("storage/")}
    assert len(in_storage) == len(backup) - 1 == 2

    clock.move(datetime(2026, 2, 13, 22, 30, tzinfo=UTC))
    cues.told("purged at 2026-02-13 22:30")
    assert retained(officer) == {first}
    assert kept_of_day_0(server.data)

    clock.move(datetime(2026, 2, 13, 23, 30, tzinfo=UTC))
    cues.told("purged at 2026-02-13 23:30")
    assert retained(officer) == set()
    assert officer.get(f"/governance/retained/{first}").status_code == 404
    assert kept_of_day_0(server.data) == []

    last, _ = say()
    assert retained(officer) == {last}
    assert httpx.get(f"{server.endpoint}/healthz").json()["status"] == "ok"
    server.stop()

    settings = {SETTING: str(clock.path), "WEBSITE_TIME_ZONE": "Europe/Berlin"}
    folder = tmp_path / "receipts"
    run("tests.wire.shifted", "receipts", "--data", server.data, "--save", folder, **settings)
    saved = {path: json.loads(path.read_text()) for path in folder.glob("*.json")}
    [receipt] = [receipt for receipt in saved.values() if receipt["subject"] == "20260115"]
    assert (receipt["kind"], receipt["time"][:13], receipt["removed"][0]["blobs"]) == ("purge.day", "2026-02-13T23", 2)
    # Whoever checks it needs neither the server nor its clock.
    for path in saved:
        assert run("sluicegate", "verify-receipt", path, "--key", folder / "public.jwk").startswith("VERIFIED")

    for name, data in in_storage.items():
        (server.data / name).parent.mkdir(parents=True, exist_ok=True)
        (server.data / name).write_bytes(data)
    with Server(server.data, "full", launch=("-m", "tests.wire.shifted"), **settings) as restored:
        officer.base_url = restored.endpoint
        assert retained(officer) == {last}
        assert officer.get("/governance/export").text.count("\n") == 1


TURNS = {
    "midnight": datetime(2026, 2, 1, tzinfo=UTC),
    "an hour that is left out": datetime(2026, 3, 29, 1, tzinfo=UTC),
    "an hour that comes twice": datetime(2026, 10, 25, 1, tzinfo=UTC),
    "midnight in Berlin": datetime(2026, 11, 30, 23, tzinfo=UTC),
    "a new year": datetime(2027, 1, 1, tzinfo=UTC),
    "the leap day begins": datetime(2028, 2, 29, tzinfo=UTC),
    "the leap day ends": datetime(2028, 3, 1, tzinfo=UTC),
    "the 29th of February is a month old": datetime(2028, 3, 29, 23, tzinfo=UTC),
}


def test_no_turn_of_the_calendar_loses_a_record_or_stops_the_timer(server, officer, say, clock, cues):
    kept: dict[str, datetime] = {}
    for turn in TURNS.values():
        for moment in (turn - timedelta(minutes=1), turn):
            clock.move(moment)
            record, told = say()
            kept[record] = told
            cues.told(f"purged at {moment:%Y-%m-%d %H:%M}")
            assert timedelta() <= told - moment < timedelta(minutes=1)
            assert record in retained(officer, f"{told:%Y%m%d}")
            assert httpx.get(f"{server.endpoint}/healthz").json()["status"] == "ok"

    last = list(TURNS.values())[-1]
    # A day is due an hour before its beginning is 30 days old.
    live = {
        record for record, told in kept.items() if f"{told:%Y%m%d}" > f"{last - timedelta(days=29, hours=23):%Y%m%d}"
    }
    assert retained(officer) == live
