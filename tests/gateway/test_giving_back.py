"""Whatever becomes of a request: its slot, its place and its part of the limits come back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Serve
from tests.support.callers import CHAT, COMPLETIONS, Caller, chat_body, error_code, until
from tests.support.engine_stats import engine_stats
from tests.support.service import ServiceProcess
from tests.tiny_gguf import Shape, write_tiny_gguf

ENDLESS = "mock: tokens=3000 delay_ms=5"
PROMPTLY_S = 1.0
"""Far more than is allowed, far less than it would take to finish."""
EMBED = "/v1/embeddings"


@pytest.fixture
def service(serve: Serve) -> ServiceProcess:
    """One slot, impatient with the engine and with those who wait, soon mended."""
    return serve(
        USE_MOCK_MODEL="true",
        PARALLEL="1",
        MAX_QUEUE_WAIT="2",
        REQUEST_TIMEOUT="1",
        CRASH_LIMIT="1000",
        RESTART_BACKOFF_MAX="0.1",
    ).ready()


@pytest.fixture
def who(service: ServiceProcess) -> Caller:
    return Caller(service, service.key)


# -- what is asked


@contextlib.contextmanager
def open_request(
    who: Caller, text: str, path: str = CHAT, **fields: Any
) -> Iterator[socket.socket]:
    """A request on its way; leaving the block hangs up."""
    body = {"prompt": text} if path == COMPLETIONS else chat_body(text)
    sent = {**body, "max_tokens": 3000, **fields}
    made = httpx.Request("POST", f"{who.service.url}{path}", json=sent, headers=who.headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in made.headers.items())
    with socket.create_connection(("127.0.0.1", who.service.port), timeout=10) as peer:
        peer.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + made.content)
        yield peer


def busyness(who: Caller) -> dict[str, Any]:
    reply = httpx.get(f"{who.service.url}/gpu/status", headers=who.headers, timeout=10).json()
    assert isinstance(reply, dict)
    return {name: reply[name] for name in ("in_flight", "queued", "lingering")}


def gauges(service: ServiceProcess) -> dict[str, float]:
    text = httpx.get(f"{service.health_url}/metrics", timeout=10).text
    pairs = (line.split() for line in text.splitlines() if not line.startswith("#"))
    names = ("requests_in_flight", "requests_queued", "slots_lingering", "slot_leaks_total")
    wanted = {f"gateway_{name}" for name in names}
    return {name: float(value) for name, value in pairs if name in wanted}


def nothing_is_held(who: Caller) -> None:
    """All that can be held is free, and the service answers."""
    free = {"in_flight": 0, "queued": 0, "lingering": 0}
    until(lambda: busyness(who) == free, 10.0)
    assert who.key()["in_use"] == 0
    found = gauges(who.service)
    assert len(found) == 4
    assert set(found.values()) == {0.0}
    until(lambda: health(who.service)["state"] == "ready")
    stats = engine_stats(who.service, active=0, waiting=0)
    assert stats["max_active"] <= 1
    good = who.chat()
    assert good.status_code == 200
    assert int(good.headers["x-queue-wait-ms"]) < 500


def health(service: ServiceProcess) -> dict[str, Any]:
    reply = httpx.get(f"{service.health_url}/health", timeout=10).json()
    assert isinstance(reply, dict)
    return reply


# -- replies of every kind


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one piece"])
@pytest.mark.parametrize(
    "fate",
    [
        "tokens=3",
        "error=500",
        "error=400",
        "error=context",
        "error=503",
        "tokens=9 error_after=2",
        "tokens=9 cut_after=900 delay_ms=5",
        "crash_head",
        "crash_after=0",
        "tokens=9 crash_after=3",
        "tokens=9 hang_after=0",
        "tokens=9 hang_after=2",
        "hang_head",
    ],
)
def test_every_end_of_a_request_gives_back(who: Caller, fate: str, stream: bool) -> None:
    reply = who.chat(f"mock: {fate}", stream=stream, max_tokens=9)
    assert stream or fate == "tokens=3" or reply.status_code >= 400
    nothing_is_held(who)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBED, {"input": ["one", "two", "three"]}),
        ("/v1/rerank", {"query": "one", "documents": ["one", "two"]}),
        (CHAT, chat_body("mock: tokens=5", n=3)),
        (COMPLETIONS, {"prompt": ["mock: tokens=5", "b", "c"], "max_tokens": 3}),
        (CHAT, {"messages": "nonsense"}),
        (COMPLETIONS, {"prompt": "word " * 9000}),
    ],
    ids=["embeddings", "rerank", "three answers", "three prompts", "bad", "too long"],
)
def test_every_kind_of_request_gives_back(who: Caller, path: str, body: dict[str, Any]) -> None:
    who.post(body, path)
    nothing_is_held(who)


# -- clients who leave


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one piece"])
@pytest.mark.parametrize(
    ("script", "path", "fields"),
    [
        ("mock: hang_head", CHAT, {}),
        ("mock: prefill_ms=60000", CHAT, {}),
        (ENDLESS, CHAT, {}),
        (ENDLESS, COMPLETIONS, {}),
    ],
    ids=["before the head", "in prefill", "chat", "text"],
)
def test_client_who_leaves_the_engine_gives_back(
    who: Caller, script: str, path: str, fields: dict[str, Any], stream: bool
) -> None:
    with open_request(who, script, path, stream=stream, **fields) as peer:
        until(lambda: busyness(who)["in_flight"] == 1)
        if script == ENDLESS and stream:
            assert peer.recv(100).startswith(b"HTTP/1.1 200")
    left_s = time.monotonic()
    engine_stats(who.service, active=0, abandoned=1)
    assert time.monotonic() - left_s < PROMPTLY_S
    nothing_is_held(who)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one piece"])
def test_client_who_leaves_the_queue_gives_back(who: Caller, stream: bool) -> None:
    with open_request(who, ENDLESS, stream=True):
        until(lambda: busyness(who)["in_flight"] == 1)
        with open_request(who, "late", stream=stream):
            until(lambda: busyness(who)["queued"] == 1)
            assert who.key()["in_use"] == 2
        left_s = time.monotonic()
        until(lambda: busyness(who)["queued"] == 0)
        assert time.monotonic() - left_s < PROMPTLY_S
        until(lambda: who.key()["in_use"] == 1)
    nothing_is_held(who)
    assert "late" not in str([each["body"] for each in engine_stats(who.service)["last"]])


def test_waiting_too_long_gives_back(who: Caller) -> None:
    with open_request(who, ENDLESS, stream=True):
        until(lambda: busyness(who)["in_flight"] == 1)
        with ThreadPoolExecutor() as pool:
            stream = pool.submit(who.chat, stream=True)
            reply = who.chat()
            assert (reply.status_code, error_code(reply)) == (503, "queue_timeout")
            assert int(reply.headers["retry-after-ms"]) > 0
            assert stream.result(20).status_code == 503
        assert who.key()["in_use"] == 1
    nothing_is_held(who)


# -- keys, crashes, the end


def test_key_that_is_revoked_gives_back_what_it_holds_and_where_it_stands(
    who: Caller, key_tool: Callable[..., str]
) -> None:
    keys = str(who.service.folder / "keys.yaml")
    secret = key_tool("--file", keys, "--quiet", "generate", "other")
    who.service.wait_for("keys changed")
    other = Caller(who.service, secret)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(other.chat, ENDLESS, max_tokens=3000)
        until(lambda: busyness(who)["in_flight"] == 1)
        waiting = [pool.submit(other.chat, "late", stream=stream) for stream in (True, False)]
        until(lambda: busyness(who)["queued"] == 2)
        key_tool("--file", keys, "disable", "other")
        revoked_s = time.monotonic()
        for reply in (each.result(20) for each in (running, *waiting)):
            assert (reply.status_code, error_code(reply)) == (401, "key_revoked")
        assert time.monotonic() - revoked_s < 2 * PROMPTLY_S
    nothing_is_held(who)
    assert "late" not in str([each["body"] for each in engine_stats(who.service)["last"]])


def test_crash_gives_back_and_those_who_wait_are_served(who: Caller) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(who.chat, "mock: tokens=3 prefill_ms=400")
        until(lambda: busyness(who)["in_flight"] == 1)
        waiting = [pool.submit(who.chat, stream=stream) for stream in (True, False)]
        until(lambda: busyness(who)["queued"] == 2)
        os.kill(health_of_engine(who)["pid"], signal.SIGKILL)
        assert running.result(20).status_code == 200
        assert [each.result(20).status_code for each in waiting] == [200, 200]
    nothing_is_held(who)


def health_of_engine(who: Caller) -> dict[str, Any]:
    reply = httpx.get(f"{who.service.url}/info", headers=who.headers, timeout=10).json()["engine"]
    assert isinstance(reply, dict)
    return reply


def test_drain_tells_those_who_wait_and_lets_the_others_finish(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1", DRAIN_TIMEOUT="10").ready()
    who = Caller(service, service.key)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(who.chat, "mock: tokens=100 delay_ms=10", max_tokens=None)
        until(lambda: busyness(who)["in_flight"] == 1)
        waiting = [pool.submit(who.chat, stream=stream) for stream in (True, False)]
        until(lambda: busyness(who)["queued"] == 2)
        service.signal(signal.SIGTERM)
        for reply in (each.result(20) for each in waiting):
            assert (reply.status_code, error_code(reply)) == (503, "draining")
        assert not running.done()
        assert running.result(20).status_code == 200
    assert service.wait() == 0
    assert "Traceback" not in service.output


# -- a slot is free when the engine says so


def test_next_request_is_sent_when_the_slot_is_really_free(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="2").ready()
    who = Caller(service, service.key)
    lingers = f"{ENDLESS} linger_ms=600"
    with ThreadPoolExecutor() as pool:
        with open_request(who, lingers, stream=True), open_request(who, lingers, stream=False):
            engine_stats(service, active=2)
        engine_stats(service, abandoned=2)
        waiting = [pool.submit(who.chat) for _ in range(3)]
        until(lambda: busyness(who)["queued"] == 3)
        assert busyness(who) == {"in_flight": 0, "queued": 3, "lingering": 2}
        stats = engine_stats(service)
        assert (stats["active"], stats["waiting"], stats["paths"][f"POST {CHAT}"]) == (2, 0, 2)
        arrived = engine_stats(service, requests_min=stats["requests"] + 1)
        assert arrived["waiting"] == 0, "it was sent before there was a slot"
        replies = [each.result(20) for each in waiting]
    assert [reply.status_code for reply in replies] == [200] * 3
    assert engine_stats(service, active=0)["max_active"] == 2
    until(lambda: busyness(who)["lingering"] == 0)
    assert gauges(service)["gateway_slot_leaks_total"] == 0


def test_slots_of_a_request_for_two_answers_come_back(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="2").ready()
    who = Caller(service, service.key)
    for stream in (True, False):
        with open_request(who, f"{ENDLESS} linger_ms=100", n=2, stream=stream):
            engine_stats(service, active=2)
            assert who.key()["in_use"] == 2
        reply = who.chat(n=2)
        assert (reply.status_code, len(reply.json()["choices"])) == (200, 2)
    until(lambda: busyness(who) == {"in_flight": 0, "queued": 0, "lingering": 0})
    assert who.key()["in_use"] == 0
    assert engine_stats(service, active=0, waiting=0)["abandoned"] == 2


def test_slot_that_was_left_beside_a_request_for_two_answers_comes_back(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="3").ready()
    who = Caller(service, service.key)
    with open_request(who, ENDLESS, n=2, stream=True):
        engine_stats(service, active=2)
        with open_request(who, ENDLESS, stream=True):
            engine_stats(service, active=3)
        until(lambda: busyness(who) == {"in_flight": 1, "queued": 0, "lingering": 0})
        assert who.chat().status_code == 200
    until(lambda: busyness(who) == {"in_flight": 0, "queued": 0, "lingering": 0})


# -- the real engine

SLOW = Shape(dim=512, layers=4, heads=8, ffn=2048)


@pytest.fixture
def slow(serve: Serve, tmp_path: Path, llama_server: Path) -> Caller:
    """A service on the real engine, whose answers take seconds."""
    model = write_tiny_gguf(tmp_path / "slow.gguf", shape=SLOW)
    service = serve(
        LLAMA_SERVER=str(llama_server),
        MODEL_PATH=str(model),
        CTX="8192",
        PARALLEL="1",
        THREADS="1",
    ).ready()
    return Caller(service, service.key)


@contextlib.contextmanager
def engine_of(who: Caller) -> Iterator[httpx.Client]:
    """A client of the engine itself, beside the gateway."""
    key = psutil.Process(health_of_engine(who)["pid"]).environ()["LLAMA_API_KEY"]
    transport = httpx.HTTPTransport(uds=who.service.engine_socket)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(transport=transport, base_url="http://x", headers=headers) as client:
        yield client


def works(engine: httpx.Client) -> bool:
    return any(slot["is_processing"] for slot in engine.get("/slots").json())


def idle_after_s(engine: httpx.Client) -> float:
    """Seconds from now until no slot is at work."""
    since_s = time.monotonic()
    while works(engine):
        assert time.monotonic() - since_s < 20, "the engine never stopped"
    return time.monotonic() - since_s


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one piece"])
def test_engine_stops_within_a_quarter_second(slow: Caller, stream: bool) -> None:
    took_s = []
    with engine_of(slow) as engine:
        for _ in range(5):
            with open_request(slow, "hi", stream=stream) as peer:
                if stream:
                    assert peer.recv(100).startswith(b"HTTP/1.1 200")
                until(lambda: works(engine))
            took_s.append(idle_after_s(engine))
        until(lambda: busyness(slow)["lingering"] == 0)
    assert statistics.median(took_s) < 0.25, took_s
    assert gauges(slow.service)["gateway_slot_leaks_total"] == 0


def test_engine_stops_reading_a_prompt_after_its_batch(slow: Caller) -> None:
    tokens = 6000
    with engine_of(slow) as engine:
        began_s = time.monotonic()
        assert slow.chat("a" * tokens, max_tokens=1, seed=1).status_code == 200
        whole_s = time.monotonic() - began_s
        took_s = []
        for letter in "bcd":
            with open_request(slow, letter * tokens, stream=False):
                until(lambda: works(engine))
            took_s.append(idle_after_s(engine))
    batch_s = whole_s * 2048 / tokens
    # A batch is slower the further back the prompt reaches.
    assert max(took_s) < 3 * batch_s + 0.25, (took_s, batch_s)
    assert max(took_s) < whole_s
