"""Events reach the client byte for byte, however the engine's bytes come in.

A real service; the engine's side of the socket is in the test's hand, so that each read of the
gateway ends exactly where the test says.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hand_engine import STREAM_HEAD, HandEngine
from tests.support.service import ServiceProcess
from tests.support.wire import Peer, Received, chat, service_with
from tests.tiny_gguf import write_tiny_gguf

FIRST = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}\n\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"a\xc3\xa9"}}]}\n\n'
)
TOKEN = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"\\n\\nx"}}]}\n\n'
LAST = b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}]}\n\n'
DONE = b"data: [DONE]\n\n"
PROGRESS = (
    b'data: {"choices":[{"index":0,"delta":{}}],'
    b'"prompt_progress":{"total":9,"cache":0,"processed":9,"time_ms":1}}\n\n'
)
COMMENT = b":\n\n"
EVENTS = (FIRST, TOKEN, LAST, DONE)
WANTED = b"".join(EVENTS)
ERROR = b'data: {"error":{"code":500,"message":"no","type":"server_error"}}\n\n'
END = b"0\r\n\r\n"


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)


@pytest.fixture(scope="module")
def engine() -> Iterator[HandEngine]:
    with tempfile.TemporaryDirectory(prefix="lg-") as folder, HandEngine(Path(folder)) as engine:
        yield engine


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, engine: HandEngine
) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("wire")
    model = write_tiny_gguf(folder / "hand.gguf", kind="chat")
    with service_with(folder, LLAMA_SERVER=str(engine.program), MODEL_PATH=str(model)) as running:
        yield running


@pytest.fixture
def peer(service: ServiceProcess) -> Iterator[Peer]:
    """One client; all its requests go over one connection."""
    with Peer(service.port) as peer:
        yield peer


@pytest.fixture
def streamed(service: ServiceProcess) -> bytes:
    """A request for a stream."""
    return chat(service.key, "hi", stream=True)


def told(peer: Peer, request: bytes, engine: HandEngine, *segments: bytes) -> Received:
    """What the client gets when the engine's bytes come in these reads."""
    peer.send(request)
    with engine.turn() as turn, contextlib.suppress(BrokenPipeError):  # it may have had enough
        turn.send(*segments)
    reply = peer.reply()
    assert reply.status == 200
    assert reply.chunked
    return reply


WIRE = STREAM_HEAD + chunked(PROGRESS, *EVENTS) + END


@pytest.mark.parametrize("part", range(4))
def test_cut_anywhere_the_events_are_the_same(
    peer: Peer, streamed: bytes, engine: HandEngine, part: int
) -> None:
    for cut in range(1 + part, len(WIRE), 4):
        assert told(peer, streamed, engine, WIRE[:cut], WIRE[cut:]).body == WANTED, cut


