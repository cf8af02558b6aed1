"""PURE. What each key has spent, and whether it may spend more.

Rules:
- checking and taking are one step for all four limits: if one refuses, nothing is taken;
- a `Reservation` holds what was taken. Leaving it gives everything back but what really counts:
  the request if the engine was given it, and the tokens that were used;
- tokens count for the day they were reserved on. A day is a UTC calendar day by the wall clock.
  If that steps back by up to a day, the later day counts on, so that nobody gets a day twice;
  if it steps back further it was wrong before: the day is set right, and what was used stays used;
- rates go by the monotonic clock;
- limits are looked up at each request, so a reload changes them without forgetting anything.
"""

from __future__ import annotations

import math

from gateway.limits.account import Account, Today
from gateway.limits.headers import rate_headers
from gateway.limits.reservation import Reservation
from gateway.limits.saved import Saved, Snapshot
from gateway.limits.standing import Refusal, Standing
from keys import Limits, Principal

__all__ = ["Ledger", "Refusal", "Reservation", "Standing"]

_DAY_S = 86_400
_MAX_DEBT_S = 86_400.0
"""No bucket starts with more debt than a day's, whatever was read."""


class Ledger:
    """
    The books of all keys.

    Args:
        defaults: Limits of keys that have none of their own; None in it stands for no limit.
    """

    def __init__(self, defaults: Limits) -> None:
        self._defaults = defaults
        self._accounts: dict[str, Account] = {}
        self._date = -1  # the day since the epoch that the counters are of
        self._midnight = 0.0  # when it ends, in seconds since the epoch
        self._today = Today()

    def __repr__(self) -> str:
        in_use = sum(account.in_use for account in self._accounts.values())
        return f"<Ledger {len(self._accounts)} keys, {in_use} requests in use>"

    def __len__(self) -> int:
        """Keys that something is remembered of."""
        return len(self._accounts)

    @property
    def changes(self) -> int:
        """Counts up with each reservation, its end, and `restore`; equal means nothing to save."""
        return self._today.changes

    def most_tokens(self, principal: Principal) -> float:
        """The most tokens that one request of a key can ever get; infinite without a limit."""
        account = self._accounts.get(principal.key_id)
        if account is None or account.principal is not principal:
            account = Account(self._today)
            account.set_limits(self.limits_of(principal))
        minute, day = account.token_rate, account.daily
        return minute if minute < day else day

    def limits_of(self, principal: Principal) -> Limits:
        """The limits in force for a key; None in it stands for no limit."""
        account = self._accounts.get(principal.key_id)
        if account is not None and account.principal is principal:
            return account.limits
        return _in_force(principal.limits, self._defaults)

    def reserve(
        self, principal: Principal, *, requests: int, tokens: int, now: float, wall: float
    ) -> Reservation | Refusal:
        """Take what a request needs from all limits of its key, or nothing from any.

        It is taken from here on, not only inside a ``with``: use the reservation as a context
        manager at once, or call its `leave`.

        Args:
            principal: The key.
            requests: Generations that the HTTP request makes, at least 1; each counts as one.
            tokens: What it may use, prompt and completion together, at least 0.
            now: Seconds on the monotonic clock.
            wall: Seconds since the epoch.
        """
        if requests < 1 or tokens < 0:
            raise ValueError(f"must be at least 1 and 0, not {requests} and {tokens}")
        account = self._account(principal, now, wall)
        if not account.fits(requests, tokens, now):
            return account.refusal(requests, tokens, now, self._midnight - wall)
        self._accounts[principal.key_id] = account
        self._today.changes += 1
        return account.hand_out(requests, tokens, now)

    def in_use(self) -> dict[str, int]:
        """Requests that run or wait now, of each key that has any."""
        return {
            key_id: account.in_use for key_id, account in self._accounts.items() if account.in_use
        }

    def glance(self, principal: Principal, now: float, wall: float) -> Refusal | None:
        """Whether one request of one token would be refused; takes nothing."""
        account = self._account(principal, now, wall)
        if account.fits(1, 1, now):
            return None
        return account.refusal(1, 1, now, self._midnight - wall)

    def standing(self, principal: Principal, now: float, wall: float) -> Standing:
        """Where a key stands, for people."""
        return self._account(principal, now, wall).standing(now, self._midnight - wall)

    def headers(self, principal: Principal, now: float, wall: float) -> dict[str, str]:
        """Where a key stands, as reply headers."""
        account = self._account(principal, now, wall)
        return rate_headers(account, now, self._midnight - wall)

    def prune(self, now: float, wall: float) -> None:
        """Forget the keys of which there is nothing to remember. O(keys)."""
        self._turn_to(now, wall)
        for key_id, account in list(self._accounts.items()):
            if account.forgettable(now):
                del self._accounts[key_id]

    def snapshot(self, now: float, wall: float) -> Snapshot:
        """What should survive a restart, copied; O(keys), a millisecond for ten thousand.

        Tokens of the minute count as far as they are reserved, tokens of the day as far as their
        requests have ended: after a crash nobody lacks more than a minute's worth.
        """
        self._turn_to(now, wall)
        # Lists of plain numbers: ten thousand tuples would also set off the garbage collector.
        accounts = list(self._accounts.values())
        return Snapshot(
            now=now,
            wall=wall,
            date=self._date,
            key_ids=list(self._accounts),
            full_at_s=[account.tokens.tat_s for account in accounts],
            used=[account.used_today for account in accounts],
        )

    def restore(self, state: object, now: float, wall: float) -> None:
        """Take in the JSON of an earlier `snapshot`; the time between counts as passed.

        To be called at the start, before anything is reserved. If the wall clock is behind the
        one of that time, no time has passed.

        Raises:
            ValueError: It is not such a state; nothing was taken in.
        """
        saved = Saved.from_json(state)
        self._turn_to(now, wall)
        if saved.date == self._date + 1:
            self._set_date(saved.date)  # the clock stepped back over midnight
        self._today.changes += 1
        passed_s = max(0.0, wall - saved.wall)
        for key_id, kept in saved.keys.items():
            account = self._accounts[key_id] = Account(self._today)
            account.tokens.tat_s = now + min(max(0.0, kept.debt_s - passed_s), _MAX_DEBT_S)
            account.used_today = kept.used if saved.date >= self._date else 0

    def _account(self, principal: Principal, now: float, wall: float) -> Account:
        """The account of a key, of today and with its limits; a new one is not kept yet."""
        self._turn_to(now, wall)
        account = self._accounts.get(principal.key_id)
        if account is None:
            account = Account(self._today)
        if account.principal is not principal:
            account.principal = principal
            account.set_limits(_in_force(principal.limits, self._defaults))
        return account

    def _turn_to(self, now: float, wall: float) -> None:
        self._today.now = now
        if not 0.0 < self._midnight - wall <= _DAY_S:
            self._turn_date(math.floor(wall / _DAY_S))

    def _turn_date(self, date: int) -> None:
        """Set the date; a later one is a new day for all accounts. O(keys)."""
        if date > self._date:
            self._set_date(date)
            self._today.day += 1
            for account in self._accounts.values():
                account.begin_day()
        elif date < self._date - 1:
            self._set_date(date)

    def _set_date(self, date: int) -> None:
        self._date = date
        self._midnight = float((date + 1) * _DAY_S)


def _in_force(own: Limits, default: Limits) -> Limits:
    return Limits(
        requests_per_minute=_first(own.requests_per_minute, default.requests_per_minute),
        tokens_per_minute=_first(own.tokens_per_minute, default.tokens_per_minute),
        concurrency=_first(own.concurrency, default.concurrency),
        tokens_per_day=_first(own.tokens_per_day, default.tokens_per_day),
    )


def _first(own: int | None, default: int | None) -> int | None:
    return default if own is None else own
