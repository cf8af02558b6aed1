"""What standard error is told while it measures.

A bar for a terminal: requests that ended, or with --seconds the time that passed. Without one, as
in a job's log, a line for each level that is done. The first refusal is told at once in any case.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from .figures import LevelFigures
from .measure import Watcher
from .plan import Plan
from .samples import Failure
from .table import milliseconds, total
from .trouble import first_refusal


class Progress(Watcher):
    """Counts requests; says which level is being measured.

    Args:
        plan: How much there is to do.
        names: Of the endpoints.
        bar: Whether there is a bar.
        lines: Whether there is a line for each level that is done.
    """

    def __init__(self, plan: Plan, names: Sequence[str], *, bar: bool, lines: bool) -> None:
        self._names = names
        self._lines = lines
        self._refused: set[int] = set()
        self._timed = plan.requests is None and plan.seconds is not None
        self._last_s = time.monotonic()
        rounds = [plan.requests_at(streams) for streams in plan.concurrency]
        each = sum(plan.seconds or 0.0 if many is None else many for many in rounds)
        self._bar = tqdm(
            total=each * len(names),
            file=sys.stderr,
            unit="s" if self._timed else "request",
            disable=not bar,
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]",
        )

    def ended(self, which: int, streams: int) -> None:
        """Move the bar on."""
        now_s = time.monotonic()
        self._bar.set_description(f"{self._names[which]}, {streams} streams", refresh=False)
        self._bar.update(now_s - self._last_s if self._timed else 1)
        self._last_s = now_s

    def refused(self, which: int, refusal: Failure, wait_s: float) -> None:
        """Tell the first one of each endpoint: a user can end it, and raise the limit."""
        if which not in self._refused:
            self._refused.add(which)
            self._say(first_refusal(self._names[which], refusal, wait_s))

    def finished(self, which: int, level: LevelFigures) -> None:
        """Tell what came out, where nobody sees a bar."""
        if self._lines:
            first = milliseconds(level.ttft_s.p50 if level.ttft_s else None)
            self._say(
                f"{self._names[which]}, {level.streams} streams: {level.succeeded} good, "
                f"{level.failed} bad; TTFT p50 {first} ms, tokens/s {total(level)}"
            )

    def _say(self, line: str) -> None:
        """A line above the bar, if there is one."""
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.leave = False
        self._bar.close()
