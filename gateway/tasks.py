"""Background tasks that are held, named and watched.

asyncio keeps only a weak reference to a task, and an exception in a task nobody awaits surfaces at
some later garbage collection. Every task of ours that is not awaited in place goes through here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Tasks"]

_log = logging.getLogger(__name__)


class Tasks:
    """Owns background tasks of one event loop.

    Args:
        on_failure: Called with the name of a task that ended with an exception.
    """

    def __init__(self, on_failure: Callable[[str], None] | None = None) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure

    def __repr__(self) -> str:
        return f"<Tasks {sorted(task.get_name() for task in self._running)}>"

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run *coroutine* in the background under *name*."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancel what still runs and wait for it to end."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.error("background task %s failed", task.get_name(), exc_info=error)
            if self._on_failure is not None:
                self._on_failure(task.get_name())
