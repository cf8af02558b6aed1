"""The ledger in virtual time, also against a naive model that replays its whole history."""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.ledger import Ledger, Refusal, Reservation
from keys import Limits, Principal

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2


def key(name: str = "alice", limits: Limits | None = None) -> Principal:
    return Principal(
        key_id=name,
        scopes=frozenset({"inference"}),
        limits=limits or Limits(),
        priority="normal",
        weight=1.0,
        models=None,
        expires_at=None,
    )


def reserve(
    ledger: Ledger,
    who: Principal,
    *,
    requests: int = 1,
    tokens: int = 0,
    now: float = 0.0,
    wall: float = NOON,
) -> Reservation:
    found = ledger.reserve(who, requests=requests, tokens=tokens, now=now, wall=wall)
    assert isinstance(found, Reservation), found
    return found


def refused(
    ledger: Ledger,
    who: Principal,
    *,
    requests: int = 1,
    tokens: int = 0,
    now: float = 0.0,
    wall: float = NOON,
) -> Refusal:
    found = ledger.reserve(who, requests=requests, tokens=tokens, now=now, wall=wall)
    assert isinstance(found, Refusal), found
    return found


def spend(
    ledger: Ledger, who: Principal, tokens: int, *, now: float = 0.0, wall: float = NOON
) -> None:
    with reserve(ledger, who, tokens=tokens, now=now, wall=wall) as held:
        held.started()
        held.settle(tokens)


def test_own_limit_replaces_the_default_and_none_means_no_limit() -> None:
    ledger = Ledger(Limits(requests_per_minute=10, concurrency=4))
    assert ledger.limits_of(key()) == Limits(requests_per_minute=10, concurrency=4)
    own = key(limits=Limits(requests_per_minute=99, tokens_per_day=5))
    assert ledger.limits_of(own) == Limits(99, None, 4, 5)


def test_key_without_limits_is_never_refused_and_gets_no_headers() -> None:
    ledger, who = Ledger(Limits()), key()
    for _ in range(1000):
        reserve(ledger, who, tokens=10**9)
    assert ledger.glance(who, 0.0, NOON) is None
    standing = ledger.standing(who, 0.0, NOON)
    assert ledger.headers(who, 0.0, NOON) == {}
    assert standing.in_use == 1000


def test_keys_do_not_spend_each_others_limits() -> None:
    ledger = Ledger(Limits(requests_per_minute=1))
    reserve(ledger, key("a"))
    reserve(ledger, key("b"))
    assert refused(ledger, key("a")).limit == "requests"


@pytest.mark.parametrize(
    ("limits", "asked", "expected"),
    [
        (
            Limits(requests_per_minute=60),
            {"requests": 60},
            Refusal("requests", 1.0, 60, 1, 0),
        ),
        (
            Limits(tokens_per_minute=600),
            {"tokens": 600},
            Refusal("tokens", 0.1, 600, 1, 0),
        ),
        (Limits(concurrency=2), {"requests": 2}, Refusal("concurrency", 1.0, 2, 1, 0)),
    ],
)
def test_refusal_tells_limit_wait_and_numbers(
    limits: Limits, asked: dict[str, int], expected: Refusal
) -> None:
    ledger, who = Ledger(limits), key()
    reserve(ledger, who, **asked)
    found = refused(ledger, who, tokens=1)
    assert found.retry_after_s == pytest.approx(expected.retry_after_s)
    assert (found.limit, found.limit_value, found.requested, found.remaining) == (
        expected.limit,
        expected.limit_value,
        expected.requested,
        expected.remaining,
    )
    assert ledger.glance(who, 0.0, NOON) == found


def test_spent_day_comes_back_at_midnight_utc() -> None:
    ledger, who = Ledger(Limits(tokens_per_day=100)), key()
    spend(ledger, who, 95)
    found = refused(ledger, who, tokens=10)
    assert found == Refusal("tokens_per_day", DAY / 2, 100, 10, 5)
    assert refused(ledger, who, tokens=10, wall=NOON + DAY / 2 - 1).retry_after_s == 1.0
    reserve(ledger, who, tokens=100, wall=NOON + DAY / 2)


def test_day_held_only_by_requests_in_flight_is_not_spent() -> None:
    ledger, who = Ledger(Limits(tokens_per_day=100)), key()
    held = reserve(ledger, who, tokens=95)
    assert refused(ledger, who, tokens=10).retry_after_s == 1.0
    held.leave()
    reserve(ledger, who, tokens=10)


