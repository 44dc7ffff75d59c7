"""Requests and tokens per minute: what a deployment's capacity allows, and what was used of it.

A unit of capacity is 1,000 tokens and six requests a minute. Tokens are counted by the minute of the clock; requests are
spread evenly, by the second where ten or more are allowed in one, else by ten seconds. A request is charged on arrival with an
estimate of its tokens; one that is refused counts as a request too.

Source: Microsoft Learn, "Azure OpenAI in Foundry Models quotas and limits" and "Manage Azure OpenAI quota".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TOKENS_PER_UNIT = 1000
REQUESTS_PER_UNIT = 6
MINUTE_S = 60
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a capacity allows.

    Attributes:
        tokens: A minute.
        requests: In ``window_s`` seconds.
    """

    tokens: int
    requests: int
    window_s: int

    @property
    def requests_per_minute(self) -> int:
        return self.requests * MINUTE_S // self.window_s


def allowance(capacity: int) -> Allowance:
    """Return what ``capacity`` units allow."""
    per_minute = capacity * REQUESTS_PER_UNIT
    window_s = 1 if per_minute >= 10 * MINUTE_S else 10
    return Allowance(capacity * TOKENS_PER_UNIT, per_minute * window_s // MINUTE_S, window_s)


def part_of(whole: Allowance, percentage: int) -> Allowance:
    """Return a percentage of what is allowed: one request a minute and one token at least."""
    per_minute = max(1, whole.requests_per_minute * percentage // 100)
    window_s = next(seconds for seconds in (1, 10, MINUTE_S) if per_minute * seconds >= MINUTE_S)
    window_s = max(window_s, whole.window_s)
    return Allowance(max(1, whole.tokens * percentage // 100), per_minute * window_s // MINUTE_S, window_s)


@dataclass(slots=True)
class Usage:
    """What was used in the present windows, by one process or by all others together.

    Attributes:
        window: Number of the window that ``requests`` counts, since 1970.
        minute: Number of the minute that ``tokens`` counts.
    """

    window: int = 0
    requests: int = 0
    minute: int = 0
    tokens: int = 0

    def at(self, window: int, minute: int) -> tuple[int, int]:
        """Return requests and tokens that count in a window and a minute."""
        return (self.requests if self.window == window else 0), (self.tokens if self.minute == minute else 0)

    def add(self, window: int, requests: int, minute: int, tokens: int) -> None:
        """Count more; what is of an earlier window or minute is forgotten."""
        now_requests, now_tokens = self.at(window, minute)
        self.window, self.requests = window, now_requests + requests
        self.minute, self.tokens = minute, now_tokens + tokens


@dataclass(frozen=True, slots=True)
class Standing:
    """How a deployment stands after a request was counted.

    Attributes:
        retry_after_s: When a refused request may come again; None for one that is let through.
        what: What ran out: ``requests`` or ``tokens``; empty for one that is let through.
    """

    allowance: Allowance
    requests_left: int
    tokens_left: int
    requests_reset_s: float
    tokens_reset_s: float
    retry_after_s: float | None = None
    what: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every answer of the deployment has."""
        return {
            "x-ratelimit-limit-requests": str(self.allowance.requests_per_minute),
            "x-ratelimit-limit-tokens": str(self.allowance.tokens),
            "x-ratelimit-remaining-requests": str(self.requests_left),
            "x-ratelimit-remaining-tokens": str(self.tokens_left),
            "x-ratelimit-reset-requests": str(math.ceil(self.requests_reset_s)),
            "x-ratelimit-reset-tokens": str(math.ceil(self.tokens_reset_s)),
        }


def charge(own: Usage, others: Usage, allowed: Allowance, tokens: int, now: float) -> Standing:
    """Count a request, and say whether it is let through.

    Args:
        own: This process's usage, which the request is added to.
        others: What other processes are known to have used.
        tokens: The estimate.
        now: Seconds since 1970.
    """
    window, minute = int(now // allowed.window_s), int(now // MINUTE_S)
    used_requests, used_tokens = (
        sum(pair) for pair in zip(own.at(window, minute), others.at(window, minute), strict=True)
    )
    window_left_s = (window + 1) * allowed.window_s - now
    minute_left_s = (minute + 1) * MINUTE_S - now
    what = "requests" if used_requests >= allowed.requests else "tokens" if used_tokens >= allowed.tokens else ""
    own.add(window, 1, minute, 0 if what else tokens)
    return Standing(
        allowed,
        max(0, allowed.requests - used_requests - 1),
        max(0, allowed.tokens - used_tokens - (0 if what else tokens)),
        window_left_s,
        minute_left_s,
        {"": None, "requests": window_left_s, "tokens": minute_left_s}[what],
        what,
    )
