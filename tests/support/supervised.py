"""A supervisor with a real child, and a record of what it told."""

import asyncio
import json
import os
import select
import sys
import textwrap
from pathlib import Path
from types import MappingProxyType

from backend.command import EngineCommand, EngineSettings, build_command
from backend.machine import SupervisorSettings
from backend.probe import probe as ask
from backend.rundir import RunDir
from backend.status import EngineState
from backend.supervisor import Supervisor

KEY = "engine-key-0123456789abcdef"
LIMIT_S = 30.0
QUICK = SupervisorSettings(
    load_timeout_s=20.0,
    stop_grace_s=5.0,
    backoff_first_s=0.01,
    backoff_cap_s=0.02,
    probe_interval_s=0.02,
)


async def fetch_from(path, key, method, target, body=b""):
    """One request over a Unix socket; (status, body)."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = answer.lower().partition("content-length:")[2].split("\r\n")[0]
        return int(answer.split()[1]), await reader.readexactly(int(length))
    except asyncio.IncompleteReadError as exc:
        raise ConnectionResetError from exc
    finally:
        writer.close()


async def socket_probe(address, key):
    return await ask(lambda method, path: fetch_from(address.path, key, method, path))


class Engine:
    """A supervisor with everything around it, and a record of what it told."""

    def __init__(
        self,
        run_dir,
        *,
        settings=QUICK,
        command=None,
        probe=socket_probe,
        listener_fails=False,
        **script,
    ):
        self._listener_fails = listener_fails
        self.run_dir = RunDir(run_dir)
        self.command = command or mock_command(self.run_dir.address, **script)
        self.seen = []
        self._changed = asyncio.Event()
        self.supervisor = Supervisor(
            self.command,
            settings,
            probe=probe,
            on_change=self._note,
            jitter=lambda: 0.5,
            run_dir=self.run_dir,
        )

    def _note(self, snapshot):
        self.seen.append(snapshot)
        self._changed.set()
        if self._listener_fails:
            raise ValueError("listener")

    @property
    def socket(self):
        return Path(self.command.address.path)

    async def until(self, state, generation=1):
        """Wait for a state of this process or a later one."""
        while True:
            snapshot = self.supervisor.snapshot
            if snapshot.state is state and snapshot.generation >= generation:
                return snapshot
            self._changed.clear()
            await self._changed.wait()

    async def asleep(self, generation=1):
        """Wait for sleep without a process."""
        while (snapshot := await self.until(EngineState.SLEEPING, generation)).pid is not None:
            self._changed.clear()
            await self._changed.wait()
        return snapshot

    async def __aenter__(self):
        await self.supervisor.start()
        return self

    async def __aexit__(self, *exc):
        await self.supervisor.stop()

    async def get(self, path):
        status, body = await fetch_from(str(self.socket), KEY, "GET", path)
        assert status == 200
        return json.loads(body)


def mock_command(address, **script):
    flags = []
    for name, value in script.items():
        flag = "--" + name.replace("_", "-")
        flags += [flag] if value is True else [flag, str(value)]
    settings = EngineSettings(kind="mock", parallel=2, ctx=1024, extra_args=tuple(flags))
    return build_command(settings, address=address, key=KEY, environ=os.environ)


def python_command(address, program):
    """An engine that is a few lines of Python and never becomes ready."""
    argv = (sys.executable, "-c", textwrap.dedent(program), address.path)
    return EngineCommand(argv, MappingProxyType({}), address, KEY)


def is_gone(pidfd, timeout_s=10.0):
    return bool(select.select([pidfd], [], [], timeout_s)[0])
