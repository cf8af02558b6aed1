"""What passes between the door and a request: a wish, then a turn, then a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from gateway.queue.ticket import Ticket

__all__ = ["Lease", "Signs", "Turn", "TurnHolder", "Wish"]


@dataclass(slots=True)
class Wish:
    """What a request asks of the door; not changed once it is made."""

    key: str
    """Whose request it is: the queue is fair between keys."""
    slots: int = 1
    """Slots it needs; 0: only an engine that serves. More than there are means all of them."""
    priority: str = "normal"
    """One of `keys.PRIORITIES`."""
    weight: float = 1.0
    """Share among keys of the same priority, above 0."""
    expected_s: float = 0.0
    """Estimated slot-seconds: slots times the time they will be held."""
    max_wait_s: float | None = None
    """Seconds to wait, if less than usual."""
    patience_s: float | None = None
    """Seconds after which the caller itself gives up; a longer estimate is refused at once."""


class TurnHolder(Protocol):
    """Whoever waits; its turn can be looked at meanwhile."""

    turn: Turn | None


@dataclass(slots=True)
class Signs:
    """What is seen of the engine's work on one request; not changed once it is made."""

    heard_s: float
    """When it last gave a sign of life, or was last not listened to; monotonic seconds."""
    unreported_tokens: int
    """Tokens of a prompt that it may read without a word; 0 once it answers."""
    reports: bool = True
    """It tells how far it is with the prompt, after each batch."""


class Lease:
    """Slots held by one request, given back exactly once.

    Args:
        give_back: Takes them back.
        slots: How many.
        granted_s: When they were granted, in monotonic seconds.
        cost_s: Slot-seconds the request will probably take.
        waited_s: How long it waited.
        ticket: Its place in the queue; None if it did not wait: then no key is charged for it.
    """

    __slots__ = (
        "__weakref__",
        "_give_back",
        "abandoned",
        "at_work",
        "cost_s",
        "granted_s",
        "released_s",
        "signs",
        "slots",
        "ticket",
        "unfinished",
        "waited_s",
    )

    def __init__(
        self,
        give_back: Callable[[Lease], None],
        slots: int,
        granted_s: float,
        cost_s: float,
        waited_s: float = 0.0,
        ticket: Ticket | None = None,
    ) -> None:
        self._give_back: Callable[[Lease], None] | None = give_back
        self.ticket = ticket
        self.slots = slots
        self.granted_s = granted_s
        self.cost_s = cost_s
        self.waited_s = waited_s
        self.released_s = granted_s
        """When it was given back."""
        self.at_work = False
        """The engine is known to work on it."""
        self.signs: Callable[[], Signs] | None = None
        """Tells how the engine's work on it goes; None while the engine does not have it."""
        self.unfinished: Callable[[], int] = _one
        """Answers that have not come to their end; each has a slot at work, or waits for one."""
        self.abandoned = False
        """The engine was left in the middle of it, and may go on for a moment."""

    def __repr__(self) -> str:
        return f"<Lease of {self.slots} slots {'held' if self._give_back else 'given back'}>"

    def left_s(self, now: float) -> float:
        """Slot-seconds that it is still expected to take."""
        return max(self.cost_s - self.slots * (now - self.granted_s), 0.0)

    def release(self) -> None:
        """Give the slots back; safe to call twice."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        give_back, self._give_back = self._give_back, None  # `release`, once for each request
        if give_back is not None:
            give_back(self)


class Turn:
    """A place in the queue.

    Args:
        ticket: Its place.
        entered_s: When it was taken, in monotonic seconds.
        outlook: Tells position and estimated seconds to wait.
    """

    __slots__ = ("_outlook", "entered_s", "granted", "ticket")

    def __init__(
        self,
        ticket: Ticket,
        entered_s: float,
        outlook: Callable[[Ticket], tuple[int, float | None] | None],
    ) -> None:
        self._outlook = outlook
        self.ticket = ticket
        self.entered_s = entered_s
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Turn of {self.ticket!r}>"

    def place(self) -> tuple[int, float | None] | None:
        """Position from 1, and the estimated seconds to wait; None for what nobody can tell."""
        return self._outlook(self.ticket)


def _one() -> int:
    return 1
