"""Keeps the ledger and its file in step."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.clocks import Clocks
from gateway.limits.journal import Journal
from gateway.limits.ledger import Ledger

__all__ = ["LedgerKeeper"]

_SAVE_EVERY_S = 2.0


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
        self._saved: dict[str, Any] = {}

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
        times = self._clocks.monotonic(), self._clocks.wall()
        self._ledger.prune(*times)
        state = self._ledger.state(*times)
        keys = state["keys"]
        if keys == self._saved:
            return
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(None, self._journal.save, state):
            self._saved = keys
