"""The queue of a running service: what those who wait are told, who goes next, who is sent away."""

from __future__ import annotations

import contextlib
import math
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import Serve
from tests.support.callers import CHAT, COMPLETIONS, Caller, chat_body, error_code, until
from tests.support.engine_stats import engine_stats
from tests.support.service import ServiceProcess
from tests.tiny_gguf import Shape, write_tiny_gguf

ENDLESS = "mock: tokens=100000 delay_ms=5"
FIFTH_S = "mock: tokens=40 delay_ms=5"
PATIENCE = "X-Max-Queue-Seconds"
EMBED = "/v1/embeddings"


@pytest.fixture
def service(serve: Serve) -> ServiceProcess:
    """One slot, and comments from the first tenth of a second on."""
    return serve(
        USE_MOCK_MODEL="true", PARALLEL="1", HEARTBEAT_AFTER="0.1", HEARTBEAT_INTERVAL="0.1"
    ).ready()


@pytest.fixture
def who(service: ServiceProcess) -> Caller:
    return Caller(service, service.key)


@contextlib.contextmanager
def streaming(
    who: Caller, text: str, *, headers: dict[str, str] | None = None, **fields: Any
) -> Iterator[httpx.Response]:
    """A stream, as soon as its head is there. Leaving the block hangs up."""
    url, sent = f"{who.service.url}{CHAT}", {**who.headers, **(headers or {})}
    body = chat_body(text, stream=True, **fields)
    with (
        httpx.Client(timeout=20) as client,
        client.stream("POST", url, json=body, headers=sent) as reply,
    ):
        yield reply


def lines(reply: httpx.Response) -> Iterator[str]:
    return (line for line in reply.iter_lines() if line)


@contextlib.contextmanager
def all_slots_busy(who: Caller) -> Iterator[None]:
    """The one slot is taken until the block is left."""
    with streaming(who, ENDLESS, max_tokens=None) as running:
        events = lines(running)  # httpx hangs up when nobody holds them any more
        assert next(events).startswith("data: ")
        yield
        del events


def queued(service: ServiceProcess) -> int:
    number = httpx.get(f"{service.health_url}/health", timeout=10).json()["queue"]["queued"]
    assert isinstance(number, int)
    return number


@contextlib.contextmanager
def standing(who: Caller, text: str, **fields: Any) -> Iterator[None]:
    """A request that waits; leaving the block hangs up."""
    before = queued(who.service)
    with left_open(who, chat_body(text, **fields)):
        until(lambda: queued(who.service) == before + 1)
        yield


