"""The table of health replies, on the real process: each state, each path, both ports."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

from tests.conftest import Serve
from tests.support.callers import Caller, until
from tests.support.raw import unfinished_request
from tests.support.service import ServiceProcess

ENDLESS = "mock: tokens=100000 delay_ms=20"
PATHS = {
    "ping": ("/ping", "/custom/check"),
    "livez": ("/livez",),
    "startupz": ("/startupz",),
    "readyz": ("/readyz", "/ready"),
    "health": ("/health", "/healthz", "/v1/healthz"),
    "metrics": ("/metrics",),
}
ENV = {"USE_MOCK_MODEL": "true", "HEALTH_CHECK_PATH": "/custom/check", "PARALLEL": "1"}

#           ping livez startupz readyz health metrics
LOADING = (204, 200, 503, 503, 503, 200)
READY = (200, 200, 200, 200, 200, 200)
RESTARTING = (204, 200, 200, 503, 503, 200)
NEVER_READY = (204, 200, 503, 503, 503, 200)
FAILED = (503, 503, 503, 503, 503, 200)
DRAINING = (503, 200, 200, 503, 503, 200)


def state_of(service: ServiceProcess) -> str:
    state = httpx.get(f"{service.health_url}/health", timeout=10).json()["state"]
    assert isinstance(state, str)
    return state


def assert_row(service: ServiceProcess, state: str, row: tuple[int, ...]) -> None:
    """All paths answer as *row* says, to GET and HEAD, on both ports, without a key."""
    until(lambda: state_of(service) == state)
    wanted, found = {}, {}
    # A connection for each request: one that is kept is closed when the service drains.
    with httpx.Client(timeout=10, headers={"Connection": "close"}) as client:
        for base, method, path, status in _questions(service, row):
            reply = client.request(method, base + path)
            wanted[base, method, path] = status
            found[base, method, path] = reply.status_code
            _assert_body(reply, method, path, state)
    assert found == wanted
    assert state_of(service) == state, "the state did not last"


def _questions(
    service: ServiceProcess, row: tuple[int, ...]
) -> Iterator[tuple[str, str, str, int]]:
    """Base, method and path of each request, and the status it is to get."""
    for base in (service.health_url, service.url):
        for paths, status in zip(PATHS.values(), row, strict=True):
            for path in paths:
                for method in ("GET", "HEAD"):
                    yield base, method, path, status


def _assert_body(reply: httpx.Response, method: str, path: str, state: str) -> None:
    if method == "HEAD" or reply.status_code == 204:
        assert reply.content == b""
    elif path == "/metrics":
        assert f'gateway_state{{state="{state}"}} 1' in reply.text
    else:
        assert reply.json()["state"] == state


def engine_pid(service: ServiceProcess) -> int:
    pid = engine_facts(service)["pid"]
    assert isinstance(pid, int)
    return pid


def engine_facts(service: ServiceProcess) -> dict[str, Any]:
    reply = httpx.get(f"{service.url}/info", headers={"X-API-Key": service.key}, timeout=10)
    facts = reply.json()["engine"]
    assert isinstance(facts, dict)
    return facts


@contextmanager
def running_stream(service: ServiceProcess) -> Iterator[Callable[[], str]]:
    """A stream under way; the only slot is taken."""
    with Caller(service, service.key).streaming(ENDLESS, max_tokens=4000) as (_, lines):
        next(lines)
        yield lambda: next(lines)


def test_loading(serve: Serve) -> None:
    service = serve(**ENV, EXTRA_ARGS="--load-s 60").opened()
    assert_row(service, "loading", LOADING)


def test_loading_for_a_balancer_that_may_send_early(serve: Serve) -> None:
    service = serve(**ENV, EXTRA_ARGS="--load-s 60", PING_WHILE_LOADING="200").opened()
    assert_row(service, "loading", (200, *LOADING[1:]))


def test_ready(serve: Serve) -> None:
    assert_row(serve(**ENV).ready(), "ready", READY)


def test_busy_stays_ready(serve: Serve) -> None:
    service = serve(**ENV, MAX_QUEUE_SIZE="0").ready()
    with running_stream(service) as next_line:
        assert_row(service, "busy", READY)
        assert next_line()


def test_sleeping_and_its_wake_stay_ready(serve: Serve) -> None:
    """A router that took a sleeping service out of its pool could never wake it."""
    service = serve(**ENV, EXTRA_ARGS="--load-s 2", IDLE_ACTION="unload", IDLE_TIMEOUT="0.3")
    service.ready()
    assert_row(service, "sleeping", READY)
    assert engine_facts(service)["pid"] is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Caller(service, service.key).chat)
        until(lambda: engine_facts(service)["pid"] is not None)
        assert_row(service, "sleeping", READY)  # while the engine loads
        assert waiting.result(20).status_code == 200


def test_restarting_after_it_has_been_ready(serve: Serve) -> None:
    service = serve(**ENV, EXTRA_ARGS="--load-s 2").ready()
    os.kill(engine_pid(service), signal.SIGKILL)
    assert_row(service, "restarting", RESTARTING)
    until(lambda: state_of(service) == "ready")
    assert_row(service, "ready", READY)


def test_restarting_before_it_was_ever_ready_is_still_starting_up(serve: Serve) -> None:
    service = serve(**ENV, EXTRA_ARGS="--fail-load", CRASH_LIMIT="50", RESTART_BACKOFF_MAX="4")
    service.opened()
    until(lambda: engine_facts(service)["restarts"] >= 3)  # the next pause takes seconds
    assert_row(service, "restarting", NEVER_READY)


def test_draining(serve: Serve) -> None:
    service = serve(**ENV, DRAIN_TIMEOUT="30").ready()
    with running_stream(service) as next_line:
        service.signal(signal.SIGTERM)
        assert_row(service, "draining", DRAINING)
        assert next_line()


def test_draining_in_the_delay_that_still_takes_work(serve: Serve) -> None:
    service = serve(**ENV, DRAIN_TIMEOUT="30", DRAIN_DELAY="15").ready()
    service.signal(signal.SIGTERM)
    assert_row(service, "draining", DRAINING)
    assert Caller(service, service.key).chat().status_code == 200


def test_draining_while_loading(serve: Serve) -> None:
    service = serve(**ENV, EXTRA_ARGS="--load-s 60", DRAIN_TIMEOUT="30", DRAIN_DELAY="15").opened()
    service.signal(signal.SIGTERM)
    assert_row(service, "draining", DRAINING)


def test_stop_signal_in_the_failed_state_does_not_make_it_a_success(serve: Serve) -> None:
    service = serve(**ENV, EXTRA_ARGS="--fail-load", CRASH_LIMIT="1").opened()
    until(lambda: state_of(service) == "failed")
    assert_row(service, "failed", FAILED)
    assert service.stop() == 1


def test_failed_until_its_last_request_is_over(serve: Serve) -> None:
    service = serve(**ENV, CRASH_LIMIT="1", DRAIN_TIMEOUT="20").ready()
    pid = engine_pid(service)
    with unfinished_request(service.port, service.key):
        os.kill(pid, signal.SIGKILL)
        assert_row(service, "failed", FAILED)
    assert service.wait() == 1
