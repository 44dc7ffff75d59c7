"""Simulated accounts and end users, benign and abusive, hour by hour: what is counted of them, and when their score alarms.

Nothing here is real. The rates are guesses, chosen to be hard: filters are wrong about 1 in 100 texts, benign people write violent
novels, and abusive ones pause. The hours are the very objects that the service stores.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from sluicegate.abuse import Finding, Signal
from sluicegate.monitoring.counting import Counts, Hour
from sluicegate.monitoring.observing import LOUD
from sluicegate.monitoring.scoring import score_of
from sluicegate.types import Outcome

START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
WINDOW = timedelta(days=7)
USERS = 500
"""End users of a benign application."""
MISTAKES = ("violence", "sexual", "hate", "self_harm")

Subject: TypeAlias = tuple[str, str | None]
"""An account and an end user of it, or None for the account as a whole."""
Script: TypeAlias = Callable[["Account", int, random.Random], None]
"""Writes down what somebody does in an hour, counted from the start."""


@dataclass
class Account:
    """One account: who uses it, and what is counted of it.

    Attributes:
        kind: Of its population.
        abusive: Whose alarms are right, with the hour of the first abusive act.
    """

    name: str
    kind: str
    scripts: tuple[Script, ...]
    abusive: dict[Subject, int] = field(default_factory=dict)
    now: Hour = field(default_factory=Hour)

    def ask(self, user: str | None, requests: int, *findings: Finding, flagged: int) -> None:
        """Count some requests of an end user in this hour, ``flagged`` of them with these findings."""
        outcome = Outcome.BLOCKED if any(each.blocked for each in findings) else Outcome.COMPLETED
        bad = Signal(self.name, "chat", START, outcome, findings, user=user)
        counts = self.now.deployments.setdefault("chat", Counts())
        rows = [counts] if user is None else [counts, self.now.row(user)]
        for row in rows:
            # As the service counts: an end user who has a row has all requests of the hour in it.
            row.requests += requests - flagged
            for _ in range(flagged):
                row.add(bad)


@dataclass(frozen=True)
class Alarm:
    """The first time that a subject's score reached a threshold, in hours from the start."""

    subject: Subject
    hour: int


def simulate(accounts: list[Account], hours: int, thresholds: tuple[float, ...], seed: int) -> dict[float, list[Alarm]]:
    """Return who alarmed when, at each threshold; scores are computed after every hour in which something was flagged."""
    alarms: dict[float, dict[Subject, int]] = {threshold: {} for threshold in thresholds}
    for account in accounts:
        source = random.Random(f"{seed}/{account.name}")
        counted: list[tuple[datetime, Hour]] = []
        for hour in range(hours):
            account.now = Hour()
            for script in account.scripts:
                script(account, hour, source)
            start = START + hour * HOUR
            counted = [each for each in counted if each[0] >= start + HOUR - WINDOW]
            if account.now.deployments:
                counted.append((start, account.now))
            for user in _flagged(account.now):
                rows = [(at, each) for at, hour_ in counted if (each := _counts(hour_, user)) is not None]
                score = score_of(rows, start + HOUR - WINDOW, start + HOUR)
                for threshold in thresholds:
                    if score.value >= threshold:
                        alarms[threshold].setdefault((account.name, user), hour)
    return {threshold: [Alarm(*each) for each in found.items()] for threshold, found in alarms.items()}


def _flagged(hour: Hour) -> list[str | None]:
    """Return whose scores can have risen: the account's, and those of end users with something flagged."""
    users: list[str | None] = [user for user, counts in hour.users.items() if counts.flagged]
    return [None, *users] if hour.total.flagged else []


def _counts(hour: Hour, user: str | None) -> Counts | None:
    return hour.total if user is None else hour.users.get(user)


# --- who there is ----------------------------------------------------------------------------------------------------


def population(seed: int, *, small: int = 200, large: int = 8, each: int = 10) -> list[Account]:
    """Return accounts of every kind.

    Args:
        small, large: How many benign accounts with little and with much traffic.
        each: How many of every other kind.
    """
    source = random.Random(seed)
    accounts = [Account(f"small-{n}", "small benign", (traffic(source.uniform(0.2, 3), 0.01),)) for n in range(small)]
    accounts += [
        Account(f"large-{n}", "large benign", (traffic(source.uniform(200, 800), source.uniform(0.002, 0.02)),))
        for n in range(large)
    ]
    for n in range(each):
        accounts += [
            _launch(n, source),
            _novelist(n, source, evenings=1),
            _novelist(n, source, evenings=10),
            _moderation(n, source),
            _user_in_large_app(n, source, "abuser"),
            _user_in_large_app(n, source, None),
            _grinder(n, source),
            _campaign(n, source),
            _small_abuser(n, source),
            _hidden(n, source),
        ]
    return accounts


def traffic(per_hour: float, mistaken: float) -> Script:
    """Benign use by many end users, more by day; a filter is mistaken about some of it, and takes 1 mistake in 5 for a jailbreak."""

    loud: dict[str, int] = {}

    def script(account: Account, hour: int, source: random.Random) -> None:
        expected = per_hour * (1 + 0.8 * math.sin(2 * math.pi * (hour % 24) / 24))
        requests = _poisson(expected, source)
        for _ in range(_binomial(requests, mistaken, source)):
            user = f"user-{source.randrange(USERS)}"
            loud[user] = hour
            requests -= 1
            account.ask(user, 1, _mistake(source), flagged=1)
        for user in [user for user, last in loud.items() if hour - last < LOUD / HOUR]:
            own = min(requests, _poisson(expected / USERS, source))
            requests -= own
            if own:
                account.ask(user, own, flagged=0)
        account.ask(None, requests, flagged=0)

    return script


