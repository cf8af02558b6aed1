"""Learn of a child's death by an event, on any loop and in any thread.

asyncio's own way ties the death to the end of the child's pipes, so a grandchild that keeps one
open makes `wait()` hang although the child is long dead. Here only the process counts: a pidfd
becomes readable when it ends (Linux), or a thread waits for it (elsewhere, and in sandboxes
without pidfd).

Both leave the zombie alone. As long as it is there, its pid and group cannot be reused, so the
caller can still signal the group safely, and then collect the exit status itself.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Protocol


class ExitWatch(Protocol):
    """A running watch over one child."""

    def close(self) -> None:
        """Stop watching; safe after the death and twice."""


def watch_exit(pid: int, callback: Callable[[], None]) -> ExitWatch:
    """
    Call *callback* on the running loop, once, when child *pid* has ended.

    Args:
        pid: A child of this process that nobody else waits for.
        callback: Must not raise.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return ThreadWatch(pid, callback)
    return PidfdWatch(pidfd, callback)


class PidfdWatch:
    """Waits on the loop itself."""

    def __init__(self, pidfd: int, callback: Callable[[], None]) -> None:
        self._pidfd: int | None = pidfd
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._ended)

    def close(self) -> None:
        """Stop watching."""
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _ended(self) -> None:
        self.close()
        self._callback()


class ThreadWatch:
    """Waits in a thread, which lives as long as the child."""

    def __init__(self, pid: int, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback
        self._loop = asyncio.get_running_loop()
        name = f"engine-exit-{pid}"
        threading.Thread(target=self._wait, args=(pid,), name=name, daemon=True).start()

    def close(self) -> None:
        """Forget the callback; the thread ends with the child."""
        self._callback = None

    def _wait(self, pid: int) -> None:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            # Its exit status was collected before this thread came to wait for it: it has ended.
            pass
        try:
            self._loop.call_soon_threadsafe(self._ended)
        except RuntimeError:
            # The loop is closed: nobody is left to tell.
            pass

    def _ended(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
