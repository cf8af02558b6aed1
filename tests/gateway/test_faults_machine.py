"""A disk that takes nothing, file descriptors that run out, a process that was frozen."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Serve
from tests.support.aftermath import engines, figure, status, unharmed
from tests.support.callers import Caller, until
from tests.support.service import ServiceProcess

ENDLESS = "mock: tokens=5000 delay_ms=5"
FOREVER = psutil.RLIM_INFINITY


@pytest.fixture
def counting(serve: Serve) -> ServiceProcess:
    """A service that has counters to save."""
    return serve(USE_MOCK_MODEL="true", MAX_TOKENS_PER_DAY="100000").ready()


def saved_tokens(service: ServiceProcess) -> int:
    try:
        state = json.loads((service.folder / "usage.json").read_bytes())["state"]
    except FileNotFoundError:
        return 0
    return sum(used for _, used in state["keys"].values())


def said(service: ServiceProcess, words: str) -> int:
    """In how many lines of the log."""
    return sum(words in line for line in service.lines)


# -- the disk


@contextlib.contextmanager
def no_room(service: ServiceProcess) -> Iterator[None]:
    """No file of the service may grow: every write to one fails."""
    process = psutil.Process(service.pid)
    process.rlimit(psutil.RLIMIT_FSIZE, (0, FOREVER))
    yield
    process.rlimit(psutil.RLIMIT_FSIZE, (FOREVER, FOREVER))


def test_full_disk_stops_nothing_and_what_was_counted_is_saved_later(
    counting: ServiceProcess,
) -> None:
    who = Caller(counting, counting.key)
    with unharmed(counting, engine_stays=True):
        with no_room(counting):
            assert who.chat().status_code == 200
            counting.wait_for("cannot be saved")
            # Two more saves have failed by then, and said nothing.
            with who.streaming("mock: tokens=800 delay_ms=5", max_tokens=800) as (_, lines):
                assert list(lines)[-1] == "data: [DONE]"
            assert said(counting, "cannot be saved") == 1
        counting.wait_for("saved to .* again")
        spent = who.key()["tokens_today"]
        until(lambda: saved_tokens(counting) == spent)
    assert said(counting, "cannot be saved") == 1


def test_engine_restarts_while_the_disk_is_full(counting: ServiceProcess) -> None:
    who = Caller(counting, counting.key)
    with unharmed(counting):
        with no_room(counting):
            (engine,) = engines(counting)
            os.kill(engine.pid, signal.SIGKILL)
            assert who.chat().status_code == 200
        until(lambda: who.key()["tokens_today"] == saved_tokens(counting))


def test_service_works_on_a_folder_that_nobody_can_write(serve: Serve) -> None:
    """What lies under /sys is the kernel's: not even root makes a file there."""
    keys = serve(USE_MOCK_MODEL="true").ready()
    assert keys.stop() == 0
    folder = keys.folder
    service = serve(
        USE_MOCK_MODEL="true",
        MAX_TOKENS_PER_DAY="100000",
        DATA_DIR="/sys",
        AUTH_KEYS_FILE=str(folder / "keys.yaml"),
        AUTH_PEPPER_FILE=str(folder / "keys.pepper"),
    )
    service.key = keys.key
    service.ready()
    with unharmed(service, engine_stays=True):
        service.wait_for("cannot be saved to /sys/usage.json")
        assert Caller(service, keys.key).chat().status_code == 200
    assert service.stop() == 0
    assert said(service, "cannot be saved") == 1


# -- file descriptors

ROOM = 4
CALLERS = 60
LINES_LIMIT = 40
SHARE_LIMIT = 0.5
SHORT_S = 5.0


def probed(service: ServiceProcess) -> dict[str, Any]:
    """What the health port says of the service."""
    value = httpx.get(f"{service.health_url}/health", timeout=10).json()
    assert isinstance(value, dict)
    return value


@contextlib.contextmanager
def exhausted(service: ServiceProcess) -> Iterator[None]:
    """More clients at the door than there are file descriptors for."""
    gateway = psutil.Process(service.pid)
    soft, hard = gateway.rlimit(psutil.RLIMIT_NOFILE)
    gateway.rlimit(psutil.RLIMIT_NOFILE, (gateway.num_fds() + ROOM, hard))
    with contextlib.ExitStack() as callers:
        for _ in range(CALLERS):
            callers.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))
        until(lambda: gateway.num_fds() >= gateway.rlimit(psutil.RLIMIT_NOFILE)[0])
        yield
    gateway.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


