"""PURE. When each refused client should come back.

Clients that are all told the same time come back all at once, and most of them are refused again.
So each is given a place of its own: the k-th one refused is told the time at which the k-th place
opens. Places are estimated to open one interval after another; when the estimate changes, the last
booking is moved with it. Places far in the future are not booked: nobody waits for them.
"""

from __future__ import annotations

__all__ = ["Booking"]


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

    def _next_s(self, now: float, interval_s: float) -> float:
        """The first place after the last one booked, at the speed at which places open now."""
        ahead_s = self._last_s - now
        if ahead_s <= 0:
            return self._last_s + interval_s
        if self._interval_s > 0:
            ahead_s *= interval_s / self._interval_s
        return now + ahead_s + interval_s
