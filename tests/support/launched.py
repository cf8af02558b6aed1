"""An engine behind the launcher, as the gateway starts one; it can be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import backend.launcher
from backend import EngineClient, EngineSettings, UnixAddress, build_command, probe_engine
from backend.probe import ProbeReady

__all__ = ["Launched", "launched"]

_KEY = "engine-key"


@dataclass(frozen=True, slots=True)
class Launched:
    """A ready engine."""

    client: EngineClient
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid


@contextlib.asynccontextmanager
async def launched(settings: EngineSettings, folder: Path) -> AsyncIterator[Launched]:
    """Start an engine, wait until it is ready; kill it at the end.

    Args:
        settings: As for the gateway's.
        folder: Where its socket goes; a short path.
    """
    address = UnixAddress(str(folder / "launched.sock"))
    root = Path(__file__).parents[2]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)}
    command = build_command(settings, address=address, key=_KEY, environ=environ)
    read, write = os.pipe()
    launcher = [sys.executable, "-I", "-S", backend.launcher.__file__, str(read), "0", "--"]
    process = subprocess.Popen(
        [*launcher, *command.argv],
        env=dict(command.env),
        stderr=subprocess.DEVNULL,
        pass_fds=(read,),
        start_new_session=True,
    )
    os.close(read)
    client = EngineClient(address, _KEY)
    try:
        async with asyncio.timeout(30):
            while not isinstance(await probe_engine(address, _KEY), ProbeReady):
                assert process.poll() is None, "the engine ended"
        yield Launched(client, process)
    finally:
        client.close()
        process.kill()
        process.wait(10)
        os.close(write)
        Path(address.path).unlink(missing_ok=True)
