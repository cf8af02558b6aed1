"""Somebody else tells the real engine to end, in the middle of its work.

It listens no more, falls silent, and stays until those who are connected hang up. (Its handler
takes a lock that the main thread may hold just then; the engine then falls silent and goes on
answering probes. So the model is a slow one here: the main thread computes, and rarely holds it.)
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import Serve
from tests.support.aftermath import engines, status
from tests.support.callers import Caller, until
from tests.tiny_gguf import Shape, write_tiny_gguf

SILENCE_S = 6
FOUND_WITHIN_S = 30.0
LONG = {"max_tokens": 3000, "temperature": 0}
"""The engine cannot have sent all when it is told to end."""


@pytest.fixture(params=["1", "2"], ids=["all slots busy", "a slot free"])
def who(
    serve: Serve, llama_server: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Caller]:
    model = write_tiny_gguf(tmp_path / "slow.gguf", shape=Shape(dim=768, layers=8, ffn=2048))
    service = serve(
        LLAMA_SERVER=str(llama_server),
        MODEL_PATH=str(model),
        CTX="8192",
        PARALLEL=request.param,
        THREADS="1",
        WATCHDOG_SECONDS=str(SILENCE_S),
        RESTART_BACKOFF_MAX="0.1",
    ).ready()
    yield Caller(service, service.key)
    assert "Traceback" not in service.output, service.output


def stop_engine_in_mid_stream(who: Caller) -> None:
    """The stream is told in time, and who comes meanwhile is answered by the next engine."""
    assert who.chat().status_code == 200  # leaves an idle connection to the engine
    (engine,) = engines(who.service)
    with ThreadPoolExecutor(2) as crowd, who.streaming("hi", **LONG) as (_, lines):
        next(lines)
        os.kill(engine.pid, signal.SIGTERM)
        rest = crowd.submit(list, lines)
        meanwhile = crowd.submit(who.chat, "and you?")
        last = rest.result(FOUND_WITHIN_S)[-1]
        reply = meanwhile.result()
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_restarted"
    assert reply.status_code == 200, reply.text
    until(lambda: status(who.service)["state"] == "ready")
    assert [each.pid for each in engines(who.service)] != [engine.pid]


def last_exit(who: Caller) -> str:
    reply = httpx.get(f"{who.service.health_url}/health", timeout=10)
    return str(reply.json()["engine"]["last_exit"])


def test_engine_that_was_told_to_end_is_replaced_and_nobody_refused(who: Caller) -> None:
    stop_engine_in_mid_stream(who)
    assert last_exit(who).partition(" ")[0] in ("signal", "clean", "wedge")
    with who.streaming("hi", **LONG) as (_, lines):
        next(lines)
    assert who.chat("and you?").status_code == 200
