"""What is measured: the gateway with the bench's engine, and the doors one can go in by.

The gateway runs as a user would run it, with keys, limits, fair queue, metrics and a JSON access
log that goes to a file. The limits are on and so high that nobody meets them. Its engine is
`tests.bench.upstream`; nginx and the direct way use the socket of that one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from keys.changes import merge
from keys.editing import editing
from keys.records import KeyRecord
from tests.bench.cpu import family, pin
from tests.bench.started import pause_on
from tests.support.service import ServiceProcess
from tests.tiny_gguf import write_tiny_gguf

__all__ = ["SETTINGS", "Door", "Gateway", "make_keys"]

_ROOT = Path(__file__).parents[2]
_READY = re.compile(r"ready: http://\S+:(\d+)/v1")
_START_S = 60.0
_STEP_S = 0.02
_SLOTS = 256  # the most that there can be
_CONTEXT = 100_000_000

SETTINGS = {
    "LOG_FORMAT": "json",
    "PARALLEL": str(_SLOTS),
    # A prompt of a megabyte must fit into a slot.
    "CTX": str(_CONTEXT),
    # All callers of the bench have one address and one key.
    "MAX_CONNECTIONS_PER_ADDRESS": "0",
    "MAX_REQUESTS_PER_MINUTE": "10000000",
    "MAX_TOKENS_PER_MINUTE": "1000000000000",
    "MAX_TOKENS_PER_DAY": "1000000000000",
    "MAX_CONCURRENT_PER_KEY": "1000000",
    "AUTH_FAILURES_PER_MINUTE": "1000000",
}


@dataclass(frozen=True, slots=True)
class Door:
    """Where one of the three is entered, and which processes are it.

    Attributes:
        name: ``direct``, ``nginx`` or ``gateway``.
        path: A Unix socket; None for *port*.
        port: On 127.0.0.1.
        pids: Its own processes; none for ``direct``.
        closes_streams: Whether it closes the connection behind each stream: the engine itself.
    """

    name: str
    path: str | None = None
    port: int = 0
    pids: tuple[int, ...] = ()
    closes_streams: bool = False


def make_keys(folder: Path, count: int) -> list[str]:
    """Write a keys file with *count* keys; their secrets."""
    secrets: list[str] = []
    records: list[KeyRecord] = []
    with editing(folder / "keys.yaml", folder / "keys.pepper", create=True) as draft:
        for number in range(count):
            name = f"key-{number}"
            text, secret = draft.make_secret(name)
            secrets.append(text)
            records.append(KeyRecord(name, secret))
        draft.save(merge(draft.file, records))
    return secrets


class _Service(ServiceProcess):
    """A service whose log goes to a file, as its reader would be load on the other core."""

    def start(self) -> _Service:
        with (self.folder / "gateway.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", *self._flags],
                cwd=_ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        return self

    def ready(self) -> _Service:
        assert self._process is not None
        for _ in range(int(_START_S / _STEP_S)):
            said = (self.folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
            if (found := _READY.search(said)) is not None:
                self.port = int(found[1])
                return self
            pause_on(self._process)
        raise AssertionError(f"the gateway is not ready:\n{said}")

    def end(self) -> None:
        """Make sure that it is gone; in good order where it still can, for it has an engine."""
        try:
            if self._process is not None and self._process.poll() is None:
                self.stop()
        finally:
            self.kill()


class Gateway:
    """The gateway and its engine, each on its cores.

    Args:
        folder: An empty one.
        env: More settings.
        cores: Those of the proxy, those of all others.
        keys: How many keys its file holds.
    """

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str],
        cores: tuple[list[int], list[int]],
        *,
        keys: int = 8,
    ) -> None:
        folder.mkdir()
        self.secrets = make_keys(folder, keys)
        model = write_tiny_gguf(folder / "bench.gguf")
        settings = {
            **SETTINGS,
            "LLAMA_SERVER": str(_upstream_program(folder)),
            "MODEL_PATH": str(model),
            "MODEL_ALIAS": "bench",
            **env,
        }
        self._cores = cores
        self.service = _Service(folder, settings)

    def __enter__(self) -> Gateway:
        self.service.start()
        try:
            self.service.ready()
            pin(self.service.pid, self._cores[0])
            for child in self.engine_pids:
                pin(child, self._cores[1])
        except BaseException:
            self.service.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.service.end()

    @property
    def engine_pids(self) -> list[int]:
        return family(self.service.pid)

    @property
    def door(self) -> Door:
        return Door("gateway", port=self.service.port, pids=(self.service.pid,))

    @property
    def direct(self) -> Door:
        return Door("direct", path=self.service.engine_socket, closes_streams=True)


def _upstream_program(folder: Path) -> Path:
    """A program that can be given as LLAMA_SERVER; the engine's environment is a bare one."""
    program = folder / "llama-server"
    program.write_text(
        f"#!/bin/sh\nPYTHONPATH='{_ROOT}' exec '{sys.executable}' -m tests.bench.upstream \"$@\"\n"
    )
    program.chmod(0o755)
    return program
