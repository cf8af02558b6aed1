"""The probe program that container images use instead of curl."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from health import HealthServer, ServiceState, Snapshot
from health.probe import main, probe

ROOT = Path(__file__).resolve().parents[2]


class Service:
    """Stands in for the rest of the program."""

    snapshot = Snapshot(ServiceState.READY)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def server(service: Service) -> Iterator[HealthServer]:
    found = HealthServer(
        "127.0.0.1",
        0,
        snapshot=lambda: service.snapshot,
        metrics=lambda: b"",
        clock=lambda: 0.0,
    )
    found.start()
    yield found
    found.stop()


def test_a_ready_service_is_well(server: HealthServer) -> None:
    assert probe(f"http://127.0.0.1:{server.port}") == (True, "200")


def test_a_loading_service_is_not(server: HealthServer, service: Service) -> None:
    service.snapshot = replace(service.snapshot, state=ServiceState.LOADING)
    assert probe(f"http://127.0.0.1:{server.port}/health") == (False, "503")
    assert probe(f"http://127.0.0.1:{server.port}/ping") == (True, "204")


def test_a_closed_port_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert probe(f"http://127.0.0.1:{port}/health") == (False, "no answer (ConnectionRefusedError)")


def test_silence_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/health"
        assert probe(url, timeout_s=0.05) == (False, "no answer (TimeoutError)")


@pytest.mark.parametrize(
    "url", ["", "https://127.0.0.1/", "127.0.0.1:80", "http://", "http://h:port/", "file:///etc"]
)
def test_what_is_no_url_is_not(url: str) -> None:
    assert not probe(url)[0]


def test_wrong_usage_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err


def test_the_program_ends_with_0_or_1(server: HealthServer, service: Service) -> None:
    command = [sys.executable, "-m", "health.probe", f"http://127.0.0.1:{server.port}/health"]
    assert subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True).returncode == 0
    service.snapshot = replace(service.snapshot, state=ServiceState.FAILED)
    ended = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "503\n")
