"""Keeps long computations off the API loop: running streams must not wait for megabytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["OFF_LOOP_BYTES", "off_loop_if_large"]

OFF_LOOP_BYTES = 256 << 10
"""Above this, JSON takes milliseconds to be read or made."""

T = TypeVar("T")


async def off_loop_if_large(size: int, work: Callable[[], T]) -> T:
    """Do *work*, in a worker thread when it is about more than `OFF_LOOP_BYTES` bytes."""
    if size <= OFF_LOOP_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(None, work)