@contextlib.contextmanager
def left_open(who: Caller, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A request whose reply nobody reads; leaving the block hangs up."""
    made = httpx.Request("POST", f"{who.service.url}{CHAT}", json=body, headers=who.headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in made.headers.items())
    with socket.create_connection(("127.0.0.1", who.service.port), timeout=10) as peer:
        peer.sendall(f"POST {CHAT} HTTP/1.1\r\n{head}\r\n".encode() + made.content)
        yield peer


def learn_a_fifth_of_a_second(who: Caller) -> None:
    """Let the service see how long an answer takes."""
    for _ in range(3):
        assert who.chat(FIFTH_S, max_tokens=None).status_code == 200


# -- what a waiting stream is told


def test_place_and_estimate_go_down_as_those_ahead_leave(
    who: Caller, service: ServiceProcess
) -> None:
    learn_a_fifth_of_a_second(who)
    told: list[tuple[int, int]] = []
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(all_slots_busy(who))
        second.enter_context(standing(who, ENDLESS, max_tokens=None))
        with standing(who, FIFTH_S, max_tokens=None), streaming(who, FIFTH_S) as reply:
            waiting = lines(reply)

            def read_until(position: int) -> None:
                for line in waiting:
                    found = re.fullmatch(r": queued position=(\d+) eta_s=(\d+)", line)
                    assert found, line
                    told.append((int(found[1]), int(found[2])))
                    if told[-1][0] == position:
                        return
                raise AssertionError("the stream ended")

            read_until(3)
            first.close()
            read_until(2)
            second.close()
            rest = list(waiting)
    positions = [position for position, _ in told]
    assert positions == sorted(positions, reverse=True), "nobody came in between"
    assert all(0 <= eta_s <= 2 for _, eta_s in told), told
    assert rest[-1] == "data: [DONE]"


def test_first_comment_tells_the_place_though_others_were_told_theirs_just_before(
    who: Caller,
) -> None:
    with all_slots_busy(who), streaming(who, "hi") as one:
        first = lines(one)
        assert next(first) == ": queued position=1"
        with streaming(who, "hi") as another:
            assert next(lines(another)) == ": queued position=2"


def test_prefill_is_told_in_comments_and_its_events_are_not_passed_on(who: Caller) -> None:
    text = "mock: tokens=3 prefill_ms=900 prefill_steps=9"
    for return_progress in (None, True):
        with streaming(who, text, max_tokens=None, return_progress=return_progress) as reply:
            got = list(lines(reply))
        shares = [int(line[len(": prefill ") : -1]) for line in got if line.startswith(":")]
        assert len(shares) >= 3
        assert shares == sorted(shares)
        assert 0 <= shares[0] < shares[-1] <= 100
        assert "prompt_progress" not in "".join(got)
        assert got[-1] == "data: [DONE]"


def test_wait_is_told_in_the_headers_of_the_reply(who: Caller, service: ServiceProcess) -> None:
    at_once = who.chat("mock: tokens=9 delay_ms=2 prefill_ms=20", max_tokens=None)
    assert int(at_once.headers["x-queue-wait-ms"]) < 100
    timing = at_once.headers["server-timing"]
    assert re.fullmatch(r"queue;dur=[\d.]+, prefill;dur=[\d.]+, decode;dur=[\d.]+", timing)
    with ThreadPoolExecutor() as pool:
        with all_slots_busy(who):
            waiting = pool.submit(who.chat)
            until(lambda: queued(service) == 1)
            with streaming(who, "hi") as another:  # begins with a comment, after 0.1 s
                assert another.status_code == 200
        reply = waiting.result(20)
    wait_ms = int(reply.headers["x-queue-wait-ms"])
    assert 100 <= wait_ms <= 1000 * reply.elapsed.total_seconds()
    found = re.match(r"queue;dur=([\d.]+), prefill", reply.headers["server-timing"])
    assert found
    assert round(float(found[1])) == wait_ms


# -- how long a caller is willing to wait


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1e9", "", "1,2"])
def test_patience_that_is_no_number_is_refused(who: Caller, value: str) -> None:
    reply = who.post(chat_body("hi"), headers={PATIENCE: value})
    assert (reply.status_code, error_code(reply)) == (400, "invalid_value")
    assert reply.json()["error"]["param"] == PATIENCE


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one piece"])
def test_no_patience_takes_a_free_slot_or_none(who: Caller, stream: bool) -> None:
    body, now = chat_body("hi", stream=stream), {PATIENCE: "0"}
    assert who.post(body, headers=now).status_code == 200
    with all_slots_busy(who):
        reply = who.post(body, headers=now)
        refused_at_once(reply)
        assert queued(who.service) == 0
    assert who.post(body).status_code == 200


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one piece"])
def test_patience_below_the_estimate_is_refused_at_once_and_above_it_served(
    who: Caller, stream: bool
) -> None:
    learn_a_fifth_of_a_second(who)
    with ThreadPoolExecutor() as pool:
        with contextlib.ExitStack() as ahead:
            ahead.enter_context(all_slots_busy(who))
            for _ in range(10):  # two seconds of work
                ahead.enter_context(standing(who, FIFTH_S, max_tokens=None))
            reply = who.post(chat_body("hi", stream=stream), headers={PATIENCE: "0.5"})
            refused_at_once(reply)
            # It may come again once what is ahead of it fits its patience.
            assert 200 < int(reply.headers["retry-after-ms"]) < 20_000
            body = chat_body("hi", stream=stream)
            patient = pool.submit(who.post, body, headers={PATIENCE: "60"})
            until(lambda: queued(who.service) == 11)
        assert patient.result(20).status_code == 200


def refused_at_once(reply: httpx.Response) -> None:
    assert (reply.status_code, error_code(reply)) == (429, "queue_wait_too_long")
    wait_ms = int(reply.headers["retry-after-ms"])
    assert wait_ms > 0
    assert int(reply.headers["retry-after"]) == max(1, math.ceil(wait_ms / 1000))
    assert "x-should-retry" not in reply.headers


def test_sdk_gets_a_reply_before_its_own_timeout(who: Caller) -> None:
    """It tells its timeout in x-stainless-read-timeout; hanging up, it would only ask again."""
    client = who.sdk(max_retries=0).with_options(timeout=1.0)
    ask = chat_body("hi")
    with all_slots_busy(who), pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="mock", **ask)
    assert refused.value.status_code == 503
    assert refused.value.code == "queue_timeout"
    learn_a_fifth_of_a_second(who)
    with contextlib.ExitStack() as ahead:
        ahead.enter_context(all_slots_busy(who))
        for _ in range(10):
            ahead.enter_context(standing(who, FIFTH_S, max_tokens=None))
        with pytest.raises(openai.RateLimitError) as hopeless:
            client.chat.completions.create(model="mock", **ask)
    assert hopeless.value.code == "queue_wait_too_long"


def test_stream_of_an_impatient_sdk_is_kept_alive(serve: Serve) -> None:
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1").ready()  # comments after 5 s, usually
    who = Caller(service, service.key)
    client = who.sdk(max_retries=0).with_options(timeout=1.0)
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as ahead:
        ahead.enter_context(all_slots_busy(who))

        def ask() -> str:
            stream = client.chat.completions.create(model="mock", stream=True, **chat_body("hi"))
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

        answer: Future[str] = pool.submit(ask)
        with streaming(who, "hi", headers={"x-stainless-read-timeout": "1"}) as reply:
            beats = lines(reply)
            for _ in range(4):  # two seconds
                assert next(beats).startswith(": queued position=")
        assert not answer.done()
        ahead.close()
        assert answer.result(20)


# -- prompts that can never fit


def refused_with_numbers(reply: httpx.Response, limit: int, found: int) -> None:
    assert (reply.status_code, error_code(reply)) == (400, "context_length_exceeded")
    message = reply.json()["error"]["message"]
    assert f"maximum context length is {limit} tokens" in message
    assert f"resulted in {found} tokens" in message


WORDS_5000 = "word " * 5000
TOO_LONG: list[tuple[str, dict[str, Any], int]] = [
    (CHAT, {"messages": [{"role": "user", "content": WORDS_5000}]}, 5000),
    (COMPLETIONS, {"prompt": WORDS_5000}, 5000),
    (COMPLETIONS, {"prompt": ["short", WORDS_5000]}, 5000),
    (COMPLETIONS, {"prompt": [5] * 6000}, 6000),
    (EMBED, {"input": WORDS_5000}, 5000),
    (EMBED, {"input": ["short", WORDS_5000]}, 5000),
]


def test_prompt_that_can_never_fit_does_not_wait(who: Caller, service: ServiceProcess) -> None:
    with all_slots_busy(who):
        for path, body, tokens in TOO_LONG:
            for stream in ({}, {"stream": True}) if path != EMBED else ({},):
                reply = who.post({**body, **stream}, path)
                found = int(reply.json()["error"]["message"].split()[-2])
                assert tokens <= found <= tokens + 20
                refused_with_numbers(reply, 4096, found)
        assert queued(service) == 0
        paths = engine_stats(service)["paths"]
        assert paths[f"POST {CHAT}"] == 1, "the engine was given one of them"
        assert not {f"POST {COMPLETIONS}", f"POST {EMBED}"} & set(paths)


def test_prompt_that_just_fits_waits_and_is_answered(who: Caller, service: ServiceProcess) -> None:
    fits = chat_body("word " * 4050, max_tokens=1)
    assert who.post(fits).status_code == 200
    with ThreadPoolExecutor() as pool:
        with all_slots_busy(who):
            waiting = pool.submit(who.post, fits)
            until(lambda: queued(service) == 1)
        assert waiting.result(20).status_code == 200


def test_real_engines_numbers_are_told_while_its_slot_is_busy(
    serve: Serve, llama_server: Path, tmp_path: Path
) -> None:
    model = write_tiny_gguf(tmp_path / "slow.gguf", shape=Shape(512, 4, 8, 2048))
    real = {"LLAMA_SERVER": str(llama_server), "MODEL_PATH": str(model), "THREADS": "1"}
    service = serve(**real, CTX="2048", PARALLEL="1").ready()
    who = Caller(service, service.key)
    fits = "a" * 1000
    chat = who.chat(fits, max_tokens=1).json()["usage"]["prompt_tokens"] - 1000
    text = who.post({"prompt": fits, "max_tokens": 1}, COMPLETIONS).json()["usage"]
    with all_slots_busy(who):
        long = "a" * 3000
        refused_with_numbers(who.chat(long), 2048, chat + 3000)
        of_text = text["prompt_tokens"] + 2000
        refused_with_numbers(who.post({"prompt": long}, COMPLETIONS), 2048, of_text)
        assert queued(service) == 0


def test_real_engines_numbers_are_told_for_embeddings(
    serve: Serve, llama_server: Path, models: Path
) -> None:
    real = {"LLAMA_SERVER": str(llama_server), "MODEL_PATH": str(models / "tiny.gguf")}
    service = serve(**real, CTX="2048", PARALLEL="1", EMBEDDINGS="true", POOLING="mean").ready()
    who = Caller(service, service.key)
    usage = who.post({"input": "a" * 400}, EMBED).json()["usage"]["prompt_tokens"]
    refused_with_numbers(who.post({"input": ["b", "a" * 3400]}, EMBED), 2048, usage + 3000)


# -- who goes next


NewKey = Callable[..., Caller]


@pytest.fixture
def new_key(service: ServiceProcess, key_tool: Callable[..., str]) -> NewKey:
    def make(name: str, *options: str) -> Caller:
        keys = str(service.folder / "keys.yaml")
        secret = key_tool("--file", keys, "--quiet", "generate", name, *options)
        service.wait_for("keys changed")
        return Caller(service, secret)

    return make


def said(service: ServiceProcess, count: int) -> list[str]:
    """The last texts that the engine was given, in order."""
    bodies = [each["body"] for each in engine_stats(service)["last"] if each["path"] == CHAT]
    return [body["messages"][-1]["content"] for body in bodies][-count:]


def test_higher_classes_go_first_whoever_came_first(who: Caller, new_key: NewKey) -> None:
    service = who.service
    callers = {name: new_key(name, "--priority", name) for name in ("batch", "normal", "high")}
    with contextlib.ExitStack() as ahead, ThreadPoolExecutor() as pool:
        with all_slots_busy(who):
            for number, (name, caller) in enumerate(2 * list(callers.items())):
                ahead.callback(pool.submit(caller.chat, name).result, 20)
                until(lambda number=number: queued(service) == number + 1)  # type: ignore[misc]
    assert said(service, 6) == ["high", "high", "normal", "normal", "batch", "batch"]


def test_weights_share_the_slots_between_keys_that_wait(who: Caller, new_key: NewKey) -> None:
    service = who.service
    light, heavy = new_key("light"), new_key("heavy", "--weight", "3")
    script = "mock: tokens=10 delay_ms=4"
    for _ in range(3):
        who.chat(script, max_tokens=None)
    with contextlib.ExitStack() as ahead, ThreadPoolExecutor(32) as pool:
        with all_slots_busy(who):
            for name, caller in [("light", light)] * 16 + [("heavy", heavy)] * 16:
                text = f"{name}\n{script}"
                ahead.callback(pool.submit(caller.chat, text, max_tokens=None).result, 20)
            until(lambda: queued(service) == 32)
    order = [text.partition("\n")[0] for text in said(service, 32)]
    assert 11 <= order[:16].count("heavy") <= 13, order
    assert order.count("heavy") == 16
