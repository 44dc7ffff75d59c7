"""Appeals: who answers, who rules, what a ruling does, and where the customer's words are."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sluicegate.errors import StorageUnavailable
from sluicegate.types import Role
from tests.inside import APPEALS, ARM, Tenant, client
from tests.monitoring.customers import DAY, WHY, events

TEXT = "canary-55107: it was a novel about a fight"


@dataclass(frozen=True)
class Case:
    """A case as a reviewer has decided it."""

    id: str = "case-1"
    account: str = "contoso"
    user: str | None = None
    status: str = "confirmed"
    category: str = "terrorism"
    decided_by: str = "provider/reviewer1"


@pytest.fixture
async def contoso(app):
    tenant = await Tenant.create(app, "contoso", "local")
    await app.monitoring["local"].actions.decided(Case())
    return tenant


@pytest.fixture
async def reviewers(app):
    """Clients of two reviewers; the first one has decided the case."""
    await app.accounts.create("provider", location="local")
    keys = [await app.accounts.issue_key("provider", Role.REVIEWER, f"reviewer{n}") for n in (1, 2)]
    return [client(app, key) for key in keys]


async def answer(tenant, kind="appeal", case="case-1", text=TEXT):
    return await tenant.caller.post(APPEALS, json={"case": case, "kind": kind, "text": text})


async def rule(reviewer, filed, ruling, reason=WHY):
    return await reviewer.post(f"{APPEALS}/{filed.json()['id']}/ruling", json={"ruling": ruling, "reason": reason})


async def test_another_reviewer_reads_the_answer_and_lifts_the_penalty(app, contoso, reviewers):
    filed = await answer(contoso)
    before = (await contoso.say("hello")).status_code

    [waiting] = (await reviewers[1].get(APPEALS)).json()["data"]
    read = (await reviewers[1].get(f"{APPEALS}/{waiting['id']}")).json()
    ruled = await rule(reviewers[1], filed, "lift")

    assert (filed.status_code, before, ruled.status_code) == (201, 403, 200)
    assert "text" not in waiting
    assert read["text"] == TEXT
    assert (await contoso.say("hello")).status_code == 200
    assert "abusePenalty" not in (await contoso.operator.get(contoso.path, params=ARM)).json()["properties"]
    assert [action for action, *_ in await events(app) if action.startswith(("appeal", "penalty"))] == [
        "penalty.blocked",
        "appeal.file",
        "appeal.read",
        "appeal.rule",
        "penalty.lifted",
    ]


async def test_whoever_decided_the_case_does_not_rule(contoso, reviewers):
    filed = await answer(contoso)

    refused = await rule(reviewers[0], filed, "lift")

    assert refused.status_code == 403
    assert (await contoso.say("hello")).status_code == 403


async def test_an_answer_is_ruled_on_once(contoso, reviewers):
    filed = await answer(contoso)
    await rule(reviewers[1], filed, "uphold")

    assert (await rule(reviewers[1], filed, "lift")).status_code == 409
    assert (await contoso.say("hello")).status_code == 403


@pytest.mark.parametrize(("ruling", "kind"), [("accept", "answer.accepted"), ("uphold", "appeal.denied")])
async def test_the_customer_is_told_of_the_ruling(app, contoso, reviewers, ruling, kind):
    await rule(reviewers[1], await answer(contoso), ruling)

    told = [each.notice for each in await app.monitoring["local"].notices.of_account("contoso")]
    assert kind in [notice.kind for notice in told]
    assert not any("reviewer" in notice.text for notice in told)


async def test_an_accepted_answer_lets_a_block_end_without_the_end_of_access(world, app, contoso, reviewers):
    await rule(reviewers[1], await answer(contoso, "remediation"), "accept")

    world.clock.advance(30 * DAY)
    await app.monitor()

    assert (await contoso.say("hello")).status_code == 200
    assert (await app.monitoring["local"].actions.get("contoso", "case-1")).step == "expired"


async def test_answers_have_a_bound(contoso, reviewers):
    first = await answer(contoso)
    at_once = await answer(contoso)
    for filed in (first, None, None):
        await rule(reviewers[1], filed or await answer(contoso), "uphold")

    fourth = await answer(contoso)

    assert (at_once.status_code, fourth.status_code) == (409, 409)
    assert (await answer(contoso, text="x" * 8001)).status_code == 400
    assert (await answer(contoso, text=" ")).status_code == 400


@pytest.mark.parametrize("case", ["", ".", "..", "a/b", "../case-1", "a//b", "case 1", "x" * 101, "case-1\n"])
async def test_what_is_no_cases_id_is_refused_as_such(contoso, case):
    refused = await answer(contoso, case=case)

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "case")


@pytest.mark.parametrize("id", ["unknown", "case-1", "%2e%2e%2fcase-1", "answer-"])
async def test_what_is_no_answer_is_not_found(contoso, reviewers, id):
    assert (await reviewers[1].get(f"{APPEALS}/{id}")).status_code == 404


async def test_to_what_is_over_nobody_answers(contoso, reviewers):
    await rule(reviewers[1], await answer(contoso), "lift")

    assert (await answer(contoso)).status_code == 409


async def test_another_account_neither_answers_nor_learns_of_the_case(app, contoso):
    fabrikam = await Tenant.create(app, "fabrikam", "local")

    foreign, unknown = await answer(fabrikam), await answer(fabrikam, case="case-2")

    assert (foreign.status_code, foreign.json()) == (unknown.status_code, unknown.json())
    assert foreign.status_code == 404


async def test_what_the_customer_writes_is_stored_sealed_only(world, contoso):
    await answer(contoso)

    assert world.found("canary-55107") == []


async def test_a_reviewer_of_another_region_sees_none_of_it(world, app):
    app = world.open("local", "faraway")
    contoso = await Tenant.create(app, "contoso", "faraway")
    await app.monitoring["faraway"].actions.decided(Case())
    filed = await answer(contoso)
    await app.accounts.create("provider", location="local")
    reviewer = client(app, await app.accounts.issue_key("provider", Role.REVIEWER, "reviewer2"))

    assert (await reviewer.get(APPEALS)).json()["data"] == []
    assert (await reviewer.get(f"{APPEALS}/{filed.json()['id']}")).status_code == 404


@pytest.mark.parametrize("ruling", ["lift", "accept", "uphold"])
async def test_a_ruling_that_was_interrupted_the_timer_finishes(world, app, contoso, reviewers, monkeypatch, ruling):
    filed = await answer(contoso)

    async def dies(*_, **__):
        raise StorageUnavailable("gone")

    with monkeypatch.context() as patched:
        for method in ("lift", "accept", "deny"):
            patched.setattr(app.monitoring["local"].actions, method, dies)
        interrupted = await rule(reviewers[1], filed, ruling)
    await world.open().monitor()

    standing = await app.monitoring["local"].actions.get("contoso", "case-1")
    assert interrupted.status_code == 503
    assert (standing.step == "lifted", standing.is_answered, standing.is_waiting) == (
        ruling == "lift",
        ruling == "accept",
        False,
    )
    [found] = await app.monitoring["local"].appeals.of_account("contoso")
    assert found.is_done


async def test_an_answer_whose_filing_was_interrupted_stops_the_steps_all_the_same(world, app, contoso, monkeypatch):
    async def dies(*_, **__):
        raise StorageUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(app.monitoring["local"].actions, "wait", dies)
        await answer(contoso)
    world.clock.advance(31 * DAY)
    await world.open().monitor()

    assert (await app.monitoring["local"].actions.get("contoso", "case-1")).step == "blocked"
