"""The fair queue, in virtual time."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, log2
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keys
from gateway.queue.fairqueue import PRIORITIES, FairQueue, Full, Place, Ticket


def make_queue(total: int = 100_000, each: int = 100_000, ageing_s: float = inf) -> FairQueue:
    return FairQueue(max_waiting=total, max_waiting_per_key=each, ageing_s=ageing_s)


def offer_all(queue: FairQueue, tickets: list[Ticket], now: float = 0.0) -> None:
    for ticket in tickets:
        assert queue.offer(ticket, now) is None


def order_of(queue: FairQueue, now: float = 0.0) -> str:
    """Let everybody in, one by one."""
    granted = []
    while one := queue.grant(1, 1, now):
        granted += one
    return "".join(ticket.key for ticket in granted)


# -- order


def test_one_key_is_first_come_first_served() -> None:
    queue = make_queue()
    tickets = [Ticket("a") for _ in range(5)]
    offer_all(queue, tickets)
    assert queue.grant(5, 5, 0.0) == tickets


def test_keys_take_turns_whatever_they_keep_waiting() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a") for _ in range(6)])
    offer_all(queue, [Ticket("b") for _ in range(2)])
    assert order_of(queue) == "ababaaaa"


def test_weights_share_out_turns() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a", weight=1) for _ in range(6)])
    offer_all(queue, [Ticket("b", weight=3) for _ in range(6)])
    assert Counter(order_of(queue)[:8]) == {"a": 2, "b": 6}


def test_long_requests_cost_more_turns_than_short_ones() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a", cost_s=4.0) for _ in range(3)])
    offer_all(queue, [Ticket("b", cost_s=1.0) for _ in range(8)])
    assert Counter(order_of(queue)[:10]) == {"a": 2, "b": 8}


def test_newcomer_goes_next() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("flood") for _ in range(100)])
    queue.grant(10, 10, 0.0)
    newcomer = Ticket("new")
    queue.offer(newcomer, 1.0)
    assert queue.grant(1, 10, 1.0) == [newcomer]


def test_staying_away_saves_up_no_turns() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a") for _ in range(100)])
    queue.grant(50, 50, 0.0)
    offer_all(queue, [Ticket("b") for _ in range(50)])
    assert Counter(order_of(queue)[:20])["b"] <= 11


def test_newcomer_starts_where_the_others_are_although_one_was_set_back() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a", cost_s=10.0) for _ in range(3)])
    offer_all(queue, [Ticket("b") for _ in range(20)])
    first = queue.grant(7, 8, 0.0)[0]
    queue.settle(first, 0.0)
    assert [ticket.key for ticket in queue.grant(1, 8, 0.0)] == ["a"]
    offer_all(queue, [Ticket("c") for _ in range(20)])
    assert order_of(queue)[:7] == "cbcbcbc"


def test_what_is_taken_while_nobody_waits_is_free() -> None:
    queue = make_queue()
    alone = Ticket("a", cost_s=1000.0)
    queue.offer(alone, 0.0)
    assert queue.grant(1, 4, 0.0) == [alone]
    assert queue.accounts == 0
    offer_all(queue, [Ticket("a"), Ticket("b")])
    queue.settle(alone, 1000.0)  # of an earlier busy period
    assert order_of(queue) == "ab"


def test_overestimate_is_given_back() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a", cost_s=100.0) for _ in range(3)])
    offer_all(queue, [Ticket("b", cost_s=1.0) for _ in range(10)])
    (first,) = queue.grant(1, 4, 0.0)
    assert [ticket.key for ticket in queue.grant(3, 4, 0.0)] == ["b", "b", "b"]
    queue.settle(first, 1.0)
    assert [ticket.key for ticket in queue.grant(1, 4, 0.0)] == ["a"]


def test_underestimate_is_charged() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a", cost_s=1.0) for _ in range(3)])
    offer_all(queue, [Ticket("b", cost_s=1.0) for _ in range(10)])
    (first,) = queue.grant(1, 1, 0.0)
    queue.settle(first, 6.0)
    assert order_of(queue) == "bbbbbbabab" + "bb"


def test_who_runs_longer_than_estimated_is_charged_as_it_runs() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a", cost_s=1.0) for _ in range(9)])
    queue.grant(1, 4, 0.0)
    offer_all(queue, [Ticket("b", cost_s=1.0) for _ in range(9)], 5.0)
    assert [ticket.key for ticket in queue.grant(4, 4, 5.0)] == ["b", "b", "b", "b"]


def test_settling_counts_once_and_only_for_who_was_let_in() -> None:
    queue = make_queue()
    tickets = [Ticket("a"), Ticket("a"), Ticket("b"), Ticket("b")]
    offer_all(queue, tickets)
    queue.settle(tickets[2], 50.0)  # waits
    queue.settle(Ticket("b"), 50.0)  # never seen
    assert queue.grant(1, 1, 0.0) == [tickets[0]]
    for _ in range(3):
        queue.settle(tickets[0], 1.0)
    assert order_of(queue) == "bab"


# -- bounds


def test_bounds_in_total_and_per_key() -> None:
    queue = make_queue(total=3, each=2)
    offer_all(queue, [Ticket("a"), Ticket("a")])
    assert queue.would_refuse("a") == queue.offer(Ticket("a"), 0.0) == Full("key")
    assert queue.would_refuse("b") is None
    queue.offer(Ticket("b"), 0.0)
    assert queue.would_refuse("b") == queue.offer(Ticket("b"), 0.0) == Full("total")
    assert (len(queue), queue.waiting_of("a"), queue.waiting_of("b")) == (3, 2, 1)
    assert queue.waiting_of("c") == 0


def test_exempt_and_returning_tickets_pass_the_bounds() -> None:
    queue = make_queue(total=0, each=0)
    assert queue.offer(Ticket("a"), 0.0) == Full("key")
    assert queue.offer(Ticket("a", exempt=True), 0.0) is None
    assert queue.offer(Ticket("a", again=True), 0.0) is None
    assert len(queue) == 2


def test_refused_ticket_leaves_no_trace() -> None:
    queue = make_queue(total=0)
    ticket = Ticket("a")
    assert queue.offer(ticket, 0.0) == Full("total")
    assert not queue.withdraw(ticket)
    assert (len(queue), queue.accounts, queue.waiting_cost_s) == (0, 0, 0.0)


def test_counts_by_class_and_cost() -> None:
    queue = make_queue(ageing_s=1.0)
    offer_all(queue, [Ticket("a", priority="batch", cost_s=2.0), Ticket("b", cost_s=3.0)])
    queue.forecast(10.0)  # both have moved up: they still count where they began
    assert [queue.waiting_in(name) for name in PRIORITIES] == [0, 1, 1]
    assert queue.waiting_cost_s == 5.0
    assert repr(queue) == "<FairQueue 2 waiting: 0 high, 1 normal, 1 batch>"


def test_ticket_cannot_wait_twice() -> None:
    queue = make_queue()
    ticket = Ticket("a")
    queue.offer(ticket, 0.0)
    with pytest.raises(ValueError, match="waits already"):
        queue.offer(ticket, 0.0)
    assert len(queue) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"priority": "urgent"},
        {"weight": 0.0},
        {"weight": inf},
        {"cost_s": -1.0},
        {"cost_s": float("nan")},
        {"slots": -1},
    ],
)
def test_ticket_that_makes_no_sense_is_an_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Ticket("a", **bad)


def test_queue_and_keys_file_name_the_same_classes() -> None:
    assert PRIORITIES == keys.PRIORITIES


# -- slots


def test_without_capacity_nobody_goes() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a"), Ticket("a", slots=0), Ticket("a", again=True)])
    assert queue.grant(0, 0, 0.0) == []
    assert len(queue) == 3


def test_ticket_for_no_slot_needs_only_an_engine() -> None:
    queue = make_queue()
    waiting, looking = Ticket("a"), Ticket("a", slots=0)
    offer_all(queue, [waiting, looking])
    assert queue.grant(0, 4, 0.0) == [looking]
    assert queue.grant(-2, 4, 0.0) == []


def test_nobody_passes_a_request_for_many_slots() -> None:
    queue = make_queue()
    large = Ticket("a", slots=3)
    offer_all(queue, [large, Ticket("b")])
    assert queue.grant(2, 4, 0.0) == []
    assert queue.grant(3, 4, 0.0) == [large]


def test_request_for_more_slots_than_there_are_gets_all() -> None:
    queue = make_queue()
    large = Ticket("a", slots=9)
    offer_all(queue, [large, Ticket("b")])
    assert queue.grant(4, 4, 0.0) == [large]


def test_leaving_opens_the_way_for_those_behind() -> None:
    queue = make_queue()
    large, small = Ticket("a", slots=3), Ticket("b")
    offer_all(queue, [large, small])
    assert queue.grant(1, 4, 0.0) == []
    assert queue.withdraw(large)
    assert queue.grant(1, 4, 0.0) == [small]


# -- leaving and coming again


def test_withdrawing_is_safe_at_any_time_and_twice() -> None:
    queue = make_queue()
    first, second = Ticket("a"), Ticket("a")
    offer_all(queue, [first, second])
    assert queue.grant(1, 4, 0.0) == [first]
    assert not queue.withdraw(first)
    assert queue.withdraw(second)
    assert not queue.withdraw(second)
    assert not queue.withdraw(Ticket("a"))
    assert (len(queue), queue.accounts) == (0, 0)


def test_again_goes_before_all_classes() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("high", priority="high"), Ticket("normal")])
    back = [Ticket("a", again=True, priority="batch"), Ticket("b", again=True)]
    offer_all(queue, back)
    assert queue.grant(2, 2, 0.0) == back


def test_granted_ticket_may_be_offered_again_and_pays_once() -> None:
    queue = make_queue()
    first = Ticket("a", cost_s=10.0)
    offer_all(queue, [first, Ticket("a"), Ticket("b")])
    assert queue.grant(1, 1, 0.0) == [first]
    queue.offer(first, 0.0)
    assert order_of(queue) == "aba"


def test_again_is_charged_to_its_key() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("a"), Ticket("b")])
    offer_all(queue, [Ticket("a", again=True, cost_s=5.0)])
    assert order_of(queue) == "aba"


def test_clear_sends_all_away_in_order() -> None:
    queue = make_queue()
    tickets = [Ticket("a"), Ticket("a"), Ticket("b"), Ticket("c", priority="high")]
    again, looking = Ticket("d", again=True), Ticket("e", slots=0)
    offer_all(queue, [*tickets, again, looking])
    a1, a2, b, high = tickets
    assert queue.clear() == [looking, again, high, a1, b, a2]
    assert (len(queue), queue.accounts, queue.waiting_cost_s) == (0, 0, 0.0)
    assert queue.clear() == []


# -- classes and ageing


def test_higher_class_goes_first() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket(name[0], priority=name) for name in reversed(PRIORITIES)])
    assert order_of(queue) == "hnb"


def test_waiting_moves_up_one_class_at_a_time() -> None:
    queue = make_queue(ageing_s=10.0)
    offer_all(queue, [Ticket("b", priority="batch")], 0.0)
    offer_all(queue, [Ticket("n") for _ in range(2)], 1.0)
    offer_all(queue, [Ticket("h", priority="high") for _ in range(2)], 1.0)

    def next_key(now: float) -> list[str]:
        places = queue.forecast(now)
        return [ticket.key for ticket in sorted(places, key=lambda t: places[t].position)]

    assert next_key(9.9) == ["h", "h", "n", "n", "b"]
    assert next_key(10.0) == ["h", "h", "b", "n", "n"]
    assert next_key(11.0) == ["n", "h", "h", "b", "n"]  # the head alone
    assert next_key(20.0) == ["b", "n", "h", "h", "n"]
    assert next_key(21.0) == ["b", "n", "h", "n", "h"]


def test_aged_ticket_keeps_its_place_in_its_keys_order() -> None:
    queue = make_queue(ageing_s=10.0)
    old = Ticket("a", priority="batch")
    young = Ticket("a")
    offer_all(queue, [old], 0.0)
    offer_all(queue, [young], 5.0)
    assert queue.grant(2, 2, 11.0) == [old, young]


def test_key_that_gets_its_turns_does_not_age() -> None:
    """Its own requests make each other wait, for much longer than ageing takes."""
    queue = make_queue(ageing_s=3.0)
    offer_all(queue, [Ticket("flood") for _ in range(20)])
    for now in range(10):
        queue.grant(1, 1, float(now))
    above = Ticket("above", priority="high")
    offer_all(queue, [above, Ticket("new")], 10.0)
    assert order_of(queue, 10.0) == "above" + "new" + 10 * "flood"


def test_nobody_moves_up_while_nobody_waits_above() -> None:
    """Slots are held for longer than ageing takes: that is no reason to go before a newcomer."""
    queue = make_queue(ageing_s=3.0)
    first = Ticket("flood", cost_s=10.0)
    offer_all(queue, [first] + [Ticket("flood", cost_s=10.0) for _ in range(20)])
    assert queue.grant(1, 1, 0.0) == [first]
    queue.forecast(9.0)
    offer_all(queue, [Ticket("new")], 9.0)
    queue.settle(first, 10.0)
    assert [ticket.key for ticket in queue.grant(1, 1, 10.0)] == ["new"]


def test_passed_over_key_moves_one_ticket_up_each_time() -> None:
    queue = make_queue(ageing_s=10.0)
    batch = [Ticket("b", priority="batch") for _ in range(3)]
    offer_all(queue, [*batch, *(Ticket("n") for _ in range(200))])
    served = [queue.grant(1, 1, float(now))[0] for now in range(35)]
    assert [served.index(ticket) for ticket in batch] == [10, 20, 30]


def test_waiting_of_who_leaves_counts_for_the_next_of_its_key() -> None:
    queue = make_queue(ageing_s=10.0)
    first, second = Ticket("b", priority="batch"), Ticket("b", priority="batch")
    offer_all(queue, [first, second, *(Ticket("n") for _ in range(20))])
    queue.withdraw(first)
    assert queue.grant(1, 1, 10.0) == [second]


def test_batch_is_served_in_time_although_the_others_never_rest() -> None:
    """After two steps up it is one key among those of the first class, however many they send."""
    queue = make_queue(ageing_s=30.0)
    batch = Ticket("batch", priority="batch")
    queue.offer(batch, 0.0)
    now = 0.0
    while True:
        for key, priority in (("a", "high"), ("b", "high"), ("c", "normal")):
            while queue.waiting_of(key) < 3:
                queue.offer(Ticket(key, priority=priority), now)
        (granted,) = queue.grant(1, 1, now)
        if granted is batch:
            break
        now += 1.0
        queue.settle(granted, 1.0)
        assert now <= 2 * 30.0 + 3.0
    assert now >= 2 * 30.0


# -- slots that stand empty


def blocked_by_large() -> tuple[FairQueue, Ticket, Ticket]:
    """One slot of two stands empty for 5 s, because the next one wants both."""
    queue = make_queue()
    queue.hold_s = 60.0
    running, large = Ticket("g"), Ticket("e", slots=2, cost_s=0.0)
    offer_all(queue, [running, *(Ticket("g") for _ in range(7)), large])
    assert queue.grant(1, 2, 0.0) == [running]
    assert queue.grant(1, 2, 0.0) == []
    queue.settle(running, 1.0)
    return queue, running, large


def test_key_pays_for_slots_that_stand_empty_for_it() -> None:
    queue, _, large = blocked_by_large()
    assert queue.grant(2, 2, 5.0)[:1] == [large]
    offer_all(queue, [Ticket("e", cost_s=0.0)], 5.0)
    assert order_of(queue, 5.0) == "gggggegg"


def test_who_gives_up_pays_for_slots_that_stood_empty_for_it() -> None:
    queue, _, large = blocked_by_large()
    assert queue.withdraw(large)
    assert queue.grant(0, 2, 5.0) == []
    offer_all(queue, [Ticket("e", cost_s=0.0)], 5.0)
    assert order_of(queue, 5.0) == "gggggegg"


def test_slots_that_stand_empty_cost_nothing_while_nobody_else_waits() -> None:
    queue = make_queue()
    queue.hold_s = 60.0
    running, large = Ticket("g"), Ticket("e", slots=2, cost_s=0.0)
    offer_all(queue, [running, large, Ticket("e", cost_s=0.0)])
    assert queue.grant(2, 2, 0.0) == [running]
    queue.settle(running, 1.0)
    offer_all(queue, [Ticket("g") for _ in range(3)], 5.0)
    assert order_of(queue, 5.0) == "eeggg"


def test_forecast_knows_what_stood_empty() -> None:
    queue, _, large = blocked_by_large()
    offer_all(queue, [Ticket("e", cost_s=0.0)], 5.0)
    places = queue.forecast(5.0)
    expected = sorted(places, key=lambda ticket: places[ticket].position)
    assert "".join(ticket.key for ticket in expected) == "egggggegg"
    assert order_of(queue, 5.0) == "egggggegg"
    assert expected[0] is large


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_requests_for_all_slots_take_nothing_from_the_share_of_others(weight: float) -> None:
    """A key sends short requests for all four slots, another long ones for one slot."""
    chance = random.Random(5)
    queue = make_queue(ageing_s=60.0)
    running: list[tuple[float, int, Ticket, float]] = []
    good_s, free, now, began = 0.0, 4, 0.0, 0
    while now < 20_000.0:
        while queue.waiting_of("evil") < 3:
            queue.offer(Ticket("evil", slots=4, cost_s=0.4), now)
        while queue.waiting_of("good") < 8:
            queue.offer(Ticket("good", weight=weight, cost_s=10.0), now)
        for ticket in queue.grant(free, 4, now):
            free -= ticket.slots
            began += 1
            takes_s = 0.1 if ticket.key == "evil" else chance.uniform(5.0, 15.0)
            heappush(running, (now + takes_s, began, ticket, takes_s))
        now, _, ticket, takes_s = heappop(running)
        free += ticket.slots
        queue.settle(ticket, ticket.slots * takes_s)
        good_s += takes_s if ticket.key == "good" else 0.0
    assert good_s / (4 * now) == pytest.approx(weight / (weight + 1.0), rel=0.02)


# -- the bound, in a simulator


@dataclass
class Job:
    key: str
    arrives_s: float
    takes_s: float
    estimate_s: float
    priority: str = "normal"


@dataclass
class Wait:
    """What the bound is made of, noted when a job arrives."""

    job: Job
    rest_s: float  # what is left of those that run
    own_s: float  # of the key: waiting ahead, and charged beyond virtual time
    fresh: bool  # the key has neither waited nor run since the queue was last empty
    served: set[str] = field(default_factory=set)  # keys served meanwhile
    waited_s: float = -1.0


class Tags:
    """The tags of start-time fair queueing for exact estimates, kept as simply as can be."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.virtual_s = 0.0
        self.finish: dict[str, float] = {}
        self.floor: dict[str, float] = {}

    def start(self, key: str) -> float:
        return max(self.floor[key], self.finish.get(key, 0.0))

    def debt_s(self, key: str) -> float:
        return max(self.finish.get(key, 0.0) - self.virtual_s, 0.0) * self.weights[key]

    def granted(self, job: Job, waiting: set[str]) -> None:
        start = self.start(job.key)
        self.virtual_s = max(self.virtual_s, start)
        self.finish[job.key] = start + job.estimate_s / self.weights[job.key]
        if not waiting:
            self.__init__(self.weights)  # type: ignore[misc]


