"""PURE. What the ledger says: where a key stands, and why a request is refused.

What every request makes is not frozen: that would cost more than the making itself. Nobody changes
it all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keys import Limits

__all__ = ["Gauge", "LimitName", "Refusal", "Standing"]

LimitName = Literal["requests", "tokens", "concurrency", "tokens_per_day"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that a limit does not let in; nothing was taken.

    Args:
        limit: The limit that refuses, or of several the one that does so longest.
        retry_after_s: Seconds after which the same request passes if nobody else came. None if it
            never does, being larger than the whole limit. Where it hangs on requests in flight,
            which nobody can time, a second.
        limit_value: The limit, in its own unit.
        requested: What was asked for, in the same unit.
        remaining: What could have been had, in the same unit, at least 0.
    """

    limit: LimitName
    retry_after_s: float | None
    limit_value: int
    requested: int
    remaining: int


@dataclass(slots=True)
class Gauge:
    """How full one limit is.

    Args:
        limit: What may be had at most.
        remaining: What could be had now, at least 0.
        reset_s: Seconds until all of it is there again, if nobody came.
    """

    limit: int
    remaining: int
    reset_s: float


@dataclass(slots=True)
class Standing:
    """Where one key stands; None for what has no limit.

    Args:
        limits: The limits in force for the key.
        requests: Requests per minute.
        tokens: Tokens per minute.
        day: Tokens per day.
        in_use: Requests that run or wait now.
        tokens_today: Tokens used since midnight UTC by requests that have ended.
        tokens_held: Tokens that running and waiting requests may still use.
    """

    limits: Limits
    requests: Gauge | None
    tokens: Gauge | None
    day: Gauge | None
    in_use: int
    tokens_today: int
    tokens_held: int
