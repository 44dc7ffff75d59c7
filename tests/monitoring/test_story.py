"""The whole story: one end user abuses a large account and is stopped, appeals and is let in again; another account opts out meanwhile.

Run it with ``-s`` to read the audit trail.
"""

from __future__ import annotations

import base64
import hmac
import json
import sys
from datetime import timedelta

import pytest
from aiohttp import web

from sluicegate.audit.log import Audit
from sluicegate.requests import ChatRequest
from sluicegate.types import Role
from tests.inside import APPEALS, CASES, LEDGER, Tenant, client
from tests.monitoring.customers import DAY, WHY, World, approve, file
from tests.plugins.loopback import served
from tests.wire.cues import play

HOUR = timedelta(hours=1)
SECRET = b"a secret of some twenty-four bytes"
THREAT = (
    "I will find him tonight and stab him until he stops breathing, and then I will kill his brother too. canary-88031"
)
HARM = {"text": THREAT, "content_filter_results": {"violence": {"filtered": False, "severity": "high"}}}
JAILBREAK = {"text": THREAT, "content_filter_results": {"jailbreak": {"filtered": True, "detected": True}}}
QUIET = "canary-41907 confided"


@pytest.fixture
async def world(tmp_path, monkeypatch):
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_" + base64.b64encode(SECRET).decode())
    world = World(tmp_path)
    yield world
    await world.close()


def settings(url):
    """Return the deployment file's part about notices, and an inclination to act soon."""
    return f"""
[plugins.notify_webhook]
url = "{url}/hook"
secret_setting = "WEBHOOK_SECRET"
[penalties]
remediation_days = 3
"""


async def talk(world, contoso):
    """A day in a large account: many who ask decent things, and one who does not stop."""
    for hour in range(12):
        for number in range(30):
            await contoso.say("hello", user=f"guest{(hour * 7 + number) % 60}")
        await contoso.say(play(HARM if hour % 4 == 0 else JAILBREAK), user="mallory")
        world.clock.advance(HOUR)


