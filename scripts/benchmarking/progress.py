"""The bar on standard error: requests that ended, or with --seconds the time that passed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from .plan import Plan


class Progress:
    """Counts requests; says which level is being measured.

    Args:
        plan: How much there is to do.
        names: Of the endpoints.
        shown: Whether there is a bar at all.
    """

    def __init__(self, plan: Plan, names: Sequence[str], *, shown: bool) -> None:
        self._names = names
        self._timed = plan.requests is None and plan.seconds is not None
        self._last_s = time.monotonic()
        rounds = [plan.requests_at(streams) for streams in plan.concurrency]
        each = sum(plan.seconds or 0.0 if many is None else many for many in rounds)
        self._bar = tqdm(
            total=each * len(names),
            file=sys.stderr,
            unit="s" if self._timed else "request",
            disable=not shown,
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]",
        )

    def tick(self, which: int, streams: int) -> None:
        """A request of endpoint *which* ended."""
        now_s = time.monotonic()
        self._bar.set_description(f"{self._names[which]}, {streams} streams", refresh=False)
        self._bar.update(now_s - self._last_s if self._timed else 1)
        self._last_s = now_s

    def close(self) -> None:
        """Take the bar away."""
        self._bar.leave = False
        self._bar.close()
