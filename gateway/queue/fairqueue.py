"""PURE. Who waits for the engine's slots, who goes next, who is refused.

The order, the most urgent first:
1. tickets that want no slot: they hold nobody up, and go as soon as there is an engine;
2. tickets that were let in before and did not get what for (`again`), first come, first served;
3. the classes high, normal, batch. A higher one always goes first; see "Ageing";
4. within a class weighted fair between keys (`shares.py`), within a key first come, first served.

The next one in this order may want more slots than are free. Nobody passes it then for a while (see
`_hold`), else requests for many slots would wait for ever. Its key is charged for the slots that it
keeps empty.

Ageing. What ages is a key in a class, by how long it was passed over: since its last grant there,
or since it began to wait there. After `ageing_s`, if anybody waits in a higher class, its head
alone moves up one class, where the key starts anew, and in the class it left the key counts as
served. A key that gets its turns does not age, however long its requests wait behind each other;
and while nobody waits above, nobody moves: it could only be at the cost of keys of its own class.

The bound. Let all tickets want one slot of k, and let l_g be the longest time a request of key g
holds its slot, L the longest of all. While nobody waits in a higher class, a ticket of key f with
weight w_f waits at most

    L  +  A * W / (w_f * k)  +  (sum of l_g over the other keys served meanwhile) / k

where W is the sum of the weights of f and these keys, and A the slot-seconds of f's own requests
that wait ahead of it, plus those it is charged beyond the virtual time (0 for a key that comes
fresh). So: one request, the fair share of the time that its own earlier requests take, and one
request of each other key, k at a time; how long the others' backlogs are does not matter. Why:
while the ticket waits all slots are busy, so k times the wait is the work done meanwhile. That is
what was left of the running requests (at most k * L), f's own requests (A), and of each other key
what was started with a tag not above the ticket's: A * w_g / w_f, and one request more, because a
request's length is charged after its start. Who has moved up from below is one more ticket of a key
of this class, and changes nothing in this.

Under higher classes that never rest, the head of a key waits at most `ageing_s` in each class below
the first, one gap between two looks at the queue more (they come when a request does, or ends), and
then the bound above in the class it has reached, with A = 0 if its key has nothing there. The
ones behind it follow one each `ageing_s`. This needs no assumption on the classes above.

A request for many slots that is next keeps up to k - 1 of them empty, for at most L. These
slot-seconds are charged like those it holds, when it goes or gives up. So the bound on shares holds
with the time kept empty counted as taken by the key it was kept for: the other keys keep their
shares of all slot-seconds, and the sum of the bound grows by (k - 1) * L for each key that sends
such requests.

Wrong estimates add to it:
- too long, by at most M: at most M. A start can lie behind virtual time only by what was given
  back for requests that ran when virtual time last moved, and these are at most k;
- too short: the last term is not divided by k. Another key may start up to k requests before the
  first one turns out long. From then on it is charged for them as they run.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Literal

from gateway.queue.shares import Shares
from gateway.queue.ticket import PRIORITIES, Ticket
from gateway.queue.vacancy import Vacancy

__all__ = ["PRIORITIES", "FairQueue", "Full", "Place", "Ticket"]

_NO_SLOT = -2
_AGAIN = -1
_MOST_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class Full:
    """No place left: in the whole queue, or for this key."""

    scope: Literal["total", "key"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ticket stands.

    Attributes:
        position: From 1.
        ahead_s: Estimated slot-seconds of those that wait ahead of it.
    """

    position: int
    ahead_s: float


@dataclass(slots=True)
class _Waiting:
    number: int
    line: int  # _NO_SLOT, _AGAIN or the index of the class it waits in now