def _launch(n: int, source: random.Random) -> Account:
    """A product is launched: twenty times the traffic for eight hours, and three times as many mistakes."""
    begin = source.randrange(72, 300)

    def burst(account: Account, hour: int, source: random.Random) -> None:
        if begin <= hour < begin + 8:
            traffic(1000, 0.03)(account, hour, source)

    return Account(f"launch-{n}", "benign launch", (traffic(50, 0.01), burst))


def _novelist(n: int, source: random.Random, *, evenings: int) -> Account:
    """Somebody writes a battle for some evenings, and tries again when it is blocked."""
    begin = source.randrange(72, 250)

    def evening(account: Account, hour: int, source: random.Random) -> None:
        if 0 <= hour - begin < 24 * evenings and (hour - begin) % 24 < 2:
            account.ask("novelist", 15, Finding("violence", "prompt", 4, True), flagged=_binomial(15, 0.6, source))

    kind = "benign novelist, one evening" if evenings == 1 else f"benign novelist, {evenings} evenings"
    return Account(f"novelist-{evenings}-{n}", kind, (traffic(20, 0.01), evening))


def _moderation(n: int, source: random.Random) -> Account:
    """A service that has the model judge what its own users wrote: every eighth text is harmful, and nobody means harm."""

    def texts(account: Account, hour: int, source: random.Random) -> None:
        requests = _poisson(100, source)
        account.ask(None, requests, _mistake(source), flagged=_binomial(requests, 0.12, source))

    return Account(f"moderation-{n}", "benign moderation service", (texts,))


def _user_in_large_app(n: int, source: random.Random, user: str | None) -> Account:
    """One abusive end user among hundreds, for four hours on most days; the caller names end users, or it does not."""
    begin = source.randrange(48, 200)

    def abuse(account: Account, hour: int, source: random.Random) -> None:
        if hour >= begin and (hour - begin) % 24 < 4 and (hour == begin or source.random() < 0.9):
            requests = max(1, _poisson(8, source))
            account.ask(user, requests, *_abuse(source), flagged=max(hour == begin, _binomial(requests, 0.5, source)))

    kind = "user in a large app" if user else "user in a large app, not named"
    account = Account(f"app-{n}{'' if user else '-unnamed'}", kind, (traffic(300, 0.01), abuse))
    account.abusive[account.name, user] = begin
    return account


def _grinder(n: int, source: random.Random) -> Account:
    """One end user who tries something about every third hour, day and night, never twice in a row."""
    begin = source.randrange(48, 200)

    def abuse(account: Account, hour: int, source: random.Random) -> None:
        if hour == begin or (hour > begin and source.random() < 0.33):
            account.ask("grinder", 1 + _poisson(2, source), *_abuse(source), flagged=1)

    account = Account(f"grinder-{n}", "slow grinder", (traffic(50, 0.01), abuse))
    account.abusive[account.name, "grinder"] = begin
    return account


def _campaign(n: int, source: random.Random) -> Account:
    """An account that names no end user is used for jailbreaks for twelve hours."""
    begin = source.randrange(48, 250)

    def abuse(account: Account, hour: int, source: random.Random) -> None:
        if begin <= hour < begin + 12:
            requests = 5 + _poisson(15, source)
            account.ask(
                None,
                requests,
                Finding("jailbreak", "prompt", 0, True),
                flagged=max(1, _binomial(requests, 0.6, source)),
            )

    account = Account(f"campaign-{n}", "jailbreak campaign", (traffic(5, 0.01), abuse))
    account.abusive[account.name, None] = begin
    return account


def _small_abuser(n: int, source: random.Random) -> Account:
    """One of many accounts of one actor, each with a few tries a day."""
    begin = source.randrange(48, 200)

    def abuse(account: Account, hour: int, source: random.Random) -> None:
        if hour == begin or (hour > begin and source.random() < 0.15):
            account.ask(None, 1 + (source.random() < 0.5), *_abuse(source), flagged=1)

    account = Account(f"one-of-many-{n}", "many small accounts", (abuse,))
    account.abusive[account.name, None] = begin
    return account


def _hidden(n: int, source: random.Random) -> Account:
    """One end user with much use of their own, of which 1 in 25 is abuse."""
    begin = source.randrange(48, 200)

    def abuse(account: Account, hour: int, source: random.Random) -> None:
        if hour >= begin:
            requests = _poisson(20, source)
            account.ask(
                "hidden", requests, *_abuse(source), flagged=max(hour == begin, _binomial(requests, 0.04, source))
            )

    account = Account(f"hidden-{n}", "hidden in own use", (traffic(300, 0.01), abuse))
    account.abusive[account.name, "hidden"] = begin
    return account


def _mistake(source: random.Random) -> Finding:
    if source.random() < 0.2:
        return Finding("jailbreak", "prompt", 0, True)
    return Finding(source.choice(MISTAKES), "prompt", 4 if source.random() < 0.8 else 6, True)


def _abuse(source: random.Random) -> Iterator[Finding]:
    if source.random() < 0.4:
        yield Finding("jailbreak", "prompt", 0, True)
    else:
        yield Finding(source.choice(MISTAKES), "prompt", source.choice((4, 6)), True)


def _poisson(expected: float, source: random.Random) -> int:
    if expected > 30:
        return max(0, round(source.gauss(expected, math.sqrt(expected))))
    limit, count, product = math.exp(-expected), 0, source.random()
    while product > limit:
        count, product = count + 1, product * source.random()
    return count


def _binomial(tries: int, chance: float, source: random.Random) -> int:
    return sum(source.random() < chance for _ in range(tries))
