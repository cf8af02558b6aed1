"""The service as a process, on the mock engine: what clients, operators and platforms see."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Serve
from tests.support.engine_stats import engine_stats
from tests.support.raw import talk
from tests.support.service import ServiceProcess

ENDLESS = "mock: tokens=100000 delay_ms=5"


def auth(service: ServiceProcess) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.key}"}


def chat(service: ServiceProcess, text: str, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(
        f"{service.url}/v1/chat/completions", json=body, headers=auth(service), timeout=20
    )


@contextlib.contextmanager
def streaming(service: ServiceProcess, text: str, **fields: Any) -> Iterator[Iterator[str]]:
    """A running stream; yields its lines. Leaving the block hangs up."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True, **fields}
    url = f"{service.url}/v1/chat/completions"
    with (
        httpx.Client(timeout=20) as client,
        client.stream("POST", url, json=body, headers=auth(service)) as reply,
    ):
        assert reply.status_code == 200
        yield (line for line in reply.iter_lines() if line)


def last_error(lines: Iterator[str]) -> dict[str, Any]:
    """The error of the last event of a stream; no ``[DONE]`` may follow it."""
    last = ""
    for line in lines:
        last = line
    error = json.loads(last.removeprefix("data: "))["error"]
    assert isinstance(error, dict)
    return error


def health(service: ServiceProcess, path: str = "/health") -> httpx.Response:
    return httpx.get(f"{service.health_url}{path}")


# -- answers


def test_answer_streams_and_ends_with_done(mock_service: ServiceProcess) -> None:
    reply = chat(mock_service, "hi", stream=True, max_tokens=4)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")
    assert "server" not in reply.headers
    assert reply.headers["x-request-id"] == reply.headers["request-id"]


def test_progress_is_consumed_and_usage_comes_only_when_asked_for(
    mock_service: ServiceProcess,
) -> None:
    text = "mock: tokens=3 prefill_ms=20 prefill_steps=4"
    plain = chat(mock_service, text, stream=True)
    assert "prompt_progress" not in plain.text
    assert '"usage"' not in plain.text
    asked = chat(mock_service, text, stream=True, stream_options={"include_usage": True})
    assert '"usage"' in asked.text


def test_request_id_of_the_caller_is_kept_when_it_is_well_formed(
    mock_service: ServiceProcess,
) -> None:
    url = f"{mock_service.url}/version"
    kept = httpx.get(url, headers={"X-Request-Id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    replaced = httpx.get(url, headers={"X-Request-Id": "a b"})
    assert replaced.headers["x-request-id"].startswith("req_")


def test_engine_sees_its_own_key_and_nothing_of_the_client(mock_service: ServiceProcess) -> None:
    httpx.post(
        f"{mock_service.url}/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 1,
            "id_slot": 3,
            "user": "somebody",
        },
        headers={
            **auth(mock_service),
            "Cookie": "a=b",
            "X-Conversation-Id": "x",
            "Forwarded": "for=1.2.3.4",
            "OpenAI-Organization": "org",
        },
    )
    last = engine_stats(mock_service)["last"][-1]
    assert {name.lower() for name, _ in last["headers"]} <= {
        "host",
        "authorization",
        "accept",
        "content-type",
        "content-length",
        "x-request-id",
    }
    assert mock_service.key not in json.dumps(last)
    assert not {"id_slot", "user"} & set(last["body"])
    assert last["body"]["stream"] is True
    assert last["body"]["max_tokens"] == 1


def test_models_are_told_from_memory_while_loading(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", EXTRA_ARGS="--load-s 30").opened()
    assert health(service, "/ping").status_code == 204
    assert health(service, "/readyz").status_code == 503
    assert health(service, "/livez").status_code == 200
    models = httpx.get(f"{service.url}/v1/models", headers=auth(service)).json()
    assert [entry["id"] for entry in models["data"]] == ["mock"]
    one = httpx.get(f"{service.url}/v1/models/mock", headers=auth(service))
    assert one.json()["id"] == "mock"
    none = httpx.get(f"{service.url}/v1/models/org%2Fother", headers=auth(service))
    assert (none.status_code, none.json()["error"]["code"]) == (404, "model_not_found")


# -- failures inside a stream


@pytest.mark.parametrize(
    ("fate", "code"),
    [
        ("crash_after=3", "engine_restarted"),
        ("cut_after=3000 delay_ms=10", "engine_crashed"),
        ("error_after=3", "context_length_exceeded"),
    ],
)
def test_broken_stream_never_looks_finished(
    mock_service: ServiceProcess, fate: str, code: str
) -> None:
    with streaming(mock_service, f"mock: tokens=20 {fate}") as lines:
        error = last_error(lines)
    assert error["code"] == code


def test_crash_before_the_first_event_is_a_status(mock_service: ServiceProcess) -> None:
    reply = chat(mock_service, "mock: crash_head", stream=True)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "engine_crashed")


def test_broken_answer_without_a_stream_is_a_status(mock_service: ServiceProcess) -> None:
    reply = chat(mock_service, "mock: tokens=20 crash_after=3")
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "engine_crashed")


