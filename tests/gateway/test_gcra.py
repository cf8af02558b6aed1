"""The rate algorithm against a history that is replayed from the start each time."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.gcra import WINDOW_S, Gcra, Taken, TooLarge, Wait

MS = 0.001


def take(bucket: Gcra, cost: float, per_minute: int, now: float) -> Taken:
    taken = bucket.take(cost, per_minute, now)
    assert isinstance(taken, Taken)
    return taken


def test_whole_minutes_worth_comes_at_once_and_then_at_the_limits_pace() -> None:
    bucket = Gcra()
    for _ in range(60):
        take(bucket, 1, 60, 100.0)
    assert bucket.take(1, 60, 100.0) == Wait(1.0)
    take(bucket, 1, 60, 101.0)
    assert bucket.take(2, 60, 101.5) == Wait(1.5)


def test_larger_than_a_minutes_worth_never_passes() -> None:
    assert Gcra().take(61, 60, 0.0) == TooLarge()
    assert isinstance(Gcra().take(60, 60, 0.0), Taken)


def test_refusal_costs_nothing() -> None:
    bucket = Gcra()
    take(bucket, 50, 60, 0.0)
    for _ in range(1000):
        assert bucket.take(20, 60, 0.0) == Wait(10.0)
    take(bucket, 10, 60, 0.0)


def test_what_was_not_used_comes_back() -> None:
    bucket = Gcra()
    taken = take(bucket, 60, 60, 0.0)
    bucket.give_back(taken, 50)
    assert bucket.remaining(60, 0.0) == 50
    bucket.give_back(taken, 50)
    assert bucket.remaining(60, 0.0) == 60


def test_what_time_earned_back_is_not_given_twice() -> None:
    """The trap: the first taking is earned back by the time the second comes."""
    bucket = Gcra()
    first = take(bucket, 60, 60, 0.0)
    take(bucket, 30, 60, 60.0)
    bucket.give_back(first, 60)
    assert bucket.remaining(60, 60.0) == 30


def test_late_return_counts_as_if_less_had_been_taken_at_once() -> None:
    bucket = Gcra()
    first = take(bucket, 30, 60, 0.0)
    take(bucket, 30, 60, 1.0)
    bucket.give_back(first, 30)
    assert bucket.reset_s(20.0) == 11.0


def test_charge_may_go_into_debt_that_has_to_be_earned() -> None:
    bucket = Gcra()
    take(bucket, 60, 60, 0.0)
    bucket.charge(60, 60, 0.0)
    assert bucket.remaining(60, 30.0) == 0
    assert bucket.take(1, 60, 0.0) == Wait(61.0)


def test_changed_limit_forgets_nothing() -> None:
    bucket = Gcra()
    taken = take(bucket, 30, 60, 0.0)
    assert bucket.remaining(600, 0.0) == 300
    assert bucket.remaining(6, 0.0) == 3
    bucket.give_back(taken, 30)
    assert bucket.remaining(6, 0.0) == 6


def test_closed_and_earned_takings_are_forgotten() -> None:
    bucket = Gcra()
    for second in range(1000):
        taken = take(bucket, 1, 60, float(second * 2))
        if second % 2:
            bucket.close(taken)
            bucket.close(taken)
    assert repr(bucket) == "<Gcra full at 1999.000, 0 open>"


limits = st.sampled_from([1, 7, 60, 61, 997, 60_000, 10**7, 10**12])
starts = st.floats(0, 1e7)


@settings(deadline=None)
@given(st.data(), limits, starts)
def test_told_wait_and_remaining_are_exact(
    data: st.DataObject, per_minute: int, now: float
) -> None:
    bucket = Gcra()
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.sampled_from([0.0, 0.0, 0.1, 1 / 3, 7.7]))
        cost = data.draw(st.integers(0, per_minute))
        verdict = bucket.take(cost, per_minute, now)
        if isinstance(verdict, Wait):
            assert verdict.retry_after_s > 0
            assert bucket.check(cost, per_minute, now + verdict.retry_after_s) is None
            assert bucket.check(cost, per_minute, now + verdict.retry_after_s - MS) is not None
        left = bucket.remaining(per_minute, now)
        assert 0 <= left <= per_minute
        assert bucket.check(left, per_minute, now) is None
        assert bucket.check(left + 1, per_minute, now) is not None
        assert bucket.remaining(per_minute, now + bucket.reset_s(now)) == per_minute


class Replay:
    """What the arrival time is if everything had been taken in its right size at once."""

    def __init__(self) -> None:
        self.history: list[list[float]] = []

    def tat_s(self) -> float:
        tat_s = -math.inf
        for at, cost_s in self.history:
            tat_s = max(tat_s, at) + cost_s
        return tat_s


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_late_returns_end_where_right_sizes_would_have(data: st.DataObject) -> None:
    bucket, replay, now = Gcra(), Replay(), 1000.0
    open_takings: list[tuple[Taken, list[float]]] = []
    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.integers(0, 40)) / 4
        step = data.draw(st.sampled_from(["take", "take", "back", "close", "charge"]))
        if step == "take":
            cost = data.draw(st.integers(1, 40))
            taken = bucket.take(cost, 60, now)
            if isinstance(taken, Taken):
                replay.history.append([now, float(cost)])
                open_takings.append((taken, replay.history[-1]))
            else:
                assert max(replay.tat_s(), now) + cost > now + WINDOW_S
        elif step == "charge":
            cost = data.draw(st.integers(1, 10))
            bucket.charge(cost, 60, now)
            replay.history.append([now, float(cost)])
        elif open_takings:
            taken, entry = open_takings[data.draw(st.integers(0, len(open_takings) - 1))]
            if step == "close":
                bucket.close(taken)
                open_takings = [one for one in open_takings if one[0] is not taken]
            else:
                back = data.draw(st.integers(0, int(entry[1])))
                bucket.give_back(taken, back)
                entry[1] -= back
        # Below the present both mean the same: full.
        assert max(bucket.tat_s, now) == max(replay.tat_s(), now)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 60)), max_size=200))
def test_no_stretch_of_time_holds_more_than_the_limit(steps: list[tuple[int, int]]) -> None:
    bucket, now = Gcra(), 0.0
    passed: list[tuple[float, int]] = []
    for wait, cost in steps:
        now += wait / 4
        if isinstance(bucket.take(cost, 60, now), Taken):
            passed.append((now, cost))
    for first, (begin, _) in enumerate(passed):
        total = 0
        for at, cost in passed[first:]:
            total += cost
            assert total <= 60 + (at - begin)
