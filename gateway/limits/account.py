"""PURE. The books of one key: its buckets, its requests in flight, its tokens of the day.

An account is changed by the ledger and by the ends of its reservations alone. What all accounts
share, the day and the last moment they were told of, is in one `Today`.
"""

from __future__ import annotations

import math

from gateway.limits.gcra import Gcra, TooLarge
from gateway.limits.reservation import Reservation
from gateway.limits.standing import Gauge, LimitName, Refusal, Standing
from keys import Limits, Principal

__all__ = ["Account", "Today"]

_IN_FLIGHT_RETRY_S = 1.0
"""When requests in flight end is not known here."""
_NO_LIMITS = Limits()


class Today:
    """What the accounts of a ledger have in common; changed by the ledger."""

    __slots__ = ("changes", "day", "now")

    def __init__(self) -> None:
        self.day = 0
        """Counts up with each new date."""
        self.now = -math.inf
        """The last moment the ledger was told of, in seconds on the monotonic clock."""
        self.changes = 0
        """Counts up with everything that is worth saving."""

    def __repr__(self) -> str:
        return f"<Today {self.day}>"


class Account:
    """
    One key's books.

    Args:
        today: The day that its tokens are counted for.
    """

    __slots__ = (
        "crowd",
        "daily",
        "held_today",
        "in_use",
        "limits",
        "principal",
        "request_rate",
        "requests",
        "today",
        "token_rate",
        "tokens",
        "used_today",
    )

    def __init__(self, today: Today) -> None:
        self.today = today
        self.requests = Gcra()
        self.tokens = Gcra()
        self.in_use = 0
        self.used_today = 0
        self.held_today = 0
        self.principal: Principal | None = None
        """Whose `limits` those are; of each reading of the keys there is another."""
        self.set_limits(_NO_LIMITS)

    def __repr__(self) -> str:
        return f"<Account {self.in_use} in use, {self.used_today} tokens today>"

    def set_limits(self, limits: Limits) -> None:
        """Put other limits in force; forgets nothing."""
        self.limits = limits
        # The same for comparisons: what has no limit may be infinitely much.
        self.crowd = _bound(limits.concurrency)
        self.request_rate = _bound(limits.requests_per_minute)
        self.token_rate = _bound(limits.tokens_per_minute)
        self.daily = _bound(limits.tokens_per_day)

    def begin_day(self) -> None:
        """Count the tokens of a new day."""
        self.used_today = self.held_today = 0

    def fits(self, requests: int, tokens: int, now: float) -> bool:
        """Whether no limit refuses; changes nothing.

        Args:
            requests: Generations, at least 1.
            tokens: Prompt and completion tokens, at least 0.
            now: Seconds on the monotonic clock.
        """
        if self.in_use + requests > self.crowd:
            return False
        if self.used_today + self.held_today + tokens > self.daily:
            return False
        full = self.requests.tat_s <= now and self.tokens.tat_s <= now
        if full and requests <= self.request_rate and tokens <= self.token_rate:
            return True
        return self._fits_rates(requests, tokens, now)

    def _fits_rates(self, requests: int, tokens: int, now: float) -> bool:
        limits = self.limits
        rate, token_rate = limits.requests_per_minute, limits.tokens_per_minute
        if rate is not None and self.requests.check(requests, rate, now) is not None:
            return False
        return token_rate is None or self.tokens.check(tokens, token_rate, now) is None

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
        return Refusal("tokens_per_day", retry_after_s, limit, tokens, self.day_left(limit))

    def day_left(self, limit: int) -> int:
        """Tokens that are left of the day's *limit*, at least 0."""
        return max(0, limit - self.used_today - self.held_today)

    def hand_out(self, requests: int, tokens: int, now: float) -> Reservation:
        """Take what `fits`."""
        limits = self.limits
        rate, token_rate = limits.requests_per_minute, limits.tokens_per_minute
        self.in_use += requests
        self.held_today += tokens
        return Reservation(
            self,
            requests,
            tokens,
            self.today.day,
            None if rate is None else self.requests.take_checked(requests, rate, now),
            None if token_rate is None else self.tokens.take_checked(tokens, token_rate, now),
        )

    def lower(self, held: Reservation, tokens: int) -> None:
        """Give back what *held* has beyond *tokens*."""
        surplus = held.tokens - tokens
        if surplus <= 0:
            return
        held.tokens = tokens
        if held.token_rate is not None:
            self.tokens.give_back(held.token_rate, surplus)
        if held.day == self.today.day:
            self.held_today -= surplus

    def take_back(self, held: Reservation, counts: bool, used: int) -> None:
        """End a reservation; to be called once.

        Args:
            held: From `hand_out`.
            counts: Whether the requests themselves count.
            used: Tokens really used, at least 0; may be more than were held.
        """
        today, rate, token_rate, tokens = self.today, held.rate, held.token_rate, held.tokens
        today.changes += 1
        self.in_use -= held.requests
        if rate is not None:
            self.requests.close(rate, 0 if counts else held.requests)
        if token_rate is not None:
            self.tokens.close(token_rate, tokens - used)
            if used > tokens:
                self.tokens.charge(used - tokens, token_rate.per_minute, today.now)
        if held.day == today.day:
            self.held_today -= tokens
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
            day = Gauge(limit, self.day_left(limit), day_left_s if used or held else 0.0)
        return Standing(limits, requests, tokens, day, self.in_use, used, held)

    def forgettable(self, now: float) -> bool:
        """Whether a new account would answer every question the same way."""
        full = self.requests.tat_s <= now and self.tokens.tat_s <= now
        return full and not (self.in_use or self.used_today or self.held_today)


def _bound(limit: int | None) -> float:
    return math.inf if limit is None else limit


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