def test_chunks_may_end_anywhere_in_an_event(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    for cut in range(1, len(WANTED)):
        wire = STREAM_HEAD + chunked(WANTED[:cut], WANTED[cut:]) + END
        assert told(peer, streamed, engine, wire).body == WANTED, cut


def test_byte_by_byte_the_events_are_the_same(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    pieces = (WIRE[at : at + 1] for at in range(len(WIRE)))
    assert told(peer, streamed, engine, *pieces).body == WANTED
    one_byte_chunks = chunked(*(WANTED[at : at + 1] for at in range(len(WANTED))))
    assert told(peer, streamed, engine, STREAM_HEAD + one_byte_chunks + END).body == WANTED


def test_each_event_goes_on_at_once_and_whole(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    peer.send(streamed)
    with engine.turn() as turn:
        turn.send(STREAM_HEAD, chunked(PROGRESS))
        for place, event in enumerate(EVENTS):
            turn.send(chunked(event[:9]), chunked(event[9:]))
            if not place:
                assert peer.begun().startswith(b"HTTP/1.1 200 OK\r\n")
            assert peer.chunk() == event
        turn.send(END)
        assert peer.chunk() == b""
    assert peer.lives()


def test_several_events_in_one_read_are_all_passed_on(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    for many in (1, 2, 7, 300):
        events = (FIRST, *([TOKEN] * many), LAST, DONE)
        as_chunks = STREAM_HEAD + chunked(*events) + END
        as_one = STREAM_HEAD + chunked(b"".join(events)) + END
        wanted = b"".join(events)
        assert told(peer, streamed, engine, as_chunks).body == wanted
        assert told(peer, streamed, engine, as_one).body == wanted


def test_large_events_over_many_reads_are_the_same(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    text = b'"' + b"\xf0\x9f\xa6\x99" * 40_000 + b'"'
    large = TOKEN.replace(b'"\\n\\nx"', text)
    wire = STREAM_HEAD + chunked(FIRST, large, TOKEN, LAST, DONE) + END
    pieces = (wire[at : at + 5003] for at in range(0, len(wire), 5003))
    assert told(peer, streamed, engine, *pieces).body == FIRST + large + TOKEN + LAST + DONE


def test_progress_and_comments_between_events_are_left_out(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    body = COMMENT + PROGRESS + COMMENT + FIRST + COMMENT + TOKEN + LAST + COMMENT + DONE
    for cut in range(1, len(body), 3):
        wire = STREAM_HEAD + chunked(body[:cut]), chunked(body[cut:]) + END
        assert told(peer, streamed, engine, *wire).body == WANTED, cut


def test_events_end_with_any_line_end(peer: Peer, streamed: bytes, engine: HandEngine) -> None:
    crlf = WANTED.replace(b"\n", b"\r\n")
    for cut in range(1, len(crlf), 2):
        reply = told(
            peer, streamed, engine, STREAM_HEAD + chunked(crlf[:cut]), chunked(crlf[cut:]) + END
        )
        assert reply.body == crlf, cut


def test_error_of_the_engine_ends_the_stream_at_any_cut(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    """Events before it are unchanged; it is told in our words, and nothing looks finished."""
    wire = chunked(FIRST, TOKEN, ERROR)
    for cut in range(1, len(wire), 3):
        reply = told(peer, streamed, engine, STREAM_HEAD + wire[:cut], wire[cut:] + END)
        events, frame = reply.body[: len(FIRST + TOKEN)], reply.body[len(FIRST + TOKEN) :]
        assert events == FIRST + TOKEN, cut
        assert json.loads(frame.removeprefix(b"data: "))["error"]["code"] == "engine_error"
        assert frame.endswith(b"\n\n")
    assert peer.lives()


def test_reply_in_one_piece_is_the_same_at_any_cut(
    service: ServiceProcess, peer: Peer, engine: HandEngine
) -> None:
    request = chat(service.key, "hi")
    replies = set()
    for cut in range(1, len(WIRE), 9):
        peer.send(request)
        with engine.turn() as turn:
            turn.send(WIRE[:cut], WIRE[cut:])
        reply = peer.reply()
        assert reply.status == 200
        assert not reply.chunked
        replies.add(json.dumps(json.loads(reply.body)["choices"], sort_keys=True))
    assert len(replies) == 1
    assert json.loads(replies.pop())[0]["message"]["content"] == "aé\n\nx"


def test_nothing_follows_what_ends_a_stream(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    for tail in (TOKEN, COMMENT, DONE, ERROR, b"data: {"):
        reply = told(peer, streamed, engine, STREAM_HEAD + chunked(WANTED + tail) + END)
        assert reply.body == WANTED
        reply = told(peer, streamed, engine, STREAM_HEAD + chunked(WANTED), chunked(tail) + END)
        assert reply.body == WANTED


def test_head_and_end_of_the_reply_are_ours(
    peer: Peer, streamed: bytes, engine: HandEngine
) -> None:
    """Of the engine's head only what it means comes through."""
    odd = STREAM_HEAD.replace(b"Server:", b"Set-Cookie: a=b\r\nX-Secret: 1\r\nServer:")
    reply = told(peer, streamed, engine, odd, chunked(WANTED) + END)
    names = [name for name, _ in reply.headers]
    assert len(names) == len(set(names))
    assert {"x-secret", "set-cookie", "server", "keep-alive"}.isdisjoint(names)
    assert reply.header("content-type") == "text/event-stream; charset=utf-8"
    assert reply.header("x-accel-buffering") == "no"
    assert reply.body == WANTED
