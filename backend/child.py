"""One engine process, from spawn to reaped.

Owns its file descriptors: the lifeline's write end, the output pipe, the exit watch. When
the process ends, in this order: what is left of its group is killed (the zombie still holds
the group's number, so nobody else can be hit), the exit status is collected, the rest
of the output is read, everything is closed, and then `on_exit` is called, once.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from backend import procfs
from backend.command import EngineCommand
from backend.output import OutputLines, OutputReader
from backend.reaper import watch_exit

_LAUNCHER = Path(__file__).with_name("launcher.py")


class Child:
    """
    Spawns at construction; OSError when there can be no process.

    Args:
        command: What to run.
        loading: Tells whether the engine is loading; its output is logged louder then.
        on_exit: Called on the loop with the exit status, after the process is reaped.
        clock: The monotonic clock.
    """

    def __init__(
        self,
        command: EngineCommand,
        *,
        loading: Callable[[], bool],
        on_exit: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self.lines = OutputLines(command.key.encode())
        self.signals_sent: set[int] = set()
        self._on_exit = on_exit
        self._oom_kills_before = procfs.oom_kills()
        self._process, output, self._lifeline = _spawn(command)
        self._output = OutputReader(output, self.lines, loading=loading, clock=clock)
        self._watch = watch_exit(self._process.pid, self._ended)

    @property
    def pid(self) -> int:
        """Process id; also the id of its group and session."""
        return self._process.pid

    @property
    def oom_kills(self) -> int | None:
        """Kills for lack of memory since the spawn, see `procfs.oom_kills`; None: not counted."""
        before, after = self._oom_kills_before, procfs.oom_kills()
        return None if before is None or after is None else after - before

    def signal_group(self, signum: int) -> None:
        """Send *signum* to the process and everything it started; a no-op when it is reaped."""
        if self._process.returncode is not None:
            return
        self.signals_sent.add(signum)
        self._kill_group(signum)

    def _ended(self) -> None:
        self._kill_group(signal.SIGKILL)
        returncode = self._process.wait()
        self._output.close()
        self._watch.close()
        os.close(self._lifeline)
        self._on_exit(returncode)

    def _kill_group(self, signum: int) -> None:
        try:
            os.killpg(self.pid, signum)
        except (ProcessLookupError, PermissionError):
            # Gone in this moment; some systems say EPERM for a group of zombies.
            pass

    def __repr__(self) -> str:
        return f"<Child pid={self.pid} returncode={self._process.returncode}>"


def _spawn(command: EngineCommand) -> tuple["subprocess.Popen[bytes]", int, int]:
    """Start the launcher; give the process, the output's read end and the lifeline's write end."""
    lifeline_read, lifeline_write = os.pipe()
    try:
        output_read, output_write = os.pipe()
    except OSError:
        os.close(lifeline_read)
        os.close(lifeline_write)
        raise
    try:
        process = subprocess.Popen(
            _launch_argv(command, lifeline_read),
            env=dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=subprocess.STDOUT,
            pass_fds=(lifeline_read,),
            start_new_session=True,
        )
    except OSError:
        os.close(output_read)
        os.close(lifeline_write)
        raise
    finally:
        os.close(lifeline_read)
        os.close(output_write)
    return process, output_read, lifeline_write


def _launch_argv(command: EngineCommand, lifeline: int) -> list[str]:
    # The parent-death signal belongs to the forking thread, see the launcher.
    on_main_thread = threading.current_thread() is threading.main_thread()
    parent = os.getpid() if on_main_thread else 0
    python = [sys.executable, "-I", "-S", str(_LAUNCHER)]
    return [*python, str(lifeline), str(parent), "--", *command.argv]
