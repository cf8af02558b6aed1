"""How many processor cores this process may really use, and how many the engine should take.

The engine's threads wait for each other by spinning. One thread more than there are free cores
makes all of them wait for the one that is not running: on two cores, with other work going on,
two threads made 0.8 tokens a second where one made 87 (demo model, measured). So the engine gets
real cores only, within the container's share, and leaves one to the gateway.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["choose_threads", "engine_threads", "parse_quota", "usable_cores"]

_SMT = Path("/sys/devices/system/cpu/smt/active")
_CGROUP = Path("/sys/fs/cgroup")


def choose_threads(cores: int, *, two_per_core: bool) -> int:
    """
    Return how many threads the engine should compute with.

    Args:
        cores: Logical processors that may be used, at least 1.
        two_per_core: Whether each core shows up as two (SMT); the second adds nothing here.
    """
    real = max(1, cores // 2) if two_per_core else cores
    return max(1, real - 1)


def parse_quota(words: str) -> float | None:
    """Return a container's share in cores from ``quota period``; None when there is no limit."""
    parts = words.split()
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        return None  # the word "max", or -1
    quota, period = int(parts[0]), int(parts[1])
    return quota / period if quota > 0 and period > 0 else None


def usable_cores() -> int:
    """Return the logical processors this process may use: its mask, or its container's share."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    share = parse_quota(_quota())
    return max(1, min(allowed, int(share))) if share is not None else allowed


def engine_threads() -> int:
    """Return the engine's threads for this machine, when nobody chose."""
    return choose_threads(usable_cores(), two_per_core=_read(_SMT).strip() == "1")


def _quota() -> str:
    """Return ``quota period``, in microseconds, from either kind of control group."""
    newer = _read(_CGROUP / "cpu.max")
    if newer:
        return newer
    older = _CGROUP / "cpu"
    return f"{_read(older / 'cpu.cfs_quota_us')} {_read(older / 'cpu.cfs_period_us')}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
