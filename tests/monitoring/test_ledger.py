"""The ledger: what customers see, take, delete and shorten of their own account, and of no other."""

from __future__ import annotations

import json

import pytest

from sluicegate.testing import FrozenClock
from tests.inside import ARM, LEDGER, REASON, Tenant
from tests.monitoring.customers import DAY, approve, events, file
from tests.monitoring.test_appeals import Case, answer
from tests.monitoring.test_cases import pattern
from tests.wire.cues import play

WORDS = "canary-20177 hummed"
JAILBREAK = {"text": WORDS, "content_filter_results": {"jailbreak": {"filtered": True, "detected": True}}}
HARM = {"text": WORDS, "content_filter_results": {"violence": {"filtered": False, "severity": "high"}}}


async def ledger(tenant):
    found = await tenant.caller.get(LEDGER)
    assert found.status_code == 200, found.text
    return found.json()


async def test_what_is_held_is_counted_by_day(world, contoso):
    assert isinstance(world.clock, FrozenClock)
    for _ in range(2):
        await contoso.say(WORDS)
    world.clock.advance(DAY)
    await contoso.say(WORDS)

    held = (await ledger(contoso))["held"]

    assert [(each["plugin"], each["day"], each["records"]) for each in held["retained"]] == [
        ("keep_encrypted", "20260101", 2),
        ("keep_encrypted", "20260102", 1),
    ]
    assert held["records"] == 3
    assert all(each["bytes"] > 0 for each in held["retained"])


async def test_files_are_counted_too(contoso):
    form = {"files": {"file": ("train.jsonl", b"12345")}, "data": {"purpose": "batch"}}
    await contoso.caller.post("/openai/v1/files", **form)

    held = (await ledger(contoso))["held"]

    assert (held["files"], held["models"]) == ({"count": 1, "bytes": 5}, [])


async def test_what_is_deleted_is_not_counted(contoso):
    for user in ("alice", "bob"):
        await contoso.say(WORDS, user=user)

    deleted = await contoso.caller.delete(f"{LEDGER}/retained", params={"user": "bob", **REASON})

    assert deleted.json()["deleted"]
    assert (await ledger(contoso))["held"]["records"] == 1


async def test_the_score_and_its_parts_and_what_followed_are_shown_without_names(app, contoso):
    await app.monitoring["local"].actions.decided(Case())
    await answer(contoso)

    found = await ledger(contoso)

    assert found["score"]["account"].keys() >= {"value", "frequency", "severity", "intent", "trend", "threshold"}
    [consequence] = found["consequences"]
    assert (consequence["case"], consequence["step"], consequence["is_waiting"]) == ("case-1", "blocked", True)
    assert consequence["abusePenalty"]["action"] == "Block"
    assert [each["kind"] for each in found["notices"]] == ["access.blocked"]
    assert [each["case"] for each in found["appeals"]] == ["case-1"]
    assert "reviewer1" not in json.dumps(found)


async def test_what_is_about_one_end_user_is_shown_alone_with_the_hash_that_names_them(world, app, contoso):
    mallory = (await app.accounts.get("contoso")).user_hash("mallory")
    for user in ("mallory", "alice"):
        await contoso.say(play(HARM), user=user)
    await app.observer.flush()
    world.clock.advance(DAY / 24)
    for user in (mallory, None):
        await app.monitoring["local"].cases.report(pattern(app, f"exchange-of-{user}", user=user))
    await app.monitoring["local"].actions.decided(Case())

    everything = await ledger(contoso)
    about = (await contoso.caller.get(LEDGER, params={"user": "mallory"})).json()

    assert (everything["score"]["end_users_flagged"], len(everything["cases"]), len(everything["notices"])) == (2, 2, 1)
    assert about["user"] == mallory
    assert [each["user"] for each in about["score"]["end_users"]] == [mallory]
    assert [each["user"] for each in about["cases"]] == [mallory]
    assert (about["consequences"], about["appeals"], about["notices"]) == ([], [], [])


async def test_of_many_end_users_the_highest_scores_are_shown(world, app, contoso, monkeypatch):
    monkeypatch.setattr("sluicegate.monitoring.ledger.MOST_USERS", 1)
    for user in ("alice", "mallory", "mallory"):
        await contoso.say(play(HARM if user == "alice" else JAILBREAK), user=user)
    await app.observer.flush()
    world.clock.advance(DAY / 24)

    score = (await ledger(contoso))["score"]

    [highest] = score["end_users"]
    assert (score["end_users_flagged"], highest["user"]) == (
        2,
        (await app.accounts.get("contoso")).user_hash("mallory"),
    )


