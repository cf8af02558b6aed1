"""PURE. When each refused client should come back.

Clients that are all told the same time come back all at once, and most of them are refused again.
So each is given a place of its own: the k-th one refused is told the time at which the k-th place
opens. Places are estimated to open one interval after another; when the estimate changes, the last
booking is moved with it. Places far in the future are not booked: nobody waits for them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["Booking", "Bookings"]

_SWEEP_EVERY_S = 1.0


class Booking:
    """Places given away and not yet reached.

    Only the last booking is kept: the ones before it are an interval apart.

    Args:
        horizon_s: Seconds ahead for which places are booked.
    """

    def __init__(self, horizon_s: float = 60.0) -> None:
        self._horizon_s = horizon_s
        self._last_s = float("-inf")
        self._interval_s = 0.0

    def __repr__(self) -> str:
        return f"<Booking up to {self._last_s:.3f}, one each {self._interval_s:.3g} s>"

    def book(self, now: float, first_in_s: float, interval_s: float) -> float:
        """Book the next place.

        Args:
            now: Seconds on the monotonic clock.
            first_in_s: Seconds until the next place opens.
            interval_s: Seconds from one place to the next.

        Returns:
            Seconds to wait. More than the horizon means that nothing was booked, and that the
            next one will hear much the same.
        """
        place_s = max(now + first_in_s, self._next_s(now, interval_s))
        wait_s = place_s - now
        if wait_s <= self._horizon_s:
            self._last_s = place_s
            self._interval_s = interval_s
        return wait_s

    def reaches(self, now: float) -> bool:
        """Whether something is booked beyond *now*."""
        return self._last_s > now

    def _next_s(self, now: float, interval_s: float) -> float:
        """The first place after the last one booked, at the speed at which places open now."""
        ahead_s = self._last_s - now
        if ahead_s <= 0:
            return self._last_s + interval_s
        if self._interval_s > 0:
            ahead_s *= interval_s / self._interval_s
        return now + ahead_s + interval_s


class Bookings:
    """
    A booking for each of many.

    Args:
        horizon_s: As for one.
        at_most: Remembered at a time; the one that booked longest ago is forgotten first.
    """

    def __init__(self, horizon_s: float = 60.0, at_most: int = 10_000) -> None:
        self._horizon_s = horizon_s
        self._at_most = at_most
        self._swept_s = float("-inf")
        self._of: OrderedDict[Hashable, Booking] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Bookings of {len(self._of)}>"

    def others(self, whose: Hashable, now: float) -> int:
        """For how many besides *whose* something is booked that is not reached yet; about."""
        if now - self._swept_s >= _SWEEP_EVERY_S:
            self._swept_s = now
            over = [key for key, booking in self._of.items() if not booking.reaches(now)]
            for key in over:
                del self._of[key]
        return len(self._of) - (whose in self._of)

    def book(self, whose: Hashable, now: float, first_in_s: float, interval_s: float) -> float:
        """Book the next place of *whose*; the rest as `Booking.book`."""
        booking = self._of.get(whose)
        if booking is None:
            booking = self._of[whose] = Booking(self._horizon_s)
            if len(self._of) > self._at_most:
                self._of.popitem(last=False)
        self._of.move_to_end(whose)
        return booking.book(now, first_in_s, interval_s)