class Simulator:
    """Runs jobs through the queue on so many slots."""

    def __init__(self, slots: int, weights: dict[str, float], ageing_s: float = 1.0) -> None:
        self.slots = slots
        self.weights = weights
        self.queue = make_queue(ageing_s=ageing_s)
        self.tags = Tags(weights)
        self.waiting: dict[Ticket, Wait] = {}
        self.running: list[tuple[float, int, Ticket]] = []
        self.seen: set[str] = set()
        self.waits: list[Wait] = []
        self.jobs_of: dict[Ticket, Job] = {}

    def run(self, jobs: list[Job]) -> list[Wait]:
        arrivals = sorted(jobs, key=lambda job: -job.arrives_s)
        while arrivals or self.running:
            if self.running and not (arrivals and arrivals[-1].arrives_s < self.running[0][0]):
                now, _, ticket = heappop(self.running)
                self.queue.settle(ticket, self.jobs_of[ticket].takes_s)
            else:
                job = arrivals.pop()
                now = job.arrives_s
                self.arrive(job)
            self.let_in(now)
        assert not self.waiting
        assert (len(self.queue), self.queue.accounts) == (0, 0)
        return self.waits

    def arrive(self, job: Job) -> None:
        ahead = [wait.job for wait in self.waiting.values() if wait.job.key == job.key]
        if not ahead:
            self.tags.floor[job.key] = self.tags.virtual_s
        wait = Wait(
            job,
            rest_s=sum(end - job.arrives_s for end, _, _ in self.running),
            own_s=sum(other.takes_s for other in ahead) + self.tags.debt_s(job.key),
            fresh=job.key not in self.seen,
        )
        ticket = Ticket(
            job.key,
            weight=self.weights[job.key],
            cost_s=job.estimate_s,
            priority=job.priority,
        )
        self.waits.append(wait)
        self.waiting[ticket] = wait
        self.jobs_of[ticket] = job
        self.seen.add(job.key)
        assert self.queue.offer(ticket, job.arrives_s) is None

    def let_in(self, now: float) -> None:
        for ticket in self.queue.grant(self.slots - len(self.running), self.slots, now):
            wait = self.waiting.pop(ticket)
            wait.waited_s = now - wait.job.arrives_s
            for other in self.waiting.values():
                other.served.add(ticket.key)
            self.tags.granted(wait.job, {other.job.key for other in self.waiting.values()})
            heappush(self.running, (now + wait.job.takes_s, id(ticket), ticket))
        assert not self.waiting or len(self.running) == self.slots, "a slot is idle"
        if not self.waiting:
            self.seen.clear()


