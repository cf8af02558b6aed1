"""An engine that closes its connections, at any moment: what a client sees of it.

llama-server closes connections after 5 s without a request, after 100 requests, and behind streams,
without saying so. None of that may become a client's error. What breaks off in the middle is told.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.callers import until
from tests.support.engine_stats import engine_stats
from tests.support.hand_engine import STREAM_HEAD, HandEngine, Turn
from tests.support.service import ServiceProcess
from tests.support.wire import Peer, Received, chat, head, service_with
from tests.tiny_gguf import write_tiny_gguf

VECTOR = b'{"object":"list","data":[{"embedding":[0.25],"index":0,"object":"embedding"}],'
ANSWER = VECTOR + b'"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(ANSWER)
WHOLE = HEAD + LENGTH + ANSWER
TOKEN = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM = STREAM_HEAD + chunk(TOKEN) + chunk(DONE) + b"0\r\n\r\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[HandEngine]:
    with tempfile.TemporaryDirectory(prefix="lg-") as folder, HandEngine(Path(folder)) as engine:
        yield engine


def started(
    tmp_path_factory: pytest.TempPathFactory, engine: HandEngine, **env: str
) -> contextlib.AbstractContextManager[ServiceProcess]:
    folder = tmp_path_factory.mktemp("wire")
    model = write_tiny_gguf(folder / "hand.gguf", kind="chat")
    return service_with(folder, LLAMA_SERVER=str(engine.program), MODEL_PATH=str(model), **env)


@pytest.fixture(scope="module")
def embedding(
    tmp_path_factory: pytest.TempPathFactory, engine: HandEngine
) -> Iterator[ServiceProcess]:
    """A service for embeddings, whose requests share connections to the engine."""
    with started(tmp_path_factory, engine, EMBEDDINGS="true") as running:
        yield running


@pytest.fixture(scope="module")
def chatting(
    tmp_path_factory: pytest.TempPathFactory, engine: HandEngine
) -> Iterator[ServiceProcess]:
    with started(tmp_path_factory, engine) as running:
        yield running


@pytest.fixture
def peer(embedding: ServiceProcess) -> Iterator[Peer]:
    with Peer(embedding.port) as peer:
        yield peer


@pytest.fixture
def asked(embedding: ServiceProcess) -> bytes:
    """A request for an embedding."""
    body = b'{"input":"hi"}'
    key = b"X-API-Key: " + embedding.key.encode()
    return head(b"POST /v1/embeddings HTTP/1.1", key, b"Content-Length: %d" % len(body)) + body


def is_answer(reply: Received) -> bool:
    return (reply.status, reply.body, reply.chunked) == (200, ANSWER, False)


# -- replies in one piece


def test_reply_cut_anywhere_reaches_the_client_byte_for_byte(
    peer: Peer, asked: bytes, engine: HandEngine
) -> None:
    for cut in range(1, len(WHOLE)):
        peer.send(asked)
        with engine.turn() as turn:
            turn.send(WHOLE[:cut], WHOLE[cut:])
        assert is_answer(peer.reply()), cut


def test_one_connection_to_the_engine_serves_many_requests(
    peer: Peer, asked: bytes, engine: HandEngine
) -> None:
    serve(peer, asked, engine)
    before = engine.accepted
    for _ in range(50):
        serve(peer, asked, engine)
    assert engine.accepted - before <= 2, "a probe's at most, and one for it"


def serve(peer: Peer, asked: bytes, engine: HandEngine, wire: bytes = WHOLE) -> Turn:
    """A request that is answered."""
    peer.send(asked)
    with engine.turn() as turn:
        turn.send(wire)
    assert is_answer(peer.reply())
    return turn


def test_reply_is_the_same_whatever_tells_its_end(
    peer: Peer, asked: bytes, engine: HandEngine
) -> None:
    cut = len(ANSWER) // 2
    in_chunks = chunk(ANSWER[:cut]) + chunk(ANSWER[cut:]) + b"0\r\n\r\n"
    for wire in (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + in_chunks,
        HEAD + b"Connection: close\r\n" + LENGTH + ANSWER,
        HEAD + b"Keep-Alive: timeout=5, max=100\r\n" + LENGTH + ANSWER,
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
    ):
        for _ in range(2):
            serve(peer, asked, engine, wire)


# -- an engine that closes between two requests


@pytest.mark.parametrize("line", [b"", b"Connection: close\r\n"])
def test_connection_that_closes_behind_a_reply_costs_no_request(
    peer: Peer, asked: bytes, engine: HandEngine, line: bytes
) -> None:
    for _ in range(10):
        serve(peer, asked, engine, HEAD + line + LENGTH + ANSWER).close()


def test_idle_connection_that_closes_costs_no_request(
    peer: Peer, asked: bytes, engine: HandEngine
) -> None:
    """Not even when it closes as the next request is on its way."""
    for _ in range(20):
        turn = serve(peer, asked, engine)
        closing = threading.Thread(target=turn.close)
        closing.start()
        peer.send(asked)
        closing.join()
        answered = False
        while not answered:  # a request that was read before the close is sent again
            with engine.turn() as turn, contextlib.suppress(OSError):
                turn.send(WHOLE)
                answered = True
        assert is_answer(peer.reply())


def test_bytes_that_nobody_asked_for_never_answer_the_next_request(
    peer: Peer, asked: bytes, engine: HandEngine
) -> None:
    for stray in (b"H", b"\r\n", WHOLE.replace(b"0.25", b"9.99")):
        turn = serve(peer, asked, engine)
        with contextlib.suppress(OSError):
            turn.send(stray)
        serve(peer, asked, engine)
        serve(peer, asked, engine, WHOLE)
        peer.send(asked)
        with engine.turn() as turn:
            turn.send(WHOLE + stray)  # in the same read
        assert is_answer(peer.reply())
        serve(peer, asked, engine)


@pytest.mark.parametrize(
    ("idle_s", "sent"),
    [(1.1, b""), (0.0, b""), (0.0, b"HT"), (0.0, HEAD), (0.0, HEAD + LENGTH[:-2])],
    ids=["long idle", "just used", "some bytes", "half a head", "most of a head"],
)
def test_request_whose_connection_closes_before_an_answer_is_sent_again(
    peer: Peer, asked: bytes, engine: HandEngine, idle_s: float, sent: bytes
) -> None:
    """After one that was idle for long and one that was not, and however much of a head came."""
    serve(peer, asked, engine)
    threading.Event().wait(idle_s)
    peer.send(asked)
    with engine.turn() as turn:
        if sent:
            turn.send(sent)
        turn.close()
    with engine.turn() as again:
        assert again.body == turn.body
        again.send(WHOLE)
    assert is_answer(peer.reply())
    assert engine.idle, "it was sent once more, not twice"
    assert peer.lives()


def test_body_that_breaks_off_is_sent_again_or_told_and_never_cut_short(
    peer: Peer, asked: bytes, engine: HandEngine
) -> None:
    for cut in (0, 1, len(ANSWER) - 1):
        peer.send(asked)
        with engine.turn() as turn:
            turn.send(HEAD + LENGTH + ANSWER[:cut])
            turn.close()
        with engine.turn() as again:
            again.send(WHOLE)
        assert is_answer(peer.reply())
    peer.send(asked)
    for _ in range(2):
        with engine.turn() as turn:
            turn.send(HEAD + LENGTH + ANSWER[:-1])
            turn.close()
    refused = peer.reply()
    assert (refused.status, refused.code) == (502, "engine_crashed")
    assert peer.lives()


def test_what_is_no_http_is_an_error_of_the_engine(
    peer: Peer, asked: bytes, engine: HandEngine
) -> None:
    peer.send(asked)
    for _ in range(2):
        with engine.turn() as turn:
            turn.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    assert 500 <= peer.reply().status < 600
    assert peer.lives()
    serve(peer, asked, engine)


def test_engine_with_the_real_ones_habits_costs_no_request(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It closes after so many requests, and after an idle time that ends as requests come."""
    habits = "--keepalive-max 7 --keepalive-s 0.05"
    folder = tmp_path_factory.mktemp("wire")
    with service_with(folder, EXTRA_ARGS=habits) as service, Peer(service.port) as peer:
        key = b"X-API-Key: " + service.key.encode()
        body = b'{"messages":[{"role":"user","content":"hi"}]}'
        path = b"POST /v1/chat/completions/input_tokens HTTP/1.1"
        count = head(path, key, b"Content-Length: %d" % len(body)) + body
        for place in range(40):
            if place % 5 == 0:
                threading.Event().wait(0.045 + place / 4_000)
            peer.send(count)
            assert peer.reply().status == 200, place
        until(lambda: engine_stats(service)["open"] <= 1)


