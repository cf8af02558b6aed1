"""PURE. The generic cell rate algorithm: a rate limit in one number.

The number is the theoretical arrival time (ATM Forum, Traffic Management 4.1, 4.4.2): the moment at
which everything taken so far has been earned again. A whole minute's worth may come at once; after
that, each unit has to be earned at the limit's pace.

What was taken may turn out to be less, long after it was taken. Moving the arrival time back by the
difference would be wrong: what time has earned back meanwhile would be given twice, and more than
the limit could be spent. So each open `Taken` carries a floor, the arrival time of a bucket that
was full right after it and saw everything that came since. The arrival time never moves back beyond
it, and ends exactly where it would be had the smaller amount been taken in the first place.

Rules:
- the limit is an argument of each call, so it may change without forgetting what was spent: who
  has used half a minute's worth has still used half of it;
- what comes back, comes back at the pace at which it was taken;
- older open takings have floors at least as high as newer ones. One whose floor has reached the
  arrival time has been earned back in full, as all older ones have: they leave the list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["WINDOW_S", "Gcra", "Taken", "TooLarge", "Wait"]

WINDOW_S = 60.0
_SLACK_S = 1e-6
"""Sums of floats differ by nanoseconds from the numbers they stand for; never adds up."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: the same request passes after so many seconds, if nobody else came."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Never: it costs more than a full minute's worth."""


class Taken:
    """Something taken that may still come back; made by `Gcra.take`."""

    __slots__ = ("cost", "floor_s", "per_minute")

    def __init__(self, cost: float, per_minute: int) -> None:
        self.cost = cost
        self.per_minute = per_minute
        self.floor_s = -math.inf

    def __repr__(self) -> str:
        return f"<Taken {self.cost} of {self.per_minute} a minute>"


class Gcra:
    """
    One limit's state.

    Taking costs O(open takings); the rest of the calls O(1) but for `give_back`.

    Args:
        tat_s: The theoretical arrival time to start from, on the clock of the calls' `now`.
    """

    __slots__ = ("_open", "tat_s")

    def __init__(self, tat_s: float = -math.inf) -> None:
        self.tat_s = tat_s
        self._open: dict[Taken, None] = {}

    def __repr__(self) -> str:
        return f"<Gcra full at {self.tat_s:.3f}, {len(self._open)} open>"

    def check(self, cost: float, per_minute: int, now: float) -> Wait | TooLarge | None:
        """Whether *cost* could be taken now; changes nothing.

        Args:
            cost: Units, at least 0.
            per_minute: The limit, at least 1; also the most that may come at once.
            now: Seconds; never less than in the last call.

        Returns:
            None if it could. After exactly the wait it can, if nobody else came.
        """
        if cost > per_minute:
            return TooLarge()
        ahead_s = self.tat_s - now
        if ahead_s <= 0.0:
            return None
        short_s = cost * WINDOW_S / per_minute - (WINDOW_S - ahead_s)
        return Wait(short_s) if short_s > _SLACK_S else None

    def take(self, cost: float, per_minute: int, now: float) -> Taken | Wait | TooLarge:
        """Take *cost*, or nothing at all; arguments and refusals as for `check`."""
        refused = self.check(cost, per_minute, now)
        return self.take_checked(cost, per_minute, now) if refused is None else refused

    def take_checked(self, cost: float, per_minute: int, now: float) -> Taken:
        """Take *cost*, which `check` has let pass with the same arguments."""
        taken = Taken(cost, per_minute)
        if self.tat_s <= now:  # full: all that was taken before has been earned
            self.tat_s = now + cost * WINDOW_S / per_minute
            self._open = {taken: None}
        else:
            self.charge(cost, per_minute, now)
            self._open[taken] = None
        return taken

    def charge(self, cost: float, per_minute: int, now: float) -> None:
        """Take *cost* whether or not it is there: what was spent, was spent."""
        cost_s = cost * WINDOW_S / per_minute
        if self.tat_s <= now:
            self.tat_s = now + cost_s
            self._open.clear()
            return
        self.tat_s += cost_s
        if not self._open:
            return
        earned = []
        for taken in self._open:
            taken.floor_s = max(taken.floor_s, now) + cost_s
            if taken.floor_s >= self.tat_s:
                earned.append(taken)
        for taken in earned:
            del self._open[taken]

    def give_back(self, taken: Taken, cost: float) -> None:
        """Make *taken* smaller by *cost*, at most by what is left of it."""
        if cost > taken.cost:
            cost = taken.cost
        taken.cost -= cost
        if taken not in self._open:
            return
        back_s, floor_s = cost * WINDOW_S / taken.per_minute, taken.floor_s
        less_s = self.tat_s - back_s
        self.tat_s = less_s if less_s > floor_s else floor_s
        for older in self._open:
            if older is taken:
                break
            older.floor_s = max(older.floor_s - back_s, floor_s)

    def close(self, taken: Taken, unused: float = 0) -> None:
        """Give back *unused*, at least 0 or ignored; then nothing of *taken* comes back any more.

        Safe to call twice.
        """
        if taken in self._open:
            if unused > 0:
                self.give_back(taken, unused)
            del self._open[taken]

    def remaining(self, per_minute: int, now: float) -> int:
        """The largest whole cost that could be taken now."""
        ahead_s = self.tat_s - now
        if ahead_s <= 0.0:
            return per_minute
        free_s = WINDOW_S - ahead_s
        left = int((free_s + _SLACK_S) * per_minute / WINDOW_S)
        if left < 0:
            left = 0
        elif left > per_minute:
            left = per_minute
        # Division and `check` may round differently; what is told must be what is done.
        while left < per_minute and (left + 1) * WINDOW_S / per_minute - free_s <= _SLACK_S:
            left += 1
        while left > 0 and left * WINDOW_S / per_minute - free_s > _SLACK_S:
            left -= 1
        return left

    def reset_s(self, now: float) -> float:
        """Seconds until a full minute's worth is there again, at least 0."""
        left_s = self.tat_s - now
        return left_s if left_s > 0.0 else 0.0
