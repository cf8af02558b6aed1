"""What the fakes of platforms schedule: a process with two ports, that gets signals and ends."""

from __future__ import annotations

import asyncio
import signal
from typing import Protocol


class Pod(Protocol):
    """One instance of the service, as a platform sees it: started by nobody yet."""

    url: str
    """Base of the API port, once open."""
    health_url: str
    """Base of the health port, once open."""

    async def open(self) -> None:
        """Start the process; returns when both of its ports are known."""

    def signal(self, number: int) -> None:
        """Send a signal to the process, not to its children. A process that ended gets none."""

    async def ended(self) -> int:
        """Wait for its end: the exit code, or minus the signal that killed it."""


async def end(pod: Pod, grace_s: float) -> tuple[int, bool]:
    """Send TERM and, *grace_s* later, KILL; with a grace of 0 at once, one after the other.

    Args:
        pod: What is to end.
        grace_s: Real seconds.

    Returns:
        How it ended, and whether it took the KILL.
    """
    pod.signal(signal.SIGTERM)
    ended = asyncio.ensure_future(pod.ended())
    if grace_s > 0:
        await asyncio.wait((ended,), timeout=grace_s)
    killed = not ended.done()
    if killed:
        pod.signal(signal.SIGKILL)
    return await ended, killed
