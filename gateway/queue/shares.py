"""PURE. Which key of one priority class goes next: start-time fair queueing between keys.

After Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996), with slot-seconds in the
place of bits. Rules:
- a key's flow is first come, first served; only its head competes with the heads of other keys;
- a flow carries a `finish` tag, the virtual time up to which it is charged. Its head starts at
  `max(floor, finish)`; `floor` is the virtual time at which the flow began to wait, so that nobody
  saves up turns by staying away. The smallest start goes next, the earliest arrival among equals;
- a grant sets the virtual time to its start and charges the flow `cost / weight`;
- the charge is an estimate. A request that runs longer is charged as it runs (looked at whenever
  its flow would be next); when the truth is known the difference is charged or given back. What
  was kept empty for it (`vacancy.py`) is charged as well;
- a flow is *passed over* since its last grant or since it began to wait, whichever is later;
- when nobody of the class waits any more, all accounts are closed: what is taken while nobody else
  wants it is free.

Every step takes O(log n) comparisons for n waiting keys, amortised, plus one look at each running
request of a flow that would be next. Outdated heap entries are skipped, and swept when they are
the majority.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.queue.ticket import Ticket

__all__ = ["Shares"]

_SPARE = 64  # below this many, sweeping is not worth its while


@dataclass(slots=True)
class _Charge:
    slots: int
    granted_s: float
    charged_s: float


class _Flow:
    """What one key waits for, runs and owes in this class.

    There is a lane for each class that tickets come from: those that aged into this class and
    those that began in it. Each lane is in order of arrival.
    """

    __slots__ = ("finish", "floor", "lanes", "running", "version")

    def __init__(self) -> None:
        self.finish = 0.0
        self.floor = 0.0
        self.version = 0  # 0: not in the heap
        self.lanes: dict[str, OrderedDict[Ticket, int]] = {}
        self.running: dict[Ticket, _Charge] = {}

    @property
    def start(self) -> float:
        return max(self.floor, self.finish)

    def head(self) -> tuple[int, Ticket] | None:
        first: tuple[int, Ticket] | None = None
        for lane in self.lanes.values():
            ticket, number = next(iter(lane.items()))
            if first is None or number < first[0]:
                first = number, ticket
        return first

    def in_order(self) -> list[tuple[int, Ticket]]:
        waiting = [(number, t) for lane in self.lanes.values() for t, number in lane.items()]
        return sorted(waiting, key=lambda entry: entry[0])

    def charge_running(self, now: float) -> None:
        """Charge what runs longer than was charged for it."""
        for ticket, charge in self.running.items():
            spent_s = charge.slots * (now - charge.granted_s)
            if spent_s > charge.charged_s:
                self.finish += (spent_s - charge.charged_s) / ticket.weight
                charge.charged_s = spent_s


class Shares:
    """The waiting tickets of one class."""

    def __init__(self) -> None:
        self._flows: dict[str, _Flow] = {}
        self._heap: list[tuple[float, int, int, _Flow]] = []
        self._running: dict[Ticket, _Flow] = {}
        # The keys that wait, by since when they are passed over: in this order, as time moves on.
        self._passed_over: OrderedDict[str, float] = OrderedDict()
        self._virtual_s = 0.0
        self._waiting = 0
        self._versions = 0
        self._sweep_at = _SPARE

    def __len__(self) -> int:
        return self._waiting

    def __repr__(self) -> str:
        return f"<Shares {self._waiting} waiting, {self.accounts} accounts>"

    @property
    def accounts(self) -> int:
        """Keys that are remembered."""
        return len(self._flows)

    def add(self, ticket: Ticket, number: int, now: float) -> None:
        """Let *ticket* wait; *number* is its place in the order of all arrivals."""
        flow = self._flow(ticket.key)
        if not flow.lanes:
            flow.floor = self._virtual_s
            self._passed_over[ticket.key] = now
        lane = flow.lanes.setdefault(ticket.priority, OrderedDict())
        assert not lane or next(reversed(lane.values())) < number, "a lane is in order of arrival"
        lane[ticket] = number
        self._waiting += 1
        self._retag(flow)

    def remove(self, ticket: Ticket) -> None:
        """Take a waiting ticket out.

        Raises:
            KeyError: It does not wait here.
        """
        flow = self._flows[ticket.key]
        lane = flow.lanes[ticket.priority]
        del lane[ticket]
        if not lane:
            del flow.lanes[ticket.priority]
        if not flow.lanes:
            del self._passed_over[ticket.key]
        self._waiting -= 1
        self._retag(flow)

    def peek(self, now: float) -> Ticket | None:
        """Who goes next."""
        heap = self._heap
        while heap:
            tag, _, version, flow = heap[0]
            if version != flow.version:
                heapq.heappop(heap)
                continue
            flow.charge_running(now)
            if flow.start > tag:
                self._retag(flow)
                continue
            head = flow.head()
            assert head is not None, "only flows that wait have a valid entry"
            return head[1]
        return None

    def overdue(self, now: float, after_s: float) -> Ticket | None:
        """The head of the flow passed over for the longest time, if for *after_s* at least."""
        for key, since_s in self._passed_over.items():
            head = self._flows[key].head()
            return head[1] if head is not None and now - since_s >= after_s else None
        return None

    def served(self, key: str, now: float) -> None:
        """A waiting key's turn has come: it is passed over from now on."""
        self._passed_over[key] = now
        self._passed_over.move_to_end(key)

    def charge(
        self,
        ticket: Ticket,
        slots: int,
        now: float,
        *,
        kept_empty_s: float = 0.0,
        in_turn: bool = False,
    ) -> None:
        """Charge a granted ticket's key the estimate.

        Args:
            ticket: The one `peek` named, to be removed next, or one that did not wait here.
            slots: Slots it holds from now on.
            now: Seconds on the monotonic clock.
            kept_empty_s: Slot-seconds that stood empty for it; charged for good.
            in_turn: Whether `peek` named it: then virtual time moves on to its start.
        """
        flow = self._flow(ticket.key)
        if in_turn:
            self._virtual_s = max(self._virtual_s, flow.start)
            self.served(ticket.key, now)
        elif not flow.lanes:
            flow.floor = self._virtual_s
        flow.finish = flow.start + (ticket.cost_s + kept_empty_s) / ticket.weight
        flow.running[ticket] = _Charge(slots, now, ticket.cost_s)
        self._running[ticket] = flow
        if not in_turn:
            self._retag(flow)

    def fine(self, ticket: Ticket, slot_s: float) -> None:
        """Charge the key of *ticket*, which gave up, what it took from others by waiting."""
        if not self._waiting:
            return
        flow = self._flow(ticket.key)
        if not flow.lanes:
            flow.floor = self._virtual_s
        flow.finish = flow.start + slot_s / ticket.weight
        self._retag(flow)

    def settle(self, ticket: Ticket, actual_s: float) -> bool:
        """Charge what a granted ticket really took, in slot-seconds; once.

        Returns:
            Whether the ticket was charged in this class and the account is still open.
        """
        flow = self._running.pop(ticket, None)
        if flow is None:
            return False
        charged_s = flow.running.pop(ticket).charged_s
        flow.finish += (actual_s - charged_s) / ticket.weight
        self._retag(flow)
        return True

    def forget(self) -> None:
        """Close all accounts; nobody may be waiting."""
        assert not self._waiting, "who waits has an open account"
        if not (self._flows or self._heap or self._virtual_s):
            return
        self._flows.clear()
        self._heap.clear()
        self._running.clear()
        self._virtual_s = 0.0
        self._sweep_at = _SPARE

    def order(
        self, ahead: Iterable[Ticket], cost_s: Callable[[Ticket], float], now: float | None
    ) -> list[Ticket]:
        """All that wait, in the order in which they will go if nobody comes, leaves or ends.

        Args:
            ahead: Tickets that will be charged here before, as `charge` does.
            cost_s: Slot-seconds that each will be charged.
            now: The moment up to which running requests are charged; None leaves them as they are.
        """
        owed: dict[str, list[Ticket]] = {}
        for ticket in ahead:
            owed.setdefault(ticket.key, []).append(ticket)
        entries: list[tuple[float, int, Ticket]] = []
        for key, flow in self._flows.items():
            if now is not None:
                flow.charge_running(now)
            tag = flow.start
            for ticket in owed.get(key, ()):
                tag += cost_s(ticket) / ticket.weight
            for number, ticket in flow.in_order():
                entries.append((tag, number, ticket))
                tag += cost_s(ticket) / ticket.weight
        entries.sort(key=lambda entry: entry[:2])
        return [ticket for _, _, ticket in entries]

    def _flow(self, key: str) -> _Flow:
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= self._sweep_at:
                self._sweep()
            flow = self._flows[key] = _Flow()
        return flow

    def _retag(self, flow: _Flow) -> None:
        head = flow.head()
        if head is None:
            flow.version = 0
            return
        if len(self._heap) > 2 * self._waiting + _SPARE:
            self._heap = [entry for entry in self._heap if entry[2] == entry[3].version]
            heapq.heapify(self._heap)
        self._versions += 1
        flow.version = self._versions
        heapq.heappush(self._heap, (flow.start, head[0], flow.version, flow))

    def _sweep(self) -> None:
        """Drop accounts that owe nothing: a new one would start where they do."""
        self._flows = {
            key: flow
            for key, flow in self._flows.items()
            if flow.lanes or flow.running or flow.finish > self._virtual_s
        }
        self._sweep_at = max(_SPARE, 2 * len(self._flows))
