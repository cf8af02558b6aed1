"""Reads the model's file into the page cache while the engine is still being found and started.

The engine maps its model and takes it page by page, as it needs them. Here the kernel is asked for
the file from its beginning, in pieces of 1 MiB, and can begin before there is an engine. Asking
(``POSIX_FADV_WILLNEED``) copies nothing: reading the file into this process instead made starts a
sixth slower on two cores. Nothing is done that is not needed: what is in the cache already is left,
and so is a file that would not fit into the memory that is free, and all ends when the engine is
ready.

Reading ahead is only ever a help: whatever goes wrong is reported, never raised.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ReadAhead", "ReadReport", "free_memory_bytes"]

_PIECE_BYTES = 1 << 20
_SAMPLES = 64
_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What became of it.

    Attributes:
        outcome: ``none`` (not begun), ``reading``, ``whole``, ``stopped``, ``cached`` (there was
            nothing to do), ``too_large`` or ``failed``.
        read_bytes: How much was read.
        took_s: Seconds it has taken.
    """

    outcome: str = "none"
    read_bytes: int = 0
    took_s: float = 0.0


def free_memory_bytes() -> int | None:
    """Memory that can be had without swapping; None where the kernel does not tell."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None
    try:
        return min(free, int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no group, or one that says "max"
        return free


class ReadAhead:
    """
    One reading of one model, in a thread that nobody waits for.

    Args:
        free_bytes: Tells how much memory is free; None when that is not known.
        clock: The monotonic clock, in seconds.
    """

    def __init__(
        self,
        *,
        free_bytes: Callable[[], int | None] = free_memory_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free_bytes = free_bytes
        self._clock = clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._report = ReadReport()
        self._began_s = 0.0

    def __repr__(self) -> str:
        return f"<ReadAhead {self._report}>"

    @property
    def report(self) -> ReadReport:
        """How far it is; safe to ask from any thread."""
        return self._report

    def start(self, files: Sequence[Path]) -> None:
        """Begin to read *files*, one after the other; returns at once. Only the first call counts.

        Threads that cannot be had and files that cannot be read are no error.
        """
        if self._thread is not None or self._stop.is_set() or not files:
            return
        self._began_s = self._clock()
        self._report = ReadReport("reading")
        self._thread = threading.Thread(
            target=self._run, args=(tuple(files),), name="read-ahead", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the limit of threads is reached
            self._thread = None
            self._note("failed", 0)

    def stop(self) -> None:
        """Read no further, after the piece that is being read; returns at once."""
        self._stop.set()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, at most *timeout_s*."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self, files: tuple[Path, ...]) -> None:
        done = 0
        try:
            free = self._free_bytes()
            if free is None or sum(file.stat().st_size for file in files) > free:
                self._note("too_large", 0)
                return
            for file in files:
                done = self._read(file, done)
        except Exception:  # a help that fails must not be more than that
            self._note("failed", self._report.read_bytes)
            return
        if self._stop.is_set():
            self._note("stopped", done)
        else:
            self._note("whole" if done else "cached", done)

    def _read(self, path: Path, done: int) -> int:
        """Read one file; returns the bytes read so far, *done* included."""
        with path.open("rb", buffering=0) as file:
            fd, size_bytes = file.fileno(), path.stat().st_size
            if _is_cached(fd, size_bytes):
                return done
            for offset in range(0, size_bytes, _PIECE_BYTES):
                if self._stop.is_set():
                    break
                count = min(_PIECE_BYTES, size_bytes - offset)
                os.posix_fadvise(fd, offset, count, os.POSIX_FADV_WILLNEED)
                os.pread(fd, 1, offset + count - 1)  # waits for it: one piece ahead at a time
                done += count
                self._note("reading", done)
        return done

    def _note(self, outcome: str, read_bytes: int) -> None:
        self._report = ReadReport(outcome, read_bytes, self._clock() - self._began_s)


def _is_cached(fd: int, size_bytes: int) -> bool:
    """Whether samples from all over the file are in memory; False where that cannot be told.

    Reading what is there already would only cost a copy of it: ten seconds for a file of 40 GB.
    """
    if not hasattr(os, "preadv") or size_bytes == 0:
        return False
    for number in range(_SAMPLES):
        offset = (size_bytes - 1) * number // (_SAMPLES - 1)
        try:
            os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
        except OSError:  # BlockingIOError: it is not there; others: the file system cannot tell
            return False
    return True