class FairQueue:
    """The tickets that wait.

    Time (`now`) is in seconds on a monotonic clock, never less than in the last call.

    Args:
        max_waiting: Tickets that may wait in total; 0 refuses all that are not exempt.
        max_waiting_per_key: Tickets that may wait for one key.
        ageing_s: Seconds after which a key that is passed over moves up one class; above 0.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(self, *, max_waiting: int, max_waiting_per_key: int, ageing_s: float) -> None:
        if max_waiting < 0 or max_waiting_per_key < 0 or not ageing_s > 0:
            raise ValueError("the bounds are not negative, and ageing takes time")
        self._max_waiting = max_waiting
        self._max_waiting_per_key = max_waiting_per_key
        self._ageing_s = ageing_s
        self._waiting: dict[Ticket, _Waiting] = {}
        self._by_key: Counter[str] = Counter()
        self._by_priority: Counter[str] = Counter()
        self._no_slot: OrderedDict[Ticket, None] = OrderedDict()
        self._again: OrderedDict[Ticket, None] = OrderedDict()
        self._classes = tuple(Shares() for _ in PRIORITIES)
        self._vacancy = Vacancy()
        self._leavers: list[tuple[int, Ticket]] = []  # with their class; not charged yet
        self._held: tuple[Ticket, float] | None = None  # until when slots stand empty for whom
        self._holds: dict[Ticket, int] = {}  # how often they have for those that wait
        self.hold_s = 0.1
        """Seconds for which slots stand empty for one who needs more of them, the first time."""
        self._arrivals = 0
        self._cost_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def accounts(self) -> int:
        """Keys that are remembered, once for each class; bounded by those that wait or run."""
        return sum(shares.accounts for shares in self._classes)

    @property
    def waiting_cost_s(self) -> float:
        """Estimated slot-seconds of all that wait."""
        return self._cost_s

    def __repr__(self) -> str:
        classes = ", ".join(f"{self._by_priority[name]} {name}" for name in PRIORITIES)
        return f"<FairQueue {len(self)} waiting: {classes}>"

    def waiting_of(self, key: str) -> int:
        """Tickets of *key* that wait."""
        return self._by_key[key]

    def waiting_in(self, priority: str) -> int:
        """Tickets that wait and were offered in the class *priority*."""
        return self._by_priority[priority]

    def would_refuse(self, key: str) -> Full | None:
        """What a ticket of *key* would be refused for now."""
        if self._by_key[key] >= self._max_waiting_per_key:
            return Full("key")
        if len(self._waiting) >= self._max_waiting:
            return Full("total")
        return None

    def offer(self, ticket: Ticket, now: float) -> Full | None:
        """Let *ticket* wait.

        A ticket that was granted may be offered once more; it is charged nothing for the first
        time, unless it was settled before.

        Returns:
            None, or why it may not wait.

        Raises:
            ValueError: It waits already.
        """
        if ticket in self._waiting:
            raise ValueError(f"{ticket!r} waits already")
        if not (ticket.again or ticket.exempt) and (full := self.would_refuse(ticket.key)):
            return full
        self.settle(ticket, 0.0)
        ticket.arrived_s = now
        self._arrivals += 1
        self._enter(ticket, self._arrivals, _line_of(ticket), now)
        self._count(ticket, 1)
        return None

    def withdraw(self, ticket: Ticket) -> bool:
        """Give up the place of *ticket*; safe at any time and twice.

        Returns:
            Whether it was waiting.
        """
        if ticket not in self._waiting:
            return False
        if self._vacancy.concerns(ticket):
            self._leavers.append((self._class_of(ticket), ticket))
        self._leave(ticket)
        self._forget_idle()
        return True

    def grant(self, free: int, capacity: int, now: float) -> list[Ticket]:
        """Let in as many as there is room for.

        Args:
            free: Slots that are free.
            capacity: Slots there are; 0 lets nobody in.
            now: Seconds on the monotonic clock.

        Returns:
            Those let in, in order. Each holds `min(ticket.slots, capacity)` slots and is to be
            settled when it ends.
        """
        self._charge_leavers(now)
        self._end_hold(now)
        self._vacancy.stop()
        if capacity <= 0:
            return []
        granted = list(self._no_slot)
        for unhindered in granted:
            self._leave(unhindered)
        self._age(now)
        while ticket := self._next(now):
            slots = min(ticket.slots, capacity)
            if slots > free:
                if len(self._by_key) > 1 and free > 0:
                    self._hold(ticket, now)
                    self._vacancy.begin(ticket, free, now)
                break
            free -= slots
            self._take(ticket, slots, now)
            granted.append(ticket)
        self._forget_idle()
        return granted

    def look_again_s(self, now: float) -> float | None:
        """Seconds until `grant` may let others pass the one that slots stand empty for."""
        if self._held is None or self._held[0] not in self._waiting:
            return None
        return max(self._held[1] - now, 0.0)

    def _hold(self, ticket: Ticket, now: float) -> None:
        """Let slots stand empty for *ticket* a while.

        When its time is over its key pays at once, so that others pass until they have had as much.
        Each further time is twice as long: somebody who holds out gets in, and somebody who asks
        and gives up again takes little from others.
        """
        if self._held is not None and self._held[0] is ticket:
            return
        times = self._holds.get(ticket, 0)
        self._holds[ticket] = times + 1
        self._held = (ticket, now + self.hold_s * 2 ** min(times, _MOST_DOUBLINGS))

    def _end_hold(self, now: float) -> None:
        """Charge whom slots stood empty for, if the time for it is over."""
        if self._held is None or (self._held[0] in self._waiting and now < self._held[1]):
            return
        ticket, self._held = self._held[0], None
        if ticket in self._waiting and (kept_s := self._vacancy.take(ticket)) > 0:
            self._classes[self._class_of(ticket)].fine(ticket, kept_s)

    def settle(self, ticket: Ticket, actual_s: float) -> None:
        """Charge the slot-seconds that a granted ticket really took.

        Counts once. Ignored for a ticket that was not granted here, or whose class has had nobody
        waiting since.
        """
        for shares in self._classes:
            if shares.settle(ticket, actual_s):
                return

    def clear(self) -> list[Ticket]:
        """Send all away.

        Returns:
            Those that waited, in order.
        """
        waited = self._order(None)
        for ticket in waited:
            self._leave(ticket)
        self._leavers.clear()
        self._vacancy = Vacancy()
        self._forget_idle()
        return waited

    def forecast(self, now: float) -> dict[Ticket, Place]:
        """Where everybody stands, in O(n log n).

        This is the order in which `grant` would let them in at this moment. Who comes, leaves,
        ages or ends later changes it.
        """
        self._charge_leavers(now)
        self._end_hold(now)
        self._age(now)
        places: dict[Ticket, Place] = {}
        ahead_s = 0.0
        for position, ticket in enumerate(self._order(now), 1):
            places[ticket] = Place(position, ahead_s)
            ahead_s += ticket.cost_s
        return places

    def _order(self, now: float | None) -> list[Ticket]:
        order = [*self._no_slot, *self._again]
        for priority, shares in zip(PRIORITIES, self._classes, strict=True):
            ahead = [ticket for ticket in self._again if ticket.priority == priority]
            order += shares.order(ahead, self._charge_s, now)
        return order

    def _next(self, now: float) -> Ticket | None:
        if self._again:
            return next(iter(self._again))
        for shares in self._classes:
            if shares:
                return shares.peek(now)
        return None

    def _take(self, ticket: Ticket, slots: int, now: float) -> None:
        in_turn = self._waiting[ticket].line != _AGAIN
        kept_s = self._vacancy.take(ticket)
        shares = self._classes[self._class_of(ticket)]
        shares.charge(ticket, slots, now, kept_empty_s=kept_s, in_turn=in_turn)
        self._leave(ticket)

    def _age(self, now: float) -> None:
        """Move up the heads of keys that were passed over for others of a higher class."""
        for line in range(1, len(self._classes)):
            shares = self._classes[line]
            while shares and any(self._classes[:line]):
                ticket = shares.overdue(now, self._ageing_s)
                if ticket is None:
                    break
                number = self._waiting[ticket].number
                shares.served(ticket.key, now)
                self._exit(ticket)
                self._enter(ticket, number, line - 1, now)

    def _charge_leavers(self, now: float) -> None:
        self._vacancy.note(now)
        for line, ticket in self._leavers:
            self._classes[line].fine(ticket, self._vacancy.take(ticket))
        self._leavers.clear()

    def _charge_s(self, ticket: Ticket) -> float:
        return ticket.cost_s + self._vacancy.kept_s(ticket)

    def _class_of(self, ticket: Ticket) -> int:
        line = self._waiting[ticket].line
        return line if line >= 0 else PRIORITIES.index(ticket.priority)

    def _leave(self, ticket: Ticket) -> None:
        self._holds.pop(ticket, None)
        self._exit(ticket)
        self._count(ticket, -1)

    def _enter(self, ticket: Ticket, number: int, line: int, now: float) -> None:
        self._waiting[ticket] = _Waiting(number, line)
        if line == _NO_SLOT:
            self._no_slot[ticket] = None
        elif line == _AGAIN:
            self._again[ticket] = None
        else:
            self._classes[line].add(ticket, number, now)

    def _exit(self, ticket: Ticket) -> None:
        line = self._waiting.pop(ticket).line
        if line == _NO_SLOT:
            del self._no_slot[ticket]
        elif line == _AGAIN:
            del self._again[ticket]
        else:
            self._classes[line].remove(ticket)

    def _count(self, ticket: Ticket, by: int) -> None:
        # Nobody waiting is exactly 0, so that rounding errors do not add up for ever.
        self._cost_s = max(self._cost_s + by * ticket.cost_s, 0.0) if self._waiting else 0.0
        for counter, name in ((self._by_key, ticket.key), (self._by_priority, ticket.priority)):
            counter[name] += by
            if not counter[name]:
                del counter[name]

    def _forget_idle(self) -> None:
        for shares in self._classes:
            if not shares:
                shares.forget()


def _line_of(ticket: Ticket) -> int:
    if ticket.slots == 0:
        return _NO_SLOT
    return _AGAIN if ticket.again else PRIORITIES.index(ticket.priority)
