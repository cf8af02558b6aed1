"""Where the time comes from; handed to whoever needs it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clocks"]


@dataclass(frozen=True, slots=True)
class Clocks:
    """Two clocks, both in seconds."""

    monotonic: Callable[[], float]
    """For durations and deadlines; never steps back."""
    wall: Callable[[], float]
    """Since the epoch; for expiry and logs."""
