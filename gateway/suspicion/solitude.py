"""Keeps work that takes no slot out of the engine while a suspect is alone in it.

Counting tokens takes no slot, and could kill the engine under a request that then pays for it. So
nothing of the kind begins while a suspect waits or runs, and a suspect waits until what is there
has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

__all__ = ["Solitude"]

_BESIDE_S = 6.0
"""Counting takes no longer."""


class Solitude:
    """Who is in the engine besides those who have slots."""

    def __init__(self) -> None:
        self._beside = 0
        self._alone = 0
        self._over = asyncio.Event()
        self._empty = asyncio.Event()
        self._since_s = 0.0
        self._lasted_s = 0.0

    def __repr__(self) -> str:
        return f"<Solitude {self._alone} alone, {self._beside} beside>"

    @property
    def wanted(self) -> bool:
        """Whether a suspect runs."""
        return self._alone > 0

    def lasted_s(self) -> float:
        """Seconds, all together, in which suspects kept everybody else waiting."""
        now = asyncio.get_running_loop().time()
        return self._lasted_s + (now - self._since_s if self._alone else 0.0)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """A suspect runs, once what is beside has ended; gives whether it is really alone."""
        if not self._alone:
            self._since_s = asyncio.get_running_loop().time()
        self._alone += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_BESIDE_S):
                    while self._beside:
                        await self._empty.wait()
            yield self._beside == 0
        finally:
            self._alone -= 1
            if not self._alone:
                self._lasted_s += asyncio.get_running_loop().time() - self._since_s
                self._over.set()
                self._over = asyncio.Event()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work without a slot is at the engine; only while nobody is `wanted` alone."""
        self._beside += 1
        try:
            yield
        finally:
            self._beside -= 1
            if not self._beside:
                self._empty.set()
                self._empty = asyncio.Event()

    async def over(self) -> None:
        """Wait until nobody is wanted alone."""
        while self._alone:
            await self._over.wait()