KEYS = ("a", "b", "c", "d")
eighths = st.integers(min_value=1, max_value=80).map(lambda n: n / 8)
weights_of_keys = st.fixed_dictionaries({key: st.sampled_from([1.0, 2.0, 4.0]) for key in KEYS})


@st.composite
def job_lists(draw: st.DrawFn, estimates: st.SearchStrategy[float] | None) -> list[Job]:
    """Jobs that come faster than they can be done; *estimates* times too long, None: exact."""
    now = 0.0
    jobs = []
    for _ in range(draw(st.integers(min_value=1, max_value=60))):
        now += draw(st.integers(min_value=0, max_value=8)) / 8
        takes_s = draw(eighths)
        factor = 1.0 if estimates is None else draw(estimates)
        jobs.append(Job(draw(st.sampled_from(KEYS)), now, takes_s, takes_s * factor))
    return jobs


def longest_of_others(jobs: list[Job], wait: Wait) -> dict[str, float]:
    others = wait.served - {wait.job.key}
    return {key: max(job.takes_s for job in jobs if job.key == key) for key in others}


@settings(deadline=None, max_examples=300)
@given(job_lists(None), st.integers(1, 4), weights_of_keys)
def test_no_key_waits_longer_than_its_fair_share_plus_one_request(
    jobs: list[Job], slots: int, weights: dict[str, float]
) -> None:
    for wait in Simulator(slots, weights).run(jobs):
        longest_s = longest_of_others(jobs, wait)
        own_weight = weights[wait.job.key]
        total_weight = own_weight + sum(weights[key] for key in longest_s)
        share_s = wait.own_s * total_weight / own_weight
        bound_s = (wait.rest_s + share_s + sum(longest_s.values())) / slots
        assert wait.waited_s <= bound_s + 1e-6