def test_engine_is_started_again_and_those_who_wait_are_served(
    mock_service: ServiceProcess,
) -> None:
    chat(mock_service, "mock: crash_head")
    assert chat(mock_service, "hi", max_tokens=1).status_code == 200
    state = health(mock_service).json()
    # It was sent once more, and the engine died of it once more.
    assert (state["state"], state["engine"]["restarts"]) == ("ready", 2)
    assert "segv" in state["engine"]["last_exit"]


def test_crash_loop_ends_the_service_so_that_the_platform_replaces_it(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true",
        EXTRA_ARGS="--fail-load",
        CRASH_LIMIT="2",
        RESTART_BACKOFF_MAX="0.1",
    )
    assert service.wait() == 1
    assert "failed to load model" in service.output


def test_silent_engine_is_a_timeout(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", REQUEST_TIMEOUT="1").ready()
    reply = chat(service, "mock: hang_head")
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "engine_timeout")
    with streaming(service, "mock: tokens=9 hang_after=2") as lines:
        assert last_error(lines)["code"] == "engine_timeout"
    assert engine_stats(service, active=0)["active"] == 0


def test_overflow_is_told_with_numbers(mock_service: ServiceProcess) -> None:
    error = chat(mock_service, "mock: error=context").json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is" in error["message"]


# -- heartbeats


def test_heartbeats_are_comments_and_events_follow_unchanged(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", HEARTBEAT_AFTER="0.1", HEARTBEAT_INTERVAL="0.1").ready()
    reply = chat(service, "mock: tokens=3 prefill_ms=700", stream=True)
    lines = [line for line in reply.text.split("\n") if line]
    comments = [line for line in lines if not line.startswith("data: ")]
    assert len(comments) >= 2
    assert all(re.fullmatch(r": prefill \d+%", comment) for comment in comments)
    assert lines[-1] == "data: [DONE]"


def test_waiting_stream_gets_heartbeats_and_then_its_answer(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true", PARALLEL="1", HEARTBEAT_AFTER="0.1", HEARTBEAT_INTERVAL="0.1"
    ).ready()
    with streaming(service, ENDLESS) as running:
        next(running)
        with streaming(service, "mock: tokens=2") as waiting:
            assert next(waiting) == ": queued position=1"
            running.close()  # type: ignore[attr-defined]
        # both hang up here
    assert engine_stats(service, active=0)["active"] == 0


def test_heartbeats_come_while_the_model_loads(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true",
        EXTRA_ARGS="--load-s 1.5",
        HEARTBEAT_AFTER="0.1",
        HEARTBEAT_INTERVAL="0.1",
    ).opened()
    with streaming(service, "mock: tokens=2") as lines:
        assert next(lines) == ": queued position=1"
        assert list(lines)[-1] == "data: [DONE]"


def test_failure_in_the_moment_of_a_heartbeat_gives_one_reply(serve: Serve) -> None:
    """The commit for a heartbeat and the refusal fall due together; only one may answer."""
    service = serve(
        USE_MOCK_MODEL="true", PARALLEL="1", HEARTBEAT_AFTER="0.1", MAX_QUEUE_WAIT="0.0999"
    ).ready()
    body = b'{"stream":true,"messages":[{"role":"user","content":"hi"}]}'
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (service.key.encode(), len(body), body)
    )
    version = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with streaming(service, ENDLESS) as lines:
        next(lines)
        for _ in range(20):
            reply = talk(service.port, request + version, close_after=False)
            assert reply.replies == 2, "one for each request"
            assert reply.raw.count(b'"code":"queue_timeout"') == 1
            refused = b"HTTP/1.1 503" in reply.raw
            assert refused != (b"text/event-stream" in reply.raw)


# -- clients that leave


def test_engine_stops_when_a_stream_is_left(mock_service: ServiceProcess) -> None:
    with streaming(mock_service, ENDLESS) as lines:
        next(lines)
    stats = engine_stats(mock_service, active=0, abandoned_min=1)
    assert stats["tokens"] < 100_000