def test_streams_go_on_when_file_descriptors_run_out(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", CLIENT_HEADER_TIMEOUT="60").ready()
    gateway = psutil.Process(service.pid)
    with unharmed(service, engine_stays=True):
        with Caller(service, service.key).streaming(ENDLESS, max_tokens=5000) as (_, lines):
            next(lines)
            with exhausted(service):
                written, spent_s = len(service.lines), sum(gateway.cpu_times()[:2])
                for _ in range(400):  # two seconds' worth
                    assert "error" not in next(lines)
                assert len(service.lines) - written < LINES_LIMIT, service.output
                assert sum(gateway.cpu_times()[:2]) - spent_s < 2 * SHARE_LIMIT
            next(lines)


def test_engine_that_dies_while_file_descriptors_are_out_comes_back_at_once(serve: Serve) -> None:
    """Descriptors are put by for its restart, and for those who ask how it is."""
    service = serve(USE_MOCK_MODEL="true", CLIENT_HEADER_TIMEOUT="60").ready()
    with unharmed(service):
        with exhausted(service):
            (engine,) = engines(service)
            os.kill(engine.pid, signal.SIGKILL)
            service.wait_for("engine ended")
            service.wait_for("engine ready")
            assert probed(service)["state"] == "ready"
        until(lambda: status(service)["state"] == "ready", 30)
    assert service.stop() == 0
    assert said(service, "cannot spawn") == 0


def test_probes_are_answered_while_file_descriptors_are_out(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", CLIENT_HEADER_TIMEOUT="60").ready()
    with unharmed(service, engine_stays=True):
        with exhausted(service), contextlib.ExitStack() as silent:
            address = ("127.0.0.1", service.health_port)
            for _ in range(20):
                silent.enter_context(socket.create_connection(address, timeout=10))
            for _ in range(50):
                assert probed(service)["state"] == "ready"
            assert figure(service, 'gateway_engine_exits_total{cause="killed"}') == 0
    assert said(service, "probes are answered a few at a time") == 1
    assert said(service, "out of system resource") == 0


@contextlib.contextmanager
def no_more_descriptors(service: ServiceProcess) -> Iterator[None]:
    """Not one more can be made, however many are given back."""
    gateway = psutil.Process(service.pid)
    soft, hard = gateway.rlimit(psutil.RLIMIT_NOFILE)
    gateway.rlimit(psutil.RLIMIT_NOFILE, (3, hard))
    yield
    gateway.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


def test_shortage_longer_than_the_crash_budget_ends_in_service(serve: Serve) -> None:
    """Two deaths would be one too many, and each try that fails was one."""
    env = {"USE_MOCK_MODEL": "true", "CRASH_LIMIT": "2", "RESTART_BACKOFF_MAX": "0.1"}
    service = serve(**env).ready()
    gateway = psutil.Process(service.pid)
    with unharmed(service):
        with no_more_descriptors(service), contextlib.ExitStack() as callers:
            prober = ("127.0.0.1", service.health_port)
            callers.enter_context(socket.create_connection(prober, timeout=10))
            (engine,) = engines(service)
            os.kill(engine.pid, signal.SIGKILL)
            service.wait_for("engine waits for what is short")
            written, spent_s = len(service.lines), sum(gateway.cpu_times()[:2])
            with pytest.raises(subprocess.TimeoutExpired):
                service.wait(SHORT_S)
            assert len(service.lines) - written < LINES_LIMIT, service.output
            assert sum(gateway.cpu_times()[:2]) - spent_s < SHORT_S * SHARE_LIMIT
        service.wait_for("engine ready")
        assert probed(service)["engine"]["restarts"] == 1
        assert figure(service, 'gateway_engine_exits_total{cause="load_error"}') == 0
    assert said(service, "cannot spawn") == 1
    assert service.stop() == 0


# -- time

FROZEN_S = 4.0


def frozen(service: ServiceProcess) -> None:
    """Stop every thread of the gateway; a timer wakes it up again."""
    service.signal(signal.SIGSTOP)
    threading.Timer(FROZEN_S, service.signal, [signal.SIGCONT]).start()


def test_frozen_gateway_goes_on_as_if_nothing_had_been(serve: Serve) -> None:
    """As FlashBoot and Fly's suspend do. The watchdog's second is over long before it wakes up."""
    env = {"USE_MOCK_MODEL": "true", "PARALLEL": "1", "WATCHDOG_SECONDS": "1"}
    service = serve(**env, HEARTBEAT_AFTER="0.1").ready()
    who = Caller(service, service.key)
    with unharmed(service, engine_stays=True):
        with (
            who.streaming("mock: tokens=400 delay_ms=5", max_tokens=400) as (_, lines),
            who.streaming("mock: tokens=3", max_tokens=3) as (_, others),
        ):
            next(lines)
            until(lambda: status(service)["queued"] == 1)
            frozen(service)
            assert list(lines)[-1] == "data: [DONE]"
            assert list(others)[-1] == "data: [DONE]"
        assert figure(service, 'gateway_engine_exits_total{cause="wedge"}') == 0


def test_gateway_that_was_frozen_while_idle_serves_at_once(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", WATCHDOG_SECONDS="1").ready()
    with unharmed(service, engine_stays=True):
        frozen(service)
        assert Caller(service, service.key).chat().status_code == 200


def test_engine_that_died_while_the_gateway_was_frozen_is_replaced(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true").ready()
    with unharmed(service):
        (engine,) = engines(service)
        frozen(service)
        os.kill(engine.pid, signal.SIGKILL)
        assert Caller(service, service.key).chat().status_code == 200
