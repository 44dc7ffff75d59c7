"""Cases, from a pattern to a decision; and who reads content meanwhile: two people, one case, a short time, an entry each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from sluicegate.abuse import ReviewVerdict
from sluicegate.errors import Forbidden, StorageUnavailable
from sluicegate.monitoring.cases import Cases, Decision, Status
from sluicegate.monitoring.reviewing import Review
from sluicegate.monitoring.types import FlaggedExchange, Pattern, Score
from sluicegate.types import Role
from tests.inside import CASES, DEBUG, Tenant, client
from tests.monitoring.customers import DAY, WHY, events

TEXT = "canary-90210 says something terrible"
MINUTE = timedelta(minutes=1)
CONFIRM = {"decision": "confirm", "category": "violence", "guideline": "code-of-conduct/3", "reason": WHY}


@pytest.fixture
async def app(world):
    return world.open("local", "east")


@pytest.fixture
async def reviewers(app):
    return await team(app, "provider", "local", "reviewer1", "reviewer2")


async def team(app, account, location, *names):
    await app.accounts.create(account, location=location)
    return [client(app, await app.accounts.issue_key(account, Role.REVIEWER, name)) for name in names]


def pattern(app, *exchanges, account="contoso", user=None, value=0.8):
    now = app.now()
    flagged = tuple(FlaggedExchange(id, now, "chat", ("violence",), user) for id in exchanges)
    score = Score(value, 0.9, 0.8, 0.7, 0.6, ("3 of 10 exchanges were flagged",))
    return Pattern(account, user, (now - 7 * DAY, now), score, flagged)


async def said(tenant, words=TEXT):
    return (await tenant.say(words)).headers["x-request-id"]


async def opened(app, tenant, *more):
    """Return a case about two exchanges of a customer's."""
    ids = [await said(tenant), await said(tenant, "hello"), *more]
    return await app.monitoring["local"].cases.report(pattern(app, *ids))


async def asked(reviewer, case, reason=WHY):
    return await reviewer.post(f"{CASES}/{case.id}/access", json={"reason": reason})


async def approved(reviewer, case, grant):
    return await reviewer.post(f"{CASES}/{case.id}/access/{grant.json()['id']}/approve")


async def content(reviewer, case, **query):
    return await reviewer.get(f"{CASES}/{case.id}/content", params=query)


async def granted(reviewers, case):
    grant = await asked(reviewers[0], case)
    assert (await approved(reviewers[1], case, grant)).status_code == 200
    return grant


# --- two people, one case, a short time ------------------------------------------------------------------------------


async def test_a_reviewer_reads_what_another_has_approved(app, contoso, reviewers):
    case = await opened(app, contoso)
    unrelated = await said(contoso, "unrelated")
    await granted(reviewers, case)

    read = await content(reviewers[0], case)

    assert read.status_code == 200
    assert [each["id"] for each in read.json()["data"]] == [each.id for each in case.flagged]
    assert unrelated not in read.text
    assert read.json()["data"][0]["exchange"]["request"]["messages"] == [{"role": "user", "content": TEXT}]
    mark = read.headers["x-sluicegate-watermark"]
    assert mark.startswith("provider/reviewer1 grant-")
    assert {each["watermark"] for each in read.json()["data"]} == {mark}
    assert [action for action, *_ in await events(app) if action.startswith(("case", "access"))] == [
        "case.open",
        "access.ask",
        "access.approve",
        "access.read",
        "access.read",
    ]


async def test_nobody_reads_before_a_second_person_has_approved(app, contoso, reviewers):
    case = await opened(app, contoso)
    before = await content(reviewers[0], case)
    grant = await asked(reviewers[0], case)

    alone = await approved(reviewers[0], case, grant)
    unapproved = await content(reviewers[0], case)

    assert [each.status_code for each in (before, alone, unapproved)] == [403, 403, 403]
    assert TEXT not in before.text + unapproved.text


async def test_the_same_name_in_another_account_is_the_same_person(app, contoso, reviewers):
    case = await opened(app, contoso)
    grant = await asked(reviewers[0], case)
    [double] = await team(app, "second", "local", "reviewer1")

    assert (await approved(double, case, grant)).status_code == 403