def test_engine_stops_when_a_client_that_asked_for_no_stream_leaves(
    mock_service: ServiceProcess,
) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": ENDLESS}]}).encode()
    with socket.create_connection(("127.0.0.1", mock_service.port)) as peer:
        peer.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (mock_service.key.encode(), len(body), body)
        )
        engine_stats(mock_service, active=1)
    assert engine_stats(mock_service, active=0)["active"] == 0


def test_waiting_client_that_leaves_never_reaches_the_engine(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1").ready()
    with streaming(service, ENDLESS) as running:
        next(running)
        body = b'{"messages":[{"role":"user","content":"late"}]}'
        with socket.create_connection(("127.0.0.1", service.port)) as peer:
            peer.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (service.key.encode(), len(body), body)
            )
            wait_for_gauge(service, "queued", 1)
        wait_for_gauge(service, "queued", 0)
    assert chat(service, "hi", max_tokens=1).status_code == 200
    texts = json.dumps([each["body"] for each in engine_stats(service)["last"]])
    assert "late" not in texts


def wait_for_gauge(service: ServiceProcess, name: str, value: int) -> None:
    """Ask the health port until a number of its queue is as given."""
    for _ in range(2000):
        if health(service).json()["queue"][name] == value:
            return
    raise AssertionError(f"{name} never was {value}")


def test_client_that_sends_far_ahead_cannot_hide_its_leaving(serve: Serve) -> None:
    """aiohttp would stop reading, and then nobody would see the connection close."""
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1").ready()
    body = json.dumps({"messages": [{"role": "user", "content": ENDLESS}]}).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\n\r\n" % (service.key.encode(), len(body))
    ) + body
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    upload = request.split(b"\r\n\r\n")[0] + b"\r\nX: y\r\n\r\n"
    upload = upload.replace(b"Content-Length: %d" % len(body), b"Content-Length: 4000000")
    for ahead in (ping * 60, upload + b" " * 700_000):
        with socket.create_connection(("127.0.0.1", service.port)) as peer:
            peer.sendall(request)
            engine_stats(service, active=1)
            with contextlib.suppress(ConnectionError):
                peer.sendall(ahead)
        assert engine_stats(service, active=0)["active"] == 0


# -- waiting


def test_those_who_wait_survive_a_crash_of_the_engine(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="2").ready()
    waiters: list[httpx.Response] = []

    def wait() -> None:
        waiters.append(chat(service, "hi", max_tokens=1))

    with streaming(service, ENDLESS) as one, streaming(service, ENDLESS) as two:
        next(one)
        next(two)
        threads = [threading.Thread(target=wait) for _ in range(12)]
        for thread in threads:
            thread.start()
        wait_for_gauge(service, "queued", 12)
        engine = httpx.get(f"{service.url}/info", headers=auth(service)).json()["engine"]["pid"]
        os.kill(engine, signal.SIGKILL)
        assert last_error(one)["code"] == "engine_restarted"
        assert last_error(two)["code"] == "engine_restarted"
        for thread in threads:
            thread.join(20)
    assert [reply.status_code for reply in waiters] == [200] * 12


