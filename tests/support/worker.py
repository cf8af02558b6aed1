"""`llama-gateway runpod-worker` as a real process, for async tests that play the platform."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SDK = ROOT / ".venvs" / "runpod"  # made by `make test`
_KEPT = ("PATH", "HOME", "LANG", "XDG_CACHE_HOME")


class Worker:
    """A worker that runs, and what it has written."""

    def __init__(self, process: asyncio.subprocess.Process, temporary: Path) -> None:
        self._process = process
        self.temporary = temporary
        """Where all of them put their temporary files."""
        self.lines: list[str] = []
        self._news = asyncio.Condition()
        self.family: dict[str, psutil.Process] = {}
        """Its processes, once `settle` has seen them: gateway, sdk, engine, heartbeat."""

    @property
    def pid(self) -> int:
        """The parent's process id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it and its children have written."""
        return "\n".join(self.lines)

    async def read(self) -> None:
        """Collect the output until its end."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
            await self._tell()

    async def said(self, pattern: str, limit_s: float = 30.0) -> None:
        """Wait for a line like *pattern*."""
        try:
            async with self._news, asyncio.timeout(limit_s):
                await self._news.wait_for(lambda: any(re.search(pattern, x) for x in self.lines))
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in:\n{self.output}") from None

    def settle(self) -> None:
        """Note who is there, for `survivors`."""
        for process in psutil.Process(self.pid).children(recursive=True):
            words = " ".join(process.cmdline())
            if "gateway.runpod.worker" in words:
                name = "heartbeat" if "sdk" in self.family else "sdk"
            else:
                name = "gateway" if "gateway serve" in words else "engine"
            self.family[name] = process

    def survivors(self) -> list[str]:
        """Which of the noted processes still run."""
        return [name for name, process in self.family.items() if _lives(process)]

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the parent alone."""
        self._process.send_signal(number)

    async def wait(self, limit_s: float = 30.0) -> int:
        """Its exit code, negative for a signal."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"it did not end:\n{self.output}") from None

    async def kill(self) -> None:
        """Make sure that all of it is gone."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        for process in self.family.values():
            if _lives(process):
                process.kill()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


@asynccontextmanager
async def running_worker(folder: Path, env: Mapping[str, str]) -> AsyncIterator[Worker]:
    """
    A worker on the mock engine with two slots.

    Args:
        folder: DATA_DIR; made if missing.
        env: The platform's variables, and settings.
    """
    folder.mkdir(exist_ok=True)
    # Short, for the engine's socket lies in it too.
    temporary = tempfile.TemporaryDirectory(prefix="lg-")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "runpod-worker"),
        cwd=ROOT,
        env={
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(SDK),
            "DATA_DIR": str(folder),
            "TMPDIR": temporary.name,
            "USE_MOCK_MODEL": "true",
            "PARALLEL": "2",
            "DRAIN_TIMEOUT": "10",
            **env,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    worker = Worker(process, Path(temporary.name))
    reading = asyncio.get_running_loop().create_task(worker.read())
    try:
        yield worker
    finally:
        await worker.kill()
        reading.cancel()
        temporary.cleanup()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
