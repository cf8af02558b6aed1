"""PURE. Which slots stand empty, and for whose sake?

Nobody passes the next one in the queue, so a request for many slots keeps those that are free
empty until there are enough. That takes slot-seconds from the others just as running does, and its
key pays for them: when it goes, or when it gives up, else one could hold the slots empty for
nothing. What stands empty while only the key itself waits costs nobody anything.
"""

from __future__ import annotations

from gateway.queue.ticket import Ticket

__all__ = ["Vacancy"]


class Vacancy:
    """Slot-seconds kept empty, by the ticket they were kept for."""

    def __init__(self) -> None:
        self._kept_s: dict[Ticket, float] = {}
        self._holder: Ticket | None = None
        self._free = 0
        self._since_s = 0.0

    def __repr__(self) -> str:
        return f"<Vacancy {self._free} slots for {self._holder!r}>"

    def concerns(self, ticket: Ticket) -> bool:
        """Whether anything was kept empty for *ticket*."""
        return ticket is self._holder or ticket in self._kept_s

    def begin(self, ticket: Ticket, free: int, now: float) -> None:
        """From now on *free* slots stand empty until *ticket* can go."""
        self._holder, self._free, self._since_s = ticket, max(free, 0), now

    def stop(self) -> None:
        """From now on no slot stands empty for anybody."""
        self._holder = None

    def note(self, now: float) -> None:
        """Take down what has stood empty until now, on the monotonic clock."""
        if self._holder is not None and (kept_s := self._free * (now - self._since_s)) > 0:
            self._kept_s[self._holder] = self.kept_s(self._holder) + kept_s
        self._since_s = now

    def kept_s(self, ticket: Ticket) -> float:
        """Slot-seconds that stood empty for *ticket*, as of the last `note`."""
        return self._kept_s.get(ticket, 0.0)

    def take(self, ticket: Ticket) -> float:
        """What `kept_s` says; *ticket* waits no more, and all about it is forgotten."""
        if ticket is self._holder:
            self._holder = None
        return self._kept_s.pop(ticket, 0.0)
