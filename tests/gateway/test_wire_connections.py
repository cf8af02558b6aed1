"""When a connection lives on and when it ends: after every kind of reply, for every kind of client.

Clients pool connections. One that is closed without being told so fails the next request on it; one
that is kept though the reply says that it ends hangs it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.callers import until
from tests.support.engine_stats import engine_stats
from tests.support.service import ServiceProcess
from tests.support.wire import Peer, chat, head, page, service_with

CHAT = b"POST /v1/chat/completions HTTP/1.1"
CLOSE = b"Connection: close"
STAY = b"Connection: keep-alive"
PATIENT = b"Expect: 100-continue"
ENDLESS = "mock: tokens=4000 delay_ms=5"

Make = Callable[[ServiceProcess], bytes]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One slot, and one place to wait for it."""
    folder = tmp_path_factory.mktemp("wire")
    env = {"PARALLEL": "1", "MAX_QUEUE_PER_KEY": "1", "CORS_ORIGINS": "http://page"}
    with service_with(folder, **env) as running:
        yield running


@pytest.fixture
def peer(service: ServiceProcess) -> Iterator[Peer]:
    """A client; when it has left, the slot is free again."""
    with Peer(service.port) as peer:
        yield peer
    engine_stats(service, active=0)
    until(lambda: slot_is_free(service))


def status_of(service: ServiceProcess) -> dict[str, object]:
    status = json.loads(page(service.port, b"/gpu/status", service.key))
    assert isinstance(status, dict)
    return status


def slot_is_free(service: ServiceProcess) -> bool:
    status = status_of(service)
    return status["in_flight"] == 0 == status["lingering"]


def keyed(start: bytes) -> Make:
    return lambda s: head(start, b"X-API-Key: " + s.key.encode())


def chatting(script: str, **fields: Any) -> Make:
    return lambda s: chat(s.key, f"mock: {script}", **fields)


