"""When refused clients come back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.queue.booking import Booking, Bookings


def test_each_refused_client_gets_a_place_of_its_own() -> None:
    booking = Booking()
    assert [booking.book(0.0, 1.0, 0.5) for _ in range(4)] == [1.0, 1.5, 2.0, 2.5]


def test_places_are_kept_apart_however_clients_come() -> None:
    booking = Booking()
    assert booking.book(0.0, 1.0, 1.0) == 1.0
    assert booking.book(0.75, 1.0, 1.0) == 1.25
    assert booking.book(1.5, 1.0, 1.0) == 1.5


def test_bookings_in_the_past_are_forgotten() -> None:
    booking = Booking()
    for _ in range(10):
        booking.book(0.0, 1.0, 1.0)
    assert booking.book(100.0, 1.0, 1.0) == 1.0


def test_places_beyond_the_horizon_are_told_but_not_booked() -> None:
    booking = Booking(horizon_s=3.0)
    assert [booking.book(0.0, 1.0, 1.0) for _ in range(6)] == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    assert booking.book(1.0, 1.0, 1.0) == 3.0


def test_bookings_move_with_the_speed_at_which_places_open() -> None:
    faster, slower = Booking(), Booking()
    for booking in (faster, slower):
        for _ in range(10):
            booking.book(0.0, 1.0, 1.0)
    assert faster.book(0.0, 0.1, 0.1) == pytest.approx(1.1)
    assert slower.book(0.0, 2.0, 2.0) == pytest.approx(22.0)


def test_no_interval_means_that_all_may_come_at_once() -> None:
    booking = Booking()
    assert [booking.book(0.0, 1.0, 0.0) for _ in range(3)] == [1.0, 1.0, 1.0]
    assert booking.book(0.0, 1.0, 2.0) == 3.0


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=100),
    st.integers(1, 16),
    st.integers(0, 16),
    st.integers(0, 200),
)
def test_nobody_returns_within_an_interval_of_another(
    gaps: list[int], interval: int, first: int, horizon: int
) -> None:
    """In eighths of a second, which are exact."""
    booking = Booking(horizon_s=horizon / 8)
    now = 0.0
    returns = []
    for gap in gaps:
        now += gap / 8
        wait_s = booking.book(now, first / 8, interval / 8)
        assert wait_s >= first / 8
        assert wait_s <= max(first, horizon + interval) / 8
        if wait_s <= horizon / 8:
            returns.append(now + wait_s)
    assert all(b - a >= interval / 8 for a, b in pairwise(returns))


def test_key_that_asks_all_the_time_pushes_back_nobody_but_itself() -> None:
    bookings = Bookings()
    for number in range(1, 6):
        assert bookings.book("greedy", 0.0, 1.0, 1.0) == number
    assert bookings.others("patient", 0.0) == 1
    assert bookings.book("patient", 0.0, 1.0, 1.0) == 1.0
    assert (bookings.others("greedy", 0.0), bookings.others("other", 0.0)) == (1, 2)
    assert bookings.others("other", 100.0) == 0
    assert repr(bookings) == "<Bookings of 0>"


def test_only_so_many_bookings_are_remembered() -> None:
    bookings = Bookings(at_most=3)
    for key in range(5):
        bookings.book(key, 0.0, 1.0, 1.0)
    assert bookings.others("another", 0.0) == 3
