"""PURE. How long will it take? For those who wait, and for those who are sent away.

Estimates come from what requests have taken so far (`ServiceRates`) and from the order in which
those who wait would be let in if nobody else came (`FairQueue.forecast`). They are made when
somebody asks, and kept for half a second: the whole order costs O(n log n).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.queue.booking import Bookings
from gateway.queue.fairqueue import FairQueue, Place
from gateway.queue.rates import ServiceRates
from gateway.queue.ticket import Ticket
from gateway.queue.turns import Lease

__all__ = ["Outlook"]

_FORECAST_LASTS_S = 0.5
_MOST_ANEW = 1000
"""With more than this waiting, the order is not worked out for each one who comes."""
_SHORTEST_INTERVAL_S = 0.001


class Outlook:
    """
    Looks ahead.

    Args:
        queue: Those who wait.
        rates: What requests take.
        jitter: A number from 0 to 1; who is sent away is told up to a tenth more, so that clients
            do not come back in step.
        horizon_s: The longest time ahead for which places are booked.
    """

    def __init__(
        self,
        queue: FairQueue,
        rates: ServiceRates,
        jitter: Callable[[], float],
        *,
        horizon_s: float,
    ) -> None:
        self._queue = queue
        self._rates = rates
        self._jitter = jitter
        self._horizon_s = horizon_s
        self._bookings = Bookings(horizon_s)
        self._forecast: dict[Ticket, Place] = {}
        self._forecast_s = float("-inf")

    def __repr__(self) -> str:
        return f"<Outlook {self._rates!r}>"

    def interval_s(self, slots: int) -> float:
        """Seconds from one free slot to the next, on average, when all *slots* are busy."""
        return max(self._rates.mean_s / slots, _SHORTEST_INTERVAL_S)

    def come_back_s(self, booked_for: str, slots: int, now: float) -> float:
        """Seconds until there will be a place for whoever is sent away now.

        Each call books the next place: the ones sent away return one after another. Keys book side
        by side, so one that asks all the time pushes back nobody but itself.

        Args:
            booked_for: Whose request is sent away.
            slots: Slots of the engine, at least 1.
            now: Seconds on the monotonic clock.
        """
        first_s = self.interval_s(slots)
        pace_s = first_s * (1 + self._bookings.others(booked_for, now))
        wait_s = self._bookings.book(booked_for, now, pace_s, pace_s)
        # It is worth to come back at the end of what is booked, unless one place takes longer.
        return min(wait_s * (1.0 + 0.1 * self._jitter()), max(first_s, self._horizon_s))

    def longest_wait_s(self, running: Iterable[Lease], slots: int, now: float) -> float | None:
        """An estimate that nobody's in the queue can exceed, without looking at places.

        None when nobody can tell: no engine serves, or nothing was measured yet.
        """
        if slots == 0 or not self._rates.known:
            return None
        return (self._queue.waiting_cost_s + _left_s(running, now)) / slots

    def place(
        self,
        ticket: Ticket,
        running: Iterable[Lease],
        slots: int,
        now: float,
        *,
        anew: bool = False,
    ) -> tuple[int, float | None] | None:
        """Position from 1, and the estimated seconds to wait; None for what nobody can tell.

        Args:
            ticket: Who asks.
            running: The leases that are out.
            slots: Slots of the engine; 0 while it does not serve.
            now: Seconds on the monotonic clock.
            anew: Whether an order that is half a second old will not do; with very many waiting
                it has to.
        """
        wanted = anew or ticket not in self._forecast
        fresh = wanted and len(self._queue) <= _MOST_ANEW
        if fresh or now - self._forecast_s >= _FORECAST_LASTS_S:
            self._forecast_s, self._forecast = now, self._queue.forecast(now)
        place = self._forecast.get(ticket)
        if place is None:
            return None
        if slots == 0 or not self._rates.known:
            return place.position, None
        return place.position, (place.ahead_s + _left_s(running, now)) / slots


def _left_s(running: Iterable[Lease], now: float) -> float:
    return sum(lease.left_s(now) for lease in running)
