"""A body must keep coming; what came before buys no silence."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.front.pace import Pace

RATE = 1024.0
GRACE_S = 10.0


def test_most_of_a_body_at_once_buys_no_more_than_the_grace() -> None:
    pace = Pace(RATE, GRACE_S, 0.0)
    assert pace.progress((8 << 20) - 1, 1.0) == 1.0 + GRACE_S


def test_nothing_at_all_is_waited_for_as_long_as_the_grace() -> None:
    assert Pace(RATE, GRACE_S, 5.0).due_s == 15.0


def test_single_bytes_do_not_keep_a_body_alive() -> None:
    pace = Pace(RATE, GRACE_S, 0.0)
    now = 0.0
    while now < pace.due_s:
        pace.progress(1, now)
        now += 1.0
    assert now <= GRACE_S + 1.0


def test_without_a_pace_it_may_only_not_stand_still() -> None:
    pace = Pace(1e-9, GRACE_S, 0.0)
    for second in range(0, 900, 9):
        assert second < pace.due_s
        pace.progress(1, second)
    assert pace.due_s == 891 + GRACE_S


gaps_s = st.floats(0.001, GRACE_S * 1.5)
Arrivals = list[tuple[float, int]]


@settings(deadline=None)
@given(st.lists(st.tuples(gaps_s, st.integers(1, 100_000)), max_size=60))
def test_every_stretch_of_an_accepted_body_has_brought_its_share(steps: Arrivals) -> None:
    pace = Pace(RATE, GRACE_S, 0.0)
    now, came, seen = 0.0, 0, [(0.0, 0)]
    for gap_s, size in steps:
        now += gap_s
        if now > pace.due_s:
            break
        for start_s, before in seen:  # from just after an arrival to just before this one
            assert came - before >= RATE * (now - start_s - GRACE_S) - 0.01
        came += size
        seen.append((now, came))
        pace.progress(size, now)


@settings(deadline=None)
@given(st.lists(st.floats(0.001, GRACE_S * 0.999), max_size=60))
def test_who_keeps_the_pace_is_never_cut(gaps: list[float]) -> None:
    pace = Pace(RATE, GRACE_S, 0.0)
    now = 0.0
    for gap_s in gaps:
        now += gap_s
        assert now < pace.due_s
        pace.progress(int(gap_s * RATE) + 1, now)