async def test_whoever_approves_reads_nothing_by_that(app, contoso, reviewers):
    case = await opened(app, contoso)
    await granted(reviewers, case)

    assert (await content(reviewers[1], case)).status_code == 403


async def test_access_to_one_case_opens_no_other(app, contoso, reviewers):
    case = await opened(app, contoso)
    other = await app.monitoring["local"].cases.report(pattern(app, await said(contoso), user="a1" * 32))
    grant = await granted(reviewers, case)

    moved = await reviewers[1].post(f"{CASES}/{other.id}/access/{grant.json()['id']}/approve")

    assert other.id != case.id
    assert (await content(reviewers[0], other)).status_code == 403
    assert moved.status_code == 400


async def test_access_ends_by_itself(world, app, contoso, reviewers):
    case = await opened(app, contoso)
    await granted(reviewers, case)
    world.clock.advance(59 * MINUTE)
    within = await content(reviewers[0], case)
    world.clock.advance(MINUTE)

    assert (within.status_code, (await content(reviewers[0], case)).status_code) == (200, 403)


async def test_access_that_was_asked_for_long_ago_is_not_approved(world, app, contoso, reviewers):
    case = await opened(app, contoso)
    grant = await asked(reviewers[0], case)
    world.clock.advance(DAY)

    assert (await approved(reviewers[1], case, grant)).status_code == 409


async def test_access_ends_when_it_is_revoked_and_stays_so(app, contoso, reviewers):
    case = await opened(app, contoso)
    grant = await granted(reviewers, case)

    await reviewers[1].delete(f"{CASES}/{case.id}/access/{grant.json()['id']}")

    assert (await content(reviewers[0], case)).status_code == 403
    assert (await approved(reviewers[1], case, grant)).status_code == 409
    assert ("access.revoke", "contoso", case.id) in await events(app)


async def test_access_that_was_revoked_before_its_approval_is_not_approved(app, contoso, reviewers):
    case = await opened(app, contoso)
    grant = await asked(reviewers[0], case)

    await reviewers[0].delete(f"{CASES}/{case.id}/access/{grant.json()['id']}")

    assert (await approved(reviewers[1], case, grant)).status_code == 409
    assert (await content(reviewers[0], case)).status_code == 403


async def test_access_that_is_revoked_while_somebody_approves_it_stays_revoked(app):
    access, reader = app.monitoring["local"].access, "provider/reviewer1"
    as_both_saw_it = await access.ask("contoso", "case-1", reader, WHY, reader=reader)

    await access.revoke(as_both_saw_it, reader)
    await access.approve(as_both_saw_it, "provider/reviewer2")

    with pytest.raises(Forbidden):
        await access.opened("contoso", "case-1", reader)


async def test_an_invitation_that_two_accept_at_once_is_the_firsts(app):
    access = app.monitoring["local"].access
    as_both_saw_it = await access.ask("contoso", "exchange-1", "contoso/key1", WHY, reader=None)

    for operator in ("provider/operator1", "provider/operator2"):
        await access.approve(as_both_saw_it, operator, reader=operator)

    assert (await access.opened("contoso", "exchange-1", "provider/operator1")).approved_by == "provider/operator1"
    with pytest.raises(Forbidden):
        await access.opened("contoso", "exchange-1", "provider/operator2")


async def test_a_reviewer_of_another_region_sees_no_case(app, contoso, reviewers):
    case = await opened(app, contoso)
    [eastern] = await team(app, "eastern", "east", "reviewer3")

    listed = await eastern.get(CASES)

    assert listed.json()["data"] == []
    assert [
        (await eastern.get(f"{CASES}/{case.id}")).status_code,
        (await asked(eastern, case)).status_code,
        (await content(eastern, case)).status_code,
    ] == [404, 404, 404]


async def test_what_cannot_be_written_down_is_not_read(app, contoso, reviewers, monkeypatch):
    case = await opened(app, contoso)
    await granted(reviewers, case)

    async def fails(event):
        raise StorageUnavailable("not now")

    monkeypatch.setattr(app.regions.home.audit, "append", fails)
    read = await content(reviewers[0], case)

    assert read.status_code == 503
    assert TEXT not in read.text


