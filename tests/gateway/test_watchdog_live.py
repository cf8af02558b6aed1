"""What the watchdog must not take for a stuck engine, and what becomes of a request that wedges."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from tests.conftest import Serve
from tests.support.aftermath import engines, figure, status
from tests.support.callers import CHAT, Caller, chat_body, error_code, until

WEDGES = 'gateway_engine_exits_total{cause="wedge"}'
LIMIT_S = 1.0


@pytest.fixture
def who(serve: Serve) -> Caller:
    service = serve(
        USE_MOCK_MODEL="true",
        PARALLEL="2",
        CTX="262144",
        WATCHDOG_SECONDS=str(LIMIT_S),
        RESTART_BACKOFF_MAX="0.1",
        CRASH_LIMIT="1000",
    ).ready()
    return Caller(service, service.key)


def test_slot_that_falls_silent_is_found_and_its_request_answered_by_the_next_engine(
    who: Caller,
) -> None:
    """The other slot goes on all the while, so the engine as a whole is not silent."""
    with who.streaming("mock: tokens=4000 delay_ms=5", max_tokens=4000) as (_, lines):
        next(lines)
        reply = who.chat("mock: tokens=3 hang_after=0 once=a", max_tokens=9, stream=True)
        *_, last = lines
    assert reply.text.endswith("data: [DONE]\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_restarted"
    assert figure(who.service, WEDGES) == 1
    assert figure(who.service, "gateway_replays_total") == 1


def test_request_that_wedges_twice_is_quarantined_and_others_are_served(who: Caller) -> None:
    reply = who.chat("mock: tokens=3 hang_after=0", max_tokens=9)
    assert (reply.status_code, error_code(reply)) == (502, "engine_crashed")
    assert figure(who.service, WEDGES) == 2
    again = who.chat("mock: tokens=3 hang_after=0", max_tokens=9)
    assert (again.status_code, error_code(again)) == (400, "request_quarantined")
    assert figure(who.service, WEDGES) == 2
    assert who.chat().status_code == 200


def test_long_prompts_with_progress_are_left_alone(who: Caller) -> None:
    pid = engines(who.service)[0].pid
    text = "mock: tokens=2 prefill_ms=3000 prefill_steps=12 prompt_tokens=8"
    with ThreadPoolExecutor(2) as crowd:
        asked = [crowd.submit(who.chat, text, stream=stream) for stream in (False, True)]
        for each in asked:
            reply = each.result()
            assert reply.status_code == 200
            assert "error" not in reply.text
    assert [engine.pid for engine in engines(who.service)] == [pid]


def test_reader_who_pauses_a_stream_is_not_the_engines_fault(who: Caller) -> None:
    """The engine is not read from while its reader is behind, and that is all its silence."""
    body = orjson.dumps(chat_body("mock: tokens=60000", stream=True, max_tokens=64000))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: h\r\nX-API-Key: {who.secret}\r\n"
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(20)
        peer.connect(("127.0.0.1", who.service.port))
        peer.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert peer.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert status(who.service)["in_flight"] == 1
        # Probes and time go on: three other answers, each of a second.
        for _ in range(3):
            reply = who.chat("mock: tokens=50 delay_ms=20", max_tokens=90)
            assert reply.status_code == 200
        assert status(who.service)["in_flight"] == 1
        assert figure(who.service, WEDGES) == 0
    until(lambda: status(who.service)["in_flight"] == 0)
