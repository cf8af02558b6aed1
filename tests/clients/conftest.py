"""Services for a whole module of tests, with the keys that clients need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from keys import create_first_key
from tests.support.service import ServiceProcess

Make = Callable[..., ServiceProcess]


@pytest.fixture(scope="module")
def make_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes services, not started yet, that live until the module's tests are over."""
    running: list[ServiceProcess] = []

    def make(*, key: bool = True, flags: Sequence[str] = (), **env: str) -> ServiceProcess:
        folder = tmp_path_factory.mktemp("service")
        service = ServiceProcess(folder, env, flags)
        running.append(service)
        if key:
            secret = create_first_key(keys_file(service), keys_file(service, "pepper"), "test")
            assert secret is not None
            service.key = secret
        return service

    yield make
    for service in running:
        service.kill()


def keys_file(service: ServiceProcess, ending: str = "yaml") -> Path:
    """Where a service has its keys."""
    return service.folder / f"keys.{ending}"
