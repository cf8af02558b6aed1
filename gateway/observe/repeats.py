"""PURE: how many lines of one kind may be written, and how many were not.

A kind may have so many lines in each second that begins with its first line; the rest are
counted. The count is handed out once the second is over, with whatever line comes next.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Dropped", "RepeatLimit"]

K = TypeVar("K", bound=Hashable)

_WINDOW_S = 1.0
_KINDS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Dropped(Generic[K]):
    """So many lines of this kind were not written."""

    kind: K
    count: int


@dataclass(slots=True)
class _Window:
    begins_s: float
    seen: int = 0


class RepeatLimit(Generic[K]):
    """
    Counts lines by kind.

    Args:
        per_second: Lines of one kind that may pass in a second, at least 1.
    """

    def __init__(self, per_second: float) -> None:
        if per_second < 1:
            raise ValueError(f"at least one line a second must pass, not {per_second}")
        self._limit = per_second
        self._windows: dict[K, _Window] = {}  # in the order they began
        self.dropped = 0
        """Lines that did not pass, since the start."""

    def __repr__(self) -> str:
        return f"<RepeatLimit {len(self._windows)} kinds, {self.dropped} dropped>"

    def take(self, kind: K, now: float) -> bool:
        """Whether a line of *kind* may be written at *now* (monotonic seconds)."""
        window = self._windows.get(kind)
        if window is None or now - window.begins_s >= _WINDOW_S:
            self._windows.pop(kind, None)
            if len(self._windows) >= _KINDS_MAX:
                # So many kinds are no repetition; forgetting one only lets more lines pass.
                del self._windows[next(iter(self._windows))]
            window = self._windows[kind] = _Window(now)
        window.seen += 1
        if window.seen <= self._limit:
            return True
        self.dropped += 1
        return False

    def settle(self, now: float) -> list[Dropped[K]]:
        """What was dropped in seconds that are over; each is told once. Call before `take`."""
        over = []
        for kind, window in self._windows.items():
            if now - window.begins_s < _WINDOW_S:
                break
            over.append(kind)
        return self._told(over)

    def finish(self) -> list[Dropped[K]]:
        """What was dropped and not told yet; for the end."""
        return self._told(list(self._windows))

    def _told(self, kinds: list[K]) -> list[Dropped[K]]:
        counts = ((kind, self._windows.pop(kind).seen - int(self._limit)) for kind in kinds)
        return [Dropped(kind, count) for kind, count in counts if count > 0]
