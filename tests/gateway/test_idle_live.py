"""The whole service while nobody needs it: unloaded, woken, ended, or its machine stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from tests.conftest import Serve
from tests.support.aftermath import engines, figure, status
from tests.support.callers import CHAT, Caller, KeyTool, chat_body, error_code, new_caller, until
from tests.support.service import ServiceProcess

UNLOADS = {"USE_MOCK_MODEL": "true", "IDLE_ACTION": "unload", "IDLE_TIMEOUT": "0.3"}
SLOW_LOAD = {"EXTRA_ARGS": "--load-s 0.7"}
OFFSETS = 12
"""Moments around the unload in which a request arrives."""


def started(serve: Serve, **env: str) -> Caller:
    service = serve(**{**UNLOADS, **env}).ready()
    return Caller(service, service.key)


def asleep(who: Caller) -> Caller:
    """Returns once the engine has gone."""
    url = f"{who.service.url}/info"
    with httpx.Client(headers=who.headers, timeout=20) as client:
        until(lambda: client.get(url).json()["engine"]["state"] == "sleeping")
    until(lambda: not engines(who.service))
    return who


def starts(who: Caller) -> int:
    """How often an engine was started."""
    return len(re.findall(r"engine loading", who.service.output))


@contextmanager
def held_up(who: Caller) -> Iterator[None]:
    """The engine that wakes next gets no further while the block lasts."""
    pid = int(who.service.wait_for(r"engine loading pid=(\d+)")[1])
    os.kill(pid, signal.SIGSTOP)
    yield
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def leaves_nothing(service: ServiceProcess) -> None:
    assert engines(service) == []
    assert not Path(service.engine_socket).exists()
    assert "Traceback" not in service.output, service.output


# -- asleep


def polls(who: Caller, poor: Caller) -> Iterator[tuple[int, int]]:
    """What does not need the engine, for ever: the status expected, and the one that came."""
    api, probes = who.service.url, who.service.health_url
    bad: list[dict[str, Any]] = [{"messages": []}, chat_body("hi", temperature="hot")]
    with httpx.Client(timeout=20) as client:
        while True:
            for path in ("/livez", "/readyz", "/startupz", "/health", "/metrics"):
                yield 200, client.get(probes + path).status_code
            for path in ("/livez", "/readyz", "/version"):
                yield 200, client.get(api + path).status_code
            for path in ("/v1/models", "/info", "/gpu/status"):
                yield 200, client.get(api + path, headers=who.headers).status_code
            yield 404, client.get(f"{api}/v1/nothing", headers=who.headers).status_code
            yield 405, client.get(api + CHAT, headers=who.headers).status_code
            yield 401, client.post(api + CHAT, json=chat_body("hi")).status_code
            for body in bad:
                sent = client.post(api + CHAT, json=body, headers=who.headers)
                yield 400, sent.status_code
            body = chat_body("hi", max_tokens=200)
            yield 429, client.post(api + CHAT, json=body, headers=poor.headers).status_code


def test_polls_and_refused_requests_neither_keep_it_awake_nor_wake_it(
    serve: Serve, key_tool: KeyTool
) -> None:
    who = started(serve, IDLE_TIMEOUT="1", AUTH_FAILURES_PER_MINUTE="0")
    deadline_s = time.monotonic() + 10
    asked = polls(who, new_caller(who.service, key_tool, "poor", "--tokens-per-day", "40"))
    for _ in range(40):
        next(asked)
    while "engine sleeping" not in who.service.output:
        next(asked)
        assert time.monotonic() < deadline_s, "it is kept awake"
    for _ in range(60):
        expected, found = next(asked)
        assert found == expected
    assert engines(who.service) == []
    assert starts(who) == 1
    assert figure(who.service, 'gateway_state{state="sleeping"}') == 1
    for url in (who.service.url, who.service.health_url):
        assert httpx.get(f"{url}/health").json()["state"] == "sleeping"
    models = httpx.get(f"{who.service.url}/v1/models", headers=who.headers).json()
    assert [model["id"] for model in models["data"]] == ["mock"]


# -- waking


def test_stream_that_wakes_it_hears_heartbeats_and_then_the_answer(serve: Serve) -> None:
    who = asleep(started(serve, HEARTBEAT_AFTER="0.1", HEARTBEAT_INTERVAL="0.1", **SLOW_LOAD))
    reply = who.chat("mock: tokens=3", max_tokens=5, stream=True)
    beats = [line for line in reply.text.splitlines() if line.startswith(":")]
    assert len(beats) >= 3
    assert reply.text.startswith(":")
    assert '"finish_reason":"stop"' in reply.text
    assert reply.text.endswith("data: [DONE]\n\n")
    assert starts(asleep(who)) == 2


def test_many_at_once_wake_one_engine_and_it_sleeps_again(serve: Serve) -> None:
    who = asleep(started(serve))
    with ThreadPoolExecutor(12) as crowd:
        asked = [crowd.submit(who.chat, f"hi {n}", stream=n % 3 == 0) for n in range(12)]
        assert [each.result().status_code for each in asked] == [200] * 12
    assert starts(who) == 2
    assert starts(asleep(who)) == 2
    assert figure(who.service, "gateway_engine_restarts_total") == 0


def test_every_kind_of_work_wakes_it(serve: Serve) -> None:
    who = started(serve)
    work: dict[str, dict[str, Any]] = {
        "/v1/embeddings": {"input": "hi"},
        "/v1/completions": {"prompt": "hi", "max_tokens": 2},
        "/v1/chat/completions/input_tokens": chat_body("hi"),
    }
    for path, body in work.items():
        before = starts(asleep(who))
        reply = who.post(body, path)
        assert reply.status_code == 200, reply.text
        assert starts(who) == before + 1


def test_without_a_queue_the_first_is_sent_away_and_still_wakes_it(serve: Serve) -> None:
    who = asleep(started(serve, MAX_QUEUE_SIZE="0", IDLE_TIMEOUT="1"))
    refused = who.chat()
    assert (refused.status_code, error_code(refused)) == (503, "engine_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: status(who.service)["state"] == "ready")
    assert who.chat().status_code == 200
    assert starts(who) == 2


def test_request_in_the_moment_of_the_unload_is_answered(serve: Serve) -> None:
    who = started(serve, IDLE_TIMEOUT="0.1")
    random, moment = Random(7), threading.Event()
    for number in range(OFFSETS):
        who.service.wait_for("idle for")
        moment.wait(random.choice((0.0, 0.0, 0.001, 0.003, 0.01, 0.03)))
        reply = who.chat(stream=number % 2 == 0)
        assert reply.status_code == 200, reply.text
        assert "error" not in reply.text
    assert "Traceback" not in who.service.output


def test_client_who_leaves_while_it_wakes_leaves_nothing_waiting(serve: Serve) -> None:
    who = asleep(started(serve, HEARTBEAT_AFTER="0.05", **SLOW_LOAD))
    body = chat_body("hi", stream=True)
    url = who.service.url + CHAT
    with httpx.stream("POST", url, json=body, headers=who.headers, timeout=20) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith(":")
        with held_up(who):
            assert status(who.service)["queued"] == 1
            reply.close()
            until(lambda: status(who.service)["queued"] == 0)
    assert who.idle_key()["in_use"] == 0
    # It was woken for nothing, so it sleeps again.
    assert starts(asleep(who)) == 2


def test_key_that_is_removed_while_it_wakes_is_refused(serve: Serve, key_tool: KeyTool) -> None:
    main = started(serve, **SLOW_LOAD)
    other = new_caller(main.service, key_tool, "other")
    asleep(main)
    with ThreadPoolExecutor(1) as crowd:
        waiting = crowd.submit(other.chat)
        with held_up(main):
            keys = str(main.service.folder / "keys.yaml")
            key_tool("--file", keys, "--quiet", "remove", "other")
            reply = waiting.result()
    assert (reply.status_code, error_code(reply)) == (401, "key_revoked")
    assert main.chat().status_code == 200
    until(lambda: not any(status(main.service)[name] for name in ("in_flight", "queued")))


# -- a wake that fails


def refused_by_a_failed_wake(who: Caller, *streams: bool) -> list[httpx.Response]:
    """Replies to requests that wait for an engine which is killed before it serves."""
    with ThreadPoolExecutor(len(streams)) as crowd:
        asked = [crowd.submit(who.chat, stream=stream) for stream in streams]
        with held_up(who):
            until(lambda: status(who.service)["queued"] == len(streams))
            os.kill(engines(who.service)[0].pid, signal.SIGKILL)
            return [each.result() for each in asked]


def test_failed_wake_is_told_and_the_next_request_tries_again(serve: Serve) -> None:
    who = asleep(started(serve, RESTART_BACKOFF_MAX="0.1", **SLOW_LOAD))
    replies = refused_by_a_failed_wake(who, False, True, False, True)
    assert {reply.status_code for reply in replies} == {503}
    assert {error_code(reply) for reply in replies} == {"engine_unavailable"}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)
    assert status(who.service)["state"] == "sleeping"
    assert who.chat().status_code == 200
    assert starts(who) == 3


def test_stream_that_heard_heartbeats_is_told_of_the_failed_wake(serve: Serve) -> None:
    env = {"RESTART_BACKOFF_MAX": "0.1", "HEARTBEAT_AFTER": "0.05"}
    who = asleep(started(serve, **env, **SLOW_LOAD))
    url, body = who.service.url + CHAT, chat_body("hi", stream=True)
    with httpx.stream("POST", url, json=body, headers=who.headers, timeout=20) as reply:
        assert reply.status_code == 200
        lines = reply.iter_lines()
        assert next(lines).startswith(":")
        with held_up(who):
            os.kill(engines(who.service)[0].pid, signal.SIGKILL)
            *_, last = filter(None, lines)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert who.chat(stream=True).text.endswith("data: [DONE]\n\n")


def test_wakes_that_fail_for_ever_end_the_service(serve: Serve) -> None:
    env = {"CRASH_LIMIT": "2", "RESTART_BACKOFF_MAX": "0.1", "DRAIN_TIMEOUT": "1"}
    who = asleep(started(serve, **env, **SLOW_LOAD))
    replies = [refused_by_a_failed_wake(who, False)[0] for _ in range(2)]
    assert [reply.status_code for reply in replies] == [503, 503]
    assert who.service.wait() == 1
    leaves_nothing(who.service)


# -- the end


def test_sleeping_service_ends_with_zero(serve: Serve) -> None:
    who = asleep(started(serve))
    assert who.service.stop() == 0
    leaves_nothing(who.service)


def test_service_that_wakes_ends_with_zero_and_tells_who_waits(serve: Serve) -> None:
    who = asleep(started(serve, EXTRA_ARGS="--load-s 1"))
    with ThreadPoolExecutor(1) as crowd:
        waiting = crowd.submit(who.chat)
        who.service.wait_for("engine loading")
        until(lambda: status(who.service)["queued"] == 1)
        assert who.service.stop() == 0
        reply = waiting.result()
    assert (reply.status_code, error_code(reply)) == (503, "draining")
    leaves_nothing(who.service)


def test_exit_comes_after_the_last_stream_and_is_clean(serve: Serve) -> None:
    who = started(serve, IDLE_ACTION="exit", IDLE_TIMEOUT="0.4", DRAIN_DELAY="5")
    reply = who.chat("mock: tokens=60 delay_ms=20", max_tokens=90, stream=True)
    assert reply.text.endswith("data: [DONE]\n\n")
    assert who.service.wait(4) == 0
    leaves_nothing(who.service)


# -- the machine


class Platform(ThreadingHTTPServer):
    """Takes requests to stop a machine, and answers with the given status each time."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/stop?of=me"