KINDS: dict[str, tuple[int, Make]] = {
    "page": (200, lambda s: head(b"GET /version HTTP/1.1")),
    "page with a key": (200, keyed(b"GET /v1/models HTTP/1.1")),
    "HEAD": (200, lambda s: head(b"HEAD /version HTTP/1.1")),
    "HEAD with a key": (200, keyed(b"HEAD /v1/models HTTP/1.1")),
    "HEAD of what is not there": (404, lambda s: head(b"HEAD /nowhere HTTP/1.1")),
    "preflight": (204, lambda s: head(b"OPTIONS /v1/models HTTP/1.1", b"Origin: http://page")),
    "answer in one piece": (200, chatting("tokens=3")),
    "stream": (200, chatting("tokens=3", stream=True)),
    "empty answer": (200, chatting("tokens=0")),
    "empty stream": (200, chatting("tokens=0", stream=True)),
    "counted tokens": (
        200,
        lambda s: chat(s.key, "hi").replace(b"/v1/chat/completions", b"/v1/messages/count_tokens"),
    ),
    "error in the stream": (200, chatting("tokens=9 error_after=3", stream=True)),
    "engine gone in the stream": (200, chatting("tokens=90 cut_after=3000", stream=True)),
    "wrong field": (400, chatting("tokens=3", temperature="hot")),
    "no JSON": (400, lambda s: chat(s.key, "hi").replace(b'{"messages"', b'["messages"')),
    "too long for the engine": (400, chatting("error=context")),
    "too long for the engine, streamed": (400, chatting("error=context", stream=True)),
    "no key": (401, lambda s: head(b"GET /v1/models HTTP/1.1")),
    "no scope": (403, keyed(b"POST /reload HTTP/1.1")),
    "no such path": (404, lambda s: head(b"GET /nowhere HTTP/1.1")),
    "no such model": (404, chatting("tokens=3", model="other")),
    "no such method": (405, lambda s: head(b"DELETE /version HTTP/1.1")),
    "engine that fails": (502, chatting("error=500")),
    "engine that breaks off": (502, chatting("tokens=90 cut_after=3000")),
    "engine that is not there": (503, chatting("error=503")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_connection_serves_the_next_request_after(
    service: ServiceProcess, peer: Peer, kind: str
) -> None:
    status, make = KINDS[kind]
    request = make(service)
    for _ in range(3):
        peer.send(request)
        reply = peer.reply(to=request.split(b" ")[0].decode())
        assert (reply.status, reply.closes) == (status, False)
        if status >= 400 and b"HEAD " not in request:
            assert reply.code
    assert peer.lives()


def test_connection_serves_the_next_request_after_a_busy_engine(
    service: ServiceProcess, peer: Peer
) -> None:
    with Peer(service.port) as busy, Peer(service.port) as waiting:
        busy.send(chat(service.key, ENDLESS, stream=True, max_tokens=4000))
        busy.begun()
        hurry = b"X-Max-Queue-Seconds: 0.01"
        for stream in (False, True):
            peer.send(chat(service.key, "hi", hurry, stream=stream))
            refused = peer.reply()
            assert refused.status in (429, 503)  # as it was foreseen, or not
            assert not refused.closes
            assert peer.lives()
        waiting.send(chat(service.key, "hi"))
        until(lambda: status_of(service)["queued"] == 1)
        for stream in (False, True):
            peer.send(chat(service.key, "hi", stream=stream))
            refused = peer.reply()
            assert (refused.status, refused.closes) == (429, False)
            assert refused.header("retry-after") is not None
            assert peer.lives()


def test_one_connection_carries_every_kind_one_after_another(
    service: ServiceProcess, peer: Peer
) -> None:
    for status, make in KINDS.values():
        request = make(service)
        peer.send(request)
        assert peer.reply(to=request.split(b" ")[0].decode()).status == status


def test_reply_to_head_has_the_headers_of_get_and_no_body(
    service: ServiceProcess, peer: Peer
) -> None:
    for path in (b"/version", b"/v1/models", b"/nowhere"):
        lines = (b"X-API-Key: " + service.key.encode(), b"X-Request-Id: same")
        peer.send(head(b"GET " + path + b" HTTP/1.1", *lines))
        got = peer.reply()
        peer.send(head(b"HEAD " + path + b" HTTP/1.1", *lines))
        told = peer.reply(to="HEAD")
        assert (told.status, told.body) == (got.status, b"")
        assert {name for name, _ in told.headers} == {name for name, _ in got.headers}
        assert told.header("content-length") == got.header("content-length")
    assert peer.lives()


# -- clients that close


@pytest.mark.parametrize("word", [CLOSE, b"connection: Close", b"Connection: x, close"])
@pytest.mark.parametrize("kind", ["page", "HEAD", "answer in one piece", "stream", "no key"])
def test_connection_ends_with_the_reply_when_the_client_says_so(
    service: ServiceProcess, peer: Peer, kind: str, word: bytes
) -> None:
    status, make = KINDS[kind]
    request = make(service).replace(b"Host: x\r\n", b"Host: x\r\n" + word + b"\r\n", 1)
    peer.send(request)
    reply = peer.reply(to=request.split(b" ")[0].decode())
    assert reply.status == status
    assert peer.ended()
    if word != b"Connection: x, close":  # that one ends, which is what matters
        assert reply.closes


def test_stream_that_failed_ends_with_its_connection_when_the_client_says_so(
    service: ServiceProcess, peer: Peer
) -> None:
    peer.send(chat(service.key, "mock: tokens=9 error_after=3", CLOSE, stream=True))
    assert b'data: {"error":' in peer.reply().body
    assert peer.ended()


# -- clients of HTTP/1.0


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize(
    "kind", ["page", "HEAD", "answer in one piece", "no key", "no such path", "wrong field"]
)
def test_older_client_is_kept_only_when_it_asks(
    service: ServiceProcess, peer: Peer, kind: str, stays: bool
) -> None:
    status, make = KINDS[kind]
    request = make(service).replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n", 1)
    if stays:
        request = request.replace(b"Host: x\r\n", b"Host: x\r\n" + STAY + b"\r\n", 1)
    for _ in range(2 if stays else 1):
        peer.send(request)
        reply = peer.reply(to=request.split(b" ")[0].decode())
        assert reply.status == status
        assert not reply.chunked
        assert reply.header("content-length") is not None
        assert reply.closes != stays
    assert peer.lives() if stays else peer.ended()


@pytest.mark.parametrize("lines", [(), (STAY,)], ids=["", "keep-alive"])
@pytest.mark.parametrize("fate", ["", "error_after=3", "cut_after=3000"])
def test_stream_to_an_older_client_ends_with_the_connection(
    service: ServiceProcess, peer: Peer, lines: tuple[bytes, ...], fate: str
) -> None:
    """Nothing else could tell it where the stream ends."""
    script = f"mock: tokens=40 {fate}"
    peer.send(chat(service.key, script, *lines, version=b"1.0", stream=True, max_tokens=40))
    reply = peer.reply()
    assert (reply.status, reply.closes) == (200, True)
    assert not reply.chunked
    assert reply.header("content-length") is None
    last = reply.body.rstrip(b"\n").rpartition(b"\n\n")[2]
    assert last.startswith(b'data: {"error":') if fate else last == b"data: [DONE]"
    assert b"\r\n" not in reply.body


def test_older_client_needs_no_host(peer: Peer) -> None:
    peer.send(b"GET /version HTTP/1.0\r\n\r\n")
    assert peer.reply().status == 200
    assert peer.ended()


def test_older_client_sends_no_chunks(service: ServiceProcess, peer: Peer) -> None:
    key = b"X-API-Key: " + service.key.encode()
    peer.send(head(CHAT.replace(b"1.1", b"1.0"), key, b"Transfer-Encoding: chunked") + b"0\r\n\r\n")
    assert (peer.reply().status, peer.ended()) == (400, True)


# -- clients that ask before they send a body


def patient(service: ServiceProcess, **fields: Any) -> tuple[bytes, bytes]:
    """A request's head, and its body."""
    request = chat(service.key, "mock: say=yes", PATIENT, **fields)
    start, end, body = request.partition(b"\r\n\r\n")
    return start + end, body


def test_patient_client_is_told_to_go_on_and_its_connection_lives_on(
    service: ServiceProcess, peer: Peer
) -> None:
    for stream in (False, True, False):
        start, body = patient(service, stream=stream)
        peer.send(start)
        assert peer.begun() == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(body[:10], body[10:])
        reply = peer.reply()
        assert (reply.status, reply.chunked) == (200, stream)
    assert peer.lives()


def test_impatient_client_that_sends_its_body_at_once_is_answered(
    service: ServiceProcess, peer: Peer
) -> None:
    peer.send((b"".join(patient(service))) * 2)
    for _ in range(2):
        assert b'"content":"yes"' in peer.reply().body
    assert peer.lives()


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (401, lambda s, start: start.replace(s.key.encode(), b"sk-wrong")),
        (413, lambda s, start: start.replace(b"Content-Length: ", b"Content-Length: 99000")),
        (415, lambda s, start: start.replace(b"application/json", b"text/plain")),
        (404, lambda s, start: start.replace(b"/v1/chat", b"/v2/chat")),
        (417, lambda s, start: start.replace(b"100-continue", b"200-ok")),
    ],
    ids=str,
)
def test_patient_client_is_refused_before_it_sends_a_body(
    service: ServiceProcess,
    peer: Peer,
    status: int,
    change: Callable[[ServiceProcess, bytes], bytes],
) -> None:
    peer.send(change(service, patient(service)[0]))
    reply_head = peer.begun()
    assert reply_head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in reply_head.lower()


