"""The health port over real sockets: what it answers, and what it does not put up with."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from health import HealthPortError, HealthServer, ServiceState, Snapshot, VerdictOptions
from health.server import CONNECTIONS_MAX

READY = Snapshot(ServiceState.READY, ready_ever=True)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


class Service:
    """Stands in for the rest of the program: what it last said about itself."""

    def __init__(self) -> None:
        self.snapshot = READY
        self.now = 0.0
        self.metrics: Callable[[], bytes] = lambda: b"gateway_up 1\n"


def connect(server: HealthServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def is_ended(sock: socket.socket) -> bool:
    """Wait for the other side to end the connection."""
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


def send(server: HealthServer, raw: bytes) -> Reply:
    """Send *raw*, read until the server closes, and take the reply apart."""
    with connect(server) as sock:
        sock.sendall(raw)
        whole = read_all(sock)
    head, _, body = whole.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Reply(int(first.split()[1]), headers, body)


def ask(server: HealthServer, path: str, method: str = "GET") -> Reply:
    return send(server, f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def server(service: Service) -> Iterator[HealthServer]:
    found = HealthServer(
        "127.0.0.1",
        0,
        snapshot=lambda: service.snapshot,
        metrics=lambda: service.metrics(),
        clock=lambda: service.now,
    )
    found.start()
    yield found
    found.stop()


def test_answers_as_soon_as_start_returns(server: HealthServer) -> None:
    reply = ask(server, "/health")
    assert reply.status == 200
    assert reply.json()["state"] == "ready"


def test_the_newest_snapshot_counts(server: HealthServer, service: Service) -> None:
    service.snapshot = replace(READY, state=ServiceState.DRAINING)
    assert ask(server, "/readyz").status == 503
    service.snapshot = READY
    assert ask(server, "/readyz").status == 200


def test_a_silent_api_loop_turns_livez(server: HealthServer, service: Service) -> None:
    service.snapshot = replace(READY, loop_seen_s=0.0)
    service.now = 5.0
    assert ask(server, "/livez").status == 200
    service.now = 5.1
    assert ask(server, "/livez").status == 503


def test_204_has_no_body_and_no_length(server: HealthServer, service: Service) -> None:
    service.snapshot = replace(READY, state=ServiceState.LOADING)
    reply = ask(server, "/ping")
    assert (reply.status, reply.body) == (204, b"")
    assert "content-type" not in reply.headers


def test_head_is_get_without_the_body(server: HealthServer) -> None:
    get, head = ask(server, "/health"), ask(server, "/health", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.body))
    assert head.headers["content-type"] == "application/json"


def test_metrics_are_prometheus_text(server: HealthServer) -> None:
    reply = ask(server, "/metrics")
    assert (reply.status, reply.body) == (200, b"gateway_up 1\n")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_a_query_changes_nothing(server: HealthServer) -> None:
    assert ask(server, "/livez?verbose=1").status == 200


@pytest.mark.parametrize("path", ["/", "/v1/models", "/health/..", "//health", "http://h/health"])
def test_unknown_paths_are_404_in_json(server: HealthServer, path: str) -> None:
    reply = ask(server, path)
    assert reply.status == 404
    error = reply.json()["error"]
    assert isinstance(error, dict)
    assert error["code"] == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_405(server: HealthServer, method: str) -> None:
    reply = ask(server, "/health", method)
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
)
def test_a_body_is_refused(server: HealthServer, framing: str) -> None:
    reply = send(server, f"GET /health HTTP/1.1\r\nHost: h\r\n{framing}".encode())
    assert reply.status == 413


def test_no_reply_names_the_software(server: HealthServer) -> None:
    for raw in (b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n", b"nonsense\r\n\r\n"):
        reply = send(server, raw)
        assert "server" not in reply.headers
        assert reply.headers["x-api-version"] == "v1"
        assert reply.headers.get("connection") != "keep-alive"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GET /health HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 100 + b"\r\n",
    ],
)
def test_a_broken_head_is_400_in_json(server: HealthServer, raw: bytes) -> None:
    reply = send(server, raw)
    assert reply.status == 400
    assert "error" in reply.json()
    assert b"aaaa" not in reply.body


def test_a_second_request_on_the_same_connection_is_not_answered(server: HealthServer) -> None:
    with connect(server) as sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
        assert read_all(sock).count(b"HTTP/1.1 200") == 1


def test_a_peer_that_never_finishes_is_dropped(service: Service) -> None:
    found = HealthServer(
        "127.0.0.1",
        0,
        snapshot=lambda: service.snapshot,
        metrics=lambda: b"",
        clock=lambda: 0.0,
        connection_life_s=0.05,
    )
    found.start()
    try:
        with connect(found) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
            assert is_ended(sock)
    finally:
        found.stop()


def test_a_crowd_of_slow_peers_does_not_keep_a_probe_out(server: HealthServer) -> None:
    crowd = [connect(server) for _ in range(CONNECTIONS_MAX + 10)]
    try:
        for sock in crowd:
            sock.sendall(b"GET /health")
        assert ask(server, "/livez").status == 200
        assert is_ended(crowd[0])
    finally:
        for sock in crowd:
            sock.close()


def test_a_broken_source_is_500_and_does_not_end_the_port(
    server: HealthServer, service: Service
) -> None:
    def fail() -> bytes:
        raise ValueError("canary")

    service.metrics = fail
    reply = ask(server, "/metrics")
    assert reply.status == 500
    assert b"canary" not in reply.body
    assert ask(server, "/livez").status == 200


def test_answers_while_the_main_thread_computes(server: HealthServer) -> None:
    """The port must not wait for whoever holds the interpreter most of the time."""
    answered = threading.Event()
    statuses: list[int] = []

    def probe() -> None:
        statuses.append(ask(server, "/livez").status)
        answered.set()

    asker = threading.Thread(target=probe)
    asker.start()
    give_up = time.monotonic() + 20
    while not answered.is_set() and time.monotonic() < give_up:
        sum(range(20_000))
    asker.join()
    assert statuses == [200]


def test_a_taken_port_is_named(server: HealthServer) -> None:
    second = HealthServer(
        "127.0.0.1", server.port, snapshot=lambda: READY, metrics=lambda: b"", clock=lambda: 0.0
    )
    with pytest.raises(HealthPortError, match=f"health port {server.port} on 127.0.0.1"):
        second.start()
    second.stop()


def test_stop_frees_the_port_at_once_and_may_come_twice(service: Service) -> None:
    first = HealthServer(
        "127.0.0.1", 0, snapshot=lambda: READY, metrics=lambda: b"", clock=lambda: 0.0
    )
    first.stop()
    first.start()
    held = connect(first)
    first.stop()
    first.stop()
    held.close()
    again = HealthServer(
        "127.0.0.1", first.port, snapshot=lambda: READY, metrics=lambda: b"", clock=lambda: 0.0
    )
    again.start()
    assert ask(again, "/livez").status == 200
    again.stop()


def test_the_platforms_own_path_is_served() -> None:
    loading = Snapshot(ServiceState.LOADING)
    found = HealthServer(
        "127.0.0.1",
        0,
        snapshot=lambda: loading,
        metrics=lambda: b"",
        clock=lambda: 0.0,
        options=VerdictOptions(health_check_path="/up"),
    )
    found.start()
    assert ask(found, "/up").status == 204
    found.stop()


def test_the_thread_has_a_name_and_ends(service: Service) -> None:
    found = HealthServer(
        "127.0.0.1", 0, snapshot=lambda: READY, metrics=lambda: b"", clock=lambda: 0.0
    )
    found.start()
    assert "health" in [thread.name for thread in threading.enumerate()]
    found.stop()
    assert "health" not in [thread.name for thread in threading.enumerate()]
