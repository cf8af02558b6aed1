"""PURE: when is an engine's silence a sign that it is stuck?

Two kinds of evidence, and one measure for both, WATCHDOG_SECONDS:

1. *Work*: a request that the engine has, of which nothing came for that long: no event, no progress
   of its prompt. Prompts are read a batch at a time, one after the other, and progress is told
   after each batch. So while any are being read, everybody may have to wait for one batch, on the
   slowest machine that is worth serving with (`SLOWEST_PREFILL`); and a prompt counts as heard of
   when any prompt was. What reports no progress (embeddings) has the time of its whole prompt.
2. *Probes*: an engine that has not answered any for that long, three at least. Its ``/health`` is
   answered by another thread than the one that computes, so an answer proves little; none at all
   proves that the process stands still. One that does not even listen has been told to stop by
   somebody else: llama-server then waits for its connections to end, and does nothing meanwhile.

What this process slept through itself (a frozen machine, a blocked loop) is nobody's silence: after
a late `tick` all clocks start anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gateway.queue.turns import Signs

__all__ = ["SLOWEST_PREFILL", "Sign", "Silence", "Trouble"]

SLOWEST_PREFILL = 20.0
"""Tokens a second: slower prompts than that are not worth serving."""
_FEWEST_PROBES = 3
_DEAF_PROBES = 2
_LATE_S = 2.0


class Sign(Enum):
    """What came of a probe."""

    ALIVE = "alive"
    NONE = "none"
    DEAF = "deaf"
    """Nobody listens there any more."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an engine must be replaced."""

    why: str
    """In words, for the log."""
    deaf: bool = False
    """It was told to stop by somebody else: no request is to blame."""


class Silence:
    """Judges one engine process.

    Args:
        limit_s: How long an engine may be silent; above 0.
        now: Monotonic seconds.
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s
        self._last_s = now
        self._listening_since_s = now
        self._failing_since_s: float | None = None
        self._failures = 0
        self._deaf = 0

    def __repr__(self) -> str:
        return f"<Silence {self._failures} probes failed>"

    def start_anew(self, now: float) -> None:
        """Another process, or one that is not expected to answer yet."""
        self._last_s = self._listening_since_s = now
        self.probed(Sign.ALIVE, now)

    def tick(self, now: float, pause_s: float) -> None:
        """Time has passed; *pause_s* is how much was meant to pass since the last tick."""
        if now - self._last_s > pause_s + _LATE_S:
            self.start_anew(now)
        self._last_s = now

    def probed(self, sign: Sign, asked_s: float) -> None:
        """A probe that was sent at *asked_s* had this outcome."""
        if sign is Sign.ALIVE:
            self._failing_since_s, self._failures, self._deaf = None, 0, 0
            return
        self._failures += 1
        self._deaf = self._deaf + 1 if sign is Sign.DEAF else 0
        if self._failing_since_s is None:
            self._failing_since_s = asked_s

    @property
    def in_doubt(self) -> bool:
        """Whether the next probe should come soon."""
        return self._deaf > 0

    def verdict(self, works: Sequence[Signs], now: float) -> Trouble | None:
        """Why the engine is to be replaced; None when it is not.

        Args:
            works: How it goes with each request that the engine has.
            now: Monotonic seconds.
        """
        if self._deaf >= _DEAF_PROBES:
            return Trouble("the engine was told to end by somebody else", deaf=True)
        silent_s = now - self._heard_s(works, now)
        if silent_s > self._limit_s + _patience_s(works):
            return Trouble(f"the engine is stuck: nothing came of a request for {silent_s:.0f} s")
        failing_s = 0.0 if self._failing_since_s is None else now - self._failing_since_s
        if self._failures >= _FEWEST_PROBES and failing_s > self._limit_s:
            return Trouble(f"the engine is stuck: it has answered no probe for {failing_s:.0f} s")
        return None

    def _heard_s(self, works: Sequence[Signs], now: float) -> float:
        """When the one was last heard of that has been silent for longest."""
        reading = [work.heard_s for work in works if work.unreported_tokens]
        answering = [work.heard_s for work in works if not work.unreported_tokens]
        oldest_s = min((*answering, max(reading, default=now)), default=now)
        return max(oldest_s, self._listening_since_s)


def _patience_s(works: Sequence[Signs]) -> float:
    """Seconds that a healthy engine may take over prompts without a word."""
    batch = max((work.unreported_tokens for work in works if work.reports), default=0)
    whole = sum(work.unreported_tokens for work in works if not work.reports)
    return (batch + whole) / SLOWEST_PREFILL
