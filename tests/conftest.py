"""Fixtures that several rooms use: socket folders, the real engine, tiny models, the service."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend import FindSettings, find
from keys import create_first_key
from tests.support.service import ServiceProcess
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="lg-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """The real engine; ``make test`` has built it."""
    found = find(FindSettings())
    assert found is not None, "no llama-server here: run 'make setup'"
    return found.path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models: tiny.gguf (chat), rerank.gguf and mmproj.gguf."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_gguf(folder / "tiny.gguf", kind="chat")
    write_tiny_gguf(folder / "rerank.gguf", kind="rerank")
    write_tiny_gguf(folder / "mmproj.gguf", kind="mmproj")
    return folder


Serve = Callable[..., ServiceProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a service with a key of its own: ``serve(USE_MOCK_MODEL="true")``.

    The key's secret is in the service's ``key``; every service is gone after the test.
    """
    running: list[ServiceProcess] = []

    def start(**env: str) -> ServiceProcess:
        folder = tmp_path / f"service-{len(running)}"
        folder.mkdir()
        secret = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
        assert secret is not None
        service = ServiceProcess(folder, env)
        service.key = secret
        running.append(service)
        return service.start()

    yield start
    for service in running:
        service.kill()


@pytest.fixture
def mock_service(serve: Serve) -> ServiceProcess:
    """A service on the mock engine, ready."""
    return serve(USE_MOCK_MODEL="true").ready()


@pytest.fixture(scope="session")
def key_tool() -> Callable[..., str]:
    """Runs scripts/key_mgmt.py and gives its standard output."""

    def run(*arguments: str) -> str:
        script = Path(__file__).parents[1] / "scripts" / "key_mgmt.py"
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.stdout.strip()

    return run
