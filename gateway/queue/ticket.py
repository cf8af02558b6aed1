"""PURE. A request's place in the queue: what it asks for and on whose account."""

from __future__ import annotations

import math

__all__ = ["PRIORITIES", "Ticket"]

PRIORITIES = ("high", "normal", "batch")
"""The classes, the most urgent first."""


class Ticket:
    """One request that waits for slots. Two tickets are never equal; a ticket is not changed.

    Args:
        key: On whose account the slots are taken.
        priority: The class the request belongs to, one of `PRIORITIES`.
        weight: The key's share against other keys of the class; above 0.
        slots: Slots wanted; more than there are means all of them, 0 waits only for an engine that
            serves.
        cost_s: Slot-seconds the request will probably take (slots times seconds).
        again: It was let in before and did not get what it was let in for: it waits at the head of
            the queue, and no bound applies.
        exempt: No bound applies.

    Attributes:
        arrived_s: When it was offered to the queue.

    Raises:
        ValueError: A value is out of its range.
    """

    __slots__ = (
        "again",
        "arrived_s",
        "cost_s",
        "exempt",
        "key",
        "priority",
        "slots",
        "weight",
    )

    def __init__(
        self,
        key: str,
        *,
        priority: str = "normal",
        weight: float = 1.0,
        slots: int = 1,
        cost_s: float = 1.0,
        again: bool = False,
        exempt: bool = False,
    ) -> None:
        if priority not in PRIORITIES:
            raise ValueError(f"no such priority: {priority!r}")
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"a weight is a number above 0, not {weight!r}")
        if not (math.isfinite(cost_s) and cost_s >= 0) or slots < 0:
            raise ValueError(f"slots and their cost are not negative: {slots!r}, {cost_s!r}")
        self.key = key
        self.priority = priority
        self.weight = weight
        self.slots = slots
        self.cost_s = cost_s
        self.again = again
        self.exempt = exempt
        self.arrived_s = 0.0

    def __repr__(self) -> str:
        return f"<Ticket {self.key} {self.priority} {self.slots} slots {self.cost_s:.3g}s>"