async def test_content_of_an_account_that_is_let_off_is_not_reviewed(app, contoso, reviewers):
    case = await opened(app, contoso)
    await granted(reviewers, case)
    await app.accounts.set_content_logging("contoso", False)

    assert (await asked(reviewers[0], case)).status_code == 409
    assert {each["exchange"] for each in (await content(reviewers[0], case)).json()["data"]} == {None}


@pytest.mark.parametrize(
    "verdict", [("He said so.",), ("violation", "He said so."), ("violation", "x" * 51), ("benign", None, 88031.0)]
)
def test_a_review_has_nowhere_to_leave_content(verdict):
    with pytest.raises(ValueError, match=r"verdict|category|confidence") as refused:
        ReviewVerdict(*verdict)

    assert "He said" not in str(refused.value)


async def test_no_content_is_written_beside_what_is_retained(world, app, contoso, reviewers):
    case = await opened(app, contoso)
    await granted(reviewers, case)
    await content(reviewers[0], case)
    await reviewers[0].post(f"{CASES}/{case.id}/decision", json=CONFIRM)

    assert world.found("canary-90210") == []


async def test_a_long_case_is_read_page_by_page(app, contoso, reviewers):
    case = await opened(app, contoso, "purged")
    await granted(reviewers, case)

    first = (await content(reviewers[0], case, limit=2)).json()
    second = (await content(reviewers[0], case, limit=2, after=first["data"][-1]["id"])).json()

    assert (first["has_more"], second["has_more"]) == (True, False)
    assert [each["id"] for each in (*first["data"], *second["data"])] == [each.id for each in case.flagged]
    assert second["data"][-1]["exchange"] is None


# --- from a pattern to a decision ------------------------------------------------------------------------------------


async def test_a_pattern_feeds_the_open_case_of_its_subject_and_no_other(app, contoso):
    cases = app.monitoring["local"].cases
    first = await cases.report(pattern(app, "one"))
    await cases.report(pattern(app, "two", user="a1" * 32))

    again = await cases.report(pattern(app, "one", "three", value=0.9))

    assert again.id == first.id
    assert {each.id for each in again.flagged} == {"one", "three"}
    assert again.score.value == 0.9
    assert len(await cases.every()) == 2


async def test_what_was_settled_opens_no_other_case(app, contoso, reviewers):
    case = await opened(app, contoso)
    dismissed = await reviewers[0].post(f"{CASES}/{case.id}/decision", json={"decision": "dismiss", "reason": WHY})

    again = await app.monitoring["local"].cases.report(pattern(app, *(each.id for each in case.flagged)))
    new = await app.monitoring["local"].cases.report(pattern(app, case.flagged[0].id, "new"))

    assert dismissed.json()["status"] == "dismissed"
    assert again is None
    assert [each.id for each in new.flagged] == ["new"]


async def test_a_pattern_without_exchanges_opens_no_case(app, contoso):
    assert await app.monitoring["local"].cases.report(pattern(app)) is None


async def test_a_confirmation_needs_access_and_has_consequences(app, contoso, reviewers):
    case = await opened(app, contoso)
    path = f"{CASES}/{case.id}/decision"
    unread = await reviewers[0].post(path, json=CONFIRM)
    await granted(reviewers, case)

    without = await reviewers[0].post(path, json={"decision": "confirm", "reason": WHY})
    confirmed = await reviewers[0].post(path, json=CONFIRM)
    again = await reviewers[0].post(path, json={"decision": "dismiss", "reason": WHY})

    assert [each.status_code for each in (unread, without, confirmed, again)] == [403, 400, 200, 409]
    assert (await app.monitoring["local"].actions.get("contoso", case.id)).step == "notified"
    notices = (await contoso.caller.get("/governance/notices")).json()["data"]
    assert [each["case"] for each in notices] == [case.id]


async def test_whoever_has_escalated_a_case_does_not_decide_it(app, contoso, reviewers):
    case = await opened(app, contoso)
    path, dismissal = f"{CASES}/{case.id}/decision", {"decision": "dismiss", "reason": WHY}
    [double] = await team(app, "second", "local", "reviewer1")
    await reviewers[0].post(path, json={"decision": "escalate", "reason": WHY})

    assert [(await each.post(path, json=dismissal)).status_code for each in (double, *reviewers)] == [403, 403, 200]


