"""What a fake has seen and done, in order, and a way to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GUARD_S = 20.0


class Journal(list[str]):
    """Entries, oldest first; `until` waits for news instead of asking again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def note(self, entry: str) -> None:
        """Write an entry and wake all who wait."""
        self.append(entry)
        self.wake()

    def wake(self) -> None:
        """Let all who wait look again: something besides the entries has changed."""
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, what: Callable[[], bool], guard_s: float = GUARD_S) -> None:
        """Wait until *what* is so; it is looked at once after each piece of news."""
        try:
            async with asyncio.timeout(guard_s):
                while not what():
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it did not come about; so far: {list(self)}") from None

    async def has(self, entry: str) -> None:
        """Wait for an entry."""
        await self.until(lambda: entry in self)


def without_repeats(entries: list[int]) -> list[int]:
    """The same with each run of equal entries as one."""
    return [each for at, each in enumerate(entries) if at == 0 or entries[at - 1] != each]
