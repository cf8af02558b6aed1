"""A real llama-server is killed in the middle of a stream, and another one goes on."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend import EngineSettings
from gateway.dialects import EngineCall
from gateway.dialects.base import FieldPolicy, ModelFacts
from gateway.dialects.chat import build
from gateway.stream.continuation import MARK, Continuation, continuable
from gateway.stream.sse import EventStream
from tests.support.engine_process import mortal_engine

TOKENS = 3000
"""More events than a socket buffers: the engine cannot have sent all when it is killed."""
FACTS = ModelFacts(names=frozenset(), alias="tiny", slots=1, context_tokens=4096)


@pytest.fixture
def settings(llama_server: Path, models: Path) -> EngineSettings:
    return EngineSettings(
        binary=llama_server,
        model=models / "tiny.gguf",
        alias="tiny",
        ctx=4096,
        parallel=1,
        threads=1,
    )


def planned(**more: Any) -> EngineCall:
    body = {
        "messages": [{"role": "user", "content": "hi there"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": TOKENS,
        "temperature": 0,
        **more,
    }
    return build(body, FACTS, FieldPolicy(cache_prompt=False))


def asked(engine: httpx.Client, plan: EngineCall) -> bytes:
    reply = engine.post(plan.path, content=plan.body, headers={"Connection": "close"})
    assert reply.status_code == 200, reply.text
    return reply.content


def said(stream: bytes) -> tuple[str, str, dict[str, Any], dict[str, Any] | None]:
    """Text, finish reason, usage and mark of a whole stream."""
    lines = stream.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert len({event["id"] for event in events}) == 1
    choices = [event["choices"][0] for event in events[:-1]]
    assert [choice["delta"].get("role") for choice in choices].count("assistant") == 1
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, choices[-1]["finish_reason"], events[-1]["usage"], events[-2].get(MARK)


def test_answer_of_a_killed_engine_is_brought_to_its_end_by_the_next(
    settings: EngineSettings, short_dir: Path
) -> None:
    """The text is that of an undisturbed answer, and so is the count of its tokens."""
    plan = planned()
    assert continuable(plan)
    continuation, out, first = Continuation(plan), bytearray(), EventStream()
    into = continuation.through(out.extend, first)
    with mortal_engine(settings, short_dir) as (engine, process):
        undisturbed = said(EventStream().feed(asked(engine, plan)))
        with (
            suppress(httpx.TransportError),
            engine.stream("POST", plan.path, content=plan.body) as reply,
        ):
            for chunk in reply.iter_raw():
                into(first.feed(chunk))
                if first.events > 20:
                    process.kill()
    assert not first.done
    assert 20 <= continuation.tokens < TOKENS
    assert continuation.ending() is None
    second = EventStream()
    resumed = continuation.resume()
    with mortal_engine(settings, short_dir) as (engine, _):
        stream = asked(engine, resumed)
    continuation.through(out.extend, second)(second.feed(stream))
    text, finish, usage, mark = said(bytes(out))
    assert (text, finish, usage) == undisturbed[:3]
    assert mark == {"reason": "engine_restarted", "after_tokens": continuation.tokens}
    joined = continuation.joined(second.outcome())
    assert joined.completion_tokens == TOKENS


def test_every_cut_ends_in_the_same_answer(settings: EngineSettings, short_dir: Path) -> None:
    """White space at the cut, and a stop string over it, included."""
    plan = planned(max_tokens=40, stop=[" dusk all"])
    with mortal_engine(settings, short_dir) as (engine, _):
        stream = asked(engine, plan)
        text, finish, usage, _ = said(EventStream().feed(stream))
        events = [event + b"\n\n" for event in stream.split(b"\n\n") if event]
        for cut in range(len(events) - 3):
            continuation, out, first = Continuation(plan), bytearray(), EventStream()
            into = continuation.through(out.extend, first)
            into(first.feed(b"".join(events[:cut])))
            second = EventStream()
            stream = asked(engine, continuation.resume())
            continuation.through(out.extend, second)(second.feed(stream))
            again = said(bytes(out))
            assert again[:2] == (text, finish), f"cut after {cut} events"
            assert again[2] == usage
