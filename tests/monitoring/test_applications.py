"""Modified abuse monitoring and modified content filters: who asks, who decides, what it does and when it ends."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from sluicegate.errors import PurgeIncomplete
from sluicegate.monitoring.questions import Kind
from sluicegate.requests import ChatRequest
from sluicegate.storage import documents
from sluicegate.types import Role
from tests.inside import APPLICATIONS, ARM, REASON, Tenant, client
from tests.monitoring.customers import DAY, WHY, answers, approve, events, file

WORDS = "canary-99021 whispered"
RETAINING = "[plugins.scripted_model]\nretains = true"


@pytest.fixture
def no_cache(monkeypatch):
    """Every process knows at once."""
    monkeypatch.setattr(documents, "CACHE_S", 0.0)


async def kept(tenant):
    """Return how many exchanges of an account there are to read."""
    return len((await tenant.officer.get("/governance/retained", params=REASON)).json()["data"])


async def shown(tenant):
    return (await tenant.operator.get(tenant.path, params=ARM)).json()["properties"]


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"attestations": {}},
        {"attestations": dict.fromkeys(answers()["attestations"], True) | {"accepts_risk": False}},
        {"attestations": dict.fromkeys(answers()["attestations"], True) | {"made_up": True}},
        {"criteria": []},
        {"criteria": ["because"]},
        {"use_case": " "},
        {"justification": "x" * 5000},
        {"kind": "modified_everything"},
        {"extra": 1},
    ],
)
async def test_an_application_that_lacks_something_is_refused_and_told_what(contoso, changed):
    refused = await contoso.caller.post(APPLICATIONS, json=answers() | changed)

    assert refused.status_code == 400
    assert next(iter(changed)) in refused.json()["error"]["message"]


async def test_what_the_applicant_writes_is_stored_sealed_and_an_operator_reads_it_on_the_record(world, app, contoso):
    id = await file(contoso)

    read = (await contoso.operator.get(f"{APPLICATIONS}/{id}")).json()
    listed = (await contoso.operator.get(APPLICATIONS)).json()["data"]

    assert (read["use_case"], read["justification"]) == (answers()["use_case"], answers()["justification"])
    assert [each.keys() & {"use_case", "justification"} for each in listed] == [set()]
    assert world.found("hospital") == []
    assert ("application.read", "contoso", id) in await events(app)


async def test_what_the_applicant_wrote_goes_with_the_account(world, app, contoso):
    id = await file(contoso)
    await contoso.operator.delete(contoso.path, params=ARM)
    tenant = await app.tenants.get("contoso")
    await app.erasure.account(tenant, actor="operator/x")

    assert await app.applications.read(id, "operator/x") == (await app.applications.get(id), {})
    stored = [path for path in (world.folder / "local" / "storage").rglob(f"*{id}*") if path.is_file()]
    assert [path.parent.name for path in stored] == ["applications"]


async def test_filing_alone_changes_nothing(contoso):
    await file(contoso)
    await contoso.say(WORDS)

    assert await kept(contoso) == 1
    assert (await shown(contoso))["capabilities"] == []


async def test_a_second_application_of_a_kind_waits_for_the_first(contoso):
    await file(contoso)

    assert (await contoso.caller.post(APPLICATIONS, json=answers())).status_code == 409
    await file(contoso, Kind.CONTENT_FILTERS)


async def test_a_refusal_changes_nothing_and_is_final(contoso):
    id = await file(contoso)
    decision = f"{APPLICATIONS}/{id}/decision"

    refused = await contoso.operator.post(decision, json={"decision": "refuse", "reason": WHY})
    again = await contoso.operator.post(decision, json={"decision": "refuse", "reason": WHY})

    assert (refused.json()["state"], again.status_code) == ("refused", 409)
    assert (await shown(contoso))["capabilities"] == []


async def test_whoever_filed_it_does_not_decide(app, contoso):
    both = [await app.accounts.issue_key("contoso", role, "somebody") for role in (Role.CALLER, Role.OPERATOR)]
    async with client(app, both[0]) as caller, client(app, both[1]) as operator:
        id = (await caller.post(APPLICATIONS, json=answers())).json()["id"]
        refused = await operator.post(f"{APPLICATIONS}/{id}/decision", json={"decision": "refuse", "reason": WHY})

    assert refused.status_code == 403
    assert (await app.applications.get(id)).state == "submitted"


@pytest.mark.parametrize("days", [None, 0, -1, 400])
async def test_an_approval_has_an_end_within_a_year(world, contoso, days):
    id = await file(contoso)
    expires = None if days is None else (world.clock.now + days * DAY).isoformat()

    refused = await contoso.operator.post(
        f"{APPLICATIONS}/{id}/decision", json={"decision": "approve", "expires": expires, "reason": WHY}
    )

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "expires")


async def test_a_reason_that_names_somebody_is_not_logged_and_decides_nothing(app, contoso):
    id = await file(contoso)
    body = {"decision": "refuse", "reason": "somebody@example.com asked"}

    refused = await contoso.operator.post(f"{APPLICATIONS}/{id}/decision", json=body)

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "reason")
    assert (await app.applications.get(id)).state == "submitted"


async def test_another_subscription_neither_withdraws_nor_learns_of_it(app, contoso):
    id = await file(contoso)
    stranger = await Tenant.create(app, "stranger", "local", subscription="99999999-1111-2222-3333-444444444444")

    refused = await stranger.caller.delete(f"{APPLICATIONS}/{id}")

    assert refused.status_code == 404
    assert (await app.applications.get(id)).state == "submitted"


# --- what an approval does -------------------------------------------------------------------------------------------


async def test_an_approval_deletes_what_was_kept_with_a_receipt_and_nothing_more_is_kept(app, contoso):
    await contoso.say(WORDS)

    decided = await approve(contoso, await file(contoso))
    await contoso.say(WORDS)

    assert await kept(contoso) == 0
    receipt = (await contoso.officer.get(f"/governance/receipts/{decided['receipts']['contoso']}")).json()
    assert receipt["account"] == "contoso"
    assert (await shown(contoso))["capabilities"] == [{"name": "ContentLogging", "value": "false"}]


async def test_it_is_for_all_accounts_of_the_subscription_and_those_made_later(app, contoso):
    sibling = await Tenant.create(app, "sibling", "local")
    other = await Tenant.create(app, "other", "local", subscription="99999999-1111-2222-3333-444444444444")

    await approve(contoso, await file(contoso))
    later = await Tenant.create(app, "later", "local")
    for tenant in (sibling, later, other):
        await tenant.say(WORDS)

    assert [await kept(tenant) for tenant in (sibling, later, other)] == [0, 0, 1]


async def test_a_restored_account_is_as_its_subscription_is(app, contoso):
    sibling = await Tenant.create(app, "sibling", "local")
    await sibling.operator.delete(sibling.path, params=ARM)
    await approve(contoso, await file(contoso))
    body = {"location": "local", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {"restore": True}}

    restored = await sibling.operator.put(sibling.path, params=ARM, json=body)

    assert restored.json()["properties"]["capabilities"] == [{"name": "ContentLogging", "value": "false"}]


async def test_other_processes_know_within_a_minute(world, app, contoso, monkeypatch):
    other = contoso.by(world.open())
    await other.say(WORDS)
    await approve(contoso, await file(contoso))
    assert documents.CACHE_S <= 60
    monkeypatch.setattr(documents, "CACHE_S", 0.0)

    await other.say(WORDS)

    assert await kept(contoso) == 0


async def test_a_stream_that_began_before_the_approval_is_not_kept(app, contoso):
    """It is the core that looks again: when the stream ends the approval is in effect."""
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": WORDS}]})
    principal = await app.authenticate({"api-key": contoso.keys[Role.CALLER]}, "chat.completions")
    call = await app.admission.call(principal, "chat", ChatRequest.model_validate_json(body), "abc")
    chunks = app.chunks(call)
    await anext(chunks)

    await approve(contoso, await file(contoso))
    async for _ in chunks:
        pass

    assert await kept(contoso) == 0


async def test_each_step_is_in_the_audit_log(app, contoso):
    id = await file(contoso)
    await approve(contoso, id)
    await contoso.caller.delete(f"{APPLICATIONS}/{id}")

    actions = [action for action, account, subject in await events(app) if account == "contoso" and subject == id]
    assert actions == [
        "application.file",
        "application.approve",
        "content-logging.off",
        "application.withdraw",
        "content-logging.on",
    ]


async def test_modified_filters_come_and_go_with_their_application(app, contoso):
    id = await file(contoso, Kind.CONTENT_FILTERS)
    assert not (await app.accounts.get("contoso")).modified_filters

    await approve(contoso, id)
    while_approved = (await app.accounts.get("contoso")).modified_filters
    await contoso.operator.post(f"{APPLICATIONS}/{id}/decision", json={"decision": "withdraw", "reason": WHY})

    assert while_approved
    assert not (await app.accounts.get("contoso")).modified_filters
    assert (await app.accounts.get("contoso")).content_logging


# --- its end ---------------------------------------------------------------------------------------------------------


async def test_it_ends_on_its_day_and_content_is_kept_again(world, app, contoso):
    id = await file(contoso)
    await approve(contoso, id, days=3)

    world.clock.advance(3 * DAY - timedelta(minutes=1))
    await app.monitor()
    before = (await app.accounts.get("contoso")).content_logging
    world.clock.advance(timedelta(minutes=1))
    await app.monitor()

    assert not before
    assert (await app.accounts.get("contoso")).content_logging
    assert (await app.applications.get(id)).state == "expired"


async def test_an_end_does_not_undo_what_another_approval_gives(world, app, contoso):
    """An operator has approved one account by itself too, for longer."""
    id = await file(contoso, Kind.CONTENT_FILTERS)
    await approve(contoso, id, days=3)
    await app.applications.grant(
        "contoso", Kind.CONTENT_FILTERS, "operator/x", expires=world.clock.now + 9 * DAY, reason=WHY
    )

    world.clock.advance(3 * DAY)
    await app.applications.advance()

    assert (await app.applications.get(id)).state == "expired"
    assert (await app.accounts.get("contoso")).modified_filters


async def test_what_was_interrupted_the_timer_finishes(world, app, contoso, monkeypatch):
    await contoso.say(WORDS)
    id = await file(contoso)

    async def dies(*_):
        raise PurgeIncomplete(["contoso"])

    monkeypatch.setattr(app.applications._settling, "_erase", dies)
    body = {"decision": "approve", "expires": (world.clock.now + DAY).isoformat(), "reason": WHY}
    interrupted = await contoso.operator.post(f"{APPLICATIONS}/{id}/decision", json=body)
    other = world.open()
    await other.start()
    await other.applications.advance()
    await other.applications.advance()

    assert interrupted.status_code == 500
    assert await kept(contoso) == 0
    found = await other.applications.get(id)
    assert (found.is_settled, list(found.receipts)) == (True, ["contoso"])


async def test_an_account_whose_content_cannot_be_deleted_now_holds_up_no_other(world, app, contoso, monkeypatch):
    sibling = await Tenant.create(app, "sibling", "local")
    for tenant in (contoso, sibling):
        await tenant.say(WORDS)
    erase = app.applications._settling._erase

    async def fails(tenant, *more):
        if tenant.id == "contoso":
            raise PurgeIncomplete(["contoso"])
        assert not (await app.accounts.get("contoso")).content_logging
        return await erase(tenant, *more)

    monkeypatch.setattr(app.applications._settling, "_erase", fails)
    body = {"decision": "approve", "expires": (world.clock.now + DAY).isoformat(), "reason": WHY}
    await contoso.operator.post(f"{APPLICATIONS}/{await file(contoso)}/decision", json=body)
    await contoso.say(WORDS)

    assert await kept(sibling) == 0
    assert await kept(contoso) == 1
    assert not (await app.accounts.get("contoso")).content_logging


async def test_two_who_decide_at_once_do_not_both(world, app, contoso):
    id = await file(contoso)
    other = contoso.by(world.open())
    refusal = {"decision": "refuse", "reason": WHY}

    decided = await asyncio.gather(
        *(each.operator.post(f"{APPLICATIONS}/{id}/decision", json=refusal) for each in (contoso, other))
    )

    assert sorted(each.status_code for each in decided) == [200, 409]


# --- upstreams that keep ---------------------------------------------------------------------------------------------


async def test_a_model_whose_provider_keeps_content_is_refused_when_called_deployed_and_trained(world):
    app = world.open(more=RETAINING)
    contoso = await Tenant.create(app, "contoso", "local")
    served = await contoso.say(WORDS)
    await approve(contoso, await file(contoso))

    called, deployed = await contoso.say(WORDS), await contoso.use_policy(None)
    job = {"model": "rehearsal-chat", "training_file": "file-" + "0" * 32}
    trained = await contoso.caller.post("/openai/v1/fine_tuning/jobs", json=job)

    assert served.status_code == 200
    assert [(each.status_code, each.json()["error"]["code"]) for each in (called, deployed, trained)] == [
        (403, "ModelRetainsContent")
    ] * 3
    assert "exempt" in called.json()["error"]["message"]
