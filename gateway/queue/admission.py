"""The door to the engine: at most as many requests inside as it has slots.

This is the one place where a request waits for its turn; the engine's own queue is unbounded,
silent, and keeps requests whose clients have left. Who goes next is decided by `FairQueue`, how
long it will take by `ServiceRates`; here are the futures and the clock.

Rules:
- a slot is held by a `Lease` and comes back by leaving its block, on every way out;
- the slot of a client who left while the engine worked on it is not free yet: llama-server stops
  at the end of its batch. It *lingers*, and stays taken until `settled` says that the engine
  has stopped;
- whoever leaves the queue gives up the place at once;
- capacity is zero while the engine does not serve; those who wait are let in when it does;
- who is refused is told when to come back, one after another, as places open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from gateway.errors import RETRY_AFTER_MAX_S, ApiError
from gateway.queue.booking import Booking
from gateway.queue.fairqueue import FairQueue, Full, Place, Ticket
from gateway.queue.rates import ServiceRates

__all__ = ["Admission", "Lease", "Turn", "TurnHolder", "Wish"]

_FORECAST_LASTS_S = 0.5
_MOST_BOOKINGS = 1000
_NO_ENGINE_RETRY_S = 2.0
_EVERYBODY = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of the door."""

    key: str
    """Whose request it is: the queue is fair between keys."""
    slots: int = 1
    """Slots it needs; 0: only an engine that serves. More than there are means all of them."""
    priority: str = "normal"
    """One of `keys.PRIORITIES`."""
    weight: float = 1.0
    """Share among keys of the same priority, above 0."""
    expected_s: float = 0.0
    """Estimated slot-seconds: slots times the time they will be held."""
    max_wait_s: float | None = None
    """Seconds to wait, if less than usual."""
    patience_s: float | None = None
    """Seconds after which the caller itself gives up; a longer estimate is refused at once."""


class TurnHolder(Protocol):
    """Whoever waits; its turn can be looked at meanwhile."""

    turn: Turn | None


