"""A real llama-server of one's own, started with the command that the gateway would use."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from backend import EngineSettings, UnixAddress, build_command

KEY = "engine-key"


@contextmanager
def running_engine(settings: EngineSettings, folder: Path) -> Iterator[httpx.Client]:
    """Start the engine of *settings*, and give a client for it once it is ready.

    Args:
        settings: As for the gateway's.
        folder: Where its socket goes; a short path.
    """
    with mortal_engine(settings, folder) as (client, _):
        yield client


@contextmanager
def mortal_engine(
    settings: EngineSettings, folder: Path
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """As `running_engine`, with the process, for tests that end it."""
    address = UnixAddress(str(folder / "own.sock"))
    command = build_command(settings, address=address, key=KEY, environ={"PATH": "/usr/bin:/bin"})
    with (folder / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            command.argv, env=dict(command.env), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=address.path),
            base_url="http://engine",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=30,
        ) as client:
            _until_ready(client, process, folder / "engine.log")
            yield client, process
    finally:
        process.kill()
        process.wait(10)
        Path(address.path).unlink(missing_ok=True)  # what is killed leaves it, for the next to meet


def _until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 30.0
    pause = threading.Event()
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        pause.wait(0.02)
    raise AssertionError(f"the engine is not ready:\n{log.read_text(errors='replace')}")
