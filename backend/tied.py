"""Start a process of our own that cannot outlive this one.

For helpers that are not the engine: the launcher's two ties (see `launcher.py`), our own standard
streams, and one event when it ends. The process leads a group; whatever it forks goes with it.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from backend.reaper import watch_exit

_LAUNCHER = Path(__file__).with_name("launcher.py")


class TiedProcess:
    """
    Spawns at construction, on the running loop; OSError when there can be no process.

    Args:
        argv: Program, as an absolute path, and arguments.
        env: Its whole environment.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._ended = asyncio.get_running_loop().create_future()
        self._process, self._lifeline = _spawn(argv, env)
        self._watch = watch_exit(self._process.pid, self._reap)

    @property
    def pid(self) -> int:
        """Process id; also the id of its group and session."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its end has not been seen yet."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Its exit code, negative for a signal; any number of callers may wait."""
        code: int = await asyncio.shield(self._ended)
        return code

    def signal(self, signum: int) -> None:
        """Send *signum* to the process alone; a no-op when it has ended."""
        if self.running:
            self._process.send_signal(signum)

    def kill(self) -> None:
        """SIGKILL for the whole group; a no-op when the process has ended."""
        if self.running:
            self._kill_group()

    def _reap(self) -> None:
        # The zombie still holds the group's number: what is left of the group can be hit safely.
        self._kill_group()
        code = self._process.wait()
        self._watch.close()
        os.close(self._lifeline)
        self._ended.set_result(code)

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            # Nobody left; some systems say EPERM for a group of zombies.
            pass


def _spawn(argv: Sequence[str], env: Mapping[str, str]) -> tuple["subprocess.Popen[bytes]", int]:
    """The process and its lifeline's write end."""
    lifeline_read, lifeline_write = os.pipe()
    # The parent-death signal belongs to the forking thread, see the launcher.
    on_main_thread = threading.current_thread() is threading.main_thread()
    parent = os.getpid() if on_main_thread else 0
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(lifeline_read), str(parent), "--"]
    try:
        process = subprocess.Popen(
            [*launcher, *argv],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            pass_fds=(lifeline_read,),
            start_new_session=True,
        )
    except OSError:
        os.close(lifeline_write)
        raise
    finally:
        os.close(lifeline_read)
    return process, lifeline_write
