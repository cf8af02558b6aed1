"""The real service as a pod: what the fakes of platforms start, probe, signal and see end."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from keys import create_first_key
from tests.conftest import Serve
from tests.support.service import ServiceProcess


class ServicePod:
    """One process of the service, started by `open`."""

    def __init__(self, serve: Serve, env: dict[str, str]) -> None:
        self._serve = serve
        self._env = env
        self.service: ServiceProcess
        self.url = ""
        self.health_url = ""

    async def open(self) -> None:
        """Start it; returns when both of its ports are known."""
        self.service = self._serve(**self._env)
        await asyncio.to_thread(self.service.opened)
        self.url, self.health_url = self.service.url, self.service.health_url

    async def ready(self) -> None:
        """Wait until it serves."""
        await asyncio.to_thread(self.service.wait_for, "ready: http")

    def signal(self, number: int) -> None:
        """Send a signal to the gateway alone."""
        try:
            self.service.signal(number)
        except ProcessLookupError:
            pass

    async def ended(self) -> int:
        """The exit code, negative for a signal."""
        try:
            watch = os.pidfd_open(self.service.pid)
        except ProcessLookupError:
            return self.service.wait()
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(watch, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(watch)
            os.close(watch)
        return self.service.wait()


class Deployment:
    """Makes pods that share one keys file, so that a key outlives the pod it was used at first.

    Args:
        serve: The fixture.
        folder: Where the keys go.
        env: Settings of each pod.
    """

    def __init__(self, serve: Serve, folder: Path, **env: str) -> None:
        keys, pepper = folder / "keys.yaml", folder / "keys.pepper"
        secret = create_first_key(keys, pepper, "client")
        assert secret is not None
        self.key = secret
        self._serve = serve
        self._env = {
            "USE_MOCK_MODEL": "true",
            "AUTH_KEYS_FILE": str(keys),
            "AUTH_PEPPER_FILE": str(pepper),
            **env,
        }
        self.pods: list[ServicePod] = []

    def pod(self) -> ServicePod:
        """A new one, not started."""
        pod = ServicePod(self._serve, self._env)
        self.pods.append(pod)
        return pod


@contextmanager
def children_end_with(service: ServiceProcess, timeout_s: float = 5.0) -> Iterator[None]:
    """Asserts that the service has children, and that none is left after the block."""
    children = psutil.Process(service.pid).children(recursive=True)
    assert children, "the service has no engine"
    watches = [os.pidfd_open(child.pid) for child in children]
    yield
    for watch in watches:
        gone, _, _ = select.select([watch], [], [], timeout_s)
        os.close(watch)
        assert gone, "a process of the engine is still there"
