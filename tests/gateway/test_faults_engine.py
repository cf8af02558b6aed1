"""An engine that stands still, and one that outlives its gateway by less than a second."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.conftest import Serve
from tests.support.aftermath import engines, figure, status, unharmed
from tests.support.callers import Caller, until
from tests.support.service import ServiceProcess

LONG = "mock: tokens=3000 delay_ms=5"
WEDGES = 'gateway_engine_exits_total{cause="wedge"}'
EVICTED_WITHIN_S = 45.0
"""Silence, or three probes that fail; then SIGTERM, which a stopped process does not hear, 5 s, and
SIGKILL."""


@pytest.fixture
def watched(serve: Serve) -> ServiceProcess:
    """A service with one slot, whose engine may be silent for a second."""
    return serve(USE_MOCK_MODEL="true", PARALLEL="1", WATCHDOG_SECONDS="1").ready()


def freeze_engine(service: ServiceProcess) -> psutil.Process:
    (engine,) = engines(service)
    os.kill(engine.pid, signal.SIGSTOP)
    return engine


def wait_for_end(process: psutil.Process, timeout_s: float = EVICTED_WITHIN_S) -> None:
    """Returns once *process* is gone, or waits to be reaped."""
    try:
        watch = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    gone, _, _ = select.select([watch], [], [], timeout_s)
    os.close(watch)
    assert gone, "it is still there"


def last_event(lines: Iterator[str]) -> str:
    *_, last = lines
    return last


def test_engine_that_stops_in_mid_stream_is_replaced_and_those_who_wait_are_served(
    watched: ServiceProcess,
) -> None:
    who = Caller(watched, watched.key)
    with unharmed(watched), ThreadPoolExecutor(1) as crowd:
        with who.streaming(LONG, max_tokens=3000) as (_, lines):
            next(lines)
            waiting = crowd.submit(who.chat)
            until(lambda: status(watched)["queued"] == 1)
            freeze_engine(watched)
            last = last_event(lines)
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_restarted"
        assert waiting.result().status_code == 200
        assert figure(watched, WEDGES) == 1


def test_engine_that_stops_while_idle_is_found_by_probes(watched: ServiceProcess) -> None:
    with unharmed(watched):
        wait_for_end(freeze_engine(watched))
        until(lambda: status(watched)["state"] == "ready")
        assert figure(watched, WEDGES) == 1


def test_request_to_an_engine_that_stands_still_is_answered_by_the_next_one(
    watched: ServiceProcess,
) -> None:
    with unharmed(watched):
        freeze_engine(watched)
        assert Caller(watched, watched.key).chat().status_code == 200


def test_engine_that_reads_a_long_prompt_is_left_alone(watched: ServiceProcess) -> None:
    with unharmed(watched, engine_stays=True):
        slow = "mock: tokens=2 prefill_ms=4000 prefill_steps=16"
        assert Caller(watched, watched.key).chat(slow).status_code == 200
        assert figure(watched, WEDGES) == 0


def test_killed_gateway_leaves_nothing_for_a_second_and_its_successor_knows_what_was_spent(
    serve: Serve,
) -> None:
    limits = {"USE_MOCK_MODEL": "true", "MAX_TOKENS_PER_DAY": "100000"}
    killed = serve(**limits).ready()
    who = Caller(killed, killed.key)
    used = who.chat().json()["usage"]["total_tokens"]
    until(lambda: b'"keys":{"first"' in usage(killed))
    family = psutil.Process(killed.pid).children(recursive=True)
    with who.streaming(LONG, max_tokens=3000) as (_, lines):
        next(lines)
        killed.signal(signal.SIGKILL)
        killed_s = time.monotonic()
        for child in family:
            wait_for_end(child, 1.0)
        assert time.monotonic() - killed_s < 1.0
    killed.wait()
    with ServiceProcess(killed.folder, limits) as successor:
        successor.key = killed.key
        successor.ready()
        with unharmed(successor, engine_stays=True):
            assert Caller(successor, killed.key).key()["tokens_today"] >= used
        assert engines(killed) == []
        assert successor.stop() == 0


def usage(service: ServiceProcess) -> bytes:
    path = service.folder / "usage.json"
    return path.read_bytes() if path.exists() else b""