@settings(deadline=None, max_examples=200)
@given(job_lists(st.sampled_from([1.0, 2.0, 8.0])), st.integers(1, 4), weights_of_keys)
def test_overestimates_delay_a_fresh_key_by_at_most_the_longest_of_them(
    jobs: list[Job], slots: int, weights: dict[str, float]
) -> None:
    most_s = max(job.estimate_s for job in jobs)
    for wait in Simulator(slots, weights).run(jobs):
        if wait.fresh:
            others_s = sum(longest_of_others(jobs, wait).values())
            assert wait.waited_s <= (wait.rest_s + others_s) / slots + most_s + 1e-6


@settings(deadline=None, max_examples=200)
@given(job_lists(st.sampled_from([0.0, 0.1, 1.0, 5.0])), st.integers(1, 4), weights_of_keys)
def test_any_estimates_delay_a_fresh_key_by_at_most_a_few_requests(
    jobs: list[Job], slots: int, weights: dict[str, float]
) -> None:
    most_s = max(job.estimate_s for job in jobs)
    for wait in Simulator(slots, weights).run(jobs):
        if wait.fresh:
            others_s = sum(longest_of_others(jobs, wait).values())
            assert wait.waited_s <= wait.rest_s / slots + others_s + most_s + 1e-6


@settings(deadline=None, max_examples=200)
@given(job_lists(None), st.integers(1, 4), weights_of_keys, st.sampled_from([0.5, 5.0, 60.0]))
def test_fresh_key_waits_for_one_request_of_each_other_also_when_batch_moves_up(
    jobs: list[Job], slots: int, weights: dict[str, float], ageing_s: float
) -> None:
    for job in jobs:
        job.priority = "batch" if job.key in "cd" else "normal"
    for wait in Simulator(slots, weights, ageing_s).run(jobs):
        if wait.fresh and wait.job.priority == "normal":
            others_s = sum(longest_of_others(jobs, wait).values())
            assert wait.waited_s <= (wait.rest_s + others_s) / slots + 1e-6


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 64), eighths, eighths)
def test_backlog_of_many_times_the_ageing_does_not_delay_a_fresh_key(
    slots: int, backlog: int, takes_s: float, ageing_s: float
) -> None:
    """A flood keeps so many waiting all the time; every now and then another key comes."""
    jobs = [Job("a", step * takes_s / slots, takes_s, takes_s) for step in range(200)]
    jobs += [Job("a", 0.0, takes_s, takes_s) for _ in range(backlog)]
    jobs += [Job(key, at * takes_s / slots + 0.01, takes_s, takes_s) for at, key in NEWCOMERS]
    weights = dict.fromkeys(KEYS, 1.0)
    waits = Simulator(slots, weights, ageing_s).run(jobs)
    fresh = [wait.waited_s for wait in waits if wait.job.key != "a"]
    assert len(fresh) == len(NEWCOMERS)
    assert max(fresh) <= takes_s + takes_s / slots + 1e-6


