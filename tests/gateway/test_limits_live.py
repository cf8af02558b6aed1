"""The limits of keys as clients of a running service meet them; each test has a key of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from keys import create_first_key
from tests.support.callers import (
    CHAT,
    COMPLETIONS,
    Caller,
    error_code,
    new_caller,
    told,
    wait_as_told,
)
from tests.support.service import ServiceProcess

SIX = {
    f"x-ratelimit-{what}-{unit}"
    for what in ("limit", "remaining", "reset")
    for unit in ("requests", "tokens")
}
ENDLESS = "mock: tokens=100000 delay_ms=5"


NewCaller = Callable[..., Caller]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service on the mock engine whose keys have only the limits they are given."""
    folder = tmp_path_factory.mktemp("service")
    create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    env = {"USE_MOCK_MODEL": "true", "PARALLEL": "4", "MAX_TOKENS_PER_MINUTE": "0"}
    with ServiceProcess(folder, env) as started:
        yield started.ready()


@pytest.fixture
def caller(
    service: ServiceProcess, key_tool: Callable[..., str], request: pytest.FixtureRequest
) -> NewCaller:
    """Makes a key with limits: ``caller("--rpm", "5")``."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-40:].strip("-")

    def make(*limits: str) -> Caller:
        return new_caller(service, key_tool, name, *limits)

    return make


def six(reply: httpx.Response) -> set[str]:
    return {name for name in reply.headers if name.startswith("x-ratelimit-")}


def refused_by(service: ServiceProcess, limit: str) -> int:
    text = httpx.get(f"{service.health_url}/metrics", timeout=10).text
    found = re.search(rf'gateway_limits_reached_total{{limit="{limit}"}} (\d+)', text)
    return int(found[1]) if found else 0


def spend_requests(who: Caller, count: int) -> None:
    """Spend some requests of the minute at once, all in one: each prompt of a list is one."""
    body = {"prompt": ["hi"] * count, "max_tokens": 1}
    assert who.post(body, COMPLETIONS).status_code == 200


def refusal(who: Caller, **fields: Any) -> httpx.Response:
    """Ask until it is refused."""
    for _ in range(30):
        reply = who.chat(**fields)
        if reply.status_code != 200:
            assert reply.status_code == 429
            return reply
    raise AssertionError("nothing was refused")


# -- headers


@pytest.mark.parametrize(
    ("fields", "status"), [({}, 200), ({"stream": True}, 200), ({"max_tokens": "x"}, 400)]
)
def test_six_headers_are_on_every_reply(
    caller: NewCaller, fields: dict[str, Any], status: int
) -> None:
    who = caller("--rpm", "5", "--tpm", "100000")
    reply = who.chat(**fields)
    assert (reply.status_code, six(reply)) == (status, SIX)
    assert told(reply, "limit", "requests") == 5
    assert told(reply, "limit", "tokens") == 100_000


def test_six_headers_are_on_a_refusal_and_say_that_nothing_is_left(caller: NewCaller) -> None:
    who = caller("--rpm", "2", "--tpm", "100000")
    reply = refusal(who)
    assert six(reply) == SIX
    assert told(reply, "remaining", "requests") == 0
    assert 0 < float(reply.headers["retry-after-ms"]) <= 30_000
    assert error_code(reply) == "rate_limit_exceeded"


def test_what_has_no_limit_has_no_headers(caller: NewCaller) -> None:
    who = caller()
    assert six(who.chat()) == set()
    assert six(who.chat(stream=True)) == set()


def test_as_many_requests_pass_as_the_headers_say_and_no_more(caller: NewCaller) -> None:
    who = caller("--rpm", "3")
    left = [told(who.chat(stream=stream), "remaining", "requests") for stream in (False, True)]
    assert left == [2, 1]
    assert told(who.chat(), "remaining", "requests") == 0
    assert who.chat().status_code == 429


def test_refusals_cost_nothing(caller: NewCaller) -> None:
    who = caller("--rpm", "60")
    spend_requests(who, 60)
    first = refusal(who)
    for _ in range(10):
        assert who.chat().status_code == 429
    wait_as_told(first)
    assert who.chat().status_code == 200


def test_request_that_is_not_understood_costs_nothing(caller: NewCaller) -> None:
    who = caller("--rpm", "2", "--tokens-per-day", "1000")
    for _ in range(5):
        assert who.chat(max_tokens="x").status_code == 400
    assert who.key()["remaining"]["requests_per_minute"] == 2
    assert who.key()["remaining"]["tokens_per_day"] == 1000


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": "a", "n": 2}, 2),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
    ],
)
def test_each_answer_counts_as_a_request(
    caller: NewCaller, body: dict[str, Any], cost: int
) -> None:
    who = caller("--rpm", "6")
    reply = who.post({"max_tokens": 1, **body}, COMPLETIONS)
    assert told(reply, "remaining", "requests") == 6 - cost


# -- waiting as told


def test_waiting_as_told_is_enough_for_a_request(caller: NewCaller) -> None:
    who = caller("--rpm", "300")
    spend_requests(who, 60)
    for _ in range(4):
        spend_requests(who, 60)
    for _ in range(3):
        reply = refusal(who)
        assert int(reply.headers["retry-after-ms"]) <= 200
        assert reply.headers["retry-after"] == "1"
        assert "x-should-retry" not in reply.headers
        wait_as_told(reply)
        assert who.chat().status_code == 200


def test_waiting_as_told_is_enough_for_tokens(caller: NewCaller) -> None:
    who = caller("--tpm", "6000")
    left = told(who.chat("mock: prompt_tokens=4000 tokens=1"), "remaining", "tokens")
    assert left < 2100
    reply = who.chat(max_tokens=left + 20)
    assert reply.status_code == 429
    assert int(reply.headers["retry-after-ms"]) < 1000
    wait_as_told(reply)
    assert who.chat(max_tokens=left + 20).status_code == 200


def test_openai_client_waits_out_a_limit_by_itself(
    service: ServiceProcess, caller: NewCaller
) -> None:
    who = caller("--rpm", "120")
    before = refused_by(service, "requests")
    spend_requests(who, 60)
    spend_requests(who, 60)
    with who.sdk() as client:
        for _ in range(3):
            made = client.chat.completions.create(
                model="mock", messages=[{"role": "user", "content": "hi"}], max_tokens=1
            )
            assert made.choices[0].message.content
    assert before < refused_by(service, "requests") <= before + 6


@pytest.mark.parametrize(
    ("limits", "fields", "code"),
    [
        (("--tpm", "100"), {"max_tokens": 200}, "rate_limit_exceeded"),
        (("--rpm", "1"), {"n": 2}, "rate_limit_exceeded"),
        (("--concurrency", "1"), {"n": 2}, "rate_limit_exceeded"),
        (("--tokens-per-day", "100"), {"max_tokens": 200}, "insufficient_quota"),
    ],
)
def test_what_no_wait_can_help_is_not_tried_again(
    service: ServiceProcess,
    caller: NewCaller,
    limits: tuple[str, ...],
    fields: dict[str, Any],
    code: str,
) -> None:
    who = caller(*limits)
    reply = who.chat(**fields)
    assert (reply.status_code, error_code(reply)) == (429, code)
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers
    names = ("requests", "tokens", "concurrency", "tokens_per_day")
    before = sum(refused_by(service, name) for name in names)
    with who.sdk() as client, pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": "hi"}], **fields
        )
    assert refused.value.code == code
    assert sum(refused_by(service, name) for name in names) == before + 1
    assert who.chat(max_tokens=1).status_code == 200  # a smaller one still passes


def test_quota_of_the_day_is_spent_to_the_last_token(
    service: ServiceProcess, caller: NewCaller
) -> None:
    who = caller("--tokens-per-day", "50")
    prompt = who.chat(max_tokens=1).json()["usage"]["prompt_tokens"]
    left = 50 - prompt - 1
    assert who.chat(max_tokens=left - prompt + 1).status_code == 429
    before = refused_by(service, "tokens_per_day")
    last = who.chat("mock: tokens=1000", max_tokens=left - prompt - 1)  # one word more
    assert last.json()["usage"]["total_tokens"] == left
    assert told(last, "remaining", "tokens") == 0
    spent = who.chat(max_tokens=1)
    assert (error_code(spent), spent.headers["x-should-retry"]) == ("insufficient_quota", "false")
    assert refused_by(service, "tokens_per_day") == before + 1
    assert who.key()["tokens_today"] == 50


# -- requests at the same time


def test_requests_at_the_same_time_are_limited(caller: NewCaller) -> None:
    who = caller("--concurrency", "1")
    with who.streaming(ENDLESS, max_tokens=4000) as (_, lines):
        next(lines)
        assert who.key()["in_use"] == 1
        reply = who.chat()
        assert (reply.status_code, error_code(reply)) == (429, "rate_limit_exceeded")
        assert int(reply.headers["retry-after"]) >= 1
        assert "x-should-retry" not in reply.headers
    who.idle_key()
    assert who.chat().status_code == 200


def test_two_answers_are_two_requests_at_the_same_time(caller: NewCaller) -> None:
    who = caller("--concurrency", "3")
    with who.streaming(ENDLESS, max_tokens=2000, n=2) as (_, lines):
        next(lines)
        assert who.key()["in_use"] == 2
        assert who.chat(n=2).status_code == 429
        assert who.chat().status_code == 200


# -- what operators and clients can look up


def test_info_shows_limits_and_what_is_left(caller: NewCaller) -> None:
    who = caller("--rpm", "7", "--tokens-per-day", "1000", "--concurrency", "2")
    used = who.chat().json()["usage"]["total_tokens"]
    key = who.key()
    assert key["limits"] == {
        "requests_per_minute": 7,
        "tokens_per_minute": None,
        "concurrency": 2,
        "tokens_per_day": 1000,
    }
    assert key["remaining"]["requests_per_minute"] == 6
    assert key["remaining"]["tokens_per_day"] == 1000 - used
    assert (key["in_use"], key["tokens_today"]) == (0, used)


@pytest.mark.parametrize(
    ("limits", "fields", "name"),
    [
        (("--rpm", "1"), {"n": 2}, "requests"),
        (("--tpm", "50"), {"max_tokens": 60}, "tokens"),
        (("--concurrency", "1"), {"n": 2}, "concurrency"),
        (("--tokens-per-day", "50"), {"max_tokens": 60}, "tokens_per_day"),
    ],
)
def test_metrics_count_refusals_by_limit(
    service: ServiceProcess,
    caller: NewCaller,
    limits: tuple[str, ...],
    fields: dict[str, Any],
    name: str,
) -> None:
    before = refused_by(service, name)
    assert caller(*limits).chat(**fields).status_code == 429
    assert refused_by(service, name) == before + 1


def test_counting_tokens_uses_none(caller: NewCaller) -> None:
    who = caller("--rpm", "5", "--tokens-per-day", "100")
    reply = who.post({"messages": [{"role": "user", "content": "hi"}]}, f"{CHAT}/input_tokens")
    assert reply.status_code == 200
    assert told(reply, "remaining", "tokens") == 100
    assert told(reply, "remaining", "requests") == 4
