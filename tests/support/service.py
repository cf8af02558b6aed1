"""The whole service as a real process, for tests that talk to it over sockets."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME")
_READY = re.compile(r"ready: http://\S+:(\d+)/v1")
_API = re.compile(r"api port is open on \S+:(\d+)")
_HEALTH = re.compile(r"health port is open on \S+:(\d+)")


class ServiceProcess:
    """``python -m gateway serve`` on free ports, with its output collected.

    Args:
        folder: DATA_DIR; keys and logs of this instance.
        env: Settings, by environment name.
        flags: More words for the command line.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], flags: Sequence[str] = ()) -> None:
        self._flags = flags
        self.folder = folder
        self._env = {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "PYTHONUNBUFFERED": "1",
            "HOST": "127.0.0.1",
            "PORT": "0",
            "PORT_HEALTH": "0",
            "DATA_DIR": str(folder),
            "DRAIN_DELAY": "0",
            "DRAIN_TIMEOUT": "5",
            "PLATFORM": "generic",
            # Whoever tests a limit sets it.
            "MAX_REQUESTS_PER_MINUTE": "0",
            "MAX_QUEUE_PER_KEY": "1000000",
            **env,
        }
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self.key = ""
        self.port = 0
        self.health_port = 0

    def __enter__(self) -> ServiceProcess:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> ServiceProcess:
        """Start it; returns at once."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", *self._flags],
            cwd=Path(__file__).parents[2],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    @property
    def pid(self) -> int:
        """The gateway's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def env(self) -> Mapping[str, str]:
        """All of its environment."""
        return dict(self._env)

    @property
    def output(self) -> str:
        """All it has written so far."""
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        """The API's base, without /v1."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def health_url(self) -> str:
        """The health port's base."""
        return f"http://127.0.0.1:{self.health_port}"

    @property
    def engine_socket(self) -> str:
        """The socket of its engine."""
        folder = Path(tempfile.gettempdir()) / f"llama-gateway-{os.getuid()}"
        return str(folder / f"engine-{self.pid}.sock")

    def wait_for(self, pattern: str | re.Pattern[str], timeout_s: float = 60.0) -> re.Match[str]:
        """Wait for a line of output that was not waited for before."""
        while True:
            try:
                line = self._news.get(timeout=timeout_s)
            except queue.Empty:
                raise AssertionError(f"no line like {pattern!r} in:\n{self.output}") from None
            if line is None:
                raise AssertionError(f"it ended before {pattern!r}:\n{self.output}")
            found = re.search(pattern, line)
            if found is not None:
                return found

    def ready(self) -> ServiceProcess:
        """Wait until it serves."""
        self.opened()
        self.wait_for(_READY)
        return self

    def opened(self) -> ServiceProcess:
        """Wait until both ports are open."""
        self.health_port = int(self.wait_for(_HEALTH)[1])
        self.port = int(self.wait_for(_API)[1])
        return self

    def signal(self, number: int) -> None:
        """Send a signal to the gateway alone."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """Stop it as a platform would."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._news.put(line.rstrip("\n"))
        self._process.stdout.close()
        self._news.put(None)