@pytest.mark.parametrize(
    ("limits", "requests", "tokens", "name"),
    [
        (Limits(requests_per_minute=3), 4, 0, "requests"),
        (Limits(tokens_per_minute=3), 1, 4, "tokens"),
        (Limits(concurrency=3), 4, 0, "concurrency"),
        (Limits(tokens_per_day=3), 1, 4, "tokens_per_day"),
    ],
)
def test_waiting_cannot_help_what_is_larger_than_a_whole_limit(
    limits: Limits, requests: int, tokens: int, name: str
) -> None:
    found = refused(Ledger(limits), key(), requests=requests, tokens=tokens)
    assert (found.limit, found.retry_after_s, found.remaining) == (name, None, 3)


def test_of_several_refusals_the_longest_is_told() -> None:
    ledger, who = Ledger(Limits(requests_per_minute=60, tokens_per_minute=60)), key()
    reserve(ledger, who, requests=60, tokens=60)
    found = refused(ledger, who, tokens=30)
    assert (found.limit, found.retry_after_s) == ("tokens", 30.0)
    reserve(ledger, who, tokens=30, now=30.0)


def test_if_one_limit_refuses_nothing_is_taken_from_any() -> None:
    ledger = Ledger(Limits(requests_per_minute=60, concurrency=9, tokens_per_day=100))
    who = key(limits=Limits(tokens_per_minute=10))
    before = ledger.standing(who, 0.0, NOON)
    for _ in range(100):
        refused(ledger, who, tokens=11)
    assert ledger.standing(who, 0.0, NOON) == before
    assert len(ledger) == 0


def test_request_that_never_started_costs_nothing() -> None:
    ledger = Ledger(Limits(60, 600, 4, 1000))
    who = key()
    before = ledger.standing(who, 0.0, NOON)
    with reserve(ledger, who, requests=2, tokens=100) as held:
        held.settle(50)
        during = ledger.standing(who, 0.0, NOON)
        assert during.requests is not None
        assert (during.requests.remaining, during.in_use, during.tokens_held) == (58, 2, 100)
    assert ledger.standing(who, 0.0, NOON) == before


def test_started_request_counts_and_so_do_the_tokens_it_used() -> None:
    ledger, who = Ledger(Limits(60, 600, 4, 1000)), key()
    with suppress(ConnectionError), reserve(ledger, who, tokens=100) as held:
        held.started()
        held.settle(10)
        held.settle(30)
        raise ConnectionError
    standing = ledger.standing(who, 0.0, NOON)
    assert standing.requests is not None
    assert standing.tokens is not None
    assert standing.day is not None
    assert (standing.requests.remaining, standing.tokens.remaining) == (59, 570)
    assert (standing.day.remaining, standing.tokens_today, standing.in_use) == (970, 30, 0)


def test_started_request_of_which_nothing_was_told_used_no_tokens() -> None:
    ledger, who = Ledger(Limits(tokens_per_minute=600)), key()
    with reserve(ledger, who, tokens=100) as held:
        held.started()
    standing = ledger.standing(who, 0.0, NOON)
    assert standing.tokens is not None
    assert standing.tokens.remaining == 600


def test_more_than_was_held_is_charged_all_the_same() -> None:
    ledger, who = Ledger(Limits(tokens_per_minute=60, tokens_per_day=1000)), key()
    with reserve(ledger, who, tokens=60) as held:
        held.started()
        held.settle(90)
    assert refused(ledger, who, tokens=1).retry_after_s == 31.0
    assert ledger.standing(who, 0.0, NOON).tokens_today == 90


def test_reservation_comes_back_once_however_often_it_is_left() -> None:
    ledger, who = Ledger(Limits(concurrency=2)), key()
    other = reserve(ledger, who)
    with reserve(ledger, who) as held:
        held.leave()
        held.leave()
    held.started()
    held.settle(5)
    held.lower_to(0)
    held.leave()
    assert ledger.standing(who, 0.0, NOON).in_use == 1
    other.leave()
    assert ledger.standing(who, 0.0, NOON).in_use == 0


def test_lowered_reservation_makes_room_at_once() -> None:
    ledger, who = Ledger(Limits(tokens_per_minute=600, tokens_per_day=600)), key()
    held = reserve(ledger, who, tokens=600)
    held.lower_to(100)
    assert held.tokens == 100
    held.lower_to(500)
    assert held.tokens == 100
    second = reserve(ledger, who, tokens=500)
    second.leave()
    held.leave()
    reserve(ledger, who, tokens=600)


