"""The first program of the engine's process: ties its life to the gateway's, then becomes it.

Run as ``python -I -S launcher.py FD PARENT_PID -- PROGRAM ARGUMENT...``; standard library only, no
imports of ours, about 15 ms. It ends in `exec`, so the process that the supervisor spawned is the
engine itself: its pid, its exit status, no process in between to lose.

The engine must not outlive the gateway, whatever kills the gateway: it would keep the GPU's
memory, and nobody would know its key. Two independent means, both armed before the exec and both
carried out by the kernel, so that nothing needs to stay and watch:

1. FD is the read end of a pipe whose write end only the gateway holds, set to signal I/O with
   SIGKILL for this whole process group (O_ASYNC, F_SETOWN, F_SETSIG). When the gateway is gone, the
   kernel closes the write end, and that kills the group: helpers of the engine too, and no matter
   which thread of the gateway had forked.
2. The parent-death signal. It covers sandboxes that accept O_ASYNC on a pipe and then do nothing.
   The kernel ties it to the *thread* that forked, and would kill the engine when that thread ends,
   so the supervisor asks for it (a PARENT_PID that is not 0) only from the main thread.

Where the first is not to be had (no F_SETSIG outside Linux), a forked watcher blocks on the pipe
and kills the group when it ends. Whoever died between the spawn and the arming is found
by looking once more at the pipe and at the parent.
"""

import fcntl
import os
import resource
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CANNOT_EXECUTE = 127


def main(argv: list[str]) -> None:
    """Arm, then exec; does not return."""
    lifeline, parent, separator, program = int(argv[1]), int(argv[2]), argv[3], argv[4:]
    assert separator == "--"
    os.umask(0o077)
    # A core file of an engine holds prompts and gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not _kill_group_at_end_of(lifeline):
        _fork_watcher(lifeline)
    if parent:
        _die_with_parent()
    if _has_ended(lifeline) or (parent and os.getppid() != parent):
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        os.execv(program[0], program)  # noqa: S606 - there is nothing a shell could add
    except OSError as exc:
        sys.stderr.write(f"launcher: cannot execute {program[0]}: {exc.strerror}\n")
        sys.stderr.flush()
        os._exit(_CANNOT_EXECUTE)


def _kill_group_at_end_of(lifeline: int) -> bool:
    if not hasattr(fcntl, "F_SETSIG"):
        return False
    try:
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    except OSError:
        return False
    return True


def _fork_watcher(lifeline: int) -> None:
    """Leave a child behind that waits for the end of the pipe and then kills the group."""
    group = os.getpgrp()
    if os.fork():
        return
    # It must not hold the output pipe, nor die of what is meant for the engine.
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    os.read(lifeline, 1)
    os.killpg(group, signal.SIGKILL)
    os._exit(0)


def _die_with_parent() -> None:
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        # The pipe still guards.
        pass


def _has_ended(lifeline: int) -> bool:
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    return bool(poll.poll(0))


if __name__ == "__main__":
    main(sys.argv)
