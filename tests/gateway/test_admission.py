"""The door to the engine: slots are bounded, and they always come back."""

import asyncio

import pytest

from gateway.admission import Admission, Lease
from gateway.errors import ApiError


def door(slots: int, *, max_queue: int = 10, max_wait_s: float = 30.0) -> Admission:
    admission = Admission(max_queue=max_queue, max_wait_s=max_wait_s)
    admission.set_capacity(slots)
    return admission


async def waiting(admission: Admission, slots: int = 1) -> asyncio.Task[Lease]:
    """A task that stands in the queue."""
    before = admission.queued
    task = asyncio.ensure_future(admission.slots(slots))
    while admission.queued == before and not task.done():
        await asyncio.sleep(0)
    return task


async def test_slot_comes_back_by_leaving_the_block() -> None:
    admission = door(1)
    with await admission.slots():
        assert admission.taken == 1
        assert admission.full is False
    assert (admission.taken, admission.in_flight) == (0, 0)
    with pytest.raises(RuntimeError), await admission.slots():
        raise RuntimeError
    assert admission.taken == 0


async def test_waiters_are_served_in_the_order_they_came() -> None:
    admission = door(1)
    lease = await admission.slots()
    tasks = [await waiting(admission) for _ in range(3)]
    order: list[int] = []
    for number, task in enumerate(tasks):
        task.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
    lease.release()
    for task in tasks:
        (await task).release()
    assert order == [0, 1, 2]
    assert admission.taken == 0


async def test_waiter_who_leaves_gives_up_the_turn() -> None:
    admission = door(1)
    lease = await admission.slots()
    first, second = await waiting(admission), await waiting(admission)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert admission.queued == 1
    lease.release()
    (await second).release()
    assert (admission.taken, admission.queued) == (0, 0)


async def test_waiter_who_leaves_in_the_moment_of_the_turn_loses_no_slot() -> None:
    admission = door(1)
    lease = await admission.slots()
    task = await waiting(admission)
    lease.release()  # grants the turn ...
    task.cancel()  # ... to somebody who is just leaving
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (admission.taken, admission.in_flight, admission.queued) == (0, 0, 0)


async def test_full_queue_refuses_and_a_queue_of_zero_never_waits() -> None:
    admission = door(1, max_queue=1)
    lease = await admission.slots()
    task = await waiting(admission)
    assert admission.full
    with pytest.raises(ApiError) as refusal:
        await admission.slots()
    assert refusal.value.code == "server_overloaded"
    lease.release()
    (await task).release()

    impatient = door(1, max_queue=0)
    with await impatient.slots(), pytest.raises(ApiError) as refusal:
        await impatient.slots()
    assert (refusal.value.code, refusal.value.status) == ("rate_limit_exceeded", 429)


async def test_wait_is_bounded() -> None:
    admission = door(1, max_wait_s=0.01)
    with await admission.slots(), pytest.raises(ApiError) as refusal:
        await admission.slots()
    assert refusal.value.code == "queue_timeout"
    assert (admission.taken, admission.queued) == (0, 0)


async def test_nobody_enters_while_the_engine_is_away_and_all_do_when_it_is_back() -> None:
    admission = door(0)
    tasks = [await waiting(admission) for _ in range(3)]
    assert admission.queued == 3
    admission.set_capacity(2)
    leases = [await tasks[0], await tasks[1]]
    assert (admission.taken, admission.queued) == (2, 1)
    for lease in leases:
        lease.release()
    (await tasks[2]).release()


async def test_a_wait_for_no_slot_ends_when_the_engine_serves() -> None:
    admission = door(0)
    task = await waiting(admission, slots=0)
    admission.set_capacity(1)
    (await task).release()
    with await admission.slots():
        (await admission.slots(0)).release()


async def test_closed_door_tells_those_who_wait_and_those_who_come() -> None:
    admission = door(1)
    lease = await admission.slots()
    task = await waiting(admission)
    admission.close("draining", retry_after_s=1.0)
    with pytest.raises(ApiError) as told:
        await task
    assert told.value.code == "draining"
    with pytest.raises(ApiError):
        await admission.slots()
    lease.release()
    lease.release()
    assert (admission.taken, admission.queued) == (0, 0)


async def test_nobody_waits_for_an_engine_that_is_away_when_waiting_is_off() -> None:
    with pytest.raises(ApiError) as refusal:
        await door(0, max_queue=0).slots()
    assert (refusal.value.code, refusal.value.status) == ("engine_unavailable", 503)


async def test_who_was_let_in_for_nothing_goes_first() -> None:
    admission = door(1, max_queue=1)
    lease = await admission.slots()
    patient = await waiting(admission)
    unlucky = asyncio.ensure_future(admission.slots(first=True))
    while admission.queued < 2:
        await asyncio.sleep(0)
    lease.release()
    (await unlucky).release()
    (await patient).release()
    assert admission.taken == 0


async def test_more_slots_than_there_are_means_all_of_them() -> None:
    admission = door(2)
    with await admission.slots(5):
        assert admission.full is False
        assert admission.queued == 0
