"""Watches starts: hears of each step, writes the log's lines, and keeps the figures for metrics."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from backend import EngineSnapshot, EngineState, ReadAhead, start_ticks
from gateway.observe.coldstart import ColdStart, words
from gateway.observe.metrics import Metrics

__all__ = ["StartWatch", "process_started_s"]

_log = logging.getLogger(__name__)


def process_started_s(now_s: float) -> float:
    """When this process began, on the monotonic clock; *now_s* where the system does not tell.

    The kernel counts from the machine's boot and through its sleep, the monotonic clock does not
    count sleep: so the process's age is what is taken over. To 10 ms.
    """
    try:
        ticks = start_ticks(os.getpid())
        if ticks is None:
            return now_s
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):  # not Linux, or a /proc that is not its own
        return now_s
    return now_s - max(age_s, 0.0)


class StartWatch:
    """Everything that a start leaves behind; lives in the API loop's thread.

    Args:
        cold_start: The sums.
        metrics: Where the phases are shown.
        read_ahead: Told to stop when the engine is ready.
        clock: The monotonic clock, in seconds.
    """

    def __init__(
        self,
        cold_start: ColdStart,
        metrics: Metrics,
        read_ahead: ReadAhead,
        clock: Callable[[], float],
    ) -> None:
        self._cold_start = cold_start
        self._metrics = metrics
        self._read_ahead = read_ahead
        self._clock = clock
        self._generation: int | None = None

    def __repr__(self) -> str:
        return f"<StartWatch {self._cold_start!r}>"

    def ports_open(self) -> None:
        """Both ports answer."""
        self._cold_start.ports_open(self._clock())

    def take_state(self, snapshot: EngineSnapshot) -> None:
        """Something became of the engine."""
        if snapshot.pid is not None and snapshot.generation != self._generation:
            self._generation = snapshot.generation
            self._cold_start.spawned(snapshot.since_s)
            self._show()
        if snapshot.state is EngineState.READY:
            self._on_ready(snapshot)

    def first_event(self, asked_s: float) -> None:
        """The engine sent an event of an answer to a request that came at *asked_s*."""
        took_s = self._cold_start.first_event(self._clock(), asked_s)
        if took_s is not None:
            _log.info("first token %.2f s after the engine was ready and asked", took_s)
            self._show()

    def close(self) -> None:
        """The service ends."""
        self._read_ahead.stop()

    def _on_ready(self, snapshot: EngineSnapshot) -> None:
        self._read_ahead.stop()
        report = self._read_ahead.report
        if report.read_bytes:
            self._cold_start.model_read(report.took_s, report.read_bytes)
        start = self._cold_start.ready(snapshot.since_s, snapshot.loaded_s)
        if start is not None:
            _log.info("%s", words(start))
            self._show()

    def _show(self) -> None:
        self._metrics.start_took(self._cold_start.phases, self._cold_start.total_s)
