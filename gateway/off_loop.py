"""Keeps long computations off the API loop: running streams must not wait for megabytes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

__all__ = ["OFF_LOOP_BYTES", "in_daemon_thread", "off_loop", "off_loop_if_large"]

_log = logging.getLogger(__name__)

OFF_LOOP_BYTES = 256 << 10
"""Above this, JSON takes milliseconds to be read or made."""

T = TypeVar("T")


async def off_loop_if_large(size: int, work: Callable[[], T]) -> T:
    """Do *work*, in a worker thread when it is about more than `OFF_LOOP_BYTES` bytes."""
    if size <= OFF_LOOP_BYTES:
        return work()
    return await off_loop(work)


async def off_loop(work: Callable[[], T]) -> T:
    """Do *work* in a worker thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


async def in_daemon_thread(work: Callable[[], T], name: str) -> T:
    """Do *work*, however slow, so that it can never hold up the exit, as an executor would."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not result.done():
            outcome()

    def run() -> None:
        try:
            value = work()
            outcome = partial(result.set_result, value)
        except BaseException as exc:
            outcome = partial(result.set_exception, exc)
        try:
            loop.call_soon_threadsafe(settle, outcome)
        except RuntimeError:
            _log.debug("the service was gone before %s was done", name)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await result