async def test_a_decision_whose_consequences_were_interrupted_has_them_later(world, app, contoso):
    told = []

    async def tell(case):
        told.append(case.status)
        if len(told) == 1:
            raise StorageUnavailable("not now")

    cases = Cases(app.regions.home.blobs, app.regions.home.audit, tell, world.clock, keep_days=365, is_reviewed=False)
    case = await cases.report(pattern(app, "one"))
    decision = Decision(Status.CONFIRMED, "provider/reviewer1", app.now(), WHY, "violence", "3")
    with pytest.raises(StorageUnavailable):
        await cases.decide(case, decision)

    await cases.advance()
    await cases.advance()

    assert told == ["confirmed", "confirmed"]
    assert (await cases.get(case.id)).is_told


async def test_a_closed_case_goes_when_its_time_is_up(world, app, contoso):
    cases = app.monitoring["local"].cases
    closed, running = await cases.report(pattern(app, "one")), await cases.report(pattern(app, "two", user="a1" * 32))
    await cases.decide(closed, Decision(Status.DISMISSED, "provider/reviewer1", app.now(), WHY))
    world.clock.advance(365 * DAY)

    await cases.advance()

    assert [case.id for case in await cases.every()] == [running.id]


async def test_cases_go_with_their_account(app, contoso):
    await opened(app, contoso)
    tenant = await app.tenants.get("contoso")

    await app.erasure.account(tenant, actor="test")

    assert await app.monitoring["local"].cases.every() == []


# --- the automated review --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["benign", "benign"], "dismissed"),
        (["benign", "unsure"], "open"),
        (["benign", "violation"], "open"),
        ([], "open"),
    ],
)
async def test_only_what_is_harmless_throughout_needs_no_person(world, app, contoso, verdicts, status):
    async def tell(case):
        pass

    cases = Cases(app.regions.home.blobs, app.regions.home.audit, tell, world.clock, keep_days=365, is_reviewed=True)
    case = await cases.report(pattern(app, "one", "two"))

    judged = await cases.judge(
        case, {id: ReviewVerdict(verdict) for id, verdict in zip(("one", "two"), verdicts, strict=False)}
    )

    assert (case.status, judged.status) == ("automated_review", status)


async def test_the_plugin_reads_a_sample_and_only_its_verdict_is_kept(world, contoso, app):
    case = await opened(app, contoso, "purged")
    asked_about = []

    async def ask(flagged):
        asked_about.append((flagged.id, flagged.record["request"]["messages"][0]["content"]))
        return ReviewVerdict("unsure", None, 0.5)

    async def tell(case):
        pass

    cases = Cases(app.regions.home.blobs, app.regions.home.audit, tell, world.clock, keep_days=365, is_reviewed=True)
    await cases._documents.change(case.name, lambda _: replace(case, status=Status.AUTOMATED_REVIEW).document)
    await Review(cases, app.retained, ask).advance()

    found = await cases.get(case.id)
    assert [words for _, words in asked_about] == [TEXT, "hello"]
    assert found.status == "open"
    assert {id: verdict.verdict for id, verdict in found.verdicts.items()} == dict.fromkeys(
        [id for id, _ in asked_about], "unsure"
    )
    assert world.found("canary-90210") == []


# --- debug access ----------------------------------------------------------------------------------------------------


async def debug(tenant, exchange, **more):
    return await tenant.operator.post(DEBUG, json={"account": "contoso", "exchange": exchange, "reason": WHY, **more})


async def test_an_operator_reads_one_exchange_that_its_customer_has_agreed_to(app, contoso):
    exchange, other = await said(contoso), await said(contoso, "unrelated")
    grant = (await debug(contoso, exchange)).json()
    before = await contoso.operator.get(f"{DEBUG}/{grant['id']}/content")
    [shown] = (await contoso.caller.get(DEBUG)).json()["data"]

    agreed = await contoso.caller.post(f"{DEBUG}/{grant['id']}/approve")
    read = await contoso.operator.get(f"{DEBUG}/{grant['id']}/content")

    assert (before.status_code, agreed.status_code, read.status_code) == (403, 200, 200)
    assert (shown["subject"], shown["reason"], shown["asked_by"]) == (exchange, WHY, "contoso/operator")
    assert read.json()["exchange"]["id"] == exchange
    assert other not in read.text
    assert read.headers["x-sluicegate-watermark"] == read.json()["watermark"]
    assert ("access.read", "contoso", exchange) in await events(app)