# -- streams


@pytest.fixture
def viewer(chatting: ServiceProcess) -> Iterator[Peer]:
    with Peer(chatting.port) as peer:
        yield peer


@pytest.fixture
def wanted(chatting: ServiceProcess) -> bytes:
    """A request for a stream."""
    return chat(chatting.key, "hi", stream=True)


@pytest.mark.parametrize(
    "sent", [b"", STREAM_HEAD[:9], STREAM_HEAD, STREAM_HEAD + chunk(TOKEN[:30])], ids=len
)
def test_stream_that_breaks_before_its_first_event_is_sent_again(
    viewer: Peer, wanted: bytes, engine: HandEngine, sent: bytes
) -> None:
    viewer.send(wanted)
    with engine.turn() as turn:
        if sent:
            turn.send(sent)
        turn.close()
    with engine.turn() as again:
        again.send(STREAM)
    assert viewer.reply().body == TOKEN + DONE
    assert viewer.lives()


def test_stream_that_breaks_later_ends_with_an_error_event(
    viewer: Peer, wanted: bytes, engine: HandEngine
) -> None:
    """At any cut: in an event, between events, in the framing; also where it ends cleanly."""
    wire = chunk(TOKEN) + chunk(DONE)[:-3]
    for cut in (len(chunk(TOKEN)) - 3, len(chunk(TOKEN)), len(wire) - 5, len(wire) - 1):
        viewer.send(wanted)
        with engine.turn() as turn:
            turn.send(STREAM_HEAD + chunk(TOKEN), wire[:cut])
            turn.close()
        body = viewer.reply().body
        assert body.startswith(TOKEN)
        events = body.split(b"\n\n")
        assert events.pop() == b""
        error = json.loads(events.pop().removeprefix(b"data: "))["error"]
        assert error["code"] == "engine_crashed"
        assert all(event + b"\n\n" == TOKEN for event in events)
        assert viewer.lives()