NEWCOMERS = ((50.0, "b"), (120.0, "c"), (180.0, "d"))


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 4),
    st.sampled_from([("normal",), ("normal", "high"), ("high", "high"), ("normal",) * 3]),
    st.integers(1, 80),
    st.integers(0, 1000),
)
def test_batch_moves_up_one_by_one_while_floods_never_rest(
    slots: int, floods: tuple[str, ...], ageing_s: int, seed: int
) -> None:
    """The stated bound for each of five batch requests, with a gap of at most a request."""
    chance = random.Random(seed)
    longest_s = 8.0
    queue = make_queue(ageing_s=float(ageing_s))
    batch = [Ticket("batch", priority="batch", cost_s=longest_s) for _ in range(5)]
    offer_all(queue, batch)
    running: list[tuple[float, int, Ticket, float]] = []
    waits_s: dict[Ticket, float] = {}
    now, began = 0.0, 0
    while len(waits_s) < len(batch):
        for number, priority in enumerate(floods):
            while queue.waiting_of(str(number)) < 3:
                queue.offer(Ticket(str(number), priority=priority, cost_s=longest_s), now)
        for ticket in queue.grant(slots - len(running), slots, now):
            began += 1
            takes_s = chance.uniform(0.1, longest_s)
            heappush(running, (now + takes_s, began, ticket, takes_s))
            if ticket.key == "batch":
                waits_s[ticket] = now
        now, _, ticket, takes_s = heappop(running)
        queue.settle(ticket, takes_s)
    steps = 2 if "high" in floods else 1
    others = len(floods)
    for place, ticket in enumerate(batch):
        aged_s = (steps + place) * (ageing_s + longest_s)
        own_s = place * longest_s * (others + 1) / slots
        overestimated_s = longest_s
        bound_s = aged_s + longest_s + own_s + others * longest_s / slots + overestimated_s
        assert waits_s[ticket] <= bound_s


