"""Clients that read slowly, and clients that leave, at every moment of a request.

Slow ones get the same bytes as quick ones. Of those who left nothing is left: the slot is free, the
request stands in the log and in the metrics once, no connection and no descriptor stays open.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest

from tests.support.aftermath import figure
from tests.support.callers import until
from tests.support.engine_stats import engine_stats
from tests.support.service import ServiceProcess
from tests.support.wire import Peer, chat, page, service_with

MIB = 1 << 20
ENDLESS = "mock: tokens=4000 delay_ms=5"
SMALL_WINDOW_BYTES = 4096
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    env = {
        "PARALLEL": "1",
        "CTX": "1000000",
        "STREAM_BUFFER_BYTES": "256KiB",
        "CLIENT_STALL_TIMEOUT": "1",
    }
    with service_with(tmp_path_factory.mktemp("wire"), **env) as running:
        yield running


def streamed(service: ServiceProcess, tokens: int) -> bytes:
    script = f"mock: tokens={tokens} delay_ms=0"
    return chat(service.key, script, stream=True, max_tokens=tokens)


def status(service: ServiceProcess) -> dict[str, int]:
    """Slots and queue, as whoever holds a key is told."""
    told = json.loads(page(service.port, b"/gpu/status", service.key))
    assert isinstance(told, dict)
    return told


def read_quickly(service: ServiceProcess, request: bytes) -> bytes:
    """What somebody gets who is never behind."""
    with Peer(service.port) as quick:
        quick.send(request)
        return quick.reply().body


# -- slow ones


@pytest.mark.parametrize("tokens", [600, 5_000])
def test_client_that_reads_nothing_for_a_while_gets_the_same_bytes(
    service: ServiceProcess, tokens: int
) -> None:
    """With the engine done long before, and with the engine held back; and memory is bounded."""
    request = streamed(service, tokens)
    wanted = read_quickly(service, request)
    gateway = psutil.Process(service.pid)
    before_bytes = gateway.memory_info().rss
    with Peer(service.port, window_bytes=SMALL_WINDOW_BYTES) as slow:
        finished = engine_stats(service)["finished"]
        slow.send(request)
        assert slow.begun().startswith(b"HTTP/1.1 200 OK\r\n")
        engine_stats(service, finished_min=finished + 1)
        assert gateway.memory_info().rss - before_bytes < 8 * MIB
        got = bytearray()
        while piece := slow.chunk():
            got += piece
        assert bytes(got) == wanted
        assert slow.lives()
    assert figure(service, "gateway_client_stalls_total") == 0


def test_client_that_reads_a_byte_at_a_time_gets_the_same_bytes(service: ServiceProcess) -> None:
    request = streamed(service, 60)
    with Peer(service.port, window_bytes=SMALL_WINDOW_BYTES) as slow:
        slow.send(request)
        got = bytearray()
        while not got.endswith(b"\r\n0\r\n\r\n"):
            byte = slow.socket.recv(1)
            assert byte
            got += byte
        start = got.index(b"\r\n\r\n") + 4
        slow.take(bytes(got[start:]))
        pieces = b"".join(iter(slow.chunk, b""))
        assert pieces == read_quickly(service, request)
        assert slow.lives()


def test_large_reply_in_one_piece_is_the_same_for_a_slow_client(service: ServiceProcess) -> None:
    request = chat(service.key, "mock: tokens=60000 delay_ms=0", max_tokens=60_000)
    with Peer(service.port, window_bytes=SMALL_WINDOW_BYTES) as slow:
        slow.send(request)
        finished = engine_stats(service)["finished"]
        engine_stats(service, finished_min=finished + 1)
        until(lambda: status(service)["in_flight"] == 0)
        reply = slow.reply()
        assert len(reply.body) > MIB // 4
        assert json.loads(reply.body)["usage"]["completion_tokens"] == 60_000
        assert slow.lives()


def test_client_that_takes_nothing_any_more_is_cut_with_a_reset(service: ServiceProcess) -> None:
    before = figure(service, "gateway_client_stalls_total")
    with Peer(service.port, window_bytes=SMALL_WINDOW_BYTES) as slow:
        slow.send(streamed(service, 6_000))
        slow.begun()
        until(lambda: figure(service, "gateway_client_stalls_total") == before + 1)
        until(lambda: status(service)["in_flight"] == 0)
        with pytest.raises(ConnectionResetError):
            slow.rest()
    assert read_quickly(service, streamed(service, 3)).endswith(b"data: [DONE]\n\n")


# -- those who leave


@dataclass(frozen=True, slots=True)
class Books:
    """What is known of requests, and what is open."""

    service: ServiceProcess

    def requests(self) -> float:
        """How many on the chat route have ended, by the metrics."""
        lines = page(self.service.health_port, b"/metrics").decode().splitlines()
        lines = [each for each in lines if each.startswith("gateway_requests_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'"{CHAT}"' in line)

    def lines(self, name: str) -> list[str]:
        """The lines of the access log about a request."""
        mark = f"request_id={name} "
        return [each for each in self.service.lines if mark in each and "gateway.access" in each]

    def one_more(self, name: str) -> None:
        """A request that is answered; returns when it is written down."""
        request = chat(self.service.key, "hi", b"X-Request-Id: " + name.encode(), stream=True)
        assert read_quickly(self.service, request).endswith(b"data: [DONE]\n\n")
        until(lambda: bool(self.lines(name)))

    def at_rest(self) -> bool:
        """Whether nothing runs, waits or lingers, and the engine has no connection with work."""
        now = status(self.service)
        idle = not any(now[name] for name in ("in_flight", "queued", "lingering"))
        return idle and engine_stats(self.service)["active"] == 0


Leave = Callable[[ServiceProcess, Peer, bytes], None]


def head_only(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    peer.send(chat(service.key, "hi", name).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    peer.until_read()


def half_a_body(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    peer.send(chat(service.key, "hi", name)[:-20])
    peer.until_read()


def after_continue(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    whole = chat(service.key, "hi", name, b"Expect: 100-continue")
    peer.send(whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert b"100 Continue" in peer.begun()


def before_the_head(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    peer.send(chat(service.key, "mock: hang_head", name, stream=True))
    engine_stats(service, requests_min=engine_stats(service)["requests"] + 1)


def before_the_first_event(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    peer.send(chat(service.key, "mock: prefill_ms=60000 prefill_steps=2", name, stream=True))
    engine_stats(service, active=1)


def in_the_stream(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    peer.send(chat(service.key, ENDLESS, name, stream=True, max_tokens=4000))
    peer.begun()
    peer.chunk()


def while_the_whole_is_made(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    peer.send(chat(service.key, ENDLESS, name, max_tokens=4000))
    engine_stats(service, active=1)


def with_the_last_event(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    peer.send(chat(service.key, "mock: tokens=9 delay_ms=1", name, stream=True))
    peer.begun()
    while b"[DONE]" not in peer.chunk():
        pass


def with_another_request_sent(service: ServiceProcess, peer: Peer, name: bytes) -> None:
    in_the_stream(service, peer, name)
    peer.send(chat(service.key, "behind", name))
    peer.until_read()


MOMENTS: dict[str, tuple[tuple[int, ...], Leave]] = {
    "with the head only": ((499,), head_only),
    "in the body": ((499,), half_a_body),
    "told to go on": ((499,), after_continue),
    "before the engine's head": ((499,), before_the_head),
    "before the first event": ((499,), before_the_first_event),
    "in the stream": ((499,), in_the_stream),
    "while a whole reply is made": ((499,), while_the_whole_is_made),
    "with the last event": ((200, 499), with_the_last_event),
    "with another request behind": ((499,), with_another_request_sent),
}


@pytest.mark.parametrize(
    ("moment", "reset"),
    [
        *((each, False) for each in MOMENTS),
        ("in the body", True),
        ("before the first event", True),
        ("in the stream", True),
    ],
)
def test_client_that_leaves_is_written_down_once_and_nothing_of_it_stays(
    service: ServiceProcess, moment: str, reset: bool
) -> None:
    statuses, leave = MOMENTS[moment]
    books, gateway = Books(service), psutil.Process(service.pid)
    until(books.at_rest)
    name = f"{moment.replace(' ', '-')}-{reset}".replace("'", "")
    books.one_more(f"before-{name}")
    before, descriptors = books.requests(), gateway.num_fds()
    with Peer(service.port) as peer:
        leave(service, peer, b"X-Request-Id: " + name.encode())
        if reset:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(books.at_rest)
    until(lambda: bool(books.lines(name)))
    books.one_more(f"behind-{name}")
    assert books.requests() == before + 2, "the one that left, and the one behind it"
    (line,) = books.lines(name)
    assert any(f"status={each} " in line for each in statuses), line
    until(lambda: gateway.num_fds() <= descriptors)


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_the_queue_never_reaches_the_engine(
    service: ServiceProcess, stream: bool
) -> None:
    books = Books(service)
    until(books.at_rest)
    name = f"queued-{stream}"
    with Peer(service.port) as busy:
        in_the_stream(service, busy, b"X-Request-Id: busy")
        seen = engine_stats(service)["paths"][f"POST {CHAT}"]
        with Peer(service.port) as waiting:
            request_id = b"X-Request-Id: " + name.encode()
            waiting.send(chat(service.key, "late", request_id, stream=stream))
            until(lambda: status(service)["queued"] == 1)
        until(lambda: status(service)["queued"] == 0)
        until(lambda: bool(books.lines(name)))
        assert busy.chunk()
    until(books.at_rest)
    assert engine_stats(service)["paths"][f"POST {CHAT}"] == seen
    (line,) = books.lines(name)
    assert "status=499 " in line


def test_many_that_leave_at_once_leave_nothing(service: ServiceProcess) -> None:
    books, gateway = Books(service), psutil.Process(service.pid)
    until(books.at_rest)
    descriptors = gateway.num_fds()
    peers = [Peer(service.port) for _ in range(40)]
    for place, peer in enumerate(peers):
        name = b"X-Request-Id: crowd-%d" % place
        peer.send(chat(service.key, ENDLESS, name, stream=bool(place % 2), max_tokens=4000))
    until(lambda: status(service)["queued"] == 39)
    for peer in peers:
        peer.socket.close()
    until(books.at_rest)
    until(lambda: all(books.lines(f"crowd-{place}") for place in range(40)))
    assert all(len(books.lines(f"crowd-{place}")) == 1 for place in range(40))
    until(lambda: gateway.num_fds() <= descriptors)
    until(lambda: engine_stats(service)["open"] <= 2)


def test_service_is_unharmed_by_all_this(service: ServiceProcess) -> None:
    """Runs last."""
    assert read_quickly(service, streamed(service, 3)).endswith(b"data: [DONE]\n\n")
    assert "Traceback" not in service.output
