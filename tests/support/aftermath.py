"""What must hold after every fault: a service that passes its test and limps has failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil

from tests.support.callers import Caller, until
from tests.support.service import ServiceProcess

__all__ = ["engines", "figure", "status", "unharmed"]

_PROMPTLY_S = 1.0
_GROWTH = 1.10
_SETTLES_WITHIN_S = 15.0
_REHEARSALS = 20


@contextmanager
def unharmed(service: ServiceProcess, *, engine_stays: bool = False) -> Iterator[None]:
    """Whatever the block does to *service*, in the end nothing of it is left.

    A good request succeeds at once; queue and slots are empty; no stray or zombie child; memory and
    file descriptors are within a tenth of before; the log holds neither the key nor a traceback.

    Args:
        service: Ready, on the mock engine or on the real one; at rest.
        engine_stays: Whether the same engine process must still be there.
    """
    who = Caller(service, service.key)
    for _ in range(_REHEARSALS):  # fills caches and pools
        assert who.chat().status_code == 200
    gateway = psutil.Process(service.pid)
    before = (gateway.num_fds(), gateway.memory_info().rss, _pids(service))
    yield
    until(lambda: status(service)["state"] == "ready", 2 * _SETTLES_WITHIN_S)
    reply = who.chat()
    assert reply.status_code == 200, reply.text
    assert reply.elapsed.total_seconds() < _PROMPTLY_S
    assert reply.headers["x-request-id"]
    until(lambda: not any(status(service)[name] for name in ("in_flight", "queued", "lingering")))
    until(lambda: gateway.num_fds() <= before[0] * _GROWTH, _SETTLES_WITHIN_S)
    assert gateway.memory_info().rss <= before[1] * _GROWTH
    family = gateway.children(recursive=True)
    assert [child.status() for child in family if child.status() == psutil.STATUS_ZOMBIE] == []
    assert len(engines(service)) == 1
    assert {child.pid for child in family} == _pids(service), "a child that is no engine is left"
    assert not engine_stays or _pids(service) == before[2]
    assert service.key not in service.output
    assert "Traceback" not in service.output, service.output


def engines(service: ServiceProcess) -> list[psutil.Process]:
    """Every process on this machine that was started as an engine of *service*, dead ones aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if service.engine_socket in process.cmdline():
                found.append(process)
        except psutil.Error:  # it ended meanwhile, or is a zombie
            continue
    return found


def _pids(service: ServiceProcess) -> set[int]:
    return {engine.pid for engine in engines(service)}


def status(service: ServiceProcess) -> dict[str, Any]:
    """State, slots and queue, as whoever holds a key is told."""
    headers = {"Authorization": f"Bearer {service.key}"}
    value = httpx.get(f"{service.url}/gpu/status", headers=headers, timeout=10).json()
    assert isinstance(value, dict)
    return value


def figure(service: ServiceProcess, series: str) -> float:
    """A number of /metrics; 0 for a series that is not there (yet)."""
    text = httpx.get(f"{service.health_url}/metrics", timeout=10).text
    found = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(found[0].split()[-1]) if found else 0.0