@pytest.mark.parametrize(("backlog", "ageing_s"), [(3, inf), (64, 60.0)])
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("factor", [(1.0, 1.0), (0.1, 10.0)])
def test_shares_follow_the_weights(
    slots: int, factor: tuple[float, float], backlog: int, ageing_s: float
) -> None:
    """Two keys always wait, one with long and one with short requests; estimates right or not.

    Where keys may age there is always somebody above now and then, too.
    """
    chance = random.Random(7)
    queue = make_queue(ageing_s=ageing_s)
    weights = {"a": 1.0, "b": 3.0}
    lengths = {"a": (0.5, 6.0), "b": (0.1, 1.0)}
    running: list[tuple[float, int, Ticket, float]] = []
    used_s = Counter[str]()
    takes: dict[Ticket, float] = {}
    now = 0.0
    for step in range(20_000):
        for key, weight in weights.items():
            while queue.waiting_of(key) < backlog:
                takes_s = chance.uniform(*lengths[key])
                cost_s = takes_s * chance.uniform(*factor)
                ticket = Ticket(key, weight=weight, cost_s=cost_s)
                takes[ticket] = takes_s
                queue.offer(ticket, now)
        if ageing_s < inf and step % 20 == 0:
            above = Ticket("above", priority="high", cost_s=1.0)
            takes[above] = 1.0
            queue.offer(above, now)
        for ticket in queue.grant(slots - len(running), slots, now):
            heappush(running, (now + takes[ticket], step, ticket, takes[ticket]))
        now, _, ticket, takes_s = heappop(running)
        used_s[ticket.key] += takes.pop(ticket)
        queue.settle(ticket, takes_s)
    assert used_s["b"] / used_s["a"] == pytest.approx(3.0, rel=0.02)


# -- whatever happens


