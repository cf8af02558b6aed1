"""PURE. The books of one key: its buckets, its requests in flight, its tokens of the day.

An account is changed by the ledger alone. Days are told apart by a number that the ledger counts
up at each new day; an account that has not been opened since is brought up to date when it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.limits.gcra import Gcra, Taken, TooLarge
from gateway.limits.standing import Gauge, LimitName, Refusal, Standing
from keys import Limits, Principal

__all__ = ["Account", "Holding"]

_IN_FLIGHT_RETRY_S = 1.0
"""When requests in flight end is not known here."""
_NO_LIMITS = Limits()


@dataclass(slots=True, eq=False)
class Holding:
    """What an account has handed out for one request and may get back."""

    requests: int
    tokens: int
    day: int
    rate: Taken | None
    token_rate: Taken | None


class Account:
    """
    One key's books.

    Args:
        day: The number of the day it is opened on.
    """

    __slots__ = (
        "day",
        "held_today",
        "in_use",
        "limits",
        "principal",
        "requests",
        "tokens",
        "used_today",
    )

    def __init__(self, day: int) -> None:
        self.principal: Principal | None = None
        """Whose `limits` those are; of each reading of the keys there is another."""
        self.limits = _NO_LIMITS
        """The limits in force."""
        self.requests = Gcra()
        self.tokens = Gcra()
        self.in_use = 0
        self.day = day
        self.used_today = 0
        self.held_today = 0

    def __repr__(self) -> str:
        return f"<Account {self.in_use} in use, {self.used_today} tokens today>"

    def on_day(self, day: int) -> None:
        """Begin a new day if *day* is not the one the counters are of."""
        if day != self.day:
            self.day, self.used_today, self.held_today = day, 0, 0

    def fits(self, requests: int, tokens: int, now: float) -> bool:
        """Whether no limit refuses; changes nothing.

        Args:
            requests: Generations, at least 1.
            tokens: Prompt and completion tokens, at least 0.
            now: Seconds on the monotonic clock.
        """
        limits = self.limits
        most = limits.concurrency
        if most is not None and self.in_use + requests > most:
            return False
        most = limits.tokens_per_day
        if most is not None and self.used_today + self.held_today + tokens > most:
            return False
        rate = limits.requests_per_minute
        if rate is not None and self.requests.check(requests, rate, now) is not None:
            return False
        rate = limits.tokens_per_minute
        return rate is None or self.tokens.check(tokens, rate, now) is None

    def refusal(self, requests: int, tokens: int, now: float, day_left_s: float) -> Refusal:
        """The refusal that lasts longest of what does not fit; changes nothing.

        Args:
            requests: As for `fits`.
            tokens: As for `fits`.
            now: As for `fits`.
            day_left_s: Seconds until the day's counters begin anew.
        """
        limits = self.limits
        found = (
            _rate_refusal("requests", self.requests, requests, limits.requests_per_minute, now),
            _rate_refusal("tokens", self.tokens, tokens, limits.tokens_per_minute, now),
            self._crowded(requests, limits.concurrency),
            self._day_spent(tokens, limits.tokens_per_day, day_left_s),
        )
        return max((one for one in found if one is not None), key=_lasts_s)

    def _crowded(self, requests: int, limit: int | None) -> Refusal | None:
        if limit is None or self.in_use + requests <= limit:
            return None
        retry_after_s = None if requests > limit else _IN_FLIGHT_RETRY_S
        left = max(0, limit - self.in_use)
        return Refusal("concurrency", retry_after_s, limit, requests, left)

    def _day_spent(self, tokens: int, limit: int | None, day_left_s: float) -> Refusal | None:
        if limit is None or self.used_today + self.held_today + tokens <= limit:
            return None
        retry_after_s: float | None = day_left_s
        if tokens > limit:
            retry_after_s = None
        elif self.used_today + tokens <= limit:
            # Only held by requests in flight, which seldom use all that they hold.
            retry_after_s = min(_IN_FLIGHT_RETRY_S, day_left_s)
        return Refusal("tokens_per_day", retry_after_s, limit, tokens, self._day_left(limit))

    def _day_left(self, limit: int) -> int:
        return max(0, limit - self.used_today - self.held_today)

    def hand_out(self, requests: int, tokens: int, now: float) -> Holding:
        """Take what `fits`."""
        limits = self.limits
        rate, token_rate = limits.requests_per_minute, limits.tokens_per_minute
        self.in_use += requests
        self.held_today += tokens
        return Holding(
            requests,
            tokens,
            self.day,
            None if rate is None else self.requests.take_checked(requests, rate, now),
            None if token_rate is None else self.tokens.take_checked(tokens, token_rate, now),
        )

    def lower(self, holding: Holding, tokens: int) -> None:
        """Give back what *holding* has beyond *tokens*."""
        surplus = holding.tokens - tokens
        if surplus <= 0:
            return
        holding.tokens = tokens
        if holding.token_rate is not None:
            self.tokens.give_back(holding.token_rate, surplus)
        if holding.day == self.day:
            self.held_today -= surplus

    def take_back(self, holding: Holding, counts: bool, used: int, now: float) -> None:
        """End *holding*; to be called once.

        Args:
            holding: From `hand_out`.
            counts: Whether the requests themselves count.
            used: Tokens really used, at least 0; may be more than were held.
            now: Seconds on the monotonic clock; only matters if more were used than held.
        """
        self.in_use -= holding.requests
        rate, token_rate, held = holding.rate, holding.token_rate, holding.tokens
        if rate is not None:
            if not counts:
                self.requests.give_back(rate, holding.requests)
            self.requests.close(rate)
        if token_rate is not None:
            if used < held:
                self.tokens.give_back(token_rate, held - used)
            self.tokens.close(token_rate)
            if used > held:
                self.tokens.charge(used - held, token_rate.per_minute, now)
        if holding.day == self.day:
            self.held_today -= held
            self.used_today += used

    def standing(self, now: float, day_left_s: float) -> Standing:
        """Where the key stands; the arguments are as for `refusal`."""
        limits, requests, tokens, day = self.limits, None, None, None
        limit = limits.requests_per_minute
        if limit is not None:
            bucket = self.requests
            requests = Gauge(limit, bucket.remaining(limit, now), bucket.reset_s(now))
        limit = limits.tokens_per_minute
        if limit is not None:
            bucket = self.tokens
            tokens = Gauge(limit, bucket.remaining(limit, now), bucket.reset_s(now))
        used, held = self.used_today, self.held_today
        limit = limits.tokens_per_day
        if limit is not None:
            day = Gauge(limit, self._day_left(limit), day_left_s if used or held else 0.0)
        return Standing(limits, requests, tokens, day, self.in_use, used, held)

    def forgettable(self, now: float) -> bool:
        """Whether a new account would answer every question the same way."""
        full = self.requests.tat_s <= now and self.tokens.tat_s <= now
        return full and not (self.in_use or self.used_today or self.held_today)


def _lasts_s(refusal: Refusal) -> float:
    return float("inf") if refusal.retry_after_s is None else refusal.retry_after_s


def _rate_refusal(
    name: LimitName, bucket: Gcra, cost: int, per_minute: int | None, now: float
) -> Refusal | None:
    verdict = None if per_minute is None else bucket.check(cost, per_minute, now)
    if per_minute is None or verdict is None:
        return None
    retry_after_s = None if isinstance(verdict, TooLarge) else verdict.retry_after_s
    return Refusal(name, retry_after_s, per_minute, cost, bucket.remaining(per_minute, now))