def test_full_queue_refuses_with_a_time_to_come_back(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1", MAX_QUEUE_SIZE="0").ready()
    with streaming(service, ENDLESS) as lines:
        next(lines)
        reply = chat(service, "hi")
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(reply.headers["retry-after"]) >= 1
    assert int(reply.headers["retry-after-ms"]) > 0
    assert "x-should-retry" not in reply.headers


def test_wait_for_a_slot_is_bounded(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1", MAX_QUEUE_WAIT="0.1").ready()
    with streaming(service, ENDLESS) as lines:
        next(lines)
        reply = chat(service, "hi")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "queue_timeout")


# -- keys


def test_revoked_key_ends_its_stream_and_its_waiting_requests(
    serve: Serve, key_tool: Callable[..., str]
) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1").ready()
    keys = str(service.folder / "keys.yaml")
    other = key_tool("--file", keys, "--quiet", "generate", "other")
    service.signal(signal.SIGHUP)
    service.wait_for("keys changed")
    with streaming(service, ENDLESS) as lines:
        next(lines)
        key_tool("--file", keys, "disable", "first")
        assert last_error(lines)["code"] == "key_revoked"
    assert chat(service, "hi").status_code == 401
    service.key = other
    assert chat(service, "hi", max_tokens=1).status_code == 200


def test_broken_keys_file_keeps_the_last_good_keys_and_says_so(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true").ready()
    (service.folder / "keys.yaml").write_text("version: 2\nkeys: [")
    service.signal(signal.SIGHUP)
    service.wait_for("keys")
    assert chat(service, "hi", max_tokens=1).status_code == 200
    assert "keys_stale" in health(service).json()["reasons"]


def test_reload_needs_the_scope_admin(serve: Serve, key_tool: Callable[..., str]) -> None:
    service = serve(USE_MOCK_MODEL="true").ready()
    refused = httpx.post(f"{service.url}/reload", headers=auth(service))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    keys = str(service.folder / "keys.yaml")
    service.key = key_tool("--file", keys, "--quiet", "generate", "boss", "--scopes", "admin")
    service.wait_for("keys changed")
    reply = httpx.post(f"{service.url}/reload", headers=auth(service))
    assert reply.json() == {"keys": 2, "in_step": True}
    again = httpx.post(f"{service.url}/reload", headers=auth(service))
    assert again.status_code == 429


def test_without_a_keys_file_everything_is_refused(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", AUTH_KEYS_FILE="/nonexistent/keys.yaml").ready()
    assert chat(service, "hi").status_code == 401


# -- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_as_a_platform_does_it_exits_with_zero(serve: Serve, number: int) -> None:
    service = serve(USE_MOCK_MODEL="true").ready()
    service.signal(number)
    assert service.wait() == 0


def test_running_stream_may_finish_while_new_work_is_refused(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", DRAIN_TIMEOUT="20").ready()
    with streaming(service, "mock: tokens=150 delay_ms=10", max_tokens=150) as lines:
        next(lines)
        service.signal(signal.SIGTERM)
        service.wait_for("waiting for 1 running")
        refused = chat(service, "hi")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert health(service, "/readyz").status_code == 503
        assert health(service, "/livez").status_code == 200
        assert list(lines)[-1] == "data: [DONE]"
    assert service.wait() == 0


def test_stream_beyond_the_drain_budget_ends_with_an_error_event(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", DRAIN_TIMEOUT="0.2").ready()
    with streaming(service, ENDLESS) as lines:
        next(lines)
        service.signal(signal.SIGTERM)
        assert last_error(lines)["code"] == "draining"
    assert service.wait() == 0


def test_second_signal_forces(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", DRAIN_TIMEOUT="60").ready()
    with streaming(service, ENDLESS) as lines:
        next(lines)
        service.signal(signal.SIGTERM)
        service.wait_for("waiting for 1 running")
        service.signal(signal.SIGTERM)
        assert service.wait() == 128 + signal.SIGTERM


def test_idle_connections_close_when_draining(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", DRAIN_TIMEOUT="20").ready()
    with (
        streaming(service, ENDLESS) as lines,
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as idle,
    ):
        next(lines)
        idle.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        service.signal(signal.SIGTERM)
        assert idle.recv(4096) == b""


def test_second_signal_forces_even_an_engine_that_ignores_them(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true", EXTRA_ARGS="--ignore-sigterm", ENGINE_STOP_TIMEOUT="60"
    ).ready()
    service.signal(signal.SIGTERM)
    service.wait_for("engine stopping")
    service.signal(signal.SIGTERM)
    assert service.wait(10) == 128 + signal.SIGTERM


def test_signals_before_the_service_is_up_are_honoured(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true")
    service.wait_for("health port is open")
    service.signal(signal.SIGHUP)
    service.signal(signal.SIGTERM)
    assert service.wait() == 0


def test_stop_while_loading(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", EXTRA_ARGS="--load-s 60").opened()
    service.wait_for("engine loading")
    assert service.stop() == 0


def test_engine_that_ignores_the_signal_is_killed(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true", EXTRA_ARGS="--ignore-sigterm", ENGINE_STOP_TIMEOUT="0.2"
    ).ready()
    assert service.stop() == 0


# -- starting


def test_port_that_is_taken_is_named(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name in ("PORT", "PORT_HEALTH"):
            service = serve(USE_MOCK_MODEL="true", **{name: str(port)})
            assert service.wait() == 1
            assert str(port) in service.output


def test_all_wrong_settings_are_told_at_once(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", MAX_QUEUE_SIZE="many", PARALLEL="0", IDLE_ACTION="nap")
    assert service.wait() == 2
    for name in ("MAX_QUEUE_SIZE", "PARALLEL", "IDLE_ACTION"):
        assert name in service.output.upper()


def test_one_port_serves_both(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = serve(USE_MOCK_MODEL="true", PORT=str(port), PORT_HEALTH=str(port))
    service.wait_for("ready: ")
    assert httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200
