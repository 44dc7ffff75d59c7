"""What follows from a confirmed case: notice, throttle, block, the end of access; what callers are told; and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from sluicegate.audit.entries import Event
from sluicegate.errors import MonitoringIncomplete, StorageUnavailable
from sluicegate.monitoring.actions import Step
from sluicegate.monitoring.penalties import MOST, Action, Penalty, with_penalty
from sluicegate.storage import documents
from sluicegate.tenancy.rates import allowance, part_of
from tests.inside import ARM, LEDGER, REASON, Tenant
from tests.monitoring.customers import DAY, NOON, events

OFFICER = "provider/reviewer1"


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
def confirm(app):
    """A function that decides a case."""

    async def confirm(case=None, category="violence", by=app):
        await by.monitoring["local"].actions.decided(replace(case or Case(), category=category, decided_by=OFFICER))

    return confirm


@pytest.fixture
def after(world, app):
    """A function that moves the clock and has the timer do its work."""

    async def after(days):
        world.clock.advance(days * DAY)
        await app.monitor()

    return after


async def kinds(app, account="contoso"):
    """Return what the customer was told, oldest first."""
    return [told.notice.kind for told in reversed(await app.monitoring["local"].notices.of_account(account))]


async def penalty(tenant):
    return (await tenant.operator.get(tenant.path, params=ARM)).json()["properties"].get("abusePenalty")


# --- the steps -------------------------------------------------------------------------------------------------------


async def test_first_the_customer_is_told_and_has_time(app, contoso, confirm, after):
    await confirm()
    await after(6.9)

    assert await kinds(app) == ["violation.confirmed"]
    assert (await contoso.say("hello")).status_code == 200
    assert await penalty(contoso) is None


async def test_who_does_not_answer_is_throttled_then_blocked_and_then_access_ends(app, contoso, confirm, after):
    await confirm()
    shown = []
    for days in (7, 14, 30):
        await after(days)
        shown.append(await penalty(contoso))

    assert [each["action"] for each in shown] == ["Throttle", "Block", "Block"]
    assert [each["rateLimitPercentage"] for each in shown] == [25.0, 0.0, 0.0]
    assert [each.get("expiration") for each in shown] == ["2026-01-22T12:00:00Z", "2026-02-21T12:00:00Z", None]
    assert await kinds(app) == ["violation.confirmed", "access.throttled", "access.blocked", "access.ended"]
    assert (await contoso.say("hello")).status_code == 403


async def test_a_severe_category_is_blocked_at_once(app, contoso, confirm):
    await confirm(category="child_safety")

    assert (await contoso.say("hello")).status_code == 403
    assert await kinds(app) == ["access.blocked"]


async def test_a_category_that_is_no_name_is_logged_by_its_hash(app, contoso, confirm):
    await confirm(category="threats, in rhyme")

    [entry] = [each async for each in app.regions.home.audit.entries() if each.event.action == "penalty.notified"]
    assert entry.event.evidence["category"].startswith("sha256:")


async def test_each_step_is_in_the_audit_log_with_who_caused_it(app, contoso, confirm, after):
    await confirm()
    await after(7)

    found = [each async for each in app.regions.home.audit.entries() if each.event.action.startswith("penalty.")]
    assert [(each.event.action, each.event.actor, each.event.subject) for each in found] == [
        ("penalty.notified", OFFICER, "case-1"),
        ("penalty.throttled", "timer/abuse", "case-1"),
    ]


async def test_an_accepted_answer_ends_the_steps_and_the_penalty_ends_by_itself(app, contoso, confirm, after):
    await confirm()
    await after(7)
    actions = app.monitoring["local"].actions
    await actions.accept(await actions.get("contoso", "case-1"), "provider/reviewer2")

    await after(14)

    assert (await actions.get("contoso", "case-1")).step is Step.EXPIRED
    assert await penalty(contoso) is None
    assert (await contoso.say("hello")).status_code == 200
    assert await kinds(app) == ["violation.confirmed", "access.throttled", "penalty.expired"]


async def test_a_penalty_ends_on_time_even_when_no_timer_runs(world, app, contoso, confirm):
    await confirm(category="terrorism")
    world.clock.advance(30 * DAY - timedelta(seconds=1))
    before = (await contoso.say("hello")).status_code

    world.clock.advance(timedelta(seconds=1))

    assert (before, (await contoso.say("hello")).status_code) == (403, 200)
    assert await penalty(contoso) is None


async def test_while_an_answer_waits_no_further_step_is_taken(app, contoso, confirm, after):
    await confirm()
    actions = app.monitoring["local"].actions
    await actions.wait(await actions.get("contoso", "case-1"))

    await after(30)

    assert await kinds(app) == ["violation.confirmed"]


async def test_who_is_denied_has_as_long_to_answer_as_at_first(app, contoso, confirm, after):
    await confirm()
    actions = app.monitoring["local"].actions
    await after(6)
    await actions.wait(await actions.get("contoso", "case-1"))
    await after(10)
    await actions.deny(await actions.get("contoso", "case-1"))
    await after(6.9)
    before = await penalty(contoso)
    await after(0.1)

    assert (before, (await penalty(contoso))["action"]) == (None, "Throttle")


async def test_a_case_that_is_dismissed_after_all_leaves_nothing(app, contoso, confirm):
    await confirm(category="terrorism")

    await confirm(Case(status="dismissed"))

    assert (await contoso.say("hello")).status_code == 200
    assert await kinds(app) == ["access.blocked", "penalty.lifted"]


async def test_what_is_not_confirmed_has_no_consequence(app, contoso, confirm):
    await confirm(Case(status="escalated"), "terrorism")

    assert await app.monitoring["local"].actions.of_account("contoso") == []


# --- whoever dies on the way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_at", ["append", "penalise", "send", "change"])
@pytest.mark.parametrize("has_happened", [False, True])
@pytest.mark.parametrize("by", ["timer", "reviewer"])
async def test_a_step_that_was_interrupted_is_taken_once(
    world, app, contoso, confirm, monkeypatch, dies_at, has_happened, by
):
    """By the timer, or by who is told of the decision again; others have written to the log meanwhile."""
    owner = {
        "append": app.regions.home.audit,
        "penalise": app.accounts,
        "send": app.monitoring["local"].notices,
        "change": app.monitoring["local"].actions._documents,
    }[dies_at]
    work = getattr(owner, dies_at)

    async def dies(*arguments, **named):
        if has_happened:
            await work(*arguments, **named)
        raise StorageUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(owner, dies_at, dies)
        with pytest.raises(StorageUnavailable):
            await confirm(category="terrorism")
    other = world.open()
    await other.start()
    await other.regions.home.audit.append(Event("somebody", "something", account="contoso"))
    for _ in range(2):
        if by == "timer":
            await other.monitoring["local"].actions.advance()
        else:
            await confirm(category="terrorism", by=other)

    assert (await contoso.say("hello")).status_code == 403
    assert await kinds(app) == ["access.blocked"]
    assert [action for action, *_ in await events(other) if action.startswith("penalty.")] == ["penalty.blocked"]
    assert (await other.monitoring["local"].actions.get("contoso", "case-1")).is_done


async def test_a_case_that_cannot_be_gone_on_with_keeps_no_other_waiting(app, contoso, confirm, after, monkeypatch):
    fabrikam = await Tenant.create(app, "fabrikam", "local")
    await confirm()
    await confirm(Case("case-2", "fabrikam"))
    penalise = app.accounts.penalise

    async def fails(name, penalty):
        if name == "contoso":
            raise StorageUnavailable("gone")
        await penalise(name, penalty)

    monkeypatch.setattr(app.accounts, "penalise", fails)
    with pytest.raises(MonitoringIncomplete, match="penalties"):
        await after(7)

    assert (await penalty(fabrikam))["action"] == "Throttle"


# --- what callers get ------------------------------------------------------------------------------------------------


async def test_a_blocked_caller_is_told_why_until_when_and_how_to_appeal(contoso, confirm):
    await confirm(category="child_safety")

    refused = await contoso.say("hello")

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (403, "Forbidden")
    for part in ("child_safety", "case-1", "2026-01-31T12:00:00Z", "/governance/appeals"):
        assert part in error["message"]
    assert error["innererror"] == {
        "code": "AbusePenalty",
        "case": "case-1",
        "category": "child_safety",
        "subject": "account",
        "abusePenalty": {"action": "Block", "rateLimitPercentage": 0.0, "expiration": "2026-01-31T12:00:00Z"},
        "appeal": "/governance/appeals",
    }
    assert int(refused.headers["retry-after"]) == 30 * 86400


async def test_a_blocked_account_makes_nothing_new_and_gets_at_what_it_has(contoso, confirm):
    await contoso.say("hello")
    await confirm(category="terrorism")
    form = {"files": {"file": ("train.jsonl", b"{}")}, "data": {"purpose": "fine-tune"}}

    made = [
        await contoso.caller.post("/openai/v1/files", **form),
        await contoso.caller.post("/openai/v1/fine_tuning/jobs", json={"model": "x", "training_file": "file-1"}),
    ]
    reached = [
        await contoso.caller.get("/openai/v1/files"),
        await contoso.caller.get(LEDGER),
        await contoso.caller.get(f"{LEDGER}/export", params=REASON),
        await contoso.caller.delete(f"{LEDGER}/retained", params={"all": "true", **REASON}),
    ]

    assert [each.json()["error"]["innererror"]["case"] for each in made] == ["case-1"] * 2
    assert [each.status_code for each in reached] == [200] * 4


async def test_a_throttled_account_has_the_rest_of_its_limits_and_is_told_why(app, contoso, confirm, after):
    await contoso.use_policy(None)
    await confirm()
    await after(7)

    answers = [await contoso.say("hello") for _ in range(3)]
    refused = next(
        each for each in [*answers, *[await contoso.say("hello") for _ in range(40)]] if each.status_code == 429
    )

    assert answers[0].status_code == 200
    assert refused.json()["error"]["innererror"]["case"] == "case-1"
    assert "25 %" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after-ms"]) <= 60_000


async def test_an_end_users_penalty_is_theirs_alone(app, contoso, confirm):
    user = (await app.accounts.get("contoso")).user_hash("mallory")
    await confirm(Case(user=user), "terrorism")

    refused, others, nameless = (
        await contoso.say("hello", user="mallory"),
        await contoso.say("hello", user="alice"),
        await contoso.say("hello", user=""),
    )

    assert [each.status_code for each in (refused, others, nameless)] == [403, 200, 200]
    assert refused.json()["error"]["innererror"]["subject"] == "end_user"
    assert user not in refused.text
    assert await penalty(contoso) is None


async def test_an_end_users_block_ends_and_never_becomes_the_accounts(app, contoso, confirm, after):
    user = (await app.accounts.get("contoso")).user_hash("mallory")
    await confirm(Case(user=user), "terrorism")

    await after(30)

    assert (await app.monitoring["local"].actions.get("contoso", "case-1")).step is Step.EXPIRED
    assert (await contoso.say("hello", user="mallory")).status_code == 200


async def test_a_throttled_end_user_is_counted_alone(app, contoso, confirm, after):
    user = (await app.accounts.get("contoso")).user_hash("mallory")
    await confirm(Case(user=user))
    await after(7)

    statuses = [(await contoso.say("hello", user="mallory")).status_code for _ in range(30)]

    assert 429 in statuses
    assert (await contoso.say("hello", user="alice")).status_code == 200


async def test_other_processes_know_within_a_minute(world, contoso, confirm, monkeypatch):
    other = contoso.by(world.open())
    before = (await other.say("hello")).status_code
    await confirm(category="terrorism")
    assert documents.CACHE_S <= 60
    monkeypatch.setattr(documents, "CACHE_S", 0.0)

    assert (before, (await other.say("hello")).status_code) == (200, 403)


async def test_customers_cannot_write_their_penalty_away(app, contoso, confirm):
    await confirm(category="terrorism")
    found = (await contoso.operator.get(contoso.path, params=ARM)).json()
    del found["properties"]["abusePenalty"]

    await contoso.operator.put(contoso.path, params=ARM, json=found)

    assert (await penalty(contoso))["action"] == "Block"


@pytest.mark.parametrize(
    ("capacity", "percentage", "requests", "window_s"),
    [(1, 1, 1, 60), (1, 25, 1, 60), (10, 25, 2, 10), (1000, 50, 50, 1)],
)
def test_a_part_of_a_limit_is_never_nothing(capacity, percentage, requests, window_s):
    part = part_of(allowance(capacity), percentage)

    assert (part.requests, part.window_s) == (requests, window_s)
    assert part.tokens == capacity * 10 * percentage > 0


def test_an_account_holds_so_many_penalties_and_those_that_end_first_give_way():
    def penalty(number):
        return Penalty(f"case-{number}", Action.BLOCK, "hate", f"{number:064x}", 0, NOON + number * DAY)

    held = []
    for number in range(MOST + 2):
        held = with_penalty(held, penalty(number))

    assert len(held) == MOST
    assert {f"case-{number}" for number in (0, 1)}.isdisjoint(each["case"] for each in held)
