"""The door to the engine: at most as many requests inside as it has slots.

This is the one place where a request waits for its turn; the engine's own queue is unbounded and
keeps requests whose clients have left. Today the order is first come, first served. A queue that
is fair between keys replaces the deque below; nothing outside this file knows the order.

Rules:
- a slot is held by a `Lease` and comes back by leaving its block, on every way out;
- whoever leaves the queue gives up the place at once;
- capacity is zero while the engine does not serve; those who wait are let in when it does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from gateway.errors import ApiError

__all__ = ["Admission", "Lease"]


class Lease:
    """Slots held by one request, given back exactly once."""

    __slots__ = ("_admission", "slots", "waited_s")

    def __init__(self, admission: Admission, slots: int, waited_s: float) -> None:
        self._admission: Admission | None = admission
        self.slots = slots
        self.waited_s = waited_s

    def release(self) -> None:
        """Give the slots back; safe to call twice."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._give_back(self.slots)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class _Waiter:
    __slots__ = ("slots", "turn")

    def __init__(self, slots: int, turn: asyncio.Future[None]) -> None:
        self.slots = slots
        self.turn = turn


class Admission:
    """Hands out the engine's slots.

    Args:
        max_queue: Requests that may wait; 0 means that nobody waits.
        max_wait_s: Seconds a request may wait.
    """

    def __init__(self, *, max_queue: int, max_wait_s: float) -> None:
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s
        self._waiting: deque[_Waiter] = deque()
        self._capacity = 0
        self._closed: tuple[str, float | None] | None = None
        self.taken = 0
        self.in_flight = 0

    def __repr__(self) -> str:
        return f"<Admission {self.taken} of {self._capacity} slots, {self.queued} waiting>"

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether the next request would be refused."""
        return not self._fits(1) and self.queued >= self._max_queue

    def set_capacity(self, slots: int) -> None:
        """Set how many slots there are; 0 while the engine does not serve."""
        self._capacity = slots
        self._let_in()

    def close(self, code: str, *, retry_after_s: float | None = None) -> None:
        """Refuse from now on, those who wait included, with an `ApiError` of *code*."""
        self._closed = (code, retry_after_s)
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(ApiError(code, retry_after_s=retry_after_s))

    async def slots(
        self, count: int = 1, *, max_wait_s: float | None = None, first: bool = False
    ) -> Lease:
        """Wait for *count* slots; 0 waits only for an engine that serves.

        Args:
            count: Slots wanted; more than there are means all of them.
            max_wait_s: Seconds to wait, if less than usual.
            first: Wait at the head of the queue, and whatever its length: the request has waited
                before, and did not get what it was let in for.

        Raises:
            ApiError: The queue is full (`server_overloaded`, or `rate_limit_exceeded` when
                waiting is off; without an engine then `engine_unavailable`), the wait was too long
                (`queue_timeout`), or the door is closed.
        """
        if self._closed is not None:
            code, retry_after_s = self._closed
            raise ApiError(code, retry_after_s=retry_after_s)
        if self._fits(count) and (count == 0 or first or not self._waiting):
            return self._take(count, 0.0)
        if self.queued >= self._max_queue and not first:
            raise self._too_many()
        limit_s = self._max_wait_s if max_wait_s is None else max_wait_s
        return await self._wait(count, limit_s, first)

    def _too_many(self) -> ApiError:
        if self._max_queue:
            return ApiError("server_overloaded", retry_after_s=1.0)
        if self._capacity == 0:
            return ApiError("engine_unavailable", retry_after_s=2.0)
        return ApiError("rate_limit_exceeded", retry_after_s=1.0)

    async def _wait(self, count: int, limit_s: float, first: bool) -> Lease:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        waiter = _Waiter(count, loop.create_future())
        if first:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        try:
            async with asyncio.timeout(limit_s):
                await waiter.turn
        except TimeoutError:
            self._leave(waiter)
            raise ApiError("queue_timeout", retry_after_s=5.0) from None
        except BaseException:
            self._leave(waiter)
            raise
        return Lease(self, count, loop.time() - started_s)

    def _fits(self, count: int) -> bool:
        capacity = self._capacity
        return capacity > 0 and self.taken + min(count, capacity) <= capacity

    def _take(self, count: int, waited_s: float) -> Lease:
        self.taken += count
        self.in_flight += 1
        return Lease(self, count, waited_s)

    def _give_back(self, count: int) -> None:
        self.taken -= count
        self.in_flight -= 1
        self._let_in()

    def _leave(self, waiter: _Waiter) -> None:
        turn = waiter.turn
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self._give_back(waiter.slots)  # the turn came in the very moment of leaving
        elif waiter in self._waiting:
            self._waiting.remove(waiter)
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._fits(self._waiting[0].slots):
            waiter = self._waiting.popleft()
            if not waiter.turn.done():
                self.taken += waiter.slots
                self.in_flight += 1
                waiter.turn.set_result(None)
