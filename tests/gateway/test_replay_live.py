"""Requests whose engine dies under them, on the real service: what the clients see."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any

import httpx
import pytest

from tests.conftest import Serve
from tests.support.callers import Caller, KeyTool, chat_body, new_caller, until
from tests.support.engine_stats import engine_stats

FAST = {"USE_MOCK_MODEL": "true", "RESTART_BACKOFF_MAX": "0.1", "CRASH_LIMIT": "1000"}


@pytest.fixture
def who(serve: Serve) -> Caller:
    service = serve(**FAST, PARALLEL="2").ready()
    return Caller(service, service.key)


def code_of(reply: httpx.Response) -> str:
    """The error's code, of a status or of the frame that ends a stream."""
    text = reply.text.strip().rsplit("data: ", 1)[-1]
    return str(json.loads(text)["error"]["code"])


def engine(who: Caller) -> dict[str, Any]:
    facts = httpx.get(f"{who.service.url}/info", headers=who.headers, timeout=10).json()["engine"]
    assert isinstance(facts, dict)
    return facts


def restarts(who: Caller) -> int:
    """How often the engine was started again; asked once it serves."""
    until(lambda: engine(who)["state"] == "ready")
    return int(engine(who)["restarts"])


def metric(who: Caller, name: str) -> float:
    text = httpx.get(f"{who.service.health_url}/metrics", timeout=10).text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("death", ["crash_head", "crash_after=0", "crash=kill crash_head"])
def test_request_without_a_byte_is_answered_by_the_next_engine(
    who: Caller, death: str, stream: bool
) -> None:
    reply = who.chat(f"mock: {death} once=x{stream} tokens=3", max_tokens=5, stream=stream)
    assert reply.status_code == 200
    assert '"finish_reason":"stop"' in reply.text
    assert restarts(who) == 1
    assert metric(who, "gateway_replays_total") == 1
    until(lambda: "replays=1" in who.service.output)


def test_answer_in_one_piece_is_made_anew_however_far_it_was(who: Caller) -> None:
    reply = who.chat("mock: tokens=9 crash_after=7 once=a", max_tokens=20)
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 9


def test_stream_with_nothing_but_heartbeats_is_replayed(serve: Serve) -> None:
    service = serve(**FAST, HEARTBEAT_AFTER="0.05", HEARTBEAT_INTERVAL="0.05").ready()
    who = Caller(service, service.key)
    text = "mock: tokens=3 prefill_ms=400 crash_after=0 once=a"
    reply = who.chat(text, max_tokens=5, stream=True)
    assert reply.text.startswith(": ")
    assert reply.text.endswith("data: [DONE]\n\n")
    assert restarts(who) == 1


def test_begun_stream_says_that_the_engine_was_restarted(who: Caller) -> None:
    reply = who.chat("mock: tokens=9 crash_after=3", max_tokens=20, stream=True)
    assert code_of(reply) == "engine_restarted"
    assert "[DONE]" not in reply.text
    until(lambda: "error=engine_restarted" in who.service.output)


@pytest.mark.parametrize("stream", [False, True])
def test_request_kills_the_engine_twice_and_never_again(who: Caller, stream: bool) -> None:
    reply = who.chat("mock: crash_head", stream=stream)
    assert (reply.status_code, code_of(reply)) == (502, "engine_crashed")
    assert reply.headers["x-should-retry"] == "false"
    assert restarts(who) == 2
    again = who.chat("mock: crash_head", stream=stream)
    assert (again.status_code, code_of(again)) == (400, "request_quarantined")
    assert restarts(who) == 2
    assert who.chat().status_code == 200
    until(lambda: "has stopped the engine twice (segv)" in who.service.output)


def test_stream_that_kills_in_the_middle_is_found_out_the_second_time(who: Caller) -> None:
    """It is not sent again, but whoever repeats it has it tried alone."""
    text = "mock: tokens=9 crash_after=3"
    codes = [code_of(who.chat(text, max_tokens=20, stream=True)) for _ in range(3)]
    assert codes == ["engine_restarted", "engine_restarted", "request_quarantined"]
    assert restarts(who) == 2


