"""What the load programs share: a service with keys, the cost of its processes, small tables."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from types import TracebackType
from typing import Any, TypeVar

import psutil
import uvloop

from keys.changes import add
from keys.editing import editing
from keys.records import KeyRecord
from tests.load.client import Answer, ask, pause, request
from tests.support.service import ServiceProcess

__all__ = ["SLOTS", "Bench", "Watch", "percentile", "running", "table"]

SLOTS = 4
_PROBE_S = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bench:
    """A service on the mock engine, and the secrets of its keys by name."""

    service: ServiceProcess
    secrets: Mapping[str, str]

    async def ask(self, name: str, script: str, *, stream: bool = True) -> Answer:
        """One request of the key *name*."""
        return await ask(self.service.port, request(self.secrets[name], script, stream=stream))

    async def lone_s(self, name: str, script: str, rounds: int = 4, width: int = SLOTS) -> float:
        """Median seconds of an answer while no one waits, *width* at a time."""
        took_s: list[float] = []
        for _ in range(rounds):
            answers = await together([lambda: self.ask(name, script)] * width)
            assert all(answer.good for answer in answers), answers
            took_s += [answer.took_s for answer in answers]
        return median(took_s)

    async def flood(
        self, name: str, script: str, width: int, got: Callable[[Answer], None]
    ) -> None:
        """Keep *width* requests of one key in flight until cancelled; *got* is told each answer."""
        data = request(self.secrets[name], script, stream=True)

        async def one_after_another() -> None:
            while True:
                got(await ask(self.service.port, data))

        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(one_after_another())


@contextmanager
def running(keys: Mapping[str, float], folder: Path | None = None, **env: str) -> Iterator[Bench]:
    """A service with four slots.

    Args:
        keys: Weights by name.
        folder: DATA_DIR; one of its own when None.
        env: More settings.
    """
    with tempfile.TemporaryDirectory(prefix="lg-load-") as own:
        place = folder or Path(own)
        secrets = _make_keys(place, keys)
        settings = {
            "USE_MOCK_MODEL": "true",
            "PARALLEL": str(SLOTS),
            # All clients of a load come from one address.
            "MAX_CONNECTIONS_PER_ADDRESS": "0",
            **env,
        }
        with ServiceProcess(place, settings) as service:
            yield Bench(service.ready(), secrets)
            service.stop()


def _make_keys(folder: Path, keys: Mapping[str, float]) -> dict[str, str]:
    secrets: dict[str, str] = {}
    with editing(folder / "keys.yaml", folder / "keys.pepper", create=True) as draft:
        for name, weight in keys.items():
            secrets[name], secret = draft.make_secret(name)
            draft.save(add(draft.file, KeyRecord(name, secret, weight=weight)))
    return secrets


async def together(calls: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call()) for call in calls]
    return [task.result() for task in tasks]


@dataclass(slots=True)
class Watch:
    """What a stretch of time cost: CPU of each process, and how late the load's own loop was.

    A generator that is late or has no CPU to spare would be what is measured.
    """

    service: ServiceProcess
    cpu: dict[str, float] = field(default_factory=dict)
    """Share of one core, by process."""
    lag_s: list[float] = field(default_factory=list)
    """How much later than asked for the generator's loop woke up."""
    rss_bytes: list[int] = field(default_factory=list)
    """Memory of the gateway, once a second."""
    _started_s: float = 0.0
    _spent_s: dict[str, float] = field(default_factory=dict)
    _probes: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Watch:
        loop = asyncio.get_running_loop()
        self._spent_s, self._started_s = self._cpu_s(), loop.time()
        self._probes = [
            loop.create_task(self._feel_lag()),
            loop.create_task(self._look_at_memory()),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        passed_s = asyncio.get_running_loop().time() - self._started_s
        spent_s = self._cpu_s()
        self.cpu = {name: (spent_s[name] - self._spent_s[name]) / passed_s for name in spent_s}

    def told(self) -> str:
        """One line for people."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.cpu.items())
        late_ms = 1000 * percentile(self.lag_s, 99)
        return f"CPU of one core: {shares}; the generator woke up late by {late_ms:.1f} ms (p99)"

    def _cpu_s(self) -> dict[str, float]:
        gateway = psutil.Process(self.service.pid)
        engine = next(
            child for child in gateway.children(recursive=True) if "backend.mock" in child.cmdline()
        )
        processes = {"generator": psutil.Process(os.getpid()), "gateway": gateway, "engine": engine}
        return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}

    async def _feel_lag(self) -> None:
        time = asyncio.get_running_loop().time
        while True:
            before_s = time()
            await pause(_PROBE_S)
            self.lag_s.append(time() - before_s - _PROBE_S)

    async def _look_at_memory(self) -> None:
        gateway = psutil.Process(self.service.pid)
        while True:
            await pause(1.0)
            self.rss_bytes.append(gateway.memory_info().rss)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* on the loop that the gateway itself uses."""
    return uvloop.run(main)


def percentile(values: Sequence[float], percent: int) -> float:
    """By interpolation; 0 for no values."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Two columns under a title."""
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows), ""])