class _Answer(BaseHTTPRequestHandler):
    server: Platform

    def do_POST(self) -> None:
        platform = self.server
        platform.asked.append((self.command, self.path, dict(self.headers)))
        code = platform.statuses.pop(0) if len(platform.statuses) > 1 else platform.statuses[0]
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST  # noqa: N815 - the names that the library looks for

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def platform() -> Iterator[Callable[..., Platform]]:
    running: list[Platform] = []

    def start(*statuses: int) -> Platform:
        server = Platform(*statuses)
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_machine_is_asked_to_stop_once_and_the_service_ends_when_told(
    serve: Serve, platform: Callable[..., Platform]
) -> None:
    machine = platform(204)
    who = started(serve, IDLE_ACTION="stop-instance", STOP_INSTANCE_URL=machine.url)
    until(lambda: bool(machine.asked))
    until(lambda: figure(who.service, "gateway_idle_seconds") > 1.5)
    ((method, path, headers),) = machine.asked
    assert (method, path) == ("POST", "/stop?of=me")
    assert "Authorization" not in headers
    assert who.service.key not in str(headers)
    assert who.chat().status_code == 200
    until(lambda: len(machine.asked) == 2)
    assert who.service.stop() == 0
    leaves_nothing(who.service)


def test_machine_that_does_not_stop_goes_on_serving_and_is_asked_again(
    serve: Serve, platform: Callable[..., Platform]
) -> None:
    machine = platform(500, 302, 200)
    who = started(serve, IDLE_ACTION="stop-instance", STOP_INSTANCE_URL=machine.url)
    until(lambda: bool(machine.asked))
    assert who.chat().status_code == 200
    until(lambda: len(machine.asked) == 3)
    assert who.service.stop() == 0


def test_platform_that_cannot_be_reached_costs_nothing(
    serve: Serve, platform: Callable[..., Platform]
) -> None:
    gone = platform(200)
    gone.server_close()
    who = started(serve, IDLE_ACTION="stop-instance", STOP_INSTANCE_URL=gone.url)
    who.service.wait_for("could not be asked to stop")
    assert who.chat().status_code == 200
    assert who.service.stop() == 0