async def test_a_customer_invites_and_an_operator_accepts(app, contoso):
    exchange = await said(contoso)
    grant = (await contoso.caller.post(f"{DEBUG}/invitations", json={"exchange": exchange, "reason": WHY})).json()
    by_customer = await contoso.caller.post(f"{DEBUG}/{grant['id']}/approve")

    accepted = await contoso.operator.post(f"{DEBUG}/{grant['id']}/accept")
    read = await contoso.operator.get(f"{DEBUG}/{grant['id']}/content")

    assert (by_customer.status_code, accepted.status_code, read.status_code) == (403, 200, 200)
    assert read.json()["exchange"]["id"] == exchange


async def test_an_operator_does_not_agree_in_the_customers_place(app, contoso):
    grant = (await debug(contoso, await said(contoso))).json()

    assert (await contoso.operator.post(f"{DEBUG}/{grant['id']}/accept")).status_code == 409


async def test_another_customer_agrees_to_nothing_and_sees_nothing(app, contoso):
    fabrikam = await Tenant.create(app, "fabrikam", "local")
    grant = (await debug(contoso, await said(contoso))).json()

    answers = [
        await fabrikam.caller.post(f"{DEBUG}/{grant['id']}/approve"),
        await fabrikam.caller.delete(f"{DEBUG}/{grant['id']}"),
        await fabrikam.caller.post(f"{DEBUG}/unknown/approve"),
    ]

    assert [(each.status_code, each.json()["error"]["message"]) for each in answers] == [
        (404, "There is no such access.")
    ] * 3
    assert (await fabrikam.caller.get(DEBUG)).json()["data"] == []


async def test_who_may_read_is_kept_in_the_accounts_region(app, contoso):
    fabrikam = await Tenant.create(app, "fabrikam", "east")
    await debug(contoso, await said(fabrikam), account="fabrikam")

    kept = {region.name: [blob.name async for blob in region.blobs.list("grants")] for region in app.regions}

    assert (len(kept["east"]), kept["local"]) == (1, [])


async def test_the_customer_takes_it_back(app, contoso):
    grant = (await debug(contoso, await said(contoso))).json()
    await contoso.caller.post(f"{DEBUG}/{grant['id']}/approve")

    await contoso.caller.delete(f"{DEBUG}/{grant['id']}")

    assert (await contoso.operator.get(f"{DEBUG}/{grant['id']}/content")).status_code == 403


async def test_nobody_debugs_with_content_of_an_account_that_is_let_off(app, contoso):
    exchange = await said(contoso)
    grant = (await debug(contoso, exchange)).json()
    await contoso.caller.post(f"{DEBUG}/{grant['id']}/approve")
    await app.accounts.set_content_logging("contoso", False)

    read = await contoso.operator.get(f"{DEBUG}/{grant['id']}/content")
    invited = await contoso.caller.post(f"{DEBUG}/invitations", json={"exchange": exchange, "reason": WHY})

    assert [read.status_code, invited.status_code, (await debug(contoso, exchange)).status_code] == [404, 409, 409]
    assert TEXT not in read.text


async def test_debug_access_reaches_no_case(app, contoso, reviewers):
    case = await opened(app, contoso)
    grant = await granted(reviewers, case)

    assert (await debug(contoso, case.id)).status_code == 400
    assert (await contoso.operator.get(f"{DEBUG}/{grant.json()['id']}/content")).status_code == 404
    assert (await contoso.caller.get(DEBUG)).json()["data"] == []
    assert (await contoso.caller.delete(f"{DEBUG}/{grant.json()['id']}")).status_code == 404


async def test_a_reason_that_is_not_one_for_the_log_is_refused(app, contoso, reviewers):
    case = await opened(app, contoso)

    refused = await asked(reviewers[0], case, reason="somebody@example.com said so")

    assert refused.status_code == 400
    assert "example.com" not in refused.text
