"""What became of each engine process, for those who lost a connection to one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Fates"]

_KEPT = 16


class Fates:
    """Remembers deaths, and lets others wait for news.

    Args:
        lives: Whether the process of a generation is known to be alive and well.
    """

    def __init__(self, lives: Callable[[int], bool]) -> None:
        self._lives = lives
        self._deaths: dict[int, str] = {}
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Fates {self._deaths}>"

    def died(self, generation: int, cause: str) -> None:
        """The process *generation* ended, of *cause* as in `backend.exits`."""
        self._deaths[generation] = cause
        while len(self._deaths) > _KEPT:
            del self._deaths[next(iter(self._deaths))]
        self.tell()

    def tell(self) -> None:
        """There is news of some kind: whoever waits looks again."""
        self._news.set()
        self._news = asyncio.Event()

    async def of(self, generation: int) -> str | None:
        """Wait until it is known what became of a process; what it died of, or None if it lives."""
        while generation not in self._deaths:
            if self._lives(generation):
                return None
            await self._news.wait()
        return self._deaths[generation]