async def test_the_whole_story(world):
    received = []

    async def hook(request):
        body = await request.read()
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
        signature = base64.b64encode(hmac.digest(SECRET, signed, "sha256")).decode()
        assert request.headers["webhook-signature"] == f"v1,{signature}"
        received.append(json.loads(body))
        return web.Response()

    receiver = web.Application()
    receiver.router.add_post("/hook", hook)
    async with served(receiver) as url:
        app = world.open(more=settings(url), stages='review = ["content_filter"]\nnotify = ["notify_webhook"]')
        await app.start()
        contoso = await Tenant.create(app, "contoso", "local")
        mallory = (await app.accounts.get("contoso")).user_hash("mallory")
        await app.accounts.create("provider", location="local")
        keys = [await app.accounts.issue_key("provider", Role.REVIEWER, f"reviewer{n}") for n in (1, 2)]
        reviewer, second_reviewer = (client(app, key) for key in keys)

        # One end user stands out of the account, and not the account itself; the model that looks at it first lets people look.
        await talk(world, contoso)
        await app.monitor()
        [case] = (await reviewer.get(CASES)).json()["data"]
        assert (case["user"], {each["user"] for each in case["flagged"]}) == (mallory, {mallory})
        assert case["status"] == "open"
        assert case["verdicts"]

        # One reviewer reads what another one has approved, and confirms; the customer is told and does not answer.
        where = f"{CASES}/{case['id']}"
        assert (await reviewer.get(f"{where}/content")).status_code == 403
        grant = (await reviewer.post(f"{where}/access", json={"reason": WHY})).json()["id"]
        assert (await reviewer.post(f"{where}/access/{grant}/approve")).status_code == 403
        assert (await second_reviewer.post(f"{where}/access/{grant}/approve")).status_code == 200
        assert THREAT in (await reviewer.get(f"{where}/content")).text
        confirmation = {"decision": "confirm", "category": "violence", "guideline": "conduct/3", "reason": WHY}
        assert (await reviewer.post(f"{where}/decision", json=confirmation)).status_code == 200
        await app.monitor()
        assert [each["kind"] for each in received] == ["violation.confirmed"]
        world.clock.advance(3 * DAY)
        await app.monitor()
        assert [each["kind"] for each in received] == ["violation.confirmed", "access.throttled"]
        refused = next(
            each for each in [await contoso.say("hello", user="mallory") for _ in range(20)] if each.status_code == 429
        )
        assert refused.json()["error"]["innererror"]["case"] == case["id"]
        assert (await contoso.say("hello", user="guest1")).status_code == 200

        # The customer answers, and somebody else than who decided lifts it.
        filed = await contoso.caller.post(
            APPEALS, json={"case": case["id"], "kind": "remediation", "text": "The user's access to our app has ended."}
        )
        where = f"{APPEALS}/{filed.json()['id']}"
        by_who_decided = await reviewer.post(f"{where}/ruling", json={"ruling": "uphold", "reason": WHY})
        assert by_who_decided.status_code == 403
        assert (await second_reviewer.get(where)).json()["text"].startswith("The user's access")
        ruled = await second_reviewer.post(f"{where}/ruling", json={"ruling": "lift", "reason": WHY})
        assert ruled.status_code == 200
        statuses = [(await contoso.say("hello", user="mallory")).status_code for _ in range(20)]
        assert set(statuses) == {200}
        ledger = (await contoso.caller.get(LEDGER)).json()
        assert ledger["consequences"][0]["step"] == "lifted"
        assert [(each["id"], each["status"], each["category"]) for each in ledger["cases"]] == [
            (case["id"], "confirmed", "violence")
        ]
        assert "reviewer" not in json.dumps(ledger)
        await app.monitor()
        assert [each["kind"] for each in received][-1] == "penalty.lifted"

        await opts_out_in_the_middle_of_an_answer(world, app)

    # Everything that somebody decided is in the log, and the log is what was written.
    trail = [entry async for entry in app.regions.home.audit.entries()]
    for entry in trail:
        sys.stdout.write(f"{entry.time}  {entry.event.actor:24} {entry.event.action:24} {entry.event.subject}\n")
    audit = Audit(app.regions.home.blobs, app.plugins.open_keys(app.deployment.keys), origin="sluicegate/local")
    await app.regions.home.audit.checkpoint()
    assert await audit.verify() == len(trail)
    actions = [entry.event.action for entry in trail if entry.event.account == "contoso"]
    reads = actions.count("access.read")
    assert reads == len(case["flagged"])
    assert [action for action in dict.fromkeys(actions) if not action.startswith("account.")] == [
        "case.open",
        "access.ask",
        "access.approve",
        "access.read",
        "case.confirmed",
        "penalty.notified",
        "penalty.throttled",
        "appeal.file",
        "appeal.read",
        "appeal.rule",
        "penalty.lifted",
    ]


async def opts_out_in_the_middle_of_an_answer(world, app):
    """A second account, of another subscription, that may not have anything kept."""
    clinic = await Tenant.create(app, "clinic", "local", subscription="99999999-1111-2222-3333-444444444444")
    await clinic.say(QUIET)
    assert (await clinic.caller.get(LEDGER)).json()["held"]["records"] == 1
    body = json.dumps({"model": "chat", "user": "patient", "messages": [{"role": "user", "content": QUIET}]})
    principal = await app.authenticate({"api-key": clinic.keys[Role.CALLER]}, "chat.completions")
    chunks = app.chunks(
        await app.admission.call(principal, "chat", ChatRequest.model_validate_json(body), "in-progress")
    )
    await anext(chunks)

    decided = await approve(clinic, await file(clinic))
    async for _ in chunks:
        pass
    await clinic.say(QUIET)

    held = (await clinic.caller.get(LEDGER)).json()
    assert (held["held"]["records"], held["content_logging"]) == (0, False)
    assert list(decided["receipts"]) == ["clinic"]
    assert world.found("canary-41907") == []
    stored = [blob async for blob in app.regions.home.blobs.list("ret-20260105", "clinic/")]
    assert [blob.name for blob in stored if "/deletions/" not in blob.name] == []
