"""The door to the engine: slots are bounded, and they always come back."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.queue.admission import Admission, Lease, Turn, Wish
from gateway.queue.fairqueue import FairQueue
from gateway.queue.rates import ServiceRates


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Holder:
    """A request, as far as the door knows it."""

    turn: Turn | None = None
    told: list[Any] = field(default_factory=list)


class Door(Admission):
    """A door whose time is ours."""

    def __init__(
        self, slots: int, *, max_queue: int = 10, per_key: int = 10, max_wait_s: float = 30.0
    ) -> None:
        self.time = Clock()
        super().__init__(
            FairQueue(max_waiting=max_queue, max_waiting_per_key=per_key, ageing_s=60.0),
            ServiceRates(),
            max_queue=max_queue,
            max_wait_s=max_wait_s,
            clock=self.time,
            jitter=lambda: 0.0,
        )
        self.set_capacity(slots)

    async def enter(self, slots: int = 1, *, key: str = "a", **more: Any) -> Lease:
        again = more.pop("again", False)
        holder = more.pop("holder", Holder())
        wish = Wish(key, slots=slots, expected_s=1.0, **more)
        return await self.slots(wish, holder, again=again)

    def one_took(self, seconds: float) -> None:
        """A request came and went."""
        self.rates.note(slot_s=seconds, prefill_s=None, prompt_tokens=1, completion_tokens=1)


async def waiting(door: Door, slots: int = 1, **more: Any) -> asyncio.Task[Lease]:
    """A task that stands in the queue."""
    before = door.queued
    task = asyncio.ensure_future(door.enter(slots, **more))
    while door.queued == before and not task.done():
        await asyncio.sleep(0)
    return task


async def refused(door: Door, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as refusal:
        await door.enter(**more)
    return refusal.value


# -- slots


async def test_slot_comes_back_by_leaving_the_block() -> None:
    door = Door(1)
    with await door.enter():
        assert door.taken == 1
        assert door.full is False
    assert (door.taken, door.in_flight) == (0, 0)
    with pytest.raises(RuntimeError), await door.enter():
        raise RuntimeError
    assert door.taken == 0


async def test_more_slots_than_there_are_means_all_of_them() -> None:
    door = Door(2)
    with await door.enter(5) as lease:
        assert (lease.slots, door.taken, door.queued) == (2, 2, 0)


async def test_free_slot_is_taken_at_once_unless_somebody_waits() -> None:
    door = Door(3)
    one = door.try_take(1, 1.0)
    assert one is not None
    big = await waiting(door, 3)
    assert door.try_take(1, 1.0) is None  # two are free, and somebody waits for three
    ahead = door.try_take(1, 1.0, again=True)
    nothing = door.try_take(0, 0.0)
    assert ahead is not None
    assert nothing is not None
    for lease in (one, ahead, nothing):
        lease.release()
    (await big).release()
    assert (door.taken, door.in_flight, door.queued) == (0, 0, 0)
    assert Door(0).try_take(0, 0.0) is None
    door.close("draining")
    with pytest.raises(ApiError):
        door.try_take(1, 1.0)


async def test_wait_for_no_slot_ends_when_the_engine_serves() -> None:
    door = Door(0)
    task = await waiting(door, slots=0)
    door.set_capacity(1)
    (await task).release()
    with await door.enter():
        (await door.enter(0)).release()


async def test_slot_that_was_abandoned_is_taken_until_the_engine_lets_go() -> None:
    door = Door(1)
    noticed: list[int] = []
    door.on_abandoned = lambda: noticed.append(door.lingering)
    with await door.enter() as lease:
        lease.abandoned = True
    assert (noticed, door.taken, door.lingering, door.in_flight) == ([1], 1, 1, 0)
    task = await waiting(door)
    assert door.queued == 1
    assert door.left() == (lease,)
    door.settled(door.left())
    (await task).release()
    door.settled()
    assert (door.taken, door.lingering) == (0, 0)


async def test_who_abandons_a_slot_pays_until_the_engine_lets_go() -> None:
    door = Door(1)
    door.on_abandoned = lambda: None
    running = await door.enter(key="other")
    tasks = {key: [await waiting(door, key=key) for _ in range(4)] for key in ("leaver", "honest")}
    running.release()
    lease = await tasks["leaver"].pop(0)
    lease.abandoned = True
    lease.release()  # at once; the engine goes on for three seconds
    door.time.now += 3.0
    door.settled()
    for _ in range(3):  # the other one has as much time before it is the leaver's turn again
        honest = await tasks["honest"].pop(0)
        door.time.now += 1.0
        honest.release()
    (await tasks["leaver"].pop(0)).release()
    for task in (*tasks["leaver"], *tasks["honest"]):
        (await task).release()
    assert (door.taken, door.lingering, door.in_flight, door.queued) == (0, 0, 0, 0)


async def test_only_leases_known_to_be_at_work_are_named() -> None:
    door = Door(2)
    with await door.enter() as lease, await door.enter():
        assert door.at_work() == frozenset()
        lease.at_work = True
        assert door.at_work() == {lease}
    assert door.at_work() == frozenset()


# -- the queue


async def test_waiters_of_a_key_are_served_in_the_order_they_came() -> None:
    door = Door(1)
    lease = await door.enter()
    tasks = [await waiting(door) for _ in range(3)]
    order: list[int] = []
    for number, task in enumerate(tasks):
        task.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
    lease.release()
    for task in tasks:
        (await task).release()
    assert order == [0, 1, 2]
    assert door.taken == 0


async def test_key_that_comes_late_does_not_wait_behind_a_flood() -> None:
    door = Door(1)
    running = await door.enter(key="flood")
    flood = [await waiting(door, key="flood") for _ in range(5)]
    running.release()
    single = await waiting(door, key="single")
    door.time.now = 1.0  # each holds the slot for a second
    (await flood[0]).release()
    (await single).release()
    assert door.queued == 3
    for task in flood[1:]:
        (await task).release()


async def test_higher_priority_goes_first() -> None:
    door = Door(1)
    running = await door.enter()
    batch = await waiting(door, key="b", priority="batch")
    high = await waiting(door, key="h", priority="high")
    assert (door.waiting_in("batch"), door.waiting_in("high")) == (1, 1)
    running.release()
    (await high).release()
    (await batch).release()


async def test_waiter_who_leaves_gives_up_the_turn() -> None:
    door = Door(1)
    lease = await door.enter()
    first, second = await waiting(door), await waiting(door)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert door.queued == 1
    lease.release()
    (await second).release()
    assert (door.taken, door.queued) == (0, 0)


async def test_waiter_who_leaves_in_the_moment_of_the_turn_loses_no_slot() -> None:
    door = Door(1)
    lease = await door.enter()
    task = await waiting(door)
    lease.release()  # grants the turn ...
    task.cancel()  # ... to somebody who is just leaving
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (door.taken, door.in_flight, door.queued) == (0, 0, 0)


async def test_turn_goes_to_the_next_when_its_owner_is_just_leaving() -> None:
    door = Door(1)
    lease = await door.enter()
    leaving, patient = await waiting(door), await waiting(door)
    leaving.cancel()  # its place is still there when the slot comes back
    lease.release()
    (await patient).release()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (door.taken, door.in_flight, door.queued) == (0, 0, 0)


async def test_wait_is_bounded() -> None:
    door = Door(1, max_wait_s=0.01)
    with await door.enter():
        refusal = await refused(door)
    assert refusal.code == "queue_timeout"
    assert (door.taken, door.queued) == (0, 0)


async def test_nobody_enters_while_the_engine_is_away_and_all_do_when_it_is_back() -> None:
    door = Door(0)
    tasks = [await waiting(door) for _ in range(3)]
    assert door.queued == 3
    door.set_capacity(2)
    leases = [await tasks[0], await tasks[1]]
    assert (door.taken, door.queued) == (2, 1)
    for lease in leases:
        lease.release()
    (await tasks[2]).release()


async def test_who_was_let_in_for_nothing_goes_first() -> None:
    door = Door(1, max_queue=1)
    lease = await door.enter()
    patient = await waiting(door)
    unlucky = await waiting(door, again=True)
    lease.release()
    (await unlucky).release()
    (await patient).release()
    assert door.taken == 0


async def test_closed_door_tells_those_who_wait_and_those_who_come() -> None:
    door = Door(1)
    lease = await door.enter()
    task = await waiting(door)
    door.close("draining", retry_after_s=1.0)
    with pytest.raises(ApiError) as told:
        await task
    assert told.value.code == "draining"
    assert (await refused(door)).code == "draining"
    lease.release()
    lease.release()
    assert (door.taken, door.queued) == (0, 0)


# -- refusals


async def test_full_queue_and_a_key_with_all_its_places_are_told_apart() -> None:
    door = Door(1, max_queue=2, per_key=1)
    lease = await door.enter()
    tasks = [await waiting(door, key="a")]
    own = await refused(door, key="a")
    assert (own.code, own.status) == ("rate_limit_exceeded", 429)
    tasks.append(await waiting(door, key="b"))
    assert door.full
    full = await refused(door, key="c")
    assert (full.code, full.status) == ("server_overloaded", 503)
    lease.release()
    for task in tasks:
        (await task).release()


async def test_refused_clients_are_called_back_one_after_another() -> None:
    door = Door(2, max_queue=1)
    door.one_took(4.0)  # so a slot becomes free every 2 s
    leases = [await door.enter(), await door.enter()]
    task = await waiting(door)
    waits = [(await refused(door)).retry_after_s for _ in range(3)]
    assert waits == [2.0, 4.0, 6.0]
    door.time.now = 100.0
    assert (await refused(door)).retry_after_s == 2.0
    for lease in leases:
        lease.release()
    (await task).release()


async def test_queue_of_zero_never_waits() -> None:
    door = Door(1, max_queue=0)
    with await door.enter():
        refusal = await refused(door)
    assert (refusal.code, refusal.status) == ("rate_limit_exceeded", 429)
    away = await refused(Door(0, max_queue=0))
    assert (away.code, away.status) == ("engine_unavailable", 503)


async def test_wait_beyond_the_callers_patience_is_refused_at_once() -> None:
    door = Door(1)
    door.one_took(1.0)
    lease = await door.enter()
    tasks = [await waiting(door) for _ in range(3)]  # one runs, three wait, a second each
    refusal = await refused(door, patience_s=2.5)
    assert (refusal.code, refusal.retry_after_s) == ("queue_wait_too_long", 1.5)
    patient = await waiting(door, patience_s=5.0)
    assert door.queued == 4
    lease.release()
    for task in (*tasks, patient):
        (await task).release()


async def test_patience_of_zero_takes_a_free_slot_or_none() -> None:
    door = Door(1)
    with await door.enter(patience_s=0.0):
        assert (await refused(door, patience_s=0.0)).code == "queue_wait_too_long"
    assert (door.taken, door.queued) == (0, 0)


# -- what those who wait are told


async def test_place_and_estimate_are_there_to_be_told() -> None:
    door = Door(1)
    lease = await door.enter()
    holders = [Holder(), Holder()]
    tasks = [await waiting(door, holder=holder) for holder in holders]
    turns = [holder.turn for holder in holders]
    assert [turn.place() for turn in turns if turn is not None] == [(1, None), (2, None)]
    door.one_took(1.0)
    assert [turn.place() for turn in turns if turn is not None] == [(1, 1.0), (2, 2.0)]
    lease.release()
    for task, holder in zip(tasks, holders, strict=True):
        (await task).release()
        assert holder.turn is None


async def test_key_that_is_refused_all_the_time_does_not_push_others_back() -> None:
    door = Door(2, max_queue=1)
    door.one_took(4.0)  # so a slot becomes free every 2 s
    leases = [await door.enter(), await door.enter()]
    task = await waiting(door)
    for _ in range(100):
        await refused(door, key="greedy")
    assert (await refused(door, key="patient")).retry_after_s == 4.0  # there are two who book
    told = await refused(door, key="greedy")
    assert told.retry_after_s == 60.0
    assert "x-should-retry" not in dict(told.headers())
    for lease in leases:
        lease.release()
    (await task).release()