def test_stream_that_ends_cleanly_without_its_last_event_is_an_error_too(
    viewer: Peer, wanted: bytes, engine: HandEngine
) -> None:
    viewer.send(wanted)
    with engine.turn() as turn:
        turn.send(STREAM_HEAD + chunk(TOKEN), b"0\r\n\r\n")
    body = viewer.reply().body
    assert body.startswith(TOKEN + b'data: {"error":')
    assert b"[DONE]" not in body
    assert viewer.lives()


@pytest.mark.parametrize("how", ["closed", "held open"])
def test_stream_with_its_last_event_is_complete_however_its_connection_ends(
    viewer: Peer, wanted: bytes, engine: HandEngine, how: str
) -> None:
    viewer.send(wanted)
    with engine.turn() as turn:
        turn.send(STREAM_HEAD + chunk(TOKEN), chunk(DONE))
        if how != "held open":
            turn.close()
        assert viewer.reply().body == TOKEN + DONE
        assert how != "held open" or turn.left(), "the gateway does not wait for ever"
    assert viewer.lives()


def test_services_are_unharmed_by_all_this(
    chatting: ServiceProcess, embedding: ServiceProcess, engine: HandEngine
) -> None:
    """Runs last."""
    for service in (chatting, embedding):
        assert "Traceback" not in service.output
        with Peer(service.port) as peer:
            assert peer.lives()
    assert engine.idle
