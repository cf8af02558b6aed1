"""What a request really cost is what its key is charged, however the request ends.

And before it begins: what an answer whose length was left open may cost, and when that has to be
counted.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from keys import create_first_key
from tests.conftest import Serve
from tests.support.callers import (
    CHAT,
    COMPLETIONS,
    Caller,
    chat_body,
    error_code,
    new_caller,
    told,
    until,
)
from tests.support.engine_stats import engine_stats
from tests.support.service import ServiceProcess

DAY = 1_000_000
ENDLESS = "mock: tokens=3000 delay_ms=5"
COUNTING = ("POST /tokenize", "POST /v1/chat/completions/input_tokens")

NewCaller = Callable[..., Caller]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service on the mock engine that mends its engine at once."""
    folder = tmp_path_factory.mktemp("service")
    create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    env = {
        "USE_MOCK_MODEL": "true",
        "PARALLEL": "4",
        "HEARTBEAT_AFTER": "0.1",
        "CRASH_LIMIT": "1000",
        "RESTART_BACKOFF_MAX": "0.1",
        "MAX_TOKENS_PER_MINUTE": "0",
    }
    with ServiceProcess(folder, env) as started:
        yield started.ready()


@pytest.fixture
def caller(
    service: ServiceProcess, key_tool: Callable[..., str], request: pytest.FixtureRequest
) -> NewCaller:
    """Makes a key with limits: ``caller("--rpm", "5")``."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-40:].strip("-")
    made = itertools.count()

    def make(*limits: str) -> Caller:
        return new_caller(service, key_tool, f"{name}-{next(made)}", *limits)

    return make


@pytest.fixture
def who(caller: NewCaller) -> Caller:
    """A key with limits that are never reached; a request comes back after six seconds."""
    return caller("--rpm", "10", "--tokens-per-day", str(DAY))


def counted(service: ServiceProcess) -> int:
    """How often the engine was asked to count."""
    paths = engine_stats(service)["paths"]
    return sum(paths.get(path, 0) for path in COUNTING)


def charged(who: Caller) -> int:
    """Tokens of the day, once nothing is in progress; what is left must be the rest."""
    key = who.idle_key()
    used = key["tokens_today"]
    assert key["remaining"]["tokens_per_day"] == DAY - used
    assert isinstance(used, int)
    return used


def words_in(lines: list[str]) -> int:
    """Events with text among the events of a chat stream."""
    found = 0
    for line in lines:
        choices = json.loads(line.removeprefix("data: ")).get("choices") or ()
        found += sum(1 for choice in choices if choice["delta"].get("content"))
    return found


def sent(who: Caller, body: dict[str, Any]) -> socket.socket:
    """A chat request on a connection of its own, to hang up on."""
    content = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {who.secret}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", who.service.port), timeout=10)
    connection.sendall(head.encode() + content)
    return connection


# -- answers that come to their end


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}, {"n": 2, "stream": True}])
def test_chat_is_charged_as_the_engine_reports(who: Caller, fields: dict[str, Any]) -> None:
    text = "mock: tokens=7"
    usage = who.chat(text, max_tokens=500, n=fields.get("n")).json()["usage"]
    first = charged(who)
    assert first == usage["total_tokens"]
    assert who.chat(text, max_tokens=500, **fields).status_code == 200
    assert charged(who) == 2 * first


@pytest.mark.parametrize("stream", [False, True])
def test_list_of_prompts_is_charged_in_full(who: Caller, stream: bool) -> None:
    body = {"prompt": ["mock: tokens=3", "mock: tokens=3"], "max_tokens": 50, "stream": stream}
    assert who.post(body, COMPLETIONS).status_code == 200
    assert charged(who) == 2 * (2 + 3)


def test_more_than_was_reserved_is_charged_too(who: Caller) -> None:
    who.chat("mock: prompt_tokens=3000 tokens=1")
    assert charged(who) == 3001


def test_running_stream_holds_its_worst_case_and_gives_the_rest_back(who: Caller) -> None:
    with who.streaming("mock: tokens=5 delay_ms=1", max_tokens=2000) as (reply, lines):
        held = DAY - told(reply, "remaining", "tokens")
        assert 2000 < held < 4000
        assert list(lines)[-1] == "data: [DONE]"
    assert 5 < charged(who) < 100


def test_refusal_does_not_outlive_what_was_held_when_it_was_made(caller: NewCaller) -> None:
    who = caller("--tpm", "3000")
    with who.streaming(ENDLESS, max_tokens=None) as (_, lines):
        next(lines)
        for _ in range(3):
            assert who.chat(max_tokens=None).status_code == 429
    who.idle_key()
    reply = who.chat(max_tokens=None)  # wants all of a minute, of which a few tokens are missing
    if reply.status_code == 429:
        assert "x-should-retry" not in reply.headers
        assert int(reply.headers["retry-after-ms"]) < 3000


# -- answers that break off


def test_client_that_leaves_a_stream_pays_for_what_was_made(
    service: ServiceProcess, who: Caller
) -> None:
    prompt = who.chat(ENDLESS, max_tokens=1).json()["usage"]["prompt_tokens"]
    before, made = charged(who), engine_stats(service, active=0)["tokens"]
    with who.streaming(ENDLESS, max_tokens=3000) as (_, lines):
        seen = words_in([next(lines) for _ in range(20)])
    paid = charged(who) - before - prompt
    made = engine_stats(service, active=0)["tokens"] - made
    assert seen <= paid <= made


def test_client_that_leaves_when_one_of_two_answers_has_ended_pays_for_both(
    service: ServiceProcess, who: Caller
) -> None:
    text = "mock: tokens=1000 delay_ms=5"
    prompt = who.chat(text, max_tokens=1).json()["usage"]["prompt_tokens"]
    before, made = charged(who), engine_stats(service, active=0)["tokens"]
    seen: list[str] = []
    with who.streaming(text, max_tokens=1000, n=2, stop=[" stone"]) as (_, lines):
        for line in lines:
            seen.append(line)
            if '"finish_reason":"stop"' in line:
                break
        seen += [next(lines) for _ in range(3)]
    assert words_in(seen[-3:]) > 0, "both had ended"
    paid = charged(who) - before - prompt
    made = engine_stats(service, active=0)["tokens"] - made
    assert words_in(seen) <= paid <= made


def test_client_that_leaves_before_a_whole_answer_pays_for_what_was_made(
    service: ServiceProcess, who: Caller
) -> None:
    prompt = who.chat(ENDLESS, max_tokens=1).json()["usage"]["prompt_tokens"]
    before, made = charged(who), engine_stats(service, active=0)["tokens"]
    with sent(who, chat_body(ENDLESS, max_tokens=3000)):
        until(lambda: engine_stats(service)["tokens"] >= made + 20)
    paid = charged(who) - before - prompt
    made = engine_stats(service, active=0)["tokens"] - made
    assert 0 < paid <= made


def test_client_that_leaves_during_the_prefill_pays_for_the_prompt_alone(who: Caller) -> None:
    with sent(who, chat_body("mock: tokens=1 prefill_ms=20000", stream=True)) as connection:
        received = b""
        while b": prefill" not in received:
            received += connection.recv(4096)
    prompt = charged(who)
    usage = who.chat("mock: tokens=1 prefill_ms=0").json()["usage"]
    assert prompt == usage["prompt_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_crash_of_the_engine_costs_what_came_before_it(who: Caller, stream: bool) -> None:
    text = "mock: tokens=50 delay_ms=5 crash_after=5"
    prompt = who.chat("a prompt of four").json()["usage"]["prompt_tokens"]
    before = charged(who)
    reply = who.chat(text, max_tokens=50, stream=stream)
    assert ("engine_restarted" if stream else "engine_crashed") in reply.text
    assert prompt < charged(who) - before <= prompt + 5
    assert who.chat().status_code == 200


def test_refusal_of_the_engine_costs_no_tokens(who: Caller) -> None:
    assert who.chat("mock: error=400").status_code == 400
    assert charged(who) == 0


# -- requests that never reach the engine


def test_who_is_not_let_in_pays_nothing_and_reads_so_in_the_headers(
    service: ServiceProcess, who: Caller, key_tool: Callable[..., str]
) -> None:
    other = new_caller(service, key_tool, "other")
    with other.streaming(ENDLESS, max_tokens=3000, n=4) as (_, lines):
        next(lines)
        for stream in (False, True):
            impatient = {"X-Max-Queue-Seconds": "0"}
            reply = who.post(chat_body("hi", stream=stream), headers=impatient)
            assert (reply.status_code, error_code(reply)) == (429, "queue_wait_too_long")
            assert told(reply, "remaining", "requests") == 10
            assert told(reply, "remaining", "tokens") == DAY
        assert charged(who) == 0
        assert who.key()["remaining"]["requests_per_minute"] == 10


def test_who_leaves_the_queue_pays_nothing(
    service: ServiceProcess, who: Caller, key_tool: Callable[..., str]
) -> None:
    other = new_caller(service, key_tool, "another")
    with other.streaming(ENDLESS, max_tokens=3000, n=4) as (_, lines):
        next(lines)
        for stream in (False, True):
            with sent(who, chat_body("hi", stream=stream)):
                until(lambda: who.key()["in_use"] == 1)
                assert who.key()["remaining"]["requests_per_minute"] == 9
            assert charged(who) == 0
        assert who.key()["remaining"]["requests_per_minute"] == 10


# -- open answers, and when the engine is asked


def test_answer_without_a_limit_is_cut_to_what_is_left_of_the_day(caller: NewCaller) -> None:
    who = caller("--tokens-per-day", "100")
    answer = who.chat("mock: tokens=1000", max_tokens=None).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 100
    assert who.key()["remaining"]["tokens_per_day"] == 0


def test_answer_without_a_limit_is_cut_to_a_minutes_worth(caller: NewCaller) -> None:
    who = caller("--tpm", "100")
    answer = who.chat("mock: tokens=1000", max_tokens=None).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 100


def test_answers_without_a_limit_share_what_is_left(caller: NewCaller) -> None:
    who = caller("--tokens-per-day", "100")
    usage = who.chat("mock: tokens=1000", max_tokens=None, n=2).json()["usage"]
    assert who.key()["tokens_today"] <= 100
    assert 98 <= usage["total_tokens"] <= 100


@pytest.mark.parametrize(("minute", "day"), [("3000", "100"), ("100", "3000")])
def test_answer_without_a_limit_is_cut_to_the_tighter_of_two_limits(
    caller: NewCaller, minute: str, day: str
) -> None:
    who = caller("--tpm", minute, "--tokens-per-day", day)
    reply = who.chat("mock: tokens=1000", max_tokens=None)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["total_tokens"] == 100


def test_engine_counts_near_a_limit_and_only_there(
    service: ServiceProcess, caller: NewCaller
) -> None:
    rich, who = caller("--tokens-per-day", "100000"), caller("--tokens-per-day", "2000")
    before = counted(service)
    assert rich.chat(max_tokens=2).status_code == 200
    assert counted(service) == before
    left = who.key()["remaining"]["tokens_per_day"]
    assert who.chat("mock: tokens=1", max_tokens=left - 50).status_code == 200
    assert counted(service) == before + 1
    body = {"prompt": ["mock: tokens=1", "b"], "max_tokens": left // 2 - 50}
    assert who.post(body, COMPLETIONS).status_code == 200
    assert counted(service) == before + 2
    body = {"prompt": [1, 2, 3], "max_tokens": 1900}  # token numbers count themselves
    assert who.post(body, COMPLETIONS).status_code == 200
    assert counted(service) == before + 2


# -- vectors and ranks


def test_embeddings_are_charged_and_count_as_one_request(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true",
        EMBEDDINGS="true",
        MAX_REQUESTS_PER_MINUTE="5",
        MAX_TOKENS_PER_DAY="100",
    ).ready()
    who = Caller(service, service.key)
    body = {"input": ["one two", "three", "four five six"]}
    reply = who.post(body, "/v1/embeddings")
    assert reply.json()["usage"]["total_tokens"] == 6
    assert told(reply, "remaining", "requests") == 4
    assert told(reply, "remaining", "tokens") == 94
    assert who.idle_key()["tokens_today"] == 6
    refused = who.post({"input": ["word " * 50] * 2}, "/v1/embeddings")
    assert (refused.status_code, error_code(refused)) == (429, "insufficient_quota")
    assert engine_stats(service)["paths"]["POST /v1/embeddings"] == 1
    last = who.post({"input": "word " * 94}, "/v1/embeddings")  # counted, it just fits
    assert told(last, "remaining", "tokens") == 0


def test_ranks_are_charged_and_count_as_one_request(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true",
        RERANK="true",
        MAX_REQUESTS_PER_MINUTE="5",
        MAX_TOKENS_PER_DAY="10000",
    ).ready()
    who = Caller(service, service.key)
    reply = who.post({"query": "one two", "documents": ["three", "four five"]}, "/v1/rerank")
    assert reply.status_code == 200
    assert told(reply, "remaining", "requests") == 4
    assert who.idle_key()["tokens_today"] == 2 * 2 + 1 + 2


# -- what is work for the engine before it is asked to answer


def test_prompt_that_was_counted_and_does_not_fit_costs_its_request(
    service: ServiceProcess, caller: NewCaller
) -> None:
    who = caller("--rpm", "5")
    before = counted(service)
    reply = who.chat("x " * 30_000)
    assert error_code(reply) == "context_length_exceeded"
    assert counted(service) == before + 1
    assert (told(reply, "remaining", "requests"), who.key()["tokens_today"]) == (4, 0)


def test_prompt_that_could_never_fit_is_refused_unasked(
    service: ServiceProcess, caller: NewCaller
) -> None:
    who = caller("--rpm", "5")
    before = counted(service)
    reply = who.chat("x" * 7_000_000)
    assert error_code(reply) == "context_length_exceeded"
    assert re.search(r"resulted in \d+ tokens", reply.text)
    assert counted(service) == before
    assert told(reply, "remaining", "requests") == 5


def test_key_without_a_request_left_has_nothing_counted(
    service: ServiceProcess, caller: NewCaller
) -> None:
    who = caller("--rpm", "1", "--tpm", "3000")
    assert who.chat(max_tokens=2).status_code == 200
    before = counted(service)
    assert error_code(who.chat("y" * 60_000, max_tokens=2)) == "rate_limit_exceeded"
    assert counted(service) == before


@pytest.mark.parametrize("stream", [True, False])
def test_client_who_leaves_before_the_engines_first_word_pays_for_the_prompt(
    caller: NewCaller, stream: bool
) -> None:
    who = caller("--tokens-per-day", "1000000")
    body = chat_body("mock: hang_head\n" + "z" * 400, stream=stream)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{who.service.url}{CHAT}", json=body, headers=who.headers, timeout=0.7)
    until(lambda: who.key()["in_use"] == 0)
    assert 100 <= who.key()["tokens_today"] <= 600
