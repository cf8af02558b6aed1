"""What happens when nobody needs the service for a while: IDLE_ACTION after IDLE_TIMEOUT."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.activity import Activity

__all__ = ["IdleKeeper"]

_log = logging.getLogger(__name__)

_LEAST_SLEEP_S = 0.05
_TRY_AGAIN_S = 30.0
_DO_AGAIN_S = 600.0
"""What was carried out and has changed nothing for so long has not helped."""


class IdleKeeper:
    """Carries the action out when there has been no work for long enough, once each time.

    Args:
        timeout_s: Seconds without work.
        activity: Knows how long there has been none.
        serving: Whether the engine is up; nothing is done while it starts, sleeps or fails.
        act: The action; False when it could not be carried out.
        name: The action's name, for the log.
    """

    def __init__(
        self,
        timeout_s: float,
        activity: Activity,
        *,
        serving: Callable[[], bool],
        act: Callable[[], Awaitable[bool]],
        name: str,
    ) -> None:
        self._timeout_s = timeout_s
        self._activity = activity
        self._serving = serving
        self._act = act
        self._name = name
        self._done: tuple[int, float] | None = None
        """After how much work it was carried out last, and when."""

    def __repr__(self) -> str:
        return f"<IdleKeeper {self._name} after {self._timeout_s:g} s>"

    async def run(self) -> None:
        """Watch until cancelled."""
        time = asyncio.get_running_loop().time
        while True:
            await self._quiet()
            _log.info("idle for %.0f s: %s", self._activity.idle_s, self._name)
            changes = self._activity.changes
            if await self._act():
                self._done = (changes, time())
            else:
                _log.info("not now: %s", self._name)
            # Whatever came of it is not tried again at once; never longer than it takes to be idle.
            await asyncio.sleep(min(_TRY_AGAIN_S, self._timeout_s))

    async def _quiet(self) -> None:
        """Wait until there has been no work for long enough."""
        while True:
            left_s = self._timeout_s - self._activity.idle_s
            if left_s <= 0:
                if self._serving() and not self._is_done():
                    return
                left_s = self._timeout_s
            await asyncio.sleep(max(left_s, _LEAST_SLEEP_S))

    def _is_done(self) -> bool:
        """Whether it was carried out for this very quiet already."""
        if self._done is None:
            return False
        changes, at_s = self._done
        now = asyncio.get_running_loop().time()
        return changes == self._activity.changes and now - at_s < _DO_AGAIN_S