class Lease:
    """Slots held by one request, given back exactly once."""

    __slots__ = (
        "_admission",
        "_ticket",
        "abandoned",
        "at_work",
        "granted_s",
        "slots",
        "waited_s",
    )

    def __init__(
        self, admission: Admission, ticket: Ticket, slots: int, granted_s: float, waited_s: float
    ) -> None:
        self._admission: Admission | None = admission
        self._ticket = ticket
        self.slots = slots
        self.granted_s = granted_s
        self.waited_s = waited_s
        self.at_work = False
        """The engine is known to work on it."""
        self.abandoned = False
        """The engine was left in the middle of it, and may go on for a moment."""

    def __repr__(self) -> str:
        return f"<Lease of {self.slots} slots {'held' if self._admission else 'given back'}>"

    @property
    def expected_s(self) -> float:
        """Estimated slot-seconds."""
        return self._ticket.cost_s

    def release(self) -> None:
        """Give the slots back; safe to call twice."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._give_back(self, self._ticket)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Turn:
    """A place in the queue."""

    __slots__ = ("_admission", "entered_s", "granted", "ticket")

    def __init__(self, admission: Admission, ticket: Ticket, entered_s: float) -> None:
        self._admission = admission
        self.ticket = ticket
        self.entered_s = entered_s
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()

    def place(self) -> tuple[int, float | None] | None:
        """Position from 1, and the estimated seconds to wait; None for what nobody can tell."""
        return self._admission._place(self.ticket)


class Admission:
    """Hands out the engine's slots.

    Args:
        queue: Decides who goes next.
        rates: Knows how long work takes.
        max_queue: Requests that may wait; 0 means that nobody waits. The queue's own bound.
        max_wait_s: Seconds a request may wait.
        clock: Monotonic seconds.
        jitter: A number from 0 to 1, so that refused clients do not come back in step.
    """

    def __init__(
        self,
        queue: FairQueue,
        rates: ServiceRates,
        *,
        max_queue: int,
        max_wait_s: float,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._jitter = jitter
        self._turns: dict[Ticket, Turn] = {}
        self._leases: set[Lease] = set()
        self._bookings: dict[str, Booking] = {}
        self._forecast: dict[Ticket, Place] = {}
        self._forecast_s = float("-inf")
        self._capacity = 0
        self._usual_capacity = 1
        self._closed: tuple[str, float | None] | None = None
        self.rates = rates
        self.taken = 0
        self.lingering = 0
        """Slots, counted in `taken`, that the engine has not let go of yet."""
        self.on_abandoned: Callable[[], None] | None = None
        """Told when slots begin to linger; whoever listens calls `settled` in the end."""

    def __repr__(self) -> str:
        return f"<Admission {self.taken} of {self._capacity} slots, {self.queued} waiting>"

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Requests inside."""
        return len(self._leases)

    @property
    def full(self) -> bool:
        """Whether the next request would be refused."""
        return not self._fits(1) and self.queued >= self._max_queue

    def waiting_in(self, priority: str) -> int:
        """Requests of one priority class that wait."""
        return self._queue.waiting_in(priority)

    def at_work(self) -> frozenset[Lease]:
        """The leases that the engine is known to work on."""
        return frozenset(lease for lease in self._leases if lease.at_work)

    def learn(
        self,
        lease: Lease,
        *,
        prompt_tokens: int,
        completion_tokens: int = 0,
        prompt_ms: float | None = None,
        predicted_ms: float | None = None,
    ) -> None:
        """Take note of what a complete answer took, for estimates to come."""
        self.rates.note(
            slot_s=lease.slots * (self._clock() - lease.granted_s),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            prompt_ms=prompt_ms,
            predicted_ms=predicted_ms,
        )

    def set_capacity(self, slots: int) -> None:
        """Set how many slots there are; 0 while the engine does not serve."""
        self._capacity = slots
        self._usual_capacity = slots or self._usual_capacity
        self._let_in()

    def settled(self, slots: int | None = None) -> None:
        """The engine has let go of so many lingering slots; None: of all, for it is gone."""
        freed = self.lingering if slots is None else min(slots, self.lingering)
        self.lingering -= freed
        self.taken -= freed
        self._let_in()

    def close(self, code: str, *, retry_after_s: float | None = None) -> None:
        """Refuse from now on, those who wait included, with an `ApiError` of *code*."""
        self._closed = (code, retry_after_s)
        for ticket in self._queue.clear():
            turn = self._turns.pop(ticket)
            if not turn.granted.done():
                turn.granted.set_exception(ApiError(code, retry_after_s=retry_after_s))

    async def slots(
        self, wish: Wish, holder: TurnHolder, *, again: bool = False, exempt: bool = False
    ) -> Lease:
        """Wait for the slots of *wish*.

        Args:
            wish: What is wanted, by whom.
            holder: Its ``turn`` is set while it waits.
            again: It was let in before and did not get what it was let in for: it waits at the
                head of the queue, whatever its length.
            exempt: It has waited before: the queue's bounds do not apply.

        Raises:
            ApiError: The queue is full (`server_overloaded`; `rate_limit_exceeded` for the key's
                own share of it, or when waiting is off; without an engine then
                `engine_unavailable`), the wait would be longer than the caller's patience
                (`queue_wait_too_long`), was too long (`queue_timeout`), or the door is closed.
        """
        if self._closed is not None:
            code, retry_after_s = self._closed
            raise ApiError(code, retry_after_s=retry_after_s)
        now = self._clock()
        ticket = Ticket(
            key=wish.key,
            priority=wish.priority,
            weight=wish.weight,
            slots=wish.slots,
            cost_s=wish.expected_s,
            again=again,
            exempt=exempt,
        )
        if self._fits(wish.slots) and (wish.slots == 0 or again or not self.queued):
            return self._take(ticket, now, now)
        self._refuse_if_full(wish, again or exempt, now)
        turn = self._stand(ticket, now)
        if not again:
            self._refuse_if_hopeless(wish, turn)
        holder.turn = turn
        try:
            return await self._wait(turn, wish)
        finally:
            holder.turn = None

    # -- waiting

    def _stand(self, ticket: Ticket, now: float) -> Turn:
        full = self._queue.offer(ticket, now)
        assert full is None, "asked for just before"
        turn = self._turns[ticket] = Turn(self, ticket, now)
        self._let_in()
        return turn

    async def _wait(self, turn: Turn, wish: Wish) -> Lease:
        limit_s = self._max_wait_s if wish.max_wait_s is None else wish.max_wait_s
        try:
            async with asyncio.timeout(limit_s):
                return await turn.granted
        except TimeoutError:
            self._leave(turn)
            raise ApiError("queue_timeout", retry_after_s=self._come_back(_EVERYBODY)) from None
        except BaseException:
            self._leave(turn)
            raise

    def _leave(self, turn: Turn) -> None:
        granted = turn.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            granted.result().release()  # the turn came in the very moment of leaving
        self._forget(turn.ticket)

    def _forget(self, ticket: Ticket) -> None:
        self._turns.pop(ticket, None)
        if self._queue.withdraw(ticket):
            self._let_in()  # it may have been a request for many slots that held up the others

    def _let_in(self) -> None:
        now = self._clock()
        while granted := self._queue.grant(self._capacity - self.taken, self._capacity, now):
            for ticket in granted:
                turn = self._turns.pop(ticket)
                if turn.granted.done():  # it is just leaving
                    self._queue.settle(ticket, 0.0)
                else:
                    turn.granted.set_result(self._take(ticket, turn.entered_s, now))

    # -- slots

    def _fits(self, count: int) -> bool:
        capacity = self._capacity
        return capacity > 0 and self.taken + min(count, capacity) <= capacity

    def _take(self, ticket: Ticket, entered_s: float, now: float) -> Lease:
        slots = min(ticket.slots, self._capacity)
        self.taken += slots
        lease = Lease(self, ticket, slots, now, now - entered_s)
        self._leases.add(lease)
        return lease

    def _give_back(self, lease: Lease, ticket: Ticket) -> None:
        self._leases.discard(lease)
        self._queue.settle(ticket, lease.slots * (self._clock() - lease.granted_s))
        if lease.abandoned and self.on_abandoned is not None:
            self.lingering += lease.slots
            self.on_abandoned()
            return
        self.taken -= lease.slots
        self._let_in()

    # -- refusals and forecasts

    def _refuse_if_full(self, wish: Wish, exempt: bool, now: float) -> None:
        if exempt:
            return
        if not self._max_queue:
            if self._capacity == 0:
                raise ApiError("engine_unavailable", retry_after_s=_NO_ENGINE_RETRY_S)
            wait_s = self._come_back(_EVERYBODY)
            raise ApiError("rate_limit_exceeded", "All slots are busy.", retry_after_s=wait_s)
        full: Full | None = self._queue.would_refuse(wish.key)
        if full is None:
            return
        if full.scope == "total":
            raise ApiError("server_overloaded", retry_after_s=self._come_back(_EVERYBODY))
        raise ApiError(
            "rate_limit_exceeded",
            f"This API key has {self._queue.waiting_of(wish.key)} requests waiting already.",
            retry_after_s=self._come_back(wish.key),
        )

    def _refuse_if_hopeless(self, wish: Wish, turn: Turn) -> None:
        """Refuse now what its caller would not wait for, as far as can be told."""
        if wish.patience_s is None or turn.granted.done():
            return
        eta_s = self._worst_s() if wish.patience_s > 0 else float("inf")
        if eta_s is None or eta_s <= wish.patience_s:
            return
        self._forecast_s = float("-inf")
        place = turn.place()
        if wish.patience_s > 0:
            if place is None or place[1] is None or place[1] <= wish.patience_s:
                return
            eta_s = place[1]
        self._forget(turn.ticket)
        missing_s = self._interval_s() if eta_s == float("inf") else eta_s - wish.patience_s
        wait_s = min(max(missing_s, self._interval_s()), RETRY_AFTER_MAX_S)
        raise ApiError("queue_wait_too_long", retry_after_s=wait_s)

    def next_free_s(self) -> float:
        """Estimated seconds until a slot becomes free, when all are taken."""
        return max(self._interval_s(), 0.05) * (1.0 + 0.1 * self._jitter())

    def _come_back(self, booked_for: str) -> float:
        """Seconds until a place will be there for whoever is refused now."""
        now = self._clock()
        if len(self._bookings) > _MOST_BOOKINGS:
            self._bookings.clear()
        booking = self._bookings.setdefault(booked_for, Booking(horizon_s=RETRY_AFTER_MAX_S))
        interval_s = self._interval_s()
        return booking.book(now, interval_s, interval_s) * (1.0 + 0.1 * self._jitter())

    def _interval_s(self) -> float:
        """Seconds from one free slot to the next, on average."""
        return max(self.rates.mean_s / self._usual_capacity, 0.001)

    def _running_s(self) -> float:
        """Slot-seconds that those inside are still expected to take."""
        now = self._clock()
        return sum(
            max(lease.expected_s - lease.slots * (now - lease.granted_s), 0.0)
            for lease in self._leases
        )

    def _worst_s(self) -> float | None:
        """An estimate that no place in the queue can be worse than, without looking at places."""
        if self._capacity == 0 or not self.rates.known:
            return None
        return (self._queue.waiting_cost_s + self._running_s()) / self._capacity

    def _place(self, ticket: Ticket) -> tuple[int, float | None] | None:
        now = self._clock()
        if now - self._forecast_s >= _FORECAST_LASTS_S:
            self._forecast_s, self._forecast = now, self._queue.forecast(now)
        place = self._forecast.get(ticket)
        if place is None:
            return None
        if self._capacity == 0 or not self.rates.known:
            return place.position, None
        return place.position, (place.ahead_s + self._running_s()) / self._capacity
