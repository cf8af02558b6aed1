"""Keeps work that takes no slot out of the engine while a suspect is alone in it.

Counting tokens takes no slot, and could kill the engine under a request that then pays for it. So
nothing of the kind begins while a suspect runs; and one beside which some was still at work when it
began was not alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Solitude"]


class Solitude:
    """Who is in the engine besides those who have slots."""

    def __init__(self) -> None:
        self._beside = 0
        self._alone = 0
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Solitude {self._alone} alone, {self._beside} beside>"

    @property
    def wanted(self) -> bool:
        """Whether a suspect runs."""
        return self._alone > 0

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """A suspect runs; gives whether it is really alone."""
        self._alone += 1
        try:
            yield self._beside == 0
        finally:
            self._alone -= 1
            if not self._alone:
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

    async def over(self) -> None:
        """Wait until nobody is wanted alone."""
        while self._alone:
            await self._over.wait()
