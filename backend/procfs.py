"""What the kernel tells about a process: who it is, and whether memory ran out.

Everything answers None or 0 where there is no /proc; callers then do without.
"""

from pathlib import Path

# Field 22 of /proc/PID/stat, counted from after the command name, which may hold anything.
_START_TIME_FIELD = 19
_MEMORY_EVENTS = (Path("/sys/fs/cgroup/memory.events"),)


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


def oom_kills() -> int:
    """How often the kernel has killed in our cgroup for lack of memory."""
    for path in _MEMORY_EVENTS:
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
