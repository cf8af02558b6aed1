"""The door to the engine: at most as many requests inside as it has slots.

This is the one place where a request waits for its turn; the engine's own queue is unbounded,
silent, and keeps requests whose clients have left. Who goes next is decided by `FairQueue`, how
long it will take by `ServiceRates`; here are the futures and the clock.

Rules:
- whoever finds a slot free while nobody waits has it at once, and the queue hears nothing of it:
  what is taken while nobody else wants it is free (`shares.py`);
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
from collections.abc import Callable, Iterable

from gateway.errors import RETRY_AFTER_MAX_S, ApiError
from gateway.queue.fairqueue import FairQueue, Ticket
from gateway.queue.outlook import Outlook
from gateway.queue.rates import ServiceRates
from gateway.queue.turns import Lease, Signs, Turn, TurnHolder, Wish

__all__ = ["Admission", "Lease", "Turn", "TurnHolder", "Wish"]

_NO_ENGINE_RETRY_S = 2.0
_LEAST_RETRY_S = 0.05
_FIRST_HOLD = 1 / 8
"""Of the mean time of a request: for so long slots stand empty for one that needs several."""
_LEAST_HOLD_S = 0.01


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
        self._turns: dict[Ticket, Turn] = {}
        self._leases: set[Lease] = set()
        self._left: dict[Lease, None] = {}
        self._outlook = Outlook(queue, rates, jitter, horizon_s=RETRY_AFTER_MAX_S)
        self._timer: asyncio.TimerHandle | None = None
        self._capacity = 0
        self._usual_capacity = 1
        self._closed: tuple[str, float | None] | None = None
        self.rates = rates
        self.taken = 0
        self.lingering = 0
        """Slots, counted in `taken`, that the engine has not let go of yet."""
        self.on_abandoned: Callable[[], None] | None = None
        """Told when slots begin to linger; whoever listens calls `settled` in the end."""
        self.excused_s: Callable[[], float] = _nothing
        """Seconds, all together, in which nobody was let in for a reason that none who waits is to
        pay for; who waited through some of them may wait as much longer."""
        self.on_wanted: Callable[[], None] | None = None
        """Told of each request that finds no engine serving: one that sleeps can be woken."""

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

    def waiting_of(self, key: str) -> int:
        """Requests of one key that wait."""
        return self._queue.waiting_of(key)

    def waiting_in(self, priority: str) -> int:
        """Requests of one priority class that wait."""
        return self._queue.waiting_in(priority)

    def signs(self) -> list[Signs]:
        """How the engine's work goes on each request that it has."""
        return [lease.signs() for lease in self._leases if lease.signs is not None]

    def at_work(self) -> frozenset[Lease]:
        """The leases that the engine is known to work on."""
        return frozenset(lease for lease in self._leases if lease.at_work)

    def learn(
        self,
        lease: Lease,
        *,
        prompt_tokens: int,
        completion_tokens: int = 0,
        prefill_s: float | None = None,
    ) -> None:
        """Take note of what a complete answer took, for estimates to come.

        Args:
            lease: The slots it had.
            prompt_tokens: Tokens of the prompts that were worked on.
            completion_tokens: Tokens of all answers together.
            prefill_s: Seconds until the first event of an answer; None for a reply in one piece.
        """
        self.rates.note(
            slot_s=lease.slots * (self._clock() - lease.granted_s),
            prefill_s=None if prefill_s is None else lease.slots * prefill_s,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )

    def set_capacity(self, slots: int) -> None:
        """Set how many slots there are; 0 while the engine does not serve."""
        self._capacity = slots
        self._usual_capacity = slots or self._usual_capacity
        self._let_in()

    def left(self) -> tuple[Lease, ...]:
        """The leases whose slots linger, the one that was left first in front."""
        return tuple(self._left)

    def settled(self, leases: Iterable[Lease] | None = None) -> None:
        """The engine has let go of the slots of these *leases*; None: of all, for it is gone."""
        now = self._clock()
        for lease in self.left() if leases is None else leases:
            del self._left[lease]
            self.lingering -= lease.slots
            self.taken -= lease.slots
            # Whoever leaves pays for the time until the slot is free, not until the leaving.
            self._settle(lease, now)
        self._let_in()

    def close(self, code: str, *, retry_after_s: float | None = None) -> None:
        """Refuse from now on, those who wait included, with an `ApiError` of *code*."""
        self._closed = (code, retry_after_s)
        self.dismiss(code, retry_after_s=retry_after_s)

    def dismiss(self, code: str, *, retry_after_s: float | None = None) -> None:
        """Refuse those who wait now, with an `ApiError` of *code*; later ones may wait."""
        for ticket in self._queue.clear():
            turn = self._turns.pop(ticket)
            if not turn.granted.done():
                turn.granted.set_exception(ApiError(code, retry_after_s=retry_after_s))

    def try_take(self, slots: int, expected_s: float, *, again: bool = False) -> Lease | None:
        """Take slots if nobody has to wait for them, which is the usual case.

        Args:
            slots: As in a `Wish`.
            expected_s: As in a `Wish`.
            again: As for `slots`, which is where those who get None go.

        Raises:
            ApiError: The door is closed.
        """
        if self._closed is not None:
            code, retry_after_s = self._closed
            raise ApiError(code, retry_after_s=retry_after_s)
        capacity = self._capacity
        if capacity == 0 or (self._turns and slots and not again):
            return None
        if slots > capacity:
            slots = capacity
        taken = self.taken + slots
        if taken > capacity:
            return None
        self.taken = taken
        lease = Lease(self._give_back, slots, self._clock(), expected_s)
        self._leases.add(lease)
        return lease

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
        lease = self.try_take(wish.slots, wish.expected_s, again=again)
        if lease is not None:
            return lease
        ticket = Ticket(
            key=wish.key,
            priority=wish.priority,
            weight=wish.weight,
            slots=wish.slots,
            cost_s=wish.expected_s,
            again=again,
            exempt=exempt,
        )
        if self._capacity == 0 and self.on_wanted is not None:
            self.on_wanted()
        if not (again or exempt):
            self._refuse_if_full(wish)
        turn = self._stand(ticket, self._clock())
        if wish.patience_s is not None and not again:
            self._refuse_if_hopeless(wish.patience_s, turn)
        holder.turn = turn
        try:
            return await self._wait(turn, wish)
        finally:
            holder.turn = None

    # -- waiting

    def _stand(self, ticket: Ticket, now: float) -> Turn:
        full = self._queue.offer(ticket, now)
        assert full is None, "asked for just before"
        turn = self._turns[ticket] = Turn(ticket, now, self._place)
        self._let_in()
        return turn

    async def _wait(self, turn: Turn, wish: Wish) -> Lease:
        limit_s = self._max_wait_s if wish.max_wait_s is None else wish.max_wait_s
        excused_s = self.excused_s()
        try:
            await asyncio.wait((turn.granted,), timeout=limit_s)
            while not turn.granted.done():
                before_s, excused_s = excused_s, self.excused_s()
                more_s = excused_s - before_s
                if more_s <= _LEAST_HOLD_S:
                    break
                if wish.patience_s is not None:  # it is the client who gives up then
                    more_s = min(more_s, turn.entered_s + wish.patience_s - self._clock())
                await asyncio.wait((turn.granted,), timeout=max(more_s, 0.0))
            if turn.granted.done():
                return turn.granted.result()
        except BaseException:
            self._leave(turn)
            raise
        self._leave(turn)
        raise ApiError("queue_timeout", retry_after_s=self._come_back_s(wish.key))

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
        self._queue.hold_s = max(self.rates.mean_s * _FIRST_HOLD, _LEAST_HOLD_S)
        some_left = True
        while some_left:
            some_left = False
            for ticket in self._queue.grant(self._capacity - self.taken, self._capacity, now):
                turn = self._turns.pop(ticket)
                if turn.granted.done():  # it is just leaving, and another one may go
                    self._queue.settle(ticket, 0.0)
                    some_left = True
                else:
                    turn.granted.set_result(self._take(ticket, turn.entered_s, now))
        self._look_again(self._queue.look_again_s(now))

    def _look_again(self, in_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if in_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(in_s, _LEAST_HOLD_S), self._let_in)

    # -- slots

    def _fits(self, count: int) -> bool:
        capacity = self._capacity
        return capacity > 0 and self.taken + min(count, capacity) <= capacity

    def _take(self, ticket: Ticket, entered_s: float, now: float) -> Lease:
        slots = min(ticket.slots, self._capacity)
        self.taken += slots
        lease = Lease(self._give_back, slots, now, ticket.cost_s, now - entered_s, ticket)
        self._leases.add(lease)
        return lease

    def _give_back(self, lease: Lease) -> None:
        self._leases.discard(lease)
        if lease.abandoned and self.on_abandoned is not None:
            lease.released_s = self._clock()
            self._left[lease] = None
            self.lingering += lease.slots
            self.on_abandoned()
            return
        self.taken -= lease.slots
        if lease.ticket is not None:
            self._settle(lease, self._clock())
        if self._turns:
            self._let_in()

    def _settle(self, lease: Lease, now: float) -> None:
        if lease.ticket is not None:
            self._queue.settle(lease.ticket, lease.slots * (now - lease.granted_s))

    # -- refusals and forecasts

    def next_free_s(self) -> float:
        """Estimated seconds until a slot becomes free, when all are taken."""
        return max(self._outlook.interval_s(self._usual_capacity), _LEAST_RETRY_S)

    def _refuse_if_full(self, wish: Wish) -> None:
        if not self._max_queue:
            if self._capacity == 0:
                raise ApiError("engine_unavailable", retry_after_s=_NO_ENGINE_RETRY_S)
            raise ApiError(
                "rate_limit_exceeded",
                "All slots are busy.",
                retry_after_s=self._come_back_s(wish.key),
            )
        full = self._queue.would_refuse(wish.key)
        if full is None:
            return
        if full.scope == "total":
            raise ApiError("server_overloaded", retry_after_s=self._come_back_s(wish.key))
        raise ApiError(
            "rate_limit_exceeded",
            f"This API key has {self._queue.waiting_of(wish.key)} requests waiting already.",
            limit="queue",
            retry_after_s=self._come_back_s(wish.key),
        )

    def _refuse_if_hopeless(self, patience_s: float, turn: Turn) -> None:
        """Send away now whoever would not wait long enough, as far as can be told."""
        if turn.granted.done():
            return
        missing_s = self._missing_s(patience_s, turn)
        if missing_s is not None:
            self._forget(turn.ticket)
            wait_s = min(max(missing_s, self.next_free_s()), RETRY_AFTER_MAX_S)
            raise ApiError("queue_wait_too_long", retry_after_s=wait_s)

    def _missing_s(self, patience_s: float, turn: Turn) -> float | None:
        """Seconds by which the wait would exceed *patience_s*; None if it would not."""
        if patience_s <= 0:
            return 0.0
        now = self._clock()
        longest_s = self._outlook.longest_wait_s(self._leases, self._capacity, now)
        if longest_s is None or longest_s <= patience_s:
            return None
        place = self._outlook.place(turn.ticket, self._leases, self._capacity, now, anew=True)
        if place is None or place[1] is None or place[1] <= patience_s:
            return None
        return place[1] - patience_s

    def _place(self, ticket: Ticket) -> tuple[int, float | None] | None:
        return self._outlook.place(ticket, self._leases, self._capacity, self._clock())

    def _come_back_s(self, booked_for: str) -> float:
        return self._outlook.come_back_s(booked_for, self._usual_capacity, self._clock())


def _nothing() -> float:
    return 0.0