# -- clients that close their half


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_closes_its_half_is_gone(
    service: ServiceProcess, peer: Peer, stream: bool
) -> None:
    """It cannot be told from one that left; so the engine stops, and no answer comes."""
    before = engine_stats(service)["finished"]
    peer.send(chat(service.key, ENDLESS, stream=stream, max_tokens=4000))
    if stream:
        peer.begun()
        peer.chunk()
    engine_stats(service, active=1)
    peer.half_close()
    stats = engine_stats(service, active=0)
    assert stats["finished"] == before
    try:
        rest = peer.rest()
    except ConnectionResetError:
        rest = b""
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"\r\n0\r\n\r\n"), "it looks complete"


def test_client_that_closes_its_half_before_its_request_is_whole_gets_no_answer(
    service: ServiceProcess, peer: Peer
) -> None:
    before = engine_stats(service)["requests"]
    for cut in (10, 60, -1):
        with Peer(service.port) as other:
            other.send(chat(service.key, "hi")[:cut])
            other.half_close()
            assert b" 200 " not in other.rest()
    assert engine_stats(service)["requests"] - before <= 1, "a probe at most"


def test_service_is_unharmed_by_all_this(service: ServiceProcess, peer: Peer) -> None:
    """Runs last."""
    assert peer.lives()
    assert "Traceback" not in service.output


@pytest.mark.parametrize("size", [1000, 300_000])
def test_last_word_can_be_read_though_more_is_on_its_way(
    service: ServiceProcess, size: int
) -> None:
    """Closing over bytes that nobody read would be a reset, which can destroy that word."""
    start = head(CHAT, b"X-API-Key: " + service.key.encode())  # no length, so no body
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as link:
            link.sendall(start + b"{" * size)
            said = b"".join(iter(lambda: link.recv(1 << 16), b""))
        assert b" 400 " in said
        assert said.endswith(b"}")


def test_size_of_a_body_that_is_no_json_is_written_down(
    service: ServiceProcess, peer: Peer
) -> None:
    body = b'{"model": ' + b" " * 133
    peer.send(
        head(CHAT, b"X-API-Key: " + service.key.encode(), b"Content-Length: %d" % len(body)) + body
    )
    assert peer.reply(to="POST").status == 400
    until(lambda: f"bytes_in={len(body)}" in service.output)
