"""Keeps the ledger and its file in step.

Rules:
- the event loop only copies numbers; what takes longer is done in a worker thread;
- one save at a time, also if who waited for it is gone: an older state never follows a newer one;
- nothing is written while nothing changed: that time passed is not a change.
"""

from __future__ import annotations

import asyncio
import math

from gateway.clocks import Clocks
from gateway.limits.journal import Journal
from gateway.limits.ledger import Ledger
from gateway.limits.saved import Snapshot

__all__ = ["LedgerKeeper"]

_SAVE_EVERY_S = 2.0
_PRUNE_EVERY_S = 60.0


class LedgerKeeper:
    """Reads the counters at the start and saves them every two seconds in which they changed.

    A service that is killed loses two seconds of counting at most; one that is stopped, none.

    Args:
        ledger: The counters.
        journal: Their file.
        clocks: The time.
    """

    def __init__(self, ledger: Ledger, journal: Journal, clocks: Clocks) -> None:
        self._ledger = ledger
        self._journal = journal
        self._clocks = clocks
        self._saved = ledger.changes
        self._pruned_s = -math.inf
        self._writing: asyncio.Future[bool] | None = None

    def restore(self) -> None:
        """Take in what was saved last; blocks for a small file."""
        state = self._journal.load()
        if state is None:
            return
        try:
            self._ledger.restore(state, self._clocks.monotonic(), self._clocks.wall())
        except ValueError as exc:
            self._journal.set_aside(str(exc))

    async def run(self) -> None:
        """Save for ever."""
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            await self.save()

    async def save(self) -> None:
        """Save now, if something changed; writes in a worker thread and never raises OSError."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])
        changes = self._ledger.changes
        if changes == self._saved:
            return
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._write, self._snapshot())
        if await asyncio.shield(self._writing):
            self._saved = changes

    def _snapshot(self) -> Snapshot:
        now, wall = self._clocks.monotonic(), self._clocks.wall()
        if now - self._pruned_s >= _PRUNE_EVERY_S:
            self._pruned_s = now
            self._ledger.prune(now, wall)
        return self._ledger.snapshot(now, wall)

    def _write(self, snapshot: Snapshot) -> bool:
        return self._journal.save(snapshot.as_json())
