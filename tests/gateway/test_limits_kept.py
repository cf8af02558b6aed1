"""What a key has spent is not forgotten: not when its limits change, not when the service ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.support.callers import Caller, error_code, told, until
from tests.support.service import ServiceProcess

ENDLESS = "mock: tokens=3000 delay_ms=5"

Again = Callable[..., Caller]


def kept(service: ServiceProcess) -> dict[str, Any]:
    """The counters on disk, by key: debt of the minute in seconds, tokens of the day."""
    try:
        state = json.loads((service.folder / "usage.json").read_bytes())["state"]
    except FileNotFoundError:
        return {}
    keys = state["keys"]
    assert isinstance(keys, dict)
    return keys


def day_used(service: ServiceProcess) -> int:
    return sum(used for _, used in kept(service).values())


@pytest.fixture
def again() -> Iterator[Again]:
    """Starts an ended service anew: the same folder, and a thousand tokens a day."""
    with contextlib.ExitStack() as running:

        def start(ended: ServiceProcess, **more: str) -> Caller:
            env = {"USE_MOCK_MODEL": "true", "MAX_TOKENS_PER_DAY": "1000", **more}
            service = running.enter_context(ServiceProcess(ended.folder, env))
            return Caller(service.ready(), ended.key)

        yield start


def change(who: Caller, key_tool: Callable[..., str], *limits: str) -> None:
    """Give the first key other limits; returns once they are in force."""
    key_tool("--file", str(who.service.folder / "keys.yaml"), "set", "first", *limits)
    who.service.wait_for("keys changed")


# -- other limits


def test_raised_limit_is_in_force_within_a_second_and_what_was_spent_stays_spent(
    serve: Serve, key_tool: Callable[..., str]
) -> None:
    service = serve(
        USE_MOCK_MODEL="true", MAX_REQUESTS_PER_MINUTE="4", MAX_TOKENS_PER_DAY="1000"
    ).ready()
    who = Caller(service, service.key)
    used = sum(who.chat().json()["usage"]["total_tokens"] for _ in range(4))
    assert who.chat().status_code == 429
    change(who, key_tool, "--rpm", "40", "--tokens-per-day", "2000")
    key = who.key()
    assert key["limits"]["requests_per_minute"] == 40
    assert key["remaining"]["requests_per_minute"] < 20, "a minute's worth came back"
    assert (key["tokens_today"], key["remaining"]["tokens_per_day"]) == (used, 2000 - used)


def test_lowered_limit_refuses_who_has_spent_more_already(
    serve: Serve, key_tool: Callable[..., str]
) -> None:
    service = serve(USE_MOCK_MODEL="true", MAX_TOKENS_PER_DAY="1000").ready()
    who = Caller(service, service.key)
    assert who.chat(max_tokens=30).status_code == 200
    used = who.key()["tokens_today"]
    change(who, key_tool, "--tokens-per-day", str(used - 1))
    refused = who.chat(max_tokens=1)
    assert (refused.status_code, error_code(refused)) == (429, "insufficient_quota")
    change(who, key_tool, "--tokens-per-day", "default")
    assert who.chat(max_tokens=1).status_code == 200
    assert who.key()["limits"]["tokens_per_day"] == 1000


def test_limits_that_change_under_a_running_stream_leave_the_books_even(
    serve: Serve, key_tool: Callable[..., str]
) -> None:
    service = serve(USE_MOCK_MODEL="true", MAX_TOKENS_PER_MINUTE="10000").ready()
    who = Caller(service, service.key)
    with who.streaming(ENDLESS, max_tokens=3000) as (reply, lines):
        next(lines)
        assert told(reply, "remaining", "tokens") < 7000
        change(who, key_tool, "--tpm", "20000", "--concurrency", "1", "--tokens-per-day", "9000")
        assert who.key()["in_use"] == 1
        assert who.chat().status_code == 429
    key = who.idle_key()
    assert key["remaining"]["tokens_per_day"] == 9000 - key["tokens_today"]
    assert key["remaining"]["tokens_per_minute"] > 18_000
    assert who.chat().status_code == 200


# -- the end of the service


def test_counters_survive_a_stop(serve: Serve, again: Again) -> None:
    limits = {"MAX_TOKENS_PER_DAY": "1000", "MAX_TOKENS_PER_MINUTE": "1000"}
    service = serve(USE_MOCK_MODEL="true", **limits).ready()
    who = Caller(service, service.key)
    used = who.chat(max_tokens=500, text="mock: tokens=500").json()["usage"]["total_tokens"]
    assert used > 500
    assert service.stop() == 0
    assert day_used(service) == used
    key = again(service, **limits).key()
    assert key["tokens_today"] == used
    assert key["remaining"]["tokens_per_day"] == 1000 - used
    assert key["remaining"]["tokens_per_minute"] < 1000


def test_quota_that_was_spent_is_spent_after_a_restart(serve: Serve, again: Again) -> None:
    service = serve(USE_MOCK_MODEL="true", MAX_TOKENS_PER_DAY="1000").ready()
    who = Caller(service, service.key)
    assert who.chat("mock: tokens=2000", max_tokens=None).status_code == 200
    assert service.stop() == 0
    refused = again(service).chat(max_tokens=1)
    assert (refused.status_code, error_code(refused)) == (429, "insufficient_quota")


def test_counters_survive_a_kill(serve: Serve, again: Again) -> None:
    service = serve(USE_MOCK_MODEL="true", MAX_TOKENS_PER_DAY="1000").ready()
    used = Caller(service, service.key).chat().json()["usage"]["total_tokens"]
    until(lambda: day_used(service) == used)
    service.signal(signal.SIGKILL)
    service.wait()
    who = again(service)
    assert who.key()["tokens_today"] == used
    assert told(who.chat(), "remaining", "tokens") < 1000 - used


def test_stream_that_is_cut_by_a_stop_is_charged_and_kept(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", MAX_TOKENS_PER_DAY="9000", DRAIN_TIMEOUT="0.2").ready()
    who = Caller(service, service.key)
    with who.streaming(ENDLESS, max_tokens=3000) as (_, lines):
        seen = len([next(lines) for _ in range(20)])
        service.signal(signal.SIGTERM)
        seen += len(list(lines)) - 1  # the last one tells the error
    assert service.wait() == 0
    assert seen <= day_used(service) < 3000


def test_broken_counters_do_not_keep_the_service_from_starting(serve: Serve, again: Again) -> None:
    service = serve(USE_MOCK_MODEL="true", MAX_TOKENS_PER_DAY="1000").ready()
    assert Caller(service, service.key).chat().status_code == 200
    assert service.stop() == 0
    path = service.folder / "usage.json"
    path.write_bytes(path.read_bytes()[:-5])
    who = again(service)
    assert "limits start anew" in who.service.output
    assert who.key()["tokens_today"] == 0
    assert (service.folder / "usage.json.bad").exists()


def test_counters_hold_no_secret_and_are_private(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", MAX_TOKENS_PER_DAY="1000").ready()
    assert Caller(service, service.key).chat("a secret matter").status_code == 200
    assert service.stop() == 0
    path = service.folder / "usage.json"
    assert os.stat(path).st_mode & 0o077 == 0
    text = path.read_text()
    assert service.key not in text
    assert "secret matter" not in text
    assert list(kept(service)) == ["first"]
