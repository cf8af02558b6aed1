"""Streams that are continued by another engine, through the whole service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.request.continuing import CONTINUE_HEADER
from gateway.stream.continuation import MARK
from tests.conftest import Serve
from tests.support.aftermath import engines, figure
from tests.support.callers import CHAT, Caller, KeyTool, chat_body, new_caller

FAST = {"RESTART_BACKOFF_MAX": "0.1", "CRASH_LIMIT": "1000"}
WANTED = {CONTINUE_HEADER: "true"}
DIES = "mock: tokens=9 crash_after=3 once={}"
CONTINUED = "gateway_streams_continued_total"
TOKENS = 3500
"""More events than the sockets buffer: the engine cannot have sent all when it is killed."""
USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture
def who(serve: Serve) -> Caller:
    service = serve(USE_MOCK_MODEL="true", **FAST).ready()
    return Caller(service, service.key)


def asked(who: Caller, text: str, headers: dict[str, str], **fields: Any) -> list[Any]:
    """The events of a stream; [DONE] is the last when it came."""
    body = chat_body(text, **{"stream": True, "max_tokens": 9, **fields})
    reply = who.post(body, headers=headers)
    assert reply.status_code == 200, reply.text
    return events(reply.text)


def events(stream: str) -> list[Any]:
    lines = [line for line in stream.splitlines() if line.startswith("data:")]
    data = [line.removeprefix("data: ") for line in lines]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def text_of(chunks: list[Any]) -> str:
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def is_whole(got: list[Any], after_tokens: int, tokens: int) -> None:
    """One stream, with one head, one marked final event and what it cost."""
    *chunks, usage, done = got
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in got[:-1]}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"].get("role") for choice in choices].count("assistant") == 1
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    assert choices[-1]["finish_reason"] == "length"
    mark = {"reason": "engine_restarted", "after_tokens": after_tokens}
    assert chunks[-1][MARK] == mark
    assert not any(MARK in chunk for chunk in chunks[:-1])
    assert usage["usage"]["completion_tokens"] == tokens
    assert not any("prompt_progress" in chunk for chunk in chunks)


def test_header_makes_one_stream_of_two_engines(who: Caller) -> None:
    used = who.idle_key()["tokens_today"]
    got = asked(who, DIES.format("a"), WANTED, **USAGE)
    is_whole(got, 3, 9)
    assert figure(who.service, CONTINUED) == 1
    assert figure(who.service, "gateway_replays_total") == 1
    usage = got[-2]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 9
    assert who.idle_key()["tokens_today"] - used == usage["total_tokens"]
    assert "Traceback" not in who.service.output


def test_without_include_usage_no_usage_is_told(who: Caller) -> None:
    got = asked(who, DIES.format("a"), WANTED)
    assert not any("usage" in chunk for chunk in got[:-1])
    assert got[-2][MARK]["after_tokens"] == 3


def test_key_may_say_so_once_for_all_and_the_header_wins(who: Caller, key_tool: KeyTool) -> None:
    keyed = new_caller(who.service, key_tool, "keyed", "--continue-streams")
    is_whole(asked(keyed, DIES.format("a"), {}, **USAGE), 3, 9)
    refused = asked(keyed, DIES.format("b"), {CONTINUE_HEADER: "false"})
    assert refused[-1]["error"]["code"] == "engine_restarted"
    assert figure(who.service, CONTINUED) == 1


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({}, {}),
        (WANTED, {"n": 2}),
        (WANTED, {"response_format": {"type": "json_object"}}),
        (
            WANTED,
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        ),
        (WANTED, {"logprobs": True}),
    ],
    ids=["no opt-in", "n=2", "response_format", "tools", "logprobs"],
)
def test_what_is_not_continued_ends_with_the_error(
    who: Caller, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    got = asked(who, "mock: tokens=9 crash_after=1 once=a", headers, **fields)
    assert got[-1]["error"]["code"] == "engine_restarted"
    assert figure(who.service, CONTINUED) == 0


def test_second_death_ends_the_stream_with_one_error(who: Caller) -> None:
    """The continuation is tried once, and what kills twice is not tried a third time."""
    got = asked(who, "mock: tokens=9 crash_after=3", WANTED)
    assert got[-1]["error"]["code"] in ("engine_restarted", "engine_crashed")
    assert sum("error" in chunk for chunk in got) == 1
    assert figure(who.service, CONTINUED) == 1
    assert who.chat().status_code == 200


def test_header_that_is_no_word_is_refused(who: Caller) -> None:
    reply = who.post(chat_body("hi"), headers={CONTINUE_HEADER: "maybe"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == CONTINUE_HEADER


def test_stream_that_breaks_within_an_event_is_never_continued_into_it(who: Caller) -> None:
    """Whatever comes of it, each event that the client gets is whole."""
    for cut in range(600, 1300, 50):
        got = asked(who, f"mock: tokens=9 cut_after={cut} split=7 once={cut}", WANTED)
        assert got[-1] == "[DONE]" or "error" in got[-1]


@pytest.mark.parametrize("method", ["create", "stream"])
def test_openai_package_reads_a_continued_stream_to_its_end(who: Caller, method: str) -> None:
    client = who.sdk(default_headers=WANTED, max_retries=0)
    # The mock knows nothing of what was said and says all of it again: 3 tokens and 9.
    more: Any = {"model": "mock", "max_tokens": 50, **USAGE}
    messages: Any = [{"role": "user", "content": DIES.format("a")}]
    if method == "stream":
        with client.chat.completions.stream(messages=messages, **more) as stream:
            kinds = [event.type for event in stream]
            final: Any = stream.get_final_completion()
        assert kinds.count("content.delta") == 12
        assert kinds.count("content.done") == 1
        assert final.choices[0].finish_reason == "stop"
        assert final.usage.completion_tokens == 12
        assert len(final.choices[0].message.content.split()) == 12
    else:
        chunks: Any = list(client.chat.completions.create(messages=messages, stream=True, **more))
        assert chunks[-1].usage.completion_tokens == 12
        assert chunks[-2].model_extra[MARK]["after_tokens"] == 3
    assert figure(who.service, CONTINUED) == 1


def test_answer_of_a_real_engine_that_is_killed_comes_to_its_end(
    serve: Serve, llama_server: Path, models: Path
) -> None:
    service = serve(
        LLAMA_SERVER=str(llama_server),
        MODEL_PATH=str(models / "tiny.gguf"),
        CTX="4096",
        PARALLEL="1",
        THREADS="1",
        **FAST,
    ).ready()
    who = Caller(service, service.key)
    fields: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0, "seed": 1, **USAGE}
    undisturbed = asked(who, "hi there", {}, **fields)
    (engine,) = engines(service)
    url, body = f"{service.url}{CHAT}", chat_body("hi there", stream=True, **fields)
    headers = {**who.headers, **WANTED}
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as reply:
        lines = reply.iter_lines()
        first = [next(lines) for _ in range(10)]
        engine.kill()
        got = events("\n".join([*first, *lines]))
    assert figure(service, CONTINUED) == 1
    cut = got[-3][MARK]["after_tokens"]
    is_whole(got, cut, TOKENS)
    assert 0 < cut < TOKENS
    assert got[-2]["usage"]["prompt_tokens"] == undisturbed[-2]["usage"]["prompt_tokens"]
    # What comes behind the cut is as good, not the same: the prompt is computed in one piece then.
    assert text_of(undisturbed[:-1]).startswith(text_of(got[:cut]))