class Chaos:
    """Random arrivals, leavings, ends and crashes, with a plain account of who is where."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.queue = make_queue(total=120, each=40, ageing_s=20.0)
        self.capacity = 4
        self.now = 0.0
        self.waiting: set[Ticket] = set()
        self.inside: dict[Ticket, int] = {}
        self.over: list[Ticket] = []
        self.granted: Counter[Ticket] = Counter()

    def step(self) -> None:
        self.now += self.chance.random()
        what = self.chance.choices(
            (self.arrive, self.leave, self.end, self.crash, self.recover, self.close),
            (60, 15, 30, 1, 6, 0.1),
        )
        what[0]()
        self.let_in()
        self.check()

    def arrive(self) -> None:
        chance = self.chance
        ticket = Ticket(
            chance.choice("abcdefgh"),
            priority=chance.choice(PRIORITIES),
            weight=chance.choice((0.5, 1.0, 3.0)),
            slots=chance.choice((0, 1, 1, 1, 1, 2, 6)),
            cost_s=chance.choice((0.0, 0.1, 1.0, 30.0)),
            exempt=chance.random() < 0.02,
        )
        refused = self.queue.would_refuse(ticket.key)
        full = self.queue.offer(ticket, self.now)
        assert full == (None if ticket.exempt else refused)
        if full is None:
            self.waiting.add(ticket)
        else:
            self.over.append(ticket)

    def leave(self) -> None:
        """Anybody may try to, also who never waited or is inside."""
        pools = (self.waiting, self.inside, self.over[-50:])
        pool = self.chance.choice([sorted(p, key=id) for p in pools if p] or [[Ticket("x")]])
        ticket = self.chance.choice(pool)
        assert self.queue.withdraw(ticket) == (ticket in self.waiting)
        self.waiting.discard(ticket)

    def end(self) -> None:
        if self.inside:
            ticket = self.chance.choice(sorted(self.inside, key=id))
            self.queue.settle(ticket, self.chance.choice((0.0, 0.2, 2.0, 50.0)))
            del self.inside[ticket]
            self.over.append(ticket)

    def crash(self) -> None:
        """The engine is gone; some of those inside try again, with a new ticket or the old one."""
        self.capacity = 0
        for ticket, slots in self.inside.items():
            self.queue.settle(ticket, slots * 1.0)
            if self.chance.random() < 0.5:
                back = Ticket(ticket.key, priority=ticket.priority, slots=slots, again=True)
                assert self.queue.offer(back, self.now) is None
                self.waiting.add(back)
            elif self.queue.offer(ticket, self.now) is None:
                self.granted[ticket] -= 1
                self.waiting.add(ticket)
        self.inside.clear()

    def recover(self) -> None:
        self.capacity = self.chance.choice((1, 2, 4, 8))

    def close(self) -> None:
        gone = self.queue.clear()
        assert len(gone) == len(set(gone))
        assert set(gone) == self.waiting
        self.waiting.clear()

    def let_in(self) -> None:
        free = self.capacity - sum(self.inside.values())
        places = self.queue.forecast(self.now)
        assert set(places) == self.waiting
        expected = sorted(places, key=lambda ticket: places[ticket].position)
        granted = self.queue.grant(free, self.capacity, self.now)
        assert granted == expected[: len(granted)]
        for ticket in granted:
            self.waiting.remove(ticket)
            self.granted[ticket] += 1
            self.inside[ticket] = min(ticket.slots, self.capacity)
        used = sum(self.inside[ticket] for ticket in granted)
        assert used <= max(free, 0)
        rest = expected[len(granted) :]
        if rest and self.capacity:
            assert min(rest[0].slots, self.capacity) > free - used, "the next one would fit"

    def check(self) -> None:
        assert len(self.queue) == len(self.waiting)
        by_key = Counter(ticket.key for ticket in self.waiting)
        by_class = Counter(ticket.priority for ticket in self.waiting)
        assert all(self.queue.waiting_of(key) == by_key[key] for key in "abcdefgh")
        assert all(self.queue.waiting_in(name) == by_class[name] for name in PRIORITIES)
        cost_s = sum(ticket.cost_s for ticket in self.waiting)
        assert self.queue.waiting_cost_s == pytest.approx(cost_s, abs=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nobody_is_lost_or_let_in_twice_whatever_happens(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(10_000):
        chaos.step()
    chaos.capacity = chaos.capacity or 4
    while chaos.waiting or chaos.inside:
        chaos.end()
        chaos.let_in()
    chaos.check()
    assert max(chaos.granted.values()) == 1
    assert not chaos.queue._vacancy._kept_s
    assert (len(chaos.queue), chaos.queue.accounts, chaos.queue.waiting_cost_s) == (0, 0, 0.0)


# -- forecasts


def test_forecast_tells_position_and_work_ahead() -> None:
    queue = make_queue()
    a, b, c = Ticket("a", cost_s=2.0), Ticket("a", cost_s=3.0), Ticket("b", cost_s=4.0)
    offer_all(queue, [a, b, c])
    assert queue.forecast(0.0) == {a: Place(1, 0.0), c: Place(2, 2.0), b: Place(3, 6.0)}


@settings(deadline=None, max_examples=200)
@given(job_lists(st.sampled_from([0.0, 0.5, 1.0, 3.0])), weights_of_keys, st.integers(0, 20))
def test_forecast_is_what_then_happens(
    jobs: list[Job], weights: dict[str, float], before: int
) -> None:
    queue = make_queue()
    offer_all(queue, [Ticket(j.key, weight=weights[j.key], cost_s=j.estimate_s) for j in jobs])
    offer_all(queue, [Ticket("c", again=True, cost_s=3.0), Ticket("a", again=True)])
    running = queue.grant(before, 100, 0.0)
    for ticket in running[::2]:
        queue.settle(ticket, 2.5)
    now = 4.0  # the others have run longer than some were estimated
    places = queue.forecast(now)
    happened = []
    while one := queue.grant(1, 100, now):
        happened += one
    assert [places[ticket].position for ticket in happened] == list(range(1, len(happened) + 1))


# -- cost


class CountedTag(float):
    """A cost whose comparisons are counted, also in what is computed from it."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        CountedTag.compared += 1
        return float(self) < float(other)

    def __gt__(self, other: float) -> bool:
        CountedTag.compared += 1
        return float(self) > float(other)

    def __eq__(self, other: object) -> bool:
        CountedTag.compared += 1
        return isinstance(other, float) and float(self) == float(other)

    __hash__ = float.__hash__

    def __radd__(self, other: float) -> CountedTag:
        return CountedTag(float(self) + float(other))

    __add__ = __radd__

    def __truediv__(self, other: float) -> CountedTag:
        return CountedTag(float(self) / float(other))


def bytecodes(work: Callable[[], None]) -> int:
    """Bytecode instructions that *work* runs: loops in Python cannot hide from it."""
    count = 0

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def work_per_step(waiting: int) -> tuple[float, float]:
    """Comparisons and bytecodes of a round of all steps while so many keys wait."""
    queue = make_queue(ageing_s=1000.0)
    chance = random.Random(3)

    def ticket(key: int) -> Ticket:
        return Ticket(str(key), cost_s=CountedTag(chance.uniform(0.5, 2.0)))

    offer_all(queue, [ticket(key) for key in range(waiting) for _ in range(2)])
    rounds = 400

    def work() -> None:
        for step in range(rounds):
            (granted,) = queue.grant(1, 4, float(step))
            queue.settle(granted, CountedTag(1.0))
            queue.offer(ticket(int(granted.key)), float(step))
            leaver = ticket(step % waiting)
            queue.offer(leaver, float(step))
            queue.withdraw(leaver)

    CountedTag.compared = 0
    run = bytecodes(work)
    return CountedTag.compared / rounds, run / rounds


