"""The score finds who abuses, leaves alone whom filters are mistaken about, and says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.abuse.populations import population, simulate
from sluicegate.config import Abuse
from sluicegate.monitoring.counting import Counts, Hour
from sluicegate.monitoring.scoring import score_of, scores
from sluicegate.monitoring.types import Score

NOW = datetime(2026, 1, 8, tzinfo=UTC)
WEEK, DAY, HOUR = timedelta(days=7), timedelta(days=1), timedelta(hours=1)
THRESHOLD = Abuse().user_threshold


def counts(flagged, requests=None, finding="violence.6.prompt", blocked=None):
    return Counts(requests or 2 * flagged, flagged if blocked is None else blocked, flagged, {finding: flagged})


def scored(*hours):
    """Return the score of what was counted so many hours ago."""
    rows = sorted(((NOW - ago * HOUR, each) for ago, each in hours), key=lambda row: row[0])
    return score_of(rows, NOW - WEEK, NOW)


ABUSE = [(ago, counts(3)) for ago in range(1, 13)]


def test_abuse_for_half_a_day_alarms():
    assert scored(*ABUSE).value > THRESHOLD


@pytest.mark.parametrize(
    ("part", "hours"),
    [
        ("frequency", [(ago, counts(3, requests=500)) for ago in range(1, 13)]),
        ("severity", [(ago, counts(3, finding="protected_material_text.0.completion")) for ago in range(1, 13)]),
        ("intent", [(ago, counts(3, blocked=0)) for ago in range(1, 13)]),
        ("trend", [(1, counts(36, finding="violence.4.prompt"))]),
    ],
)
def test_each_part_alone_keeps_the_score_down(part, hours):
    without = scored(*hours)

    assert getattr(without, part) < getattr(scored(*ABUSE), part) / 2
    assert without.value < THRESHOLD


def test_a_jailbreak_shows_intent_though_nothing_is_blocked():
    tried = scored(*((ago, counts(3, finding="jailbreak.0.prompt", blocked=0)) for ago in range(1, 13)))

    assert tried.intent > 0.8


def test_who_is_blocked_again_soon_means_it_and_who_is_blocked_now_and_then_does_not():
    soon = scored(*((ago, counts(1)) for ago in range(1, 60, 6)))
    rarely = scored(*((ago, counts(1)) for ago in range(1, 160, 16)))

    assert (soon.intent, rarely.intent) == (pytest.approx(9 / 15), 0)


def test_a_score_sinks_when_it_stops():
    before = scored(*((40 + ago, each) for ago, each in ABUSE))

    assert before.trend < scored(*ABUSE).trend / 2


def test_a_score_is_explained_by_the_numbers_behind_it():
    assert scored((1, counts(3)), (2, counts(2, finding="jailbreak.0.prompt"))).reasons == (
        "frequency 0.33: 5 of 10 exchanges flagged",
        "severity 0.80: 2 x jailbreak prompt, 3 x violence high prompt",
        "intent 0.60: 2 jailbreaks, 4 blocked within 6 hours after being blocked",
        "trend 0.39: flagged in 2 hours, 5 times in the last day",
    )


def test_a_plugin_may_name_its_categories_as_it_likes():
    scored_with_it = scored((1, Counts(10, 3, 3, {"violence.6.prompt": 3, "brand.safety.0.prompt": 3})))

    assert scored_with_it.value == scored((1, Counts(10, 3, 3, {"violence.6.prompt": 3}))).value


def test_nothing_flagged_is_no_score():
    assert scored((1, Counts(100, 3, 0, {"profanity.0.prompt": 3}))) == Score(
        0, 0, 0, 0, 0, ("nothing flagged in 100 exchanges",)
    )


def test_end_users_are_scored_beside_their_account():
    hours = [
        (NOW - ago * HOUR, Hour({"chat": counts(3, requests=500)}, {"abuser": counts(3)})) for ago in range(12, 0, -1)
    ]

    found = scores(hours, NOW - WEEK, NOW)

    assert found["abuser"].value > THRESHOLD > found[None].value


numbers = st.integers(0, 50)
findings = st.sampled_from(["violence.4.prompt", "hate.6.completion", "jailbreak.0.prompt", "profanity.0.prompt"])
hourly = st.builds(
    lambda flagged, more, blocked, finding: Counts(flagged + more, min(blocked, flagged + more), flagged, {finding: flagged}),
    numbers, numbers, numbers, findings,
)  # fmt: skip


@given(st.dictionaries(st.integers(1, 168), hourly, max_size=20))
def test_every_part_of_every_score_is_from_0_to_1_and_survives_being_written_down(hours):
    score = scored(*hours.items())

    assert all(0 <= part <= 1 for part in (score.value, score.frequency, score.severity, score.intent, score.trend))
    assert Score.of(score.document) == score


def test_of_simulated_populations_the_abusive_are_found_and_the_benign_are_not():
    accounts = population(1, small=10, large=1, each=1)
    must_not = {account.name for account in accounts if account.kind.startswith(("small", "large", "benign launch"))}
    must_not |= {account.name for account in accounts if account.kind == "benign novelist, one evening"}
    hard = {"hidden in own use", "user in a large app, not named"}
    must = {subject for account in accounts if account.kind not in hard for subject in account.abusive}

    alarms = simulate(accounts, 14 * 24, (THRESHOLD,), 1)[THRESHOLD]

    found = {alarm.subject for alarm in alarms}
    assert must <= found
    assert not {account for account, _ in found} & must_not
