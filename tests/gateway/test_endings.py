"""How the service ends: in one budget, from any state, with nothing left behind and a reason."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import Serve
from tests.support.callers import Caller, until
from tests.support.service import ServiceProcess

MOCK = {"USE_MOCK_MODEL": "true"}
DYING = {**MOCK, "EXTRA_ARGS": "--fail-load", "RESTART_BACKOFF_MAX": "0.1"}


def facts(service: ServiceProcess) -> dict[str, object]:
    reply = httpx.get(f"{service.health_url}/health", timeout=10).json()
    assert isinstance(reply, dict)
    return reply


def state(service: ServiceProcess) -> str:
    return str(facts(service)["state"])


def nothing_is_left(service: ServiceProcess, children: list[psutil.Process]) -> None:
    """No child lives on, and the folder for sockets and notes has nothing of it."""
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    socket = Path(service.engine_socket)
    own = [path.name for path in socket.parent.glob(f"{socket.stem}*")]
    # The mock notes there what it was to do once; another run of the tests may have had our pid.
    assert [name for name in own if not name.startswith(f"{socket.name}.")] == []


def loading(serve: Serve) -> ServiceProcess:
    service = serve(**MOCK, EXTRA_ARGS="--load-s 60").opened()
    service.wait_for("engine loading")
    return service


def in_backoff(serve: Serve) -> ServiceProcess:
    env = {**DYING, "RESTART_BACKOFF_MAX": "60", "CRASH_LIMIT": "50"}
    service = serve(**env).opened()
    service.wait_for(r"restart in [12]\.")
    return service


def ready(serve: Serve) -> ServiceProcess:
    return serve(**MOCK).ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state_of", [loading, in_backoff, ready])
def test_stop_in_any_state_leaves_nothing_behind(
    serve: Serve, state_of: Callable[[Serve], ServiceProcess], number: int
) -> None:
    service = state_of(serve)
    children = psutil.Process(service.pid).children(recursive=True)
    service.signal(number)
    assert service.wait() == 0
    nothing_is_left(service, children)


def test_delay_is_a_part_of_the_budget(serve: Serve) -> None:
    """With a budget apart for each step it would last a minute."""
    service = serve(**MOCK, DRAIN_DELAY="60", DRAIN_TIMEOUT="0.3").ready()
    service.signal(signal.SIGTERM)
    assert service.wait(15) == 0


def test_engine_that_dies_while_draining_leaves_nobody_hanging(serve: Serve) -> None:
    service = serve(**MOCK, DRAIN_TIMEOUT="60").ready()
    who = Caller(service, service.key)
    (engine,) = psutil.Process(service.pid).children()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(who.chat, "mock: tokens=3000 delay_ms=5", max_tokens=3000)
        until(lambda: facts(service)["queue"]["in_flight"] == 1)  # type: ignore[index]
        service.signal(signal.SIGTERM)
        service.wait_for("waiting for 1 running")
        os.kill(engine.pid, signal.SIGKILL)
        reply = running.result(20)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
    assert service.wait(20) == 0
    nothing_is_left(service, [engine])


def test_crash_loop_shows_why_and_ends_with_one(serve: Serve, tmp_path: Path) -> None:
    told = tmp_path / "told"
    env = {**DYING, "CRASH_LIMIT": "2", "FAILED_EXIT_DELAY": "60", "MODEL_LOG": str(told)}
    service = serve(**env).opened()
    until(lambda: state(service) == "failed")
    health = facts(service)
    engine = health["engine"]
    assert isinstance(engine, dict)
    assert engine["failure"] == "crash_loop"
    assert any("failed to load model" in line for line in engine["last_words"])
    assert "/" not in "".join(engine["last_words"])
    assert told.read_text() == "GATEWAY FATAL crash_loop\n"
    service.signal(signal.SIGTERM)  # it need not show it for a minute
    assert service.wait() == 1
    assert "the engine's last words: " in service.output
    assert "failed to load model" in service.output


def test_service_that_failed_answers_until_it_ends(serve: Serve) -> None:
    service = serve(**DYING, CRASH_LIMIT="1", FAILED_EXIT_DELAY="60").opened()
    until(lambda: state(service) == "failed")
    reply = Caller(service, service.key).chat()
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_unavailable")
    assert httpx.get(f"{service.url}/ping", timeout=10).status_code == 503
    service.stop()