def test_suspects_run_alone_and_bystanders_get_their_answers(who: Caller) -> None:
    """Two run when the engine dies; the one that did not do it is answered."""
    with ThreadPoolExecutor() as pool:
        innocent = pool.submit(who.chat, "mock: tokens=5 prefill_ms=600", max_tokens=9)
        until(lambda: len(engine_stats(who.service)["last"]) >= 1)
        guilty = pool.submit(who.chat, "mock: prefill_ms=50 crash_after=0", max_tokens=9)
        assert code_of(guilty.result(20)) == "engine_crashed"
        assert innocent.result(20).status_code == 200
    assert restarts(who) == 2


def test_killed_from_outside_accuses_nobody(who: Caller) -> None:
    """Both go on together on the next engine, where suspects would have to take turns."""
    with ThreadPoolExecutor() as pool:
        text = "mock: tokens=60 delay_ms=10 prefill_ms={}"
        asked = [pool.submit(who.chat, text.format(n), max_tokens=90) for n in (1, 2)]
        engine_stats(who.service, active=2)
        os.kill(engine(who)["pid"], signal.SIGKILL)
        until(lambda: engine(who)["restarts"] == 1 and engine(who)["state"] == "ready")
        engine_stats(who.service, active=2)
        assert [each.result(20).status_code for each in asked] == [200, 200]
    last_exit = engine(who)["last_exit"]
    assert last_exit == "killed (SIGKILL)"


def test_second_conviction_suspends_the_key_and_no_other(who: Caller, key_tool: KeyTool) -> None:
    other = new_caller(who.service, key_tool, "other")
    assert code_of(who.chat("mock: crash_head")) == "engine_crashed"
    # It is on probation by now, so there is no doubt from the first death on.
    assert code_of(who.chat("mock: crash_head crash=abrt")) == "key_suspended"
    assert restarts(other) == 3
    reply = who.chat("harmless")
    assert (reply.status_code, code_of(reply)) == (403, "key_suspended")
    assert other.chat("harmless").status_code == 200


def test_connection_that_breaks_in_an_engine_that_lives_is_tried_once_more(who: Caller) -> None:
    reply = who.chat("mock: tokens=9 cut_after=900 once=a", max_tokens=20)
    assert reply.status_code == 200
    assert restarts(who) == 0


def test_embedding_and_counting_requests_are_replayed_as_well(who: Caller) -> None:
    reply = who.post({"input": "mock: crash_head once=e"}, "/v1/embeddings")
    assert reply.status_code == 200
    body = chat_body("count me")
    count = who.post(body, "/v1/chat/completions/input_tokens")
    assert count.json()["input_tokens"] > 0


def test_many_copies_of_one_poison_kill_no_more_than_one_of_it(who: Caller) -> None:
    """Those that wait when the first one is found out are not let in as if nothing had been."""
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(who.chat, "mock: prefill_ms=50 crash_after=0") for _ in range(12)]
        codes = [code_of(each.result(30)) for each in asked]
    assert restarts(who) == 2
    assert set(codes) <= {"engine_crashed", "request_quarantined"}
    assert who.chat().status_code == 200


def test_key_that_kills_with_another_text_each_time_does_not_bring_the_service_down(
    serve: Serve, key_tool: KeyTool
) -> None:
    """Five deaths without an answer in between would be a crash loop."""
    service = serve(USE_MOCK_MODEL="true", RESTART_BACKOFF_MAX="0.1").ready()
    other = new_caller(service, key_tool, "other")
    who = Caller(service, service.key)
    replies = [
        who.chat(f"{n}\nmock: tokens=9 crash_after=3", max_tokens=20, stream=True) for n in range(6)
    ]
    assert [code_of(each) for each in replies] == ["engine_restarted"] * 4 + ["key_suspended"] * 2
    assert restarts(who) == 4
    assert other.chat().status_code == 200


