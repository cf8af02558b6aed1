"""What a planned call may cost: does it fit the context, and the limits of its key?

Order, cheapest first:
1. `glance`, before the body is read: is there anything left at all?
2. `reserve`, once the call is planned. A loose upper bound from the size of the body decides most
   cases. Where it does not (the prompt might not fit, a limit is near), the engine counts;
3. an answer whose length the client left open is cut down to what its key has left, as long as
   that is a useful length: it is not refused for a length that nobody asked for.

Counting waits for the engine; checking and taking do not, and are one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn
from weakref import WeakValueDictionary

from gateway.call import Call
from gateway.clocks import Clocks
from gateway.dialects import EngineCall, ModelFacts
from gateway.engine.failures import context_exceeded
from gateway.errors import RETRY_AFTER_MAX_S
from gateway.limits.cost import (
    answer_tokens,
    least_tokens,
    likely_tokens,
    longest_prompt,
    refuse_giant,
    upper_bound,
)
from gateway.limits.ledger import Ledger
from gateway.limits.refusal import as_error
from gateway.limits.reservation import Reservation
from gateway.limits.standing import Refusal
from gateway.queue.booking import Bookings
from gateway.queue.rates import ServiceRates
from gateway.suspicion.wary_counter import WaryCounter
from keys import Principal

__all__ = ["Replan", "Spending"]

_USEFUL_TOKENS = 256
"""An open answer may be cut down to so many tokens, or to twice the usual ones if that is more."""

_AT_ONCE = 4
"""Prompts that the engine counts at a time."""
_COUNT_WAIT_S = 5.0
_MARGIN = 1.25
_SOON_S = 0.1
_NEAR = 10
"""A request is near a limit if ten of its bound would be more than the limit."""
_OF_TOKENS = ("tokens", "tokens_per_day")

Replan = Callable[[int], Awaitable[EngineCall]]
"""Plans the same call anew with at most so many tokens for each answer."""


@dataclass(frozen=True, slots=True)
class Spending:
    """Reserves what calls may cost.

    Args:
        ledger: What each key has spent.
        counter: Counts prompts exactly.
        clocks: The time.
        rates: What requests take.
        slots: Slots of the engine, at least 1.
    """

    ledger: Ledger
    counter: WaryCounter
    clocks: Clocks
    rates: ServiceRates
    slots: Callable[[], int]
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    bookings: Bookings = field(default_factory=Bookings)
    """When each refused request should come back: one after another, as the limit allows."""

    def show(self, call: Call) -> None:
        """Put where the key stands now into the reply's headers."""
        who, clocks = call.principal, self.clocks
        assert who is not None
        call.headers.update(self.ledger.headers(who, clocks.monotonic(), clocks.wall()))

    def glance(self, call: Call) -> None:
        """Refuse at once a key that has nothing left.

        Raises:
            ApiError: 429.
        """
        who, clocks = call.principal, self.clocks
        assert who is not None
        refusal = self.ledger.glance(who, clocks.monotonic(), clocks.wall())
        if refusal is not None and refusal.limit != "tokens":  # how many it wants is not known yet
            self._refuse(who, refusal)

    async def reserve(
        self,
        call: Call,
        plan: EngineCall,
        facts: ModelFacts,
        replan: Replan,
        *,
        wait_s: Callable[[], float],
    ) -> tuple[EngineCall, Reservation]:
        """Take from the key's limits what *plan* may cost; counting waits for *wait_s* at most.

        Returns:
            The plan, perhaps with a shorter answer, and what was taken.

        Raises:
            ApiError: 400 `context_length_exceeded`, with the numbers, or 429.
        """
        who = call.principal
        assert who is not None
        if not plan.tasks:  # it only counts tokens, and uses none
            return plan, self._taken(who, self._take(who, plan, 0))
        bound = upper_bound(plan, facts)
        if bound < facts.context_tokens and bound * _NEAR <= self.ledger.most_tokens(who):
            most = bound if plan.max_tokens is None else bound + answer_tokens(plan, facts, None)
            taken = self._take(who, plan, most)
            if isinstance(taken, Reservation):
                call.prompt_estimate = likely_tokens(plan)
                return plan, taken
            if taken.limit not in _OF_TOKENS:
                self._refuse(who, taken)
        counts = await self._count(who, plan, facts, wait_s())
        # What cannot be counted now is not refused for the sake of a loose bound.
        prompt = min(bound, likely_tokens(plan)) if counts is None else sum(counts)
        plan, taken = await self._cut_down(who, plan, facts, replan, counts, prompt)
        call.prompt_estimate = prompt
        return plan, self._taken(who, taken)

    async def _cut_down(
        self,
        who: Principal,
        plan: EngineCall,
        facts: ModelFacts,
        replan: Replan,
        counts: tuple[int, ...] | None,
        prompt: int,
    ) -> tuple[EngineCall, Reservation | Refusal]:
        """Take what *plan* may cost, with a shorter answer where that helps and none was asked for.

        *counts* are the exact tokens of each prompt, if they are known; *prompt* is what all
        prompts together have, as far as is known.
        """
        taken = self._take(who, plan, prompt + answer_tokens(plan, facts, counts))
        for _ in ("minute", "day"):  # each may refuse what the other would let pass
            if not (isinstance(taken, Refusal) and plan.open_ended):
                break
            room = self._room(taken, prompt, plan.choices)
            if room < 1:
                break
            plan = await replan(room)
            taken = self._take(who, plan, prompt + answer_tokens(plan, facts, counts))
        return plan, taken

    def _take(self, who: Principal, plan: EngineCall, tokens: int) -> Reservation | Refusal:
        now, wall = self.clocks.monotonic(), self.clocks.wall()
        return self.ledger.reserve(who, requests=plan.choices, tokens=tokens, now=now, wall=wall)

    def _taken(self, who: Principal, taken: Reservation | Refusal) -> Reservation:
        if isinstance(taken, Refusal):
            self._refuse(who, taken)
        return taken

    def _refuse(self, who: Principal, refusal: Refusal) -> NoReturn:
        raise as_error(refusal, retry_after_s=self._come_back_s(who, refusal))

    def _come_back_s(self, who: Principal, refusal: Refusal) -> float | None:
        """Seconds after which the request should come back; None if it should not.

        - Requests per minute: when it passes if those refused before it come back as they were
          told. Many workers share a key, and SDKs give up after two tries.
        - Requests at a time: the same, as the key's own requests end, on average.
        - Tokens per minute: when they have come back at the limit's pace, or when a request of the
          key that holds them has probably ended.
        """
        first_s = refusal.retry_after_s
        if first_s is None or refusal.limit == "tokens_per_day":
            return first_s
        standing = self.ledger.standing(who, self.clocks.monotonic(), self.clocks.wall())
        mean_s = self.rates.mean_s
        if refusal.limit == "tokens":
            held = standing.tokens_held >= refusal.requested - refusal.remaining
            return min(first_s, max(mean_s, _SOON_S)) if held else first_s
        interval_s = refusal.requested * 60.0 / refusal.limit_value
        if refusal.limit == "concurrency":
            # There is no queue behind this limit, so who comes too early has lost a try.
            pace_s = mean_s / min(refusal.limit_value, self.slots())
            too_many = max(standing.in_use - refusal.limit_value, 0)
            first_s = mean_s + too_many * pace_s
            interval_s = _MARGIN * pace_s * refusal.requested
        whose = (who.key_id, refusal.limit)
        booked_s = self.bookings.book(whose, self.clocks.monotonic(), first_s, interval_s)
        return min(booked_s, max(first_s, RETRY_AFTER_MAX_S))

    def _room(self, refusal: Refusal, prompt: int, choices: int) -> int:
        """Tokens that each open answer may have instead; 0 if none would help."""
        if refusal.limit not in _OF_TOKENS:
            return 0
        left = (refusal.remaining - prompt) // choices
        most = (refusal.limit_value - prompt) // choices
        useful = min(max(_USEFUL_TOKENS, 2 * self.rates.usual_tokens), most)
        # A minute's tokens come back, so a wait for a useful length is worth it; a day's do not.
        return max(left, useful) if refusal.limit == "tokens" else left

    @asynccontextmanager
    async def counting(self, key_id: str) -> AsyncIterator[None]:
        """A turn to have the engine count: one for each key at a time, and few in all."""
        async with self._turns.setdefault(key_id, asyncio.Lock()), self._at_once:
            yield

    async def _count(
        self, who: Principal, plan: EngineCall, facts: ModelFacts, wait_s: float
    ) -> tuple[int, ...] | None:
        """Exact tokens of each prompt; None if they cannot be had now.

        It is work for the engine, so what the call needs in any case is taken meanwhile: a key that
        may not even have that is refused without asking, and one prompt of a key is counted at a
        time. A prompt that cannot fit costs its request.

        Raises:
            ApiError: One of the prompts cannot fit, however long it waits; or 429.
        """
        refuse_giant(plan, facts)
        least = 0 if plan.open_ended else least_tokens(plan, facts)
        taken = self._take(who, plan, least)
        if isinstance(taken, Refusal) and taken.limit == "tokens" and taken.retry_after_s:
            taken = self._take(who, plan, 0)  # how long to wait follows from the exact number
        with self._taken(who, taken) as held:
            counts = None
            if not self.counter.possible(plan, self.clocks.monotonic()):
                return None
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, _COUNT_WAIT_S)), self.counting(who.key_id):
                    counts = await self.counter.count(plan, who.key_id, self.clocks.monotonic())
            if counts is None:
                return None
            if max(counts) > longest_prompt(plan, facts):
                held.started()
                raise context_exceeded(facts.context_tokens, max(counts))
        return counts