def test_several_generations_count_as_several_requests() -> None:
    ledger, who = Ledger(Limits(requests_per_minute=10, concurrency=4)), key()
    with reserve(ledger, who, requests=3) as held:
        held.started()
        assert refused(ledger, who, requests=2).limit == "concurrency"
    standing = ledger.standing(who, 0.0, NOON)
    assert standing.requests is not None
    assert standing.requests.remaining == 7


@pytest.mark.parametrize(("requests", "tokens"), [(0, 0), (-1, 0), (1, -1)])
def test_senseless_amounts_are_errors(requests: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        Ledger(Limits()).reserve(key(), requests=requests, tokens=tokens, now=0.0, wall=NOON)
    with pytest.raises(ValueError, match="at least"):
        reserve(Ledger(Limits()), key()).settle(-1)


def test_request_over_midnight_counts_for_the_day_it_came_on() -> None:
    ledger, who = Ledger(Limits(tokens_per_day=100)), key()
    with reserve(ledger, who, tokens=100) as held:
        held.started()
        held.settle(80)
        tomorrow = reserve(ledger, who, tokens=100, wall=NOON + DAY)
    standing = ledger.standing(who, 0.0, NOON + DAY)
    assert (standing.tokens_today, standing.tokens_held) == (0, 100)
    tomorrow.leave()
    assert ledger.standing(who, 0.0, NOON + DAY).tokens_held == 0


def test_clock_that_steps_back_over_midnight_gives_no_day_twice() -> None:
    ledger, who = Ledger(Limits(tokens_per_day=100)), key()
    midnight = 20_001 * DAY
    spend(ledger, who, 100, wall=midnight + 5)
    assert refused(ledger, who, tokens=1, wall=midnight - 5).retry_after_s == DAY + 5
    assert refused(ledger, who, tokens=1, wall=midnight + 5).retry_after_s == DAY - 5
    reserve(ledger, who, tokens=100, wall=midnight + DAY)


def test_clock_that_was_years_ahead_does_not_stop_the_days() -> None:
    ledger, who = Ledger(Limits(tokens_per_day=100)), key()
    spend(ledger, who, 100, wall=NOON + 9999 * DAY)
    assert refused(ledger, who, tokens=1, wall=NOON).retry_after_s == DAY / 2
    reserve(ledger, who, tokens=100, wall=NOON + DAY)


def test_new_limits_forget_nothing() -> None:
    ledger = Ledger(Limits())
    reserve(ledger, key(limits=Limits(requests_per_minute=60, concurrency=60)), requests=60)
    assert refused(ledger, key(limits=Limits(requests_per_minute=30))).retry_after_s == 2.0
    assert refused(ledger, key(limits=Limits(concurrency=1))).remaining == 0


def test_keys_with_nothing_to_remember_are_forgotten() -> None:
    ledger = Ledger(Limits(requests_per_minute=60))
    for number in range(1000):
        spend(ledger, key(f"k{number}"), 0)
    held = reserve(ledger, key("busy"))
    spend(ledger, key("used"), 7)
    ledger.prune(59.0, NOON)
    assert len(ledger) == 2
    ledger.prune(61.0, NOON + DAY)
    assert len(ledger) == 1
    held.leave()
    ledger.prune(61.0, NOON + DAY)
    assert len(ledger) == 0


def test_restart_forgives_nobody_but_the_time_that_passed() -> None:
    limits = Limits(tokens_per_minute=60, tokens_per_day=100)
    before = Ledger(limits)
    spend(before, key(), 60, now=500.0)
    after = Ledger(limits)
    after.restore(before.snapshot(510.0, NOON).as_json(), 7.0, NOON + 20.0)
    standing = after.standing(key(), 7.0, NOON + 20.0)
    assert standing.tokens is not None
    assert (standing.tokens.remaining, standing.tokens_today) == (30, 60)
    tomorrow = Ledger(limits)
    tomorrow.restore(before.snapshot(510.0, NOON).as_json(), 7.0, NOON + DAY)
    assert tomorrow.standing(key(), 7.0, NOON + DAY).tokens_today == 0


def test_restart_with_a_clock_that_went_back_earns_nothing() -> None:
    limits = Limits(tokens_per_minute=60, tokens_per_day=100)
    before = Ledger(limits)
    spend(before, key(), 60)
    for back_s in (3600.0, DAY, 1000 * DAY):
        after = Ledger(limits)
        after.restore(before.snapshot(0.0, NOON).as_json(), 0.0, NOON - back_s)
        standing = after.standing(key(), 0.0, NOON - back_s)
        assert standing.tokens is not None
        assert (standing.tokens.remaining, standing.tokens_today) == (0, 60)
        assert standing.day is not None
        assert 0 < standing.day.reset_s <= 2 * DAY


def test_unfinished_requests_leave_no_day_tokens_behind() -> None:
    ledger, who = Ledger(Limits(tokens_per_day=100)), key()
    reserve(ledger, who, tokens=50)
    assert ledger.snapshot(0.0, NOON).as_json()["keys"] == {}


GOOD = {"wall": NOON, "date": 20_000, "keys": {"a": [1.0, 5]}}


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {**GOOD, "wall": "x"},
        {**GOOD, "wall": math.nan},
        {**GOOD, "wall": math.inf},
        {**GOOD, "date": True},
        {**GOOD, "date": 1.5},
        {**GOOD, "date": 10**400},
        {**GOOD, "keys": []},
        {**GOOD, "keys": {"": [1.0, 5]}},
        {**GOOD, "keys": {"a" * 129: [1.0, 5]}},
        {**GOOD, "keys": {"a": [1.0]}},
        {**GOOD, "keys": {"a": [-1.0, 5]}},
        {**GOOD, "keys": {"a": [1.0, -5]}},
        {**GOOD, "keys": {"a": [1.0, 5], "b": [10**400, 5]}},
        {**GOOD, "keys": {"a": [1.0, 5], "b": [None, 5]}},
        {**GOOD, "keys": {str(number): [1.0, 5] for number in range(10_001)}},
    ],
)
def test_state_that_is_none_is_refused_whole(state: object) -> None:
    ledger = Ledger(Limits())
    with pytest.raises(ValueError, match=r"number|counters|key"):
        ledger.restore(state, 0.0, NOON)
    assert len(ledger) == 0


