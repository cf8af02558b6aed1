"""Streams whose engine dies, and that go on with the next one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.base import EngineCall
from gateway.errors import ApiError
from gateway.request.continuing import wants_continuation
from gateway.stream.continuation import MARK, TEXT_LIMIT_CHARS, Continuation, continuable
from gateway.stream.sse import EventStream

WORDS = ["It", " was", " a", " bright", " cold", " day", " in", " April"]
DONE = b"data: [DONE]\n\n"


def call(*, include_usage: bool = True, max_tokens: int = 8, **fields: Any) -> EngineCall:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "go"}],
        "max_tokens": max_tokens,
        "stream": True,
        **fields,
    }
    return EngineCall(
        path="/v1/chat/completions",
        body=json.dumps(body).encode(),
        generates=True,
        stream=True,
        include_usage=include_usage,
        model="m",
        max_tokens=max_tokens,
    )


def event(name: str, choices: list[dict[str, Any]], **more: Any) -> bytes:
    head = {"created": len(name), "id": f"chatcmpl-{name}", "model": "m"}
    value = {"choices": choices, **head, "object": "chat.completion.chunk", **more}
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def piece(name: str, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return event(name, [{"finish_reason": finish, "index": 0, "delta": delta}], **more)


def answer(name: str, words: list[str], *, prompt: int, repeats: str = "") -> list[bytes]:
    """The events of an engine, as llama-server sends them when progress and usage are asked for."""
    role = {"role": "assistant", "content": None}
    progress = {"total": prompt, "cache": 0, "processed": prompt, "time_ms": 1}
    usage: dict[str, Any] = {"completion_tokens": len(words), "prompt_tokens": prompt}
    usage |= {"total_tokens": prompt + len(words), "prompt_tokens_details": {"cached_tokens": 0}}
    echo = [piece(name, {"content": repeats}, prompt_progress=progress)] if repeats else []
    return [
        *([piece(name, role)] if repeats else []),
        *echo,
        piece(name, role, prompt_progress=progress),
        piece(name, role),
        *(piece(name, {"content": word}) for word in words),
        piece(name, {}, "length"),
        event(name, [], usage=usage),
        DONE,
    ]


def feed(stream: bytes, into: Callable[[bytes], None], watcher: EventStream, step: int) -> None:
    for at in range(0, len(stream), step):
        if passed := watcher.feed(stream[at : at + step]):
            into(passed)


def parsed(stream: bytes) -> list[dict[str, Any]]:
    frames = stream.split(b"\n\n")
    assert frames.pop() == b""
    assert frames.pop() == b"data: [DONE]"
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def text_of(events: list[dict[str, Any]]) -> str:
    deltas = (choice["delta"] for found in events for choice in found["choices"])
    return "".join(delta.get("content") or "" for delta in deltas)


def begun(plan: EngineCall, *events: bytes) -> tuple[Continuation, bytearray]:
    """A stream of which an engine sent *events*."""
    out = bytearray()
    continuation = Continuation(plan)
    watcher = EventStream()
    into = continuation.through(out.extend, watcher)
    feed(b"".join(events), into, watcher, 1 << 20)
    return continuation, out


@pytest.mark.parametrize("repeats", [False, True], ids=["quiet", "repeating"])
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_client_sees_one_stream_wherever_the_first_engine_stopped(step: int, repeats: bool) -> None:
    plan = call()
    whole = b"".join(answer("one", WORDS, prompt=5))
    undisturbed = bytearray()
    feed(whole, undisturbed.extend, EventStream(), len(whole))
    for cut in range(len(whole)):
        out = bytearray()
        continuation = Continuation(plan)
        first = EventStream()
        feed(whole[:cut], continuation.through(out.extend, first), first, step)
        assert continuation.possible
        rest = continuation.ending()
        if rest is not None:
            out += b"" if first.done else rest
        else:
            sent = first.tokens
            again = json.loads(continuation.resume().body)
            assert again["max_tokens"] == len(WORDS) - sent if continuation.resumed else 8
            written = "".join(WORDS[:sent])
            stream = answer(
                "second", WORDS[sent:], prompt=5 + sent, repeats=written if repeats else ""
            )
            second = EventStream()
            feed(b"".join(stream), continuation.through(out.extend, second), second, step)
            assert second.done
            joined = continuation.joined(second.outcome())
            assert (joined.prompt_tokens, joined.completion_tokens) == (5, 8)
        events = parsed(bytes(out))
        marks = [found.pop(MARK, None) for found in events]
        if continuation.resumed:
            mark = {"reason": "engine_restarted", "after_tokens": first.tokens}
            assert marks == [None] * (len(events) - 2) + [mark, mark]
        names = {found["id"] for found in events}
        assert len(names) == 1
        expected = parsed(bytes(undisturbed).replace(b"chatcmpl-one", names.pop().encode()))
        for found in (*events, *expected):
            assert isinstance(found.pop("created"), int)
        assert events == expected


def test_text_so_far_is_handed_over_as_the_beginning_of_the_answer() -> None:
    plan = call(temperature=0)
    continuation, _ = begun(plan, *answer("one", [" a\n", " "], prompt=5)[:4])
    resumed = continuation.resume()
    assert json.loads(resumed.body) == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": " a\n "},
        ],
        "max_tokens": 6,
        "stream": True,
        "temperature": 0,
        "continue_final_message": True,
        "add_generation_prompt": False,
    }
    assert resumed == dataclasses.replace(plan, body=resumed.body, max_tokens=6)
    assert not continuation.possible, "it is continued once"


def test_stream_without_text_is_asked_for_anew() -> None:
    """The engine leaves its generation prompt out when there is nothing to continue."""
    plan = call()
    continuation, out = begun(plan, *answer("one", WORDS, prompt=5)[:2])
    assert json.loads(continuation.resume().body) == json.loads(plan.body)
    watcher = EventStream()
    stream = b"".join(answer("second", ["x"], prompt=5))
    feed(stream, continuation.through(out.extend, watcher), watcher, len(stream))
    events = parsed(bytes(out))
    assert [found["id"] for found in events] == ["chatcmpl-one"] * 4
    assert [found["choices"][0]["delta"].get("role") for found in events[:-1]] == [
        "assistant",
        None,
        None,
    ]


def test_stream_of_which_nothing_was_passed_on_is_a_plain_replay() -> None:
    plan = call()
    continuation, out = begun(plan)
    assert continuation.resume() is plan
    assert continuation.possible
    watcher = EventStream()
    stream = b"".join(answer("second", WORDS, prompt=5))
    feed(stream, continuation.through(out.extend, watcher), watcher, len(stream))
    assert MARK.encode() not in out
    assert b"chatcmpl-second" in out


def test_answer_that_had_all_its_tokens_ends_by_length_without_an_engine() -> None:
    continuation, _ = begun(call(include_usage=False), *answer("one", WORDS, prompt=5)[:-3])
    ending = continuation.ending()
    assert ending is not None
    (last,) = parsed(ending)
    assert last["choices"] == [{"finish_reason": "length", "index": 0, "delta": {}}]
    assert last[MARK]["after_tokens"] == len(WORDS)


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0}]},
        {"content": "x" * (TEXT_LIMIT_CHARS + 1)},
    ],
    ids=["thoughts", "tool call", "very long"],
)
def test_what_would_not_go_on_as_it_began_is_not_continued(delta: dict[str, Any]) -> None:
    stream = [piece("one", {"content": "a"}), piece("one", delta), piece("one", {"content": "b"})]
    continuation, out = begun(call(), *stream)
    assert not continuation.possible
    assert bytes(out) == b"".join(stream), "it is passed on all the same"


def test_second_choice_rules_it_out() -> None:
    choice = {"finish_reason": None, "index": 1, "delta": {"content": "a"}}
    assert not begun(call(), event("one", [choice]))[0].possible


def test_event_that_is_no_object_rules_it_out_and_is_passed_on() -> None:
    continuation, out = begun(call(), b"data: [1]\n\n", b'data: {"x"\n\n')
    assert not continuation.possible
    assert bytes(out) == b'data: [1]\n\ndata: {"x"\n\n'


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6), st.data())
def test_any_text_is_handed_over_unchanged(words: list[str], data: st.DataObject) -> None:
    sent = data.draw(st.integers(1, len(words)))
    plan = call(max_tokens=100)
    continuation, _ = begun(plan, *answer("one", words, prompt=5)[: 2 + sent])
    handed = json.loads(continuation.resume().body)["messages"][-1]
    assert handed == {"role": "assistant", "content": "".join(words[:sent])}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"grammar": "root ::= x"},
        {"logprobs": True},
        {"reasoning_format": "none"},
        {"messages": [{"role": "assistant", "content": "I begin"}]},
    ],
    ids=str,
)
def test_never_for_what_is_more_than_plain_text(fields: dict[str, Any]) -> None:
    assert continuable(call())
    assert not continuable(call(**fields))


def test_never_for_several_answers_or_other_routes_or_replies_in_one_piece() -> None:
    assert not continuable(dataclasses.replace(call(), choices=2))
    assert not continuable(dataclasses.replace(call(), path="/v1/completions"))
    assert not continuable(dataclasses.replace(call(), stream=False))


@pytest.mark.parametrize("key_says", [False, True])
def test_header_wins_over_the_key_in_both_directions(key_says: bool) -> None:
    assert wants_continuation({}, key_says=key_says) is key_says
    for word in ("true", "1", "True"):
        assert wants_continuation({"X-Continue-Stream": word}, key_says=key_says)
    for word in ("false", "0", " FALSE"):
        assert not wants_continuation({"X-Continue-Stream": word}, key_says=key_says)


@pytest.mark.parametrize("word", ["", "yes", "2", "true, false"])
def test_header_with_another_word_is_refused(word: str) -> None:
    with pytest.raises(ApiError) as caught:
        wants_continuation({"X-Continue-Stream": word}, key_says=True)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "X-Continue-Stream")