async def test_applications_are_shown_without_who_decided(contoso):
    await approve(contoso, await file(contoso))

    found = await ledger(contoso)

    assert [(each["state"], "decided_by" in each) for each in found["applications"]] == [("approved", False)]
    assert found["content_logging"] is False


async def test_the_export_holds_everything_and_is_an_entry(app, contoso):
    await contoso.say(WORDS, user="alice")

    exported = await contoso.caller.get(f"{LEDGER}/export", params=REASON)
    without_reason = await contoso.caller.get(f"{LEDGER}/export")

    assert WORDS in exported.text
    assert without_reason.status_code == 400
    assert ("retained.export", "contoso", None) in await events(app)


async def test_a_deletion_has_a_receipt_that_the_customer_reads(contoso):
    await contoso.say(WORDS)

    deleted = (await contoso.caller.delete(f"{LEDGER}/retained", params={"all": "true", **REASON})).json()

    receipt = await contoso.caller.get(f"{LEDGER}/receipts/{deleted['receipt']}")
    assert receipt.json()["account"] == "contoso"
    listed = (await contoso.caller.get(f"{LEDGER}/receipts")).json()["data"]
    assert deleted["receipt"] in [each["id"] for each in listed]


async def test_other_accounts_reach_nothing_of_it(app, contoso):
    fabrikam = await Tenant.create(app, "fabrikam", "local")
    said = await contoso.say(WORDS)
    receipt = (await contoso.caller.delete(f"{LEDGER}/retained", params={"user": "x", **REASON})).json()["receipt"]
    record = f"{LEDGER}/retained/{said.headers['x-request-id']}"

    await fabrikam.caller.delete(record, params=REASON)
    await fabrikam.caller.delete(f"{LEDGER}/retained", params={"all": "true", **REASON})
    exported = await fabrikam.caller.get(f"{LEDGER}/export", params=REASON)

    assert exported.text == ""
    assert (await fabrikam.caller.get(f"{LEDGER}/receipts/{receipt}")).status_code == 404
    assert (await ledger(contoso))["held"]["records"] == 1


# --- shorter retention -----------------------------------------------------------------------------------------------


async def shorten(tenant, days):
    return await tenant.caller.put(f"{LEDGER}/retention", json={"retention_days": days})


async def test_a_customer_shortens_retention_and_what_is_there_goes_by_it(world, app, contoso):
    await contoso.say(WORDS)

    shortened = await shorten(contoso, 2)
    world.clock.advance(3 * DAY)
    await app.purge()

    assert shortened.json() == {"retention_days": 2, "most": 30}
    assert (await ledger(contoso))["held"]["records"] == 0


@pytest.mark.parametrize("days", [0, 31, 1.5, None])
async def test_no_other_number_of_days_is_taken(app, contoso, days):
    assert (await shorten(contoso, days)).status_code == 400
    assert (await app.accounts.get("contoso")).retention_days == 30


async def test_nobody_gets_more_than_the_operator_lets_them(app, contoso):
    await app.accounts.set_retention_days("contoso", 7)

    refused, lengthened = await shorten(contoso, 8), await shorten(contoso, 3)

    assert (refused.status_code, lengthened.status_code) == (403, 200)
    assert (await shorten(contoso, 7)).status_code == 200
    assert (await app.accounts.get("contoso")).retention_days == 7


async def test_each_change_of_retention_is_in_the_audit_log_with_who_made_it(app, contoso):
    await shorten(contoso, 2)
    await shorten(contoso, 5)

    entries = [entry.event async for entry in app.regions.home.audit.entries()]

    assert [(each.actor, each.evidence["days"]) for each in entries if each.action == "retention.change"] == [
        ("contoso/key1", 2),
        ("contoso/key1", 5),
    ]


async def test_an_operators_change_does_not_undo_the_customers(app, contoso):
    await shorten(contoso, 2)
    body = {"location": "local", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}}

    await contoso.operator.put(contoso.path, params=ARM, json=body)

    assert (await app.accounts.get("contoso")).retention_days == 2
    assert await app.accounts.retention_days("contoso") == 2
