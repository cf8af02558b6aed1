"""The two ways to the model: llama-server by itself, and the same behind the gateway.

Both engines get the same arguments, made by the gateway's own code; only the address differs (the
bare one listens on loopback, the gateway's on its Unix socket). `differing_arguments` looks
at the running processes whether that is true.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from backend import EngineSettings, TcpAddress, build_command, engine_threads
from keys import create_first_key
from tests.bench.gpu.asking import Target
from tests.bench.gpu.machine import CannotRun, DeviceKind
from tests.support.service import ServiceProcess

__all__ = [
    "Served",
    "Setup",
    "bare",
    "behind",
    "differing_arguments",
    "engine_below",
    "repeatable",
]

_LOAD_LIMIT_S = 240.0
_POLL_S = 0.01
_KEY = "bench"
_PASSED_ON = ("CUDA_", "NVIDIA_", "LD_LIBRARY_PATH", "GGML_", "PYTHONPATH")
_SECRET = re.compile(r"(?<!_PER)_(KEY|TOKEN|SECRET|PASSWORD)$")


@dataclass(frozen=True, slots=True)
class Setup:
    """What is started, both ways."""

    binary: Path
    model: Path
    device: DeviceKind
    slots: int
    slot_tokens: int
    out: Path
    commands: dict[str, str] = field(default_factory=dict)
    """Filled when something is started: name -> the command, for people to repeat."""

    @property
    def engine(self) -> EngineSettings:
        return EngineSettings(
            binary=self.binary,
            model=self.model,
            alias="random",
            ctx=self.slots * self.slot_tokens,
            parallel=self.slots,
            ngl="all" if self.device == "cuda" else "auto",
            threads=engine_threads(),
        )

    @property
    def gateway_env(self) -> dict[str, str]:
        """Keys, limits, queue, metrics and a JSON log are all on; the limits are out of reach."""
        engine = self.engine
        return {
            "LLAMA_SERVER": str(self.binary),
            "MODEL_PATH": str(self.model),
            "MODEL_ALIAS": engine.alias,
            "CTX": str(engine.ctx),
            "PARALLEL": str(engine.parallel),
            "NGL": str(engine.ngl),
            "THREADS": str(engine.threads),
            "MAX_REQUESTS_PER_MINUTE": "1000000",
            "MAX_TOKENS_PER_MINUTE": "1000000000",
            "MAX_CONNECTIONS_PER_ADDRESS": "0",
            "LOG_FORMAT": "json",
            "LOAD_TIMEOUT": f"{_LOAD_LIMIT_S:.0f}",
        }


@dataclass(frozen=True, slots=True)
class Served:
    """One way, started; *target* is whom to ask."""

    target: Target
    started_s: float
    """When its process was made, on the clock of `time.perf_counter`."""
    service: ServiceProcess | None = None


@contextmanager
def bare(setup: Setup) -> Iterator[Served]:
    """llama-server by itself; ready when the block begins."""
    port = _free_port()
    command = build_command(
        setup.engine, address=TcpAddress("127.0.0.1", port), key=_KEY, environ=os.environ
    )
    setup.commands["bare llama-server"] = repeatable(command.env, command.argv)
    log = setup.out / "llama-server.log"
    started_s = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command.argv, env=dict(command.env), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        _until_ready(process, port, log)
        yield Served(Target("direct", port, _KEY, {"engine": process.pid}), started_s)
    finally:
        process.kill()
        process.wait(30)


@contextmanager
def behind(setup: Setup, folder: Path, **env: str) -> Iterator[Served]:
    """
    The gateway, as soon as its ports are open: requests are taken, and wait for the engine.

    Args:
        folder: Where its keys go.
        env: More settings.
    """
    folder.mkdir()
    secret = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "bench")
    assert secret is not None
    settings = {**setup.gateway_env, **env}
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    started_s = time.perf_counter()
    service = ServiceProcess(folder, {**passed, **settings})
    try:
        service.start().opened()
        opened = {"PORT": str(service.port), "PORT_HEALTH": str(service.health_port)}
        words = (sys.executable, "-m", "gateway", "serve")
        setup.commands[_name(env)] = repeatable({**service.env, **opened}, words)
        target = Target("gateway", service.port, secret, {"gateway": service.pid})
        yield Served(target, started_s, service)
        service.stop()
    except AssertionError as exc:  # that is how it tells of a line that did not come
        raise CannotRun(f"the gateway did not start:\n{exc}") from exc
    finally:
        service.kill()
        (setup.out / "gateway.log").write_text(service.output + "\n", encoding="utf-8")


def _name(env: dict[str, str]) -> str:
    return "gateway, unloading when idle" if "IDLE_ACTION" in env else "gateway"


def repeatable(env: Mapping[str, str], words: Sequence[str]) -> str:
    """A command with its whole environment, for a shell; of keys there is only the name."""
    told = [f"{name}={'***' if _SECRET.search(name) else value}" for name, value in env.items()]
    return shlex.join(["env", "-i", *told, *words])


def differing_arguments(one: int, other: int) -> list[str]:
    """Words in the command line of only one of two engines, their addresses left out."""
    return sorted(set(_without_address(one)) ^ set(_without_address(other)))


def engine_below(gateway: int, binary: Path) -> int:
    """The process id of the engine that a gateway runs."""
    for child in psutil.Process(gateway).children(recursive=True):
        if child.cmdline()[:1] == [str(binary)]:
            return child.pid
    raise CannotRun("the gateway is ready, and no engine of its own is found")


def _without_address(pid: int) -> Sequence[str]:
    words = psutil.Process(pid).cmdline()
    for flag in ("--host", "--port"):
        if flag in words:
            at = words.index(flag)
            del words[at : at + 2]
    return words


def _until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + _LOAD_LIMIT_S
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
        while time.monotonic() < deadline_s and process.poll() is None:
            try:
                if client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
    code = process.poll()
    what = "did not become ready" if code is None else f"ended before it was ready, {_told(code)}"
    last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise CannotRun(f"llama-server {what}; the end of {log}:\n{last or '(it said nothing)'}")


def _told(code: int) -> str:
    return f"with exit code {code}" if code >= 0 else f"by signal {-code}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
