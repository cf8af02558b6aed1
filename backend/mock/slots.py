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
    async def hold(self, count: int, linger_s: float = 0.0) -> AsyncIterator[None]:
        """Wait for *count* slots, keep them until the block ends.

        A block that is cancelled keeps them *linger_s* longer, as the real server does until the
        batch ends in which it could notice.
        """
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        entry = (count, granted)
        self._queue.append(entry)
        self._grant()
        self._on_change()
        keep_s = 0.0
        try:
            await granted
            yield
        except asyncio.CancelledError:
            keep_s = linger_s
            raise
        finally:
            if granted.cancelled():
                self._drop(entry)
            elif keep_s > 0:
                loop.call_later(keep_s, self._release, count)
            else:
                self._release(count)

    def _drop(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        if entry in self._queue:
            self._queue.remove(entry)
        self._release(0)

    def _release(self, count: int) -> None:
        self.used -= count
        self._grant()
        self._on_change()

    def _grant(self) -> None:
        while self._queue and self.used + self._queue[0][0] <= self.total:
            count, granted = self._queue.popleft()
            if granted.cancelled():  # its client left a moment ago
                continue
            self.used += count
            self.most_used = max(self.most_used, self.used)
            granted.set_result(None)

    def __repr__(self) -> str:
        return f"<Slots {self.used}/{self.total} used, {self.waiting} waiting>"
