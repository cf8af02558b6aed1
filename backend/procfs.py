"""What the kernel tells about a process: who it is, and whether memory ran out.

Everything answers None or 0 where there is no /proc; callers then do without.
"""

from pathlib import Path

# Field 22 of /proc/PID/stat, counted from after the command name, which may hold anything.
_START_TIME_FIELD = 19


def start_ticks(pid: int) -> int | None:
    """
    When process *pid* started, in clock ticks since boot.

    A pid alone is reused sooner or later; a pid with this number is not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[_START_TIME_FIELD])


def command_line(pid: int) -> tuple[str, ...]:
    """The arguments of process *pid*; empty when it is gone or a zombie."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode("utf-8", "replace") for part in raw.split(b"\0")[:-1])


def oom_kills(root: Path = Path("/")) -> int | None:
    """
    How often the kernel has killed for lack of memory; None where it shows no count.

    The count of our own cgroup, in which the engine runs as well; where that cannot be read (the
    root cgroup of version 2 has none), the count of the whole machine.

    Args:
        root: Where /proc and /sys are.
    """
    for path in (*_memory_events(root), root / "proc/vmstat"):
        count = _oom_kill_of(path)
        if count is not None:
            return count
    return None


def _memory_events(root: Path) -> list[Path]:
    """Where our cgroup may keep its count: at its own path, or, seen from a container, at the top.

    Version 2 says it in memory.events, version 1 in memory.oom_control (Linux 4.13 and later).
    """
    mount = root / "sys/fs/cgroup"
    paths = []
    for controllers, name in _cgroups(root):
        if not controllers:
            paths += [mount / name / "memory.events", mount / "unified" / name / "memory.events"]
        elif "memory" in controllers.split(","):
            paths.append(mount / "memory" / name / "memory.oom_control")
    return [*paths, mount / "memory.events", mount / "memory/memory.oom_control"]


def _cgroups(root: Path) -> list[tuple[str, str]]:
    """Our cgroups as (controllers, path below the mount); version 2 names no controllers."""
    try:
        text = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    fields = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    return [(controllers, name.lstrip("/")) for _, controllers, name in fields]


def _oom_kill_of(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeError):
        return None
    for line in lines:
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdigit():
            return int(count)
    return None
