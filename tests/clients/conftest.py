"""Services for a whole module of tests, with the keys that clients need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keys import create_first_key
from tests.support.service import ServiceProcess

Start = Callable[..., ServiceProcess]


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts services that live until the module's tests are over."""
    running: list[ServiceProcess] = []

    def start(*, key: bool = True, **env: str) -> ServiceProcess:
        folder = tmp_path_factory.mktemp("service")
        service = ServiceProcess(folder, env)
        running.append(service)
        if key:
            secret = create_first_key(keys_file(service), keys_file(service, "pepper"), "test")
            assert secret is not None
            service.key = secret
        return service

    yield start
    for service in running:
        service.kill()


def keys_file(service: ServiceProcess, ending: str = "yaml") -> Path:
    """Where a service has its keys."""
    return service.folder / f"keys.{ending}"
