"""PURE: when is an engine's silence a sign that it is stuck?

Two kinds of evidence, and one measure for both, WATCHDOG_SECONDS:

1. *Work*: a request that the engine has, of which nothing came for that long: no event, no
   progress of its prompt. While prompts are being read, they may keep each other waiting
   (llama-server fills its batches from one prompt after the other), so then the time grows by that
   of the slowest prefill worth waiting for, `_SLOWEST_PREFILL` tokens a second, of all of them.
2. *Probes*: an engine that has not answered any for that long, three at least. Its ``/health`` is
   answered by another thread than the one that computes, so an answer proves little; none at all
   proves that the process stands still.

What this process slept through itself (a frozen machine, a blocked loop) is nobody's silence: after
a late `tick` all clocks start anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.queue.turns import Signs

__all__ = ["Silence"]

_SLOWEST_PREFILL = 20.0
"""Tokens a second: slower prompts than that on one processor core are not worth serving."""
_FEWEST_PROBES = 3
_LATE_S = 2.0


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

    def __repr__(self) -> str:
        return f"<Silence {self._failures} probes failed>"

    def start_anew(self, now: float) -> None:
        """Another process, or one that is not expected to answer yet."""
        self._last_s = self._listening_since_s = now
        self.answered()

    def tick(self, now: float, pause_s: float) -> None:
        """Time has passed; *pause_s* is how much was meant to pass since the last tick."""
        if now - self._last_s > pause_s + _LATE_S:
            self.start_anew(now)
        self._last_s = now

    def answered(self) -> None:
        """A probe was answered."""
        self._failing_since_s = None
        self._failures = 0

    def unanswered(self, asked_s: float) -> None:
        """A probe that was sent at *asked_s* was not answered in time."""
        self._failures += 1
        if self._failing_since_s is None:
            self._failing_since_s = asked_s

    def verdict(self, works: Sequence[Signs], now: float) -> str | None:
        """Why the engine is to be taken for stuck, in words for the log; None when it is not.

        Args:
            works: How it goes with each request that the engine has.
            now: Monotonic seconds.
        """
        silent_s = max((now - self._heard_s(work) for work in works), default=0.0)
        if silent_s > self._limit_s + sum(work.prefill_tokens for work in works) / _SLOWEST_PREFILL:
            return f"nothing came of a request for {silent_s:.0f} s"
        failing_s = 0.0 if self._failing_since_s is None else now - self._failing_since_s
        if self._failures >= _FEWEST_PROBES and failing_s > self._limit_s:
            return f"it has answered no probe for {failing_s:.0f} s"
        return None

    def _heard_s(self, work: Signs) -> float:
        return max(work.heard_s, self._listening_since_s)
