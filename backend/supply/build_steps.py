"""Run one tool of a build after the other: output to the log, children never left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from backend.errors import BuildFailed

__all__ = ["TAIL_LINES", "StepRunner"]

TAIL_LINES = 40
"""How much of a failed tool's output goes into the error."""
_STOP_TIMEOUT_S = 10.0


class StepRunner:
    """Runs one tool after the other; all output goes to the log file."""

    def __init__(self, lock_fd: int, log: Path, write: Callable[[str], object]) -> None:
        self._lock_fd = lock_fd
        self._log = log
        self._write = write

    def __call__(
        self, step: str, argv: list[str], on_line: Callable[[str], None] | None = None
    ) -> None:
        """Run *argv* to its end; raise BuildFailed with its last lines if it fails."""
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        # Every descendant inherits the writing end; when the last one is gone, it reads as ended.
        ended, alive = os.pipe()
        try:
            child = self._start(argv, alive)
            os.close(alive)
            self._follow(child, ended, tail, on_line)
        finally:
            os.close(ended)
        if child.returncode != 0:
            raise BuildFailed(
                f"{step} ended with exit code {child.returncode}", tuple(tail), self._log
            )

    def _start(self, argv: list[str], alive: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=(self._lock_fd, alive),
            process_group=0,
        )

    def _follow(
        self,
        child: subprocess.Popen[str],
        ended: int,
        tail: deque[str],
        on_line: Callable[[str], None] | None,
    ) -> None:
        with child:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    self._write(line)
                    tail.append(line.rstrip())
                    if on_line is not None:
                        on_line(line)
            except BaseException:
                _stop(child, ended)
                raise


def _stop(child: subprocess.Popen[str], ended: int) -> None:
    """
    End a tool and wait until all it started is gone.

    The lock is let go of right after this, and nothing may then still write. The tool can be a
    wrapper, so the whole group is told. The wait is bounded: a compiler cache may have left a
    server behind, which writes nothing here.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    select.select([ended], [], [], _STOP_TIMEOUT_S)
