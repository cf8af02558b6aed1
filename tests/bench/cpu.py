"""CPU time, memory and cores of other processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cpu_ns", "family", "pin", "rss_bytes", "split_cores", "stolen_ns", "waited_ns"]

_PROC = Path("/proc")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """User and system time of all threads so far, in nanoseconds.

    Exact where the kernel keeps schedstat; threads that have ended do not count there, so it can
    even fall. Elsewhere in ticks of 10 ms, with what they used.
    """
    try:
        return _schedstat_ns(pid, 0)
    except (OSError, ValueError, IndexError):
        return _ticks_ns(pid)


def waited_ns(pid: int) -> int:
    """Time in which its threads could have run, but had no core; 0 where no one counts it."""
    try:
        return _schedstat_ns(pid, 1)
    except (OSError, ValueError, IndexError):
        return 0


def stolen_ns(cores: Iterable[int]) -> int:
    """Time that other machines on the same hardware took from *cores*, in ticks of 10 ms.

    0 where the kernel does not say it.
    """
    names = {f"cpu{core}" for core in cores}
    lines = (line.split() for line in (_PROC / "stat").read_text().splitlines())
    return sum(int(line[8]) * _TICK_NS for line in lines if line[0] in names and len(line) > 8)


def _schedstat_ns(pid: int, field: int) -> int:
    threads = (_PROC / str(pid) / "task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[field]) for thread in threads)


def _ticks_ns(pid: int) -> int:
    # The name may hold spaces and brackets; the fields begin after the last bracket.
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_NS


def rss_bytes(pid: int) -> int:
    """Resident memory: what is its own and what it shares."""
    pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """The children of *pid* and theirs."""
    found: list[int] = []
    for thread in (_PROC / str(pid) / "task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            found += [child, *family(child)]
    return found


def split_cores() -> tuple[list[int], list[int]]:
    """Cores for the proxy, and for everybody else: the same ones where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[-1:], cores[:-1]) if len(cores) > 1 else (cores, cores)


def pin(pid: int, cores: Iterable[int]) -> None:
    """Keep every thread of *pid* on *cores*; threads it starts later stay there, too."""
    for thread in (_PROC / str(pid) / "task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