def test_steps_cost_the_logarithm_of_how_many_wait() -> None:
    few, few_codes = work_per_step(16)
    many, many_codes = work_per_step(16 * 256)
    assert many <= 16 * log2(16 * 256)
    assert many <= few * log2(16 * 256) / log2(16) * 1.5
    assert many_codes <= few_codes * 1.5


def test_accounts_are_bounded_although_somebody_always_waits() -> None:
    queue = make_queue()
    offer_all(queue, [Ticket("always") for _ in range(5)])
    most = 0
    for number in range(5_000):
        queue.offer(Ticket("always"), 0.0)
        queue.offer(Ticket(f"once {number}"), 0.0)
        for ticket in queue.grant(2, 2, 0.0):
            queue.settle(ticket, 1.0)
        most = max(most, queue.accounts)
    assert most <= 64 + 5


def test_leaving_crowds_leave_no_memory_behind() -> None:
    """The one at the head stays; thousands behind it come and leave."""
    queue = make_queue()
    offer_all(queue, [Ticket("a", slots=9)])
    for _ in range(3_000):
        ticket = Ticket("a")
        queue.offer(ticket, 0.0)
        queue.withdraw(ticket)
    assert len(queue) == 1
    assert max(len(shares._heap) for shares in queue._classes) <= 70


# -- how long slots stand empty for one who needs more of them


def play(seconds: float, *, patience_s: float) -> tuple[list[float], int]:
    """
    Four slots. Key A keeps one for 5 s at a time, and asks for all four behind it; B asks for one
    for 0.12 s, again and again.

    Args:
        seconds: How long it goes on.
        patience_s: After this long A gives up its large request, and asks again.

    Returns:
        What B waited each time, and how many large requests went.
    """
    queue = make_queue()
    queue.hold_s = 0.02  # an eighth of what requests take
    ends: list[tuple[float, int, Ticket]] = []
    now, number, free = 0.0, 0, 4
    waits: list[float] = []
    larges = 0
    long, small, large = Ticket("a", cost_s=5.0), Ticket("b", cost_s=0.12), Ticket("a", slots=4)
    asked_s = 0.0
    offer_all(queue, [long, large, small])
    while now < seconds:
        while granted := queue.grant(free, 4, now):
            for ticket in granted:
                number += 1
                free -= ticket.slots
                took_s = 5.0 if ticket is long else 0.12
                heappush(ends, (now + took_s, number, ticket))
                if ticket is small:
                    waits.append(now - ticket.arrived_s)
                larges += ticket is large
        look_s = queue.look_again_s(now)
        nexts = [ends[0][0] if ends else inf, asked_s + patience_s]
        nexts += [] if look_s is None else [now + max(look_s, 0.01)]
        now = max(now, min(nexts))
        while ends and ends[0][0] <= now:
            _, _, ticket = heappop(ends)
            free += ticket.slots
            queue.settle(ticket, ticket.slots * (5.0 if ticket is long else 0.12))
            if ticket is small:
                small = Ticket("b", cost_s=0.12)
                queue.offer(small, now)
            elif ticket is long:
                long = Ticket("a", cost_s=5.0)
                queue.offer(long, now)
            else:
                large, asked_s = Ticket("a", slots=4), now
                queue.offer(large, now)
        if now >= asked_s + patience_s:
            queue.withdraw(large)
            large, asked_s = Ticket("a", slots=4), now
            queue.offer(large, now)
    return waits, larges


def test_request_for_all_slots_behind_its_own_keys_long_one_starves_nobody() -> None:
    for patience_s in (0.3, 1.0, 4.9, inf):
        waits, _ = play(60.0, patience_s=patience_s)
        assert len(waits) > 100, patience_s
        assert sum(waits) / len(waits) < 0.5, patience_s
        assert max(waits) < 5.5, patience_s


def test_request_for_all_slots_gets_in_while_others_ask_all_the_time() -> None:
    queue = make_queue()
    queue.hold_s = 0.1
    ends: list[tuple[float, int, Ticket]] = []
    now, number, free = 0.0, 0, 4
    large = Ticket("a", slots=4)
    offer_all(queue, [Ticket("b", cost_s=1.0) for _ in range(8)])
    entered_s = None
    while entered_s is None and now < 200.0:
        while granted := queue.grant(free, 4, now):
            for ticket in granted:
                number += 1
                free -= ticket.slots
                heappush(ends, (now + 0.7 + 0.1 * (number % 7), number, ticket))
                if ticket is large:
                    entered_s = now
        if number == 4 and not queue.waiting_of("a"):
            queue.offer(large, now)
        look_s = queue.look_again_s(now)
        now = min(ends[0][0], inf if look_s is None else now + max(look_s, 0.01))
        while ends and ends[0][0] <= now:
            _, _, ticket = heappop(ends)
            free += ticket.slots
            queue.settle(ticket, 1.0)
            if ticket is not large:
                queue.offer(Ticket("b", cost_s=1.0), now)
    assert entered_s is not None
    assert entered_s < 30.0