def test_suspended_key_has_nobody_in_the_queue_any_more(serve: Serve) -> None:
    """Eight at once, each with another text: those that wait are not let in after the verdict."""
    service = serve(USE_MOCK_MODEL="true", RESTART_BACKOFF_MAX="0.1").ready()
    who = Caller(service, service.key)
    with ThreadPoolExecutor(8) as pool:
        texts = [f"{n}\nmock: prefill_ms=50 crash_after=0" for n in range(8)]
        codes = [code_of(each.result(30)) for each in [*map(partial(pool.submit, who.chat), texts)]]
    assert restarts(who) <= 4
    assert codes.count("key_suspended") >= 4
    assert set(codes) <= {"engine_crashed", "key_suspended"}


def test_key_on_probation_gets_its_harmless_requests_answered(who: Caller) -> None:
    """The engine dies under one of them by chance: it is sent once more, as any other."""
    for n in range(2):
        text = f"{n}\nmock: tokens=9 crash_after=3"
        assert code_of(who.chat(text, max_tokens=20, stream=True)) == "engine_restarted"
    with ThreadPoolExecutor() as pool:
        harmless = pool.submit(who.chat, "mock: tokens=20 prefill_ms=400", max_tokens=30)
        assert restarts(who) == 2
        engine_stats(who.service, active=1)
        os.kill(engine(who)["pid"], signal.SIGSEGV)
        assert harmless.result(20).status_code == 200
    assert who.chat("mock: tokens=20 prefill_ms=400", max_tokens=30).status_code == 200


def test_engine_that_can_count_and_nothing_else_is_given_up(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true", RESTART_BACKOFF_MAX="0.1", CRASH_LIMIT="3", FAILED_EXIT_DELAY="0"
    ).ready()
    who = Caller(service, service.key)
    for n in range(2):
        who.post(chat_body("count me"), "/v1/chat/completions/input_tokens")
        who.chat(f"{n}\nmock: tokens=9 crash_after=3", max_tokens=20, stream=True)
        restarts(who)
    who.post(chat_body("count me"), "/v1/chat/completions/input_tokens")
    who.chat("2\nmock: tokens=9 crash_after=3", max_tokens=20, stream=True)
    assert service.wait(30) == 1


def test_stream_that_hangs_and_is_left_is_found_out(serve: Serve) -> None:
    """Its client has gone when the engine is taken for stuck; the next one to ask pays for it."""
    service = serve(**FAST, PARALLEL="1", WATCHDOG_SECONDS="2", ENGINE_STOP_TIMEOUT="0.2").ready()
    who = Caller(service, service.key)
    text = "mock: tokens=9 hang_after=2 linger_ms=60000"
    for deaths in (1, 2):
        with who.streaming(text, max_tokens=20) as (_, lines):
            assert next(lines)
        until(lambda deaths=deaths: restarts(who) == deaths)  # type: ignore[misc]
    assert code_of(who.chat(text, max_tokens=20, stream=True)) == "request_quarantined"
    assert who.chat().status_code == 200


def test_those_who_wait_lose_no_time_to_suspects(serve: Serve) -> None:
    """Eight suspects, one after the other, take longer than anybody may wait otherwise."""
    service = serve(**FAST, PARALLEL="8", MAX_QUEUE_WAIT="3").ready()
    who = Caller(service, service.key)
    with ThreadPoolExecutor(12) as pool:
        text = "{}\nmock: tokens=2 prefill_ms=800"
        inside = [pool.submit(who.chat, text.format(n)) for n in range(8)]
        engine_stats(service, active=8)
        os.kill(engine(who)["pid"], signal.SIGSEGV)
        beside = [pool.submit(who.chat, f"neighbour {n}") for n in range(4)]
        assert [each.result(30).status_code for each in (*inside, *beside)] == [200] * 12


def test_suspect_waits_until_nothing_is_beside_it(who: Caller) -> None:
    """Counting takes no slot; many who count could keep a poison from ever being convicted."""
    with ThreadPoolExecutor(5) as pool:
        stop = Event()

        def count() -> None:
            while not stop.is_set():
                who.post(chat_body("count me"), "/v1/chat/completions/input_tokens")

        counting = [pool.submit(count) for _ in range(4)]
        try:
            assert code_of(who.chat("mock: prefill_ms=50 crash_after=0")) == "engine_crashed"
            assert restarts(who) == 2
        finally:
            stop.set()
        for each in counting:
            each.result(20)
