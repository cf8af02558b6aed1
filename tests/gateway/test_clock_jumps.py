"""What the wall clock may do to keys and limits: nothing that whoever sets it could gain by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clocks import ExpiryClock
from gateway.limits.ledger import Ledger, Refusal, Reservation
from keys import Limits, Principal

HOUR, DAY = 3_600.0, 86_400.0
NOON = 20_000 * DAY + DAY / 2


class Wall:
    """A clock turned by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


# -- expiry


@pytest.mark.parametrize(
    ("step_s", "told_s"),
    [(0, 0), (5, 5), (DAY, DAY), (-59, -59), (-61, 0), (-HOUR, 0), (-1000 * DAY, 0)],
)
def test_large_step_back_is_not_believed(step_s: float, told_s: float) -> None:
    wall = Wall()
    clock = ExpiryClock(wall)
    assert clock() == NOON
    wall.now = NOON + step_s
    assert clock() == NOON + told_s


def test_many_small_steps_back_are_one_large_one() -> None:
    wall = Wall()
    clock = ExpiryClock(wall)
    for _ in range(100):
        clock()
        wall.now -= 10
    assert clock() == NOON


def test_clock_that_catches_up_is_followed_again() -> None:
    wall = Wall()
    clock = ExpiryClock(wall)
    clock()
    wall.now = NOON - HOUR
    assert clock() == NOON
    wall.now = NOON + 1
    assert clock() == NOON + 1


@given(steps=st.lists(st.floats(-1e9, 1e9), max_size=30))
def test_nothing_expired_lives_again_for_longer_than_a_minute(steps: list[float]) -> None:
    wall = Wall()
    clock = ExpiryClock(wall)
    highest = -1e18
    for step in steps:
        wall.now += step
        highest = max(highest, wall.now)
        assert highest - 60 <= clock() <= highest


# -- limits


def key() -> Principal:
    return Principal(
        key_id="alice",
        scopes=frozenset({"inference"}),
        limits=Limits(requests_per_minute=60, tokens_per_day=100),
        priority="normal",
        weight=1.0,
        models=None,
        expires_at=None,
    )


def ask(ledger: Ledger, wall: float, *, tokens: int = 1) -> Reservation | Refusal:
    return ledger.reserve(key(), requests=1, tokens=tokens, now=0.0, wall=wall)


def spent(wall: float = NOON) -> Ledger:
    ledger = Ledger(Limits())
    reservation = ask(ledger, wall, tokens=100)
    assert isinstance(reservation, Reservation)
    with reservation:
        reservation.started()
        reservation.settle(100)
    return ledger


@pytest.mark.parametrize("step_s", [-HOUR, -DAY, -400 * DAY, HOUR])
def test_jump_that_is_no_new_day_gives_no_tokens_back(step_s: float) -> None:
    assert isinstance(ask(spent(), NOON + step_s), Refusal)


def test_jump_of_a_day_gives_one_day_and_the_way_back_none() -> None:
    ledger = spent()
    tomorrow = ask(ledger, NOON + DAY, tokens=100)
    assert isinstance(tomorrow, Reservation)
    with tomorrow:
        tomorrow.started()
        tomorrow.settle(100)
    assert isinstance(ask(ledger, NOON), Refusal)
    assert isinstance(ask(ledger, NOON + DAY), Refusal)


@pytest.mark.parametrize("step_s", [-HOUR, HOUR, DAY])
def test_rate_of_the_minute_does_not_look_at_the_wall_clock(step_s: float) -> None:
    ledger, who = Ledger(Limits()), key()
    for _ in range(60):
        held = ledger.reserve(who, requests=1, tokens=0, now=0.0, wall=NOON)
        assert isinstance(held, Reservation)
        with held:
            held.started()
    refused = ledger.reserve(who, requests=1, tokens=0, now=0.0, wall=NOON + step_s)
    assert isinstance(refused, Refusal)
    assert refused.limit == "requests"
