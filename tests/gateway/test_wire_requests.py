"""Requests on one connection: pipelined, cut anywhere, malformed. Replies in order, none mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.callers import until
from tests.support.engine_stats import engine_stats
from tests.support.service import ServiceProcess
from tests.support.wire import Peer, Received, chat, head, service_with

CHAT = b"POST /v1/chat/completions HTTP/1.1"
VERSION = head(b"GET /version HTTP/1.1")
BODY = b'{"messages":[{"role":"user","content":"mock: say=yes"}],"max_tokens":3}'
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("wire")
    with service_with(folder, CLIENT_BODY_GRACE="0.5") as running:
        yield running


@pytest.fixture
def peer(service: ServiceProcess) -> Iterator[Peer]:
    with Peer(service.port) as peer:
        yield peer


def key(service: ServiceProcess) -> bytes:
    return b"X-API-Key: " + service.key.encode()


def named(name: str) -> bytes:
    return b"X-Request-Id: " + name.encode()


def mixed(service: ServiceProcess, place: int) -> bytes:
    """One of several kinds of request, that says which it is."""
    name, text = named(f"n{place}"), f"mock: say=answer-{place}"
    match place % 5:
        case 0:
            return head(b"GET /version HTTP/1.1", name)
        case 1:
            return chat(service.key, text, name, stream=True)
        case 2:
            return chat(service.key, text, name)
        case 3:
            return head(b"HEAD /v1/models HTTP/1.1", key(service), name)
        case _:
            return chat(service.key, text, name, temperature="hot")


def check(peer: Peer, place: int) -> None:
    """The next reply is the one to the request of that place."""
    reply = peer.reply(to="HEAD" if place % 5 == 3 else "GET")
    assert reply.header("x-request-id") == f"n{place}"
    assert reply.status == (400 if place % 5 == 4 else 200)
    assert not reply.closes
    match place % 5:
        case 0:
            assert b"api_version" in reply.body
        case 1:
            assert reply.chunked
            assert reply.body.endswith(b"data: [DONE]\n\n")
            assert b"answer" in reply.body
            assert str(place).encode() in reply.body
        case 2:
            assert f'"answer-{place}"'.encode() in reply.body
        case 4:
            assert reply.code == "invalid_type" or reply.code.startswith("invalid")


# -- pipelined


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_pipelined_requests_of_any_kind_are_answered_in_order(
    service: ServiceProcess, peer: Peer, count: int
) -> None:
    for first in range(5):
        places = range(first, first + count)
        peer.send(b"".join(mixed(service, place) for place in places))
        for place in places:
            check(peer, place)
    assert peer.lives()


def test_pipelined_requests_cut_anywhere_are_answered_in_order(
    service: ServiceProcess, peer: Peer
) -> None:
    """Every offset: in each line of each head, between head and body, in the body."""
    body = b'{"messages":[{"role":"user","content":"mock: say=b"}]}'
    lines = (key(service), named("b"), b"Content-Length: %d" % len(body))
    get = head(b"GET /version HTTP/1.1", named("a"))
    wire = head(CHAT, *lines) + body + get
    for cut in range(1, len(wire)):
        peer.send(wire[:cut], wire[cut:])
        replies = [peer.reply() for _ in range(2)]
        assert [each.header("x-request-id") for each in replies] == ["b", "a"], cut
        assert [each.status for each in replies] == [200] * 2, cut
        assert b'"content":"b"' in replies[0].body


def test_request_byte_by_byte_is_the_same_request(service: ServiceProcess, peer: Peer) -> None:
    whole = chat(service.key, "mock: say=slow")
    peer.send(*(whole[at : at + 1] for at in range(len(whole))))
    assert b'"content":"slow"' in peer.reply().body
    assert peer.lives()


def test_reply_to_a_request_behind_a_running_stream_waits_for_its_end(
    service: ServiceProcess, peer: Peer
) -> None:
    stream = chat(service.key, "mock: tokens=9 delay_ms=10", named("s"), stream=True)
    for behind in (VERSION, chat(service.key, "mock: say=next")):
        peer.send(stream)
        assert b"x-request-id: s\r\n" in peer.begun()
        got = peer.chunk()
        peer.send(behind[:30], behind[30:])
        while piece := peer.chunk():
            got += piece
        assert got.endswith(b"data: [DONE]\n\n")
        assert b"HTTP/1.1" not in got
        assert peer.reply().status == 200


def test_answer_behind_a_stream_that_failed_is_its_own(service: ServiceProcess, peer: Peer) -> None:
    peer.send(chat(service.key, "mock: tokens=9 error_after=2", stream=True) + VERSION)
    failed = peer.reply()
    assert b'data: {"error":' in failed.body
    assert b"[DONE]" not in failed.body
    assert b"api_version" in peer.reply().body
    assert peer.lives()


REFUSED: dict[str, tuple[int, Callable[[ServiceProcess], bytes]]] = {
    "wrong key, body unread": (401, lambda s: chat("sk-wrong", "hi")),
    "too large by its head": (
        413,
        lambda s: head(CHAT, key(s), b"Content-Length: 99000000"),
    ),
    "other type": (
        415,
        lambda s: head(CHAT, key(s), b"Content-Type: a/b", b"Content-Length: 2") + b"{}",
    ),
    "other coding": (
        415,
        lambda s: head(CHAT, key(s), b"Content-Encoding: gzip", b"Content-Length: 2") + b"{}",
    ),
    "other expectation": (417, lambda s: chat(s.key, "hi", b"Expect: x")),
    "body to a path that is not there": (
        404,
        lambda s: head(b"POST /nowhere HTTP/1.1", b"Content-Length: 2") + b"{}",
    ),
    "body to a path for GET": (
        405,
        lambda s: head(b"POST /version HTTP/1.1", b"Content-Length: 2") + b"{}",
    ),
    "host that is none": (400, lambda s: b"GET /version HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "fragment": (400, lambda s: head(b"GET /version#a HTTP/1.1")),
    "two keys": (400, lambda s: head(b"GET /v1/models HTTP/1.1", key(s), key(s))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_behind_a_request_whose_end_is_unknown_is_answered(
    service: ServiceProcess, name: str
) -> None:
    """What follows may be its body; the connection closes with the refusal."""
    status, make = REFUSED[name]
    with Peer(service.port) as peer:
        peer.send(make(service) + VERSION)
        reply = peer.reply()
        assert (reply.status, reply.closes) == (status, True)
        assert reply.code
        assert peer.ended()


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_request_behind_a_refused_one_without_a_body_is_answered(
    service: ServiceProcess, peer: Peer, status: int
) -> None:
    refused = {
        400: chat(service.key, "hi", temperature="hot"),  # its body was read
        401: head(b"GET /v1/models HTTP/1.1"),
        404: head(b"GET /nowhere HTTP/1.1"),
        405: head(b"DELETE /version HTTP/1.1"),
    }[status]
    peer.send((refused + VERSION) * 3)
    for _ in range(3):
        assert peer.reply().status == status
        assert peer.reply().status == 200


def test_good_request_before_a_malformed_one_is_answered_first(
    service: ServiceProcess, peer: Peer
) -> None:
    peer.send(VERSION, head(b"GET /version HTTP/1.1", b"X\x01: a") + VERSION)
    assert peer.reply().status == 200
    refused = peer.reply()
    assert (refused.status, refused.closes, refused.code) == (400, True, "invalid_http")
    assert peer.ended()


def test_running_stream_is_not_broken_by_a_malformed_request_behind_it(
    service: ServiceProcess, peer: Peer
) -> None:
    peer.send(chat(service.key, "mock: tokens=9 delay_ms=10", stream=True))
    peer.begun()
    got = peer.chunk()
    peer.send(b"\x00\x01\x02\r\n\r\n" + VERSION)
    while piece := peer.chunk():
        got += piece
    assert got.endswith(b"data: [DONE]\n\n")
    assert peer.reply().status == 400
    assert peer.ended()


# -- bodies in chunks


def in_chunks(service: ServiceProcess, framed: bytes, *lines: bytes) -> bytes:
    return head(CHAT, key(service), CHUNKED, *lines) + framed


def split_body(size: int) -> bytes:
    pieces = (BODY[at : at + size] for at in range(0, len(BODY), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)


def is_answer(reply: Received) -> bool:
    return reply.status == 200 and b'"content":"yes"' in reply.body


WELL_FRAMED = {
    "one chunk": split_body(1000) + b"0\r\n\r\n",
    "a chunk for each byte": split_body(1) + b"0\r\n\r\n",
    "extensions": split_body(30).replace(b"\r\n{", b';a=b;c="d"\r\n{') + b"0;e\r\n\r\n",
    "trailers": split_body(30) + b"0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
    "capitals and zeros": split_body(30).replace(b"1e\r\n", b"001E\r\n") + b"000\r\n\r\n",
}


@pytest.mark.parametrize("name", WELL_FRAMED)
def test_body_in_chunks_is_read_whatever_its_framing(
    service: ServiceProcess, peer: Peer, name: str
) -> None:
    peer.send((in_chunks(service, WELL_FRAMED[name]) + VERSION) * 2)
    for _ in range(2):
        assert is_answer(peer.reply())
        assert b"api_version" in peer.reply().body


@pytest.mark.parametrize("coding", [b"Chunked", b"CHUNKED"])
def test_coding_is_known_in_any_case(service: ServiceProcess, peer: Peer, coding: bytes) -> None:
    framed = WELL_FRAMED["one chunk"]
    peer.send(head(CHAT, key(service), b"Transfer-Encoding: " + coding) + framed)
    assert is_answer(peer.reply())
    assert peer.lives()


def test_body_in_chunks_cut_anywhere_is_the_same_body(service: ServiceProcess, peer: Peer) -> None:
    body = split_body(40).replace(b"\r\n{", b";a=b\r\n{") + b"0\r\nX-Sum: 1\r\n\r\n"
    start = len(in_chunks(service, b""))
    wire = in_chunks(service, body) + VERSION
    for cut in range(start - 3, start + len(body) + 2):
        peer.send(wire[:cut], wire[cut:])
        assert is_answer(peer.reply()), cut
        assert b"api_version" in peer.reply().body


ONE = b"%x\r\n%b\r\n" % (len(BODY), BODY)
BADLY_FRAMED = {
    "bare line feed behind a size": ONE.replace(b"\r\n{", b"\n{") + b"0\r\n\r\n",
    "blank behind a size": ONE.replace(b"\r\n{", b" \r\n{") + b"0\r\n\r\n",
    "no size": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "size that is none": b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "signed size": b"+" + ONE + b"0\r\n\r\n",
    "size with 0x": b"0x" + ONE + b"0\r\n\r\n",
    "size of 17 digits": b"fffffffffffffffff\r\n" + BODY,
    "no line end behind a chunk": ONE[:-2] + b"0\r\n\r\n",
    "bare line feed behind a chunk": ONE[:-2] + b"\n0\r\n\r\n",
    "chunk longer than it says": ONE[:-2] + b"xx\r\n0\r\n\r\n",
    "trailer without a colon": ONE + b"0\r\nabc\r\n\r\n",
    "trailer that changes the length": ONE + b"0\r\nContent-Length: 1\r\n\r\n",
}


@pytest.mark.parametrize("name", BADLY_FRAMED)
def test_body_in_broken_chunks_is_refused_and_closes(
    service: ServiceProcess, peer: Peer, name: str
) -> None:
    before = engine_stats(service)["requests"]
    peer.send(in_chunks(service, BADLY_FRAMED[name]) + VERSION)
    reply = peer.reply()
    assert (reply.status, reply.closes) == (400, True)
    assert reply.code == "invalid_http"
    assert peer.ended()
    posts = engine_stats(service)
    assert posts["requests"] - before <= 1, "a probe at most"


def test_broken_chunk_that_comes_later_is_refused_too(service: ServiceProcess, peer: Peer) -> None:
    start = in_chunks(service, ONE[:-20])
    peer.send(start, BODY[-18:] + b"zz\r\n\r\n" + VERSION)
    reply = peer.reply()
    assert reply.status in (400, 408)  # the bytes are wrong, or the right ones did not come
    assert peer.ended()


# -- heads


MALFORMED: dict[str, tuple[tuple[int, ...], bytes]] = {
    "length and coding": ((400,), head(CHAT, b"Content-Length: 5", CHUNKED) + b"0\r\n\r\n"),
    "coding and length": ((400,), head(CHAT, CHUNKED, b"Content-Length: 5") + b"0\r\n\r\n"),
    "two equal lengths": ((400,), head(CHAT, *[b"Content-Length: 2"] * 2) + b"{}"),
    "two lengths": ((400,), head(CHAT, b"Content-Length: 2", b"Content-Length: 3") + b"{}"),
    "list of lengths": ((400,), head(CHAT, b"Content-Length: 2, 2") + b"{}"),
    "signed length": ((400,), head(CHAT, b"Content-Length: +2") + b"{}"),
    "length in hex": ((400,), head(CHAT, b"Content-Length: 0x2") + b"{}"),
    "empty length": ((400,), head(CHAT, b"Content-Length: ") + b"{}"),
    "coding twice": ((400,), head(CHAT, CHUNKED, CHUNKED) + b"0\r\n\r\n"),
    "coding not last": ((400,), head(CHAT, b"Transfer-Encoding: chunked, gzip")),
    "unknown coding": ((400, 501), head(CHAT, b"Transfer-Encoding: gzip, chunked")),
    "identity": ((400, 501), head(CHAT, b"Transfer-Encoding: identity")),
    "folded header": ((400,), head(b"GET /version HTTP/1.1", b"X-A: b\r\n c")),
    "folded with a tab": ((400,), head(b"GET /version HTTP/1.1", b"X-A: b\r\n\tc")),
    "bare line feeds": ((400,), b"GET /version HTTP/1.1\nHost: x\n\n"),
    "one bare line feed": ((400,), b"GET /version HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n"),
    "bare line feed at the end": ((400,), b"GET /version HTTP/1.1\r\nHost: x\r\n\n"),
    "bare carriage return": ((400,), head(b"GET /version HTTP/1.1", b"X-A: b\rX-B: c")),
    "zero byte in a value": ((400,), head(b"GET /version HTTP/1.1", b"X-A: b\0c")),
    "zero byte in a name": ((400,), head(b"GET /version HTTP/1.1", b"X\0A: b")),
    "zero byte in the target": ((400,), head(b"GET /ver\0sion HTTP/1.1")),
    "control byte in a value": ((400,), head(b"GET /version HTTP/1.1", b"X-A: b\x01c")),
    "DEL in a value": ((400,), head(b"GET /version HTTP/1.1", b"X-A: b\x7fc")),
    "blank before the colon": ((400,), head(b"GET /version HTTP/1.1", b"X-A : b")),
    "no colon": ((400,), head(b"GET /version HTTP/1.1", b"X-A")),
    "no name": ((400,), head(b"GET /version HTTP/1.1", b": b")),
    "no host": ((400,), b"GET /version HTTP/1.1\r\n\r\n"),
    "two hosts": ((400,), head(b"GET /version HTTP/1.1", b"Host: x")),
    "small letters": ((400, 405, 501), head(b"get /version HTTP/1.1")),
    "unknown method": ((400, 405, 501), head(b"BREW /version HTTP/1.1")),
    "target without a slash": ((400,), head(b"GET version HTTP/1.1")),
    "tab in the request line": ((400,), head(b"GET\t/version HTTP/1.1")),
    "http in small letters": ((400,), head(b"GET /version http/1.1")),
    "HTTP/1.2": ((400, 505), head(b"GET /version HTTP/1.2")),
    "HTTP/2.0": ((400, 505), head(b"GET /version HTTP/2.0")),
    "preface of HTTP/2": ((400, 505), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "line of 9 kB": ((431,), head(b"GET /version HTTP/1.1", b"X-A: " + b"a" * 9000)),
    "101 headers": ((431,), head(b"GET /version HTTP/1.1", *(b"X-%d: a" % n for n in range(101)))),
    "40 kB of headers": (
        (431,),
        head(b"GET /version HTTP/1.1", *(b"X-%d: " % n + b"a" * 4000 for n in range(10))),
    ),
    "target of 9 kB": ((414,), head(b"GET /version?" + b"a" * 9000 + b" HTTP/1.1")),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_head_is_refused_in_json_and_closes(
    service: ServiceProcess, peer: Peer, name: str
) -> None:
    """And what comes behind it is never taken for a request."""
    statuses, wire = MALFORMED[name]
    peer.send(wire + VERSION)
    reply = peer.reply()
    assert reply.status in statuses
    assert reply.closes
    assert reply.code
    assert (reply.header("x-request-id") or "").startswith("req_")
    assert reply.header("content-type") == "application/json"
    assert peer.ended()


def test_malformed_head_is_refused_wherever_it_is_cut(service: ServiceProcess) -> None:
    wires = [MALFORMED[name][1] for name in ("folded header", "length and coding", "no colon")]
    for wire in wires:
        for cut in range(1, len(wire), 7):
            with Peer(service.port) as peer:
                peer.send(wire[:cut], wire[cut:])
                assert (peer.reply().status, peer.ended()) == (400, True), (wire, cut)


def test_request_of_http_0_9_gets_no_page(service: ServiceProcess, peer: Peer) -> None:
    peer.send(b"GET /version\r\n\r\n")
    assert b"api_version" not in peer.rest()


def test_empty_lines_before_a_request_are_skipped(peer: Peer) -> None:
    peer.send(b"\r\n" + VERSION + b"\r\n" + VERSION)
    assert peer.reply().status == peer.reply().status == 200
    assert peer.lives()


def test_values_may_hold_tabs_and_bytes_beyond_ascii(peer: Peer) -> None:
    peer.send(head(b"GET /version HTTP/1.1", b"X-A:\t\xe9\xff\ta\t", b"X-B:") + VERSION)
    assert peer.reply().status == peer.reply().status == 200


def test_absolute_form_is_no_path_of_ours(peer: Peer) -> None:
    peer.send(head(b"GET http://x/version HTTP/1.1"))
    assert peer.reply().status == 404
    assert peer.lives()


@pytest.mark.parametrize("to", [b"h2c", b"websocket"])
def test_upgrade_is_ignored_and_the_connection_goes_on(
    service: ServiceProcess, peer: Peer, to: bytes
) -> None:
    """Java's client offers HTTP/2 on its first request, and uses the connection again."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + to, b"HTTP2-Settings: AAMA")
    peer.send(head(b"GET /version HTTP/1.1", *offer))
    assert peer.reply().status == 200
    assert peer.lives()
    peer.send(chat(service.key, "mock: say=yes", *offer))
    assert is_answer(peer.reply())
    peer.send(chat(service.key, "mock: say=yes", *offer, stream=True))
    assert peer.reply().chunked
    assert peer.lives()


def test_service_is_unharmed_by_all_this(service: ServiceProcess, peer: Peer) -> None:
    """Runs last."""
    assert peer.lives()
    assert "Traceback" not in service.output
    until(lambda: engine_stats(service)["active"] == 0)
