"""The mock's slots: a bounded number of requests at a time, strictly in order of arrival."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Slots:
    """Hands out *total* slots. A request that needs several waits until all are free at once."""

    def __init__(self, total: int, on_change: Callable[[], None]) -> None:
        self.total = total
        self.used = 0
        self.most_used = 0
        self._on_change = on_change
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        """Wait for *count* slots, keep them until the block ends."""
        granted = asyncio.get_running_loop().create_future()
        entry = (count, granted)
        self._queue.append(entry)
        self._grant()
        self._on_change()
        try:
            await granted
            yield
        finally:
            if granted.done() and not granted.cancelled():
                self.used -= count
            else:
                self._queue.remove(entry)
            self._grant()
            self._on_change()

    def _grant(self) -> None:
        while self._queue and self.used + self._queue[0][0] <= self.total:
            count, granted = self._queue.popleft()
            self.used += count
            self.most_used = max(self.most_used, self.used)
            granted.set_result(None)

    def __repr__(self) -> str:
        return f"<Slots {self.used}/{self.total} used, {self.waiting} waiting>"
