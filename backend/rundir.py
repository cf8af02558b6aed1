"""The private directory of running engines: their sockets, and notes about who runs.

The directory is ours alone (0700): who can reach the socket file can talk to the engine, and the
engine creates it with whatever rights it likes. It belongs on a local, volatile file system
(a socket cannot be shared between machines) and may be shared by several gateways of one user.

The notes are for the next start. An engine can outlive its gateway only if both ways of tying
their lives together failed; then it holds the GPU's memory and nobody has its key.
`clear_stale` ends such engines. A note is believed only if the process has the start
time and the command line that it names, and if the gateway that wrote it is gone.
"""

import asyncio
import logging
import os
import shutil
import signal
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from backend import procfs
from backend.address import UnixAddress
from backend.errors import OperatorError
from backend.reaper import PidfdWatch

_STALE_GRACE_S = 10.0
_LOG = logging.getLogger(__name__)


class RunDirUnsafe(OperatorError):  # noqa: N818 - named like its family
    """The directory belongs to someone else, or cannot be made private."""


@dataclass(frozen=True, slots=True)
class EngineNote:
    """Who runs for whom. Start times are clock ticks since boot; *mark* is in the command line."""

    pid: int
    start_ticks: int | None
    gateway_pid: int
    gateway_start_ticks: int | None
    mark: str


def default_path() -> Path:
    """A place for the directory when none was chosen: per user, short, gone after a reboot."""
    return Path(tempfile.gettempdir()) / f"llama-gateway-{os.getuid()}"


class RunDir:
    """
    One gateway's part of the directory.

    Args:
        path: The directory; made if missing.

    Raises:
        RunDirUnsafe: Someone else owns *path*, or it is no directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stem = f"engine-{os.getpid()}"
        _make_private(path)

    @property
    def address(self) -> UnixAddress:
        """Where this gateway's engine is to listen."""
        return UnixAddress(str(self.path / f"{self._stem}.sock"))

    @property
    def _note_path(self) -> Path:
        return self.path / f"{self._stem}.json"

    def make_slot_dir(self) -> Path:
        """
        Make a private folder for what this gateway's engine writes of its slots.

        Here, because it holds prompts: private, on this machine, and gone after a reboot where
        the directory for temporary files is cleared.
        """
        own = os.getpid()
        path = self.path / f"slots-{own}-{procfs.start_ticks(own) or 0}"
        _make_private(path)
        return path

    def note(self, pid: int, mark: str) -> None:
        """
        Write down that engine *pid* runs for this process.

        A disk that takes nothing is said and borne: the note helps only a later start, after both
        ties between the two processes have failed.

        Args:
            pid: The engine, which leads its own process group.
            mark: Something that only this engine has in its command line, such as its socket.
        """
        own = os.getpid()
        note = EngineNote(pid, procfs.start_ticks(pid), own, procfs.start_ticks(own), mark)
        partial = self._note_path.with_suffix(".partial")
        try:
            partial.write_bytes(orjson.dumps(asdict(note)))
            partial.replace(self._note_path)  # whole or not at all: others read it at their start
        except OSError as exc:
            _LOG.warning("no note of engine pid=%d in %s: %s", pid, self.path, exc.strerror)

    def forget(self) -> None:
        """Remove the note and the socket file; safe when there are none."""
        self._note_path.unlink(missing_ok=True)
        Path(self.address.path).unlink(missing_ok=True)

    async def clear_stale(self) -> list[int]:
        """
        End engines whose gateway is gone, and remove what they left here.

        Takes up to ten seconds if one of them does not die.

        Returns:
            The pids that were killed.
        """
        killed = []
        for path in sorted(self.path.glob("engine-*.json")):
            note = _read(path)
            if note is not None and _is_alive(note.gateway_pid, note.gateway_start_ticks):
                continue
            if note is not None and _is_engine(note):
                _LOG.warning("killing a leftover engine pid=%d", note.pid)
                await _kill(note.pid)
                killed.append(note.pid)
            path.unlink(missing_ok=True)
            path.with_suffix(".sock").unlink(missing_ok=True)
        for path in self.path.glob("slots-*"):
            if not _owner_lives(path.name):
                shutil.rmtree(path, ignore_errors=True)
        return killed

    def __repr__(self) -> str:
        return f"<RunDir {self.path}>"


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # lstat: a link planted under a guessable name in a shared /tmp must not be followed.
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise RunDirUnsafe(f"{path} is not a directory of this user")
    if stat.S_IMODE(facts.st_mode) != 0o700:
        path.chmod(0o700)


def _owner_lives(name: str) -> bool:
    """Whether the gateway that made the slot folder *name* still runs."""
    pid, _, start_ticks = name.removeprefix("slots-").partition("-")
    if not pid.isdecimal() or not start_ticks.isdecimal():
        return False
    return _is_alive(int(pid), int(start_ticks))


def _read(path: Path) -> EngineNote | None:
    try:
        return EngineNote(**orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, TypeError):
        return None


def _is_alive(pid: int, start_ticks: int | None) -> bool:
    return start_ticks is not None and procfs.start_ticks(pid) == start_ticks


def _is_engine(note: EngineNote) -> bool:
    return _is_alive(note.pid, note.start_ticks) and note.mark in procfs.command_line(note.pid)


async def _kill(pid: int) -> None:
    """Kill the group of *pid*, which leads it, and wait until *pid* is gone."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    try:
        watch = PidfdWatch(os.pidfd_open(pid), lambda: gone.set_result(None))
    except (OSError, AttributeError):
        return
    try:
        os.killpg(pid, signal.SIGKILL)
        await asyncio.wait_for(gone, _STALE_GRACE_S)
    except ProcessLookupError:
        pass
    except TimeoutError:
        _LOG.error("a leftover engine does not die pid=%d", pid)
    finally:
        watch.close()