def test_state_is_bounded() -> None:
    ledger = Ledger(Limits())
    for number in range(10_050):
        spend(ledger, key(f"k{number}"), 1)
    state = ledger.snapshot(0.0, NOON).as_json()
    assert len(state["keys"]) == 10_000
    Ledger(Limits()).restore(state, 0.0, NOON)


def test_fifty_clients_on_one_key_get_exactly_what_the_rate_allows() -> None:
    """A minute of virtual time; each client comes back when it was told to, or at once."""
    ledger, who = Ledger(Limits(requests_per_minute=60)), key()
    due = dict.fromkeys(range(50), 0.0)
    served: list[float] = []
    now = 0.0
    while now < 60.0:
        client = min(due, key=due.__getitem__)
        now = due[client]
        told = ledger.standing(who, now, NOON + now)
        assert told.requests is not None
        found = ledger.reserve(who, requests=1, tokens=0, now=now, wall=NOON + now)
        if isinstance(found, Reservation):
            assert told.requests.remaining >= 1
            with found:
                found.started()
            served.append(now)
            due[client] = now + 0.001
        else:
            assert told.requests.remaining == 0
            assert found.retry_after_s is not None
            due[client] = now + found.retry_after_s
    assert served[:60] == [pytest.approx(number // 50 * 0.001) for number in range(60)]
    # A minute's worth at once, then one for each second that has passed.
    assert len([at for at in served if at < 59.999]) == 60 + 59
    gaps = [later - earlier for earlier, later in pairwise(served[60:])]
    assert gaps == [pytest.approx(1.0, abs=1e-5)] * len(gaps)


RPM, TPM, CROWD, DAILY = 10, 120, 12, 400
NAMES = ("a", "b", "c")


@dataclass(eq=False)
class Entry:
    at: float
    requests: float
    tokens: int
    date: int
    live: bool = True


@dataclass
class Model:
    """Everything that happened to one key; each answer replays all of it."""

    history: list[Entry] = field(default_factory=list)

    def backlog_s(self, now: float, what: str, per_minute: int) -> float:
        tat = -math.inf
        for entry in self.history:
            tat = max(tat, entry.at) + getattr(entry, what) * 60 / per_minute
        return max(0.0, tat - now)

    def in_use(self) -> int:
        return int(sum(entry.requests for entry in self.history if entry.live))

    def today(self, date: int) -> int:
        return sum(entry.tokens for entry in self.history if entry.date == date)

    def wait_s(self, requests: int, tokens: int, now: float) -> float:
        waits = (
            requests * 60 / RPM - (60 - self.backlog_s(now, "requests", RPM)),
            tokens * 60 / TPM - (60 - self.backlog_s(now, "tokens", TPM)),
        )
        return max(0.0, *waits)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_thousands_of_random_steps_agree_with_the_replay(seed: int) -> None:
    random = Random(seed)
    ledger = Ledger(Limits(RPM, TPM, CROWD, DAILY))
    people = {name: (key(name), Model()) for name in NAMES}
    held: list[tuple[Reservation, Entry, bool]] = []
    now = 0.0
    for _ in range(300):
        # Quarters are exact in binary, and so are both rates: the model needs no tolerance.
        now += random.choice([0, 0, 0, 1, 4, 20, 20 if random.random() < 0.97 else 150_000]) / 4
        wall = NOON + now
        date = int(wall // DAY)
        who, model = people[random.choice(NAMES)]
        step = random.choice(["ask"] * 4 + ["start"] * 3 + ["leave"] * 4 + ["lower", "prune"])
        if step == "ask":
            requests, tokens = random.choice([1, 1, 2, 5]), random.choice([0, 1, 10, 40, 119])
            found = ledger.reserve(who, requests=requests, tokens=tokens, now=now, wall=wall)
            wait_s = model.wait_s(requests, tokens, now)
            fits = (
                not wait_s
                and model.in_use() + requests <= CROWD
                and model.today(date) + tokens <= DAILY
            )
            assert isinstance(found, Reservation) == fits
            if isinstance(found, Reservation):
                entry = Entry(now, requests, tokens, date)
                model.history.append(entry)
                held.append((found, entry, False))
            elif found.limit in ("requests", "tokens"):
                assert found.retry_after_s == wait_s
        elif step == "prune":
            ledger.prune(now, wall)
        elif held:
            at = random.randrange(len(held))
            reservation, entry, started = held[at]
            if step == "start":
                reservation.started()
                held[at] = (reservation, entry, True)
            elif step == "lower":
                entry.tokens = min(entry.tokens, random.randrange(0, 100))
                reservation.lower_to(entry.tokens)
            else:
                del held[at]
                used = random.randrange(0, entry.tokens + 1)
                reservation.settle(used)
                reservation.leave()
                entry.live = False
                entry.tokens = used if started else 0
                if not started:
                    entry.requests = 0
        for person, books in people.values():
            told = ledger.standing(person, now, wall)
            assert told.in_use == books.in_use()
            assert told.tokens_today + told.tokens_held == books.today(date)
            assert told.tokens_held >= 0
            assert told.requests is not None
            assert told.requests.reset_s == books.backlog_s(now, "requests", RPM)
            assert told.tokens is not None
            assert told.tokens.reset_s == books.backlog_s(now, "tokens", TPM)
            assert min(told.requests.remaining, told.tokens.remaining) >= 0
    for reservation, _, _ in held:
        reservation.leave()
    ledger.prune(now + 3600.0, NOON + now + DAY)
    assert len(ledger) == 0


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_headers_are_consistent_with_what_happens_next(data: st.DataObject) -> None:
    limits = Limits(
        requests_per_minute=data.draw(st.none() | st.integers(1, 1000)),
        tokens_per_minute=data.draw(st.none() | st.integers(1, 100_000)),
        tokens_per_day=data.draw(st.none() | st.integers(1, 500_000)),
    )
    ledger, who, now = Ledger(limits), key(), data.draw(st.floats(0, 1e6))
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.sampled_from([0.0, 0.01, 1 / 3, 5.0]))
        wall = NOON + now
        told = ledger.headers(who, now, wall)
        requests = told.get("x-ratelimit-remaining-requests")
        tokens = int(told.get("x-ratelimit-remaining-tokens", 1000))
        if requests == "0":
            assert refused(ledger, who, now=now, wall=wall).limit == "requests"
            continue
        if requests is not None:
            refused(ledger, who, requests=int(requests) + 1, now=now, wall=wall)
            reserve(ledger, who, requests=int(requests), now=now, wall=wall).leave()
        if "x-ratelimit-remaining-tokens" in told:
            over = refused(ledger, who, tokens=tokens + 1, now=now, wall=wall)
            if over.limit == "tokens" and over.retry_after_s is not None:
                later = now + over.retry_after_s
                early = Ledger(Limits(tokens_per_minute=limits.tokens_per_minute))
                early.restore(ledger.snapshot(now, wall).as_json(), now, wall)
                wait = early.reserve(
                    who, requests=1, tokens=tokens + 1, now=later - 0.001, wall=wall
                )
                assert isinstance(wait, Refusal)
                reserve(early, who, tokens=tokens + 1, now=later, wall=wall)
        with reserve(ledger, who, tokens=tokens, now=now, wall=wall) as held:
            held.started()
            held.settle(data.draw(st.integers(0, tokens)))
