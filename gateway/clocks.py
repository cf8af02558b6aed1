"""Where the time comes from; handed to whoever needs it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clocks", "ExpiryClock"]

_BELIEVED_S = 60.0


@dataclass(frozen=True, slots=True)
class Clocks:
    """Two clocks, both in seconds."""

    monotonic: Callable[[], float]
    """For durations and deadlines; never steps back."""
    wall: Callable[[], float]
    """Since the epoch; for expiry and logs."""


class ExpiryClock:
    """Wall time for what expires: whoever sets the clock back brings no expired key to life.

    A step back of up to a minute is a correction and is followed; of a larger one nothing is
    believed, and the highest time seen stands still until the clock has caught up with it.

    Args:
        wall: Seconds since the epoch.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._highest_s = -math.inf

    def __repr__(self) -> str:
        return f"<ExpiryClock {self._highest_s}>"

    def __call__(self) -> float:
        """Seconds since the epoch, as far as they are believed."""
        now = self._wall()
        if now >= self._highest_s:
            self._highest_s = now
            return now
        return now if now >= self._highest_s - _BELIEVED_S else self._highest_s
