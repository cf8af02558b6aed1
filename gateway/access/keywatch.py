"""Keeps the keys in step with their file, and ends the calls of keys that were taken away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from gateway.call import Call
from gateway.errors import ApiError
from keys import KeyStore

__all__ = ["KeyWatch"]

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


class KeyWatch:
    """Looks at the keys file twice a second, which is what "within a second" needs.

    A look is two stat calls in a worker thread; reading a changed file happens there too, so a
    file of ten thousand keys never stops a stream.

    Args:
        store: The keys.
        calls: Calls that are being answered.
        wall: Seconds since the epoch.
        on_failure: Told once for each file that was found and cannot be used.
        on_problem: Told whether the keys in use are not those on disk.
    """

    def __init__(
        self,
        store: KeyStore,
        calls: Collection[Call],
        *,
        wall: Callable[[], float],
        on_failure: Callable[[], None],
        on_problem: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._calls = calls
        self._wall = wall
        self._on_failure = on_failure
        self._on_problem = on_problem
        self._problem: str | None = store.problem
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self._look(self._store.poll)
            except Exception:  # one bad look must not end revocation for good
                _log.exception("looking at the keys file failed")

    async def reload(self) -> tuple[int, str | None]:
        """Read the file now, changed or not; returns how many keys are in use and what is wrong."""
        await self._look(self._store.reload)
        return len(self._store.ring), self._store.problem

    def welcome(self, call: Call) -> bool:
        """Whether the key of *call* may still be used."""
        principal = call.principal
        ring = self._store.ring
        if principal is None or ring.holds(principal):  # as nearly all: no clock is needed
            return True
        return ring.standing(principal.key_id, self._wall()) == "valid"

    async def _look(self, read: Callable[[], bool]) -> None:
        async with self._lock:
            changed = await asyncio.get_running_loop().run_in_executor(None, read)
        problem = self._store.problem
        if problem is not None and problem != self._problem:
            self._on_failure()
        self._problem = problem
        self._on_problem(problem is not None)
        if changed:
            self._end_revoked()

    def _end_revoked(self) -> None:
        """End running calls of removed and disabled keys; those of expired ones may finish."""
        ended = 0
        for call in tuple(self._calls):
            principal = call.principal
            if principal is None:
                continue
            if self._store.ring.standing(principal.key_id, self._wall()) in ("removed", "disabled"):
                call.kill(ApiError("key_revoked"))
                ended += 1
        _log.info("keys changed: %d in use, %d calls ended", len(self._store.ring), ended)
