"""PURE. How long may the next bytes of a body be in coming?

A body earns its time: every byte buys ``1 / bytes_per_s`` seconds, and never more than
``grace_s`` are kept in hand. So in any stretch of time, wherever it begins, at least
``bytes_per_s`` times what the stretch is longer than the grace has come; in particular nothing may
stand still for longer than the grace. An average since the start would not do: most of a body sent
at once would buy hours of silence for the rest of it.
"""

from __future__ import annotations

__all__ = ["Pace"]


class Pace:
    """When the next bytes are due.

    Args:
        bytes_per_s: Slowest pace, above 0.
        grace_s: Seconds before anything is due, and the most that can be kept in hand.
        now: Seconds on the clock that `progress` is told, too.
    """

    __slots__ = ("_bytes_per_s", "_grace_s", "due_s")

    def __init__(self, bytes_per_s: float, grace_s: float, now: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._grace_s = grace_s
        self.due_s = now + grace_s
        """When patience ends unless more comes; on the same clock."""

    def __repr__(self) -> str:
        return f"<Pace {self._bytes_per_s} bytes/s, next due at {self.due_s:.3f}>"

    def progress(self, size: int, now: float) -> float:
        """Note that *size* bytes have come; returns the new `due_s`."""
        self.due_s = min(self.due_s + size / self._bytes_per_s, now + self._grace_s)
        return self.due_s
