"""An engine and a service in trouble."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import openai

from tests.clients.sdk_kit import (
    QUESTION,
    TIMEOUT_S,
    TOOL,
    Target,
    as_expected,
    check,
    raised,
    told,
    user,
)


def broken(stream: Any, code: str, type: str = "server_error") -> tuple[str, Any]:  # noqa: A002
    """Read *stream*, which must break with *code*: what it said, and the error."""
    pieces: list[str] = []
    error: Any = raised(
        openai.APIError,
        lambda: pieces.extend(_text(chunk.choices[0]) for chunk in stream),
        code=code,
        type=type,
    )
    return "".join(pieces), told(error)


def _text(choice: Any) -> str:
    text = choice.text if hasattr(choice, "text") else choice.delta.content
    return text or ""


def deadly() -> str:
    """Kills the engine in mid-stream; another text each time, for the same is refused at last."""
    return f"{time.monotonic_ns()}\nmock: tokens=9 crash_after=3"


@check("faults")
def engine_that_dies_in_mid_stream_raises(target: Target) -> Any:
    create = target.client().chat.completions.create
    stream = create(model=target.model, messages=user(deadly()), stream=True)
    text, error = broken(stream, "engine_restarted")
    assert len(text.split()) == 3, text
    after = create(model=target.model, messages=user("mock: tokens=2"), max_tokens=5)
    assert after.choices[0].finish_reason == "stop"
    return error


@check("faults")
def stream_that_another_engine_goes_on_with_is_read_to_its_end(target: Target) -> Any:
    # The mock knows nothing of what was said and says all of it again: 3 tokens and 9.
    script = user(f"mock: tokens=9 crash_after=3 once=continued-{time.monotonic_ns()}")
    client = target.client(default_headers={"X-Continue-Stream": "true"})
    chat: Any = client.chat if hasattr(client.chat.completions, "stream") else client.beta.chat
    with chat.completions.stream(
        model=target.model,
        messages=script,
        max_tokens=50,
        stream_options={"include_usage": True},
    ) as stream:
        kinds = [event.type for event in stream]
        final: Any = stream.get_final_completion()
    (choice,) = final.choices
    assert (kinds.count("content.delta"), kinds.count("content.done")) == (12, 1), kinds
    assert (choice.finish_reason, len(choice.message.content.split())) == ("stop", 12), final
    assert final.usage.completion_tokens == 12, final
    return choice.message.content


@check("faults")
def completion_that_dies_in_mid_stream_raises(target: Target) -> Any:
    create = target.client().completions.create
    stream = create(model=target.model, prompt=deadly(), stream=True, max_tokens=20)
    text, error = broken(stream, "engine_restarted")
    assert len(text.split()) == 3, text
    return error


@check("faults")
def connection_cut_in_mid_stream_raises(target: Target) -> Any:
    create = target.client().chat.completions.create
    script = user("mock: tokens=50 cut_after=3000")
    text, error = broken(create(model=target.model, messages=script, stream=True), "engine_crashed")
    assert text
    return error


@check("faults")
def engine_error_in_mid_stream_raises(target: Target) -> Any:
    create = target.client().chat.completions.create
    stream = create(model=target.model, messages=user("mock: tokens=9 error_after=3"), stream=True)
    # The mock says what llama-server says at that point: that the context is full.
    return broken(stream, "context_length_exceeded", "invalid_request_error")


@check("faults")
def engine_that_is_lost_twice_before_an_answer_is_a_server_error(target: Target) -> Any:
    create = target.client().chat.completions.create
    # Twice the same connection: an engine that dies twice would have the key suspended.
    for script in ("mock: tokens=9 cut_after=900", "mock: tokens=9 cut_after=1"):
        error = raised(
            openai.InternalServerError,
            lambda script=script: create(model=target.model, messages=user(script)),
            code="engine_crashed",
            status_code=502,
        )
    return told(error)


@check("faults")
def engine_errors_are_server_errors(target: Target) -> Any:
    create = target.client().chat.completions.create
    return told(
        raised(
            openai.InternalServerError,
            lambda: create(model=target.model, messages=user("mock: error=500")),
            code="engine_error",
            status_code=502,
        )
    )


@check("faults")
def engine_refusals_are_the_clients_fault(target: Target) -> Any:
    create = target.client().chat.completions.create
    for script in ("error=400", "error=501"):
        raised(
            openai.BadRequestError,
            lambda script=script: create(model=target.model, messages=user(f"mock: {script}")),
            status_code=400,
        )
    return told(
        raised(
            openai.BadRequestError,
            lambda: create(model=target.model, messages=user("mock: error=context")),
            code="context_length_exceeded",
        )
    )


@check("faults")
def silent_engine_is_a_timeout(target: Target) -> Any:
    create = target.client().chat.completions.create
    for more in ({}, {"stream": True}):
        error = raised(
            openai.InternalServerError,
            lambda more=more: create(model=target.model, messages=user("mock: hang_head"), **more),
            code="engine_timeout",
            status_code=504,
        )
    return told(error)


@check("faults")
def engine_silent_in_mid_stream_raises(target: Target) -> Any:
    create = target.client().chat.completions.create
    stream = create(model=target.model, messages=user("mock: tokens=9 hang_after=3"), stream=True)
    return broken(stream, "engine_timeout")


@check("faults")
def clients_own_timeout_is_its_own(target: Target) -> Any:
    client = target.client(timeout=0.3)
    return type(
        raised(
            openai.APITimeoutError,
            lambda: client.chat.completions.create(model="mock", messages=user("mock: hang_head")),
        )
    ).__name__


@check("faults")
def retries_get_past_a_crash(target: Target) -> Any:
    client = target.client(max_retries=2)
    script = f"mock: tokens=4 crash_after=1 once={time.monotonic_ns()}"
    reply = client.chat.completions.create(model=target.model, messages=user(script))
    assert reply.choices[0].finish_reason == "stop"
    return reply.choices[0].message.content


@check("faults")
def reasoning_is_kept_apart(target: Target) -> Any:
    create = target.client().chat.completions.create
    message: Any = create(model=target.model, messages=user("mock: tokens=3 reasoning=4"))
    message = message.choices[0].message
    assert len(message.reasoning_content.split()) == 4
    assert len(message.content.split()) == 3
    return message.reasoning_content


@check("faults")
def several_tools_are_called_at_once(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    asked = {
        "model": target.model,
        "messages": user("mock: tool_calls=2"),
        "tools": [TOOL, other],
    }
    choice = create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather", "other"]
    found: dict[int, str] = {}
    for chunk in create(**asked, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or ():
            found[piece.index] = found.get(piece.index, "") + (piece.function.name or "")
    assert found == {0: "get_weather", 1: "other"}
    return found


@check("faults")
def engine_comments_are_not_passed_on(target: Target) -> Any:
    create = target.client().chat.completions.create
    script = "mock: tokens=5 ping prefill_steps=4 split=7"
    stream = create(model=target.model, messages=user(script), stream=True)
    pieces = [chunk.choices[0].delta.content for chunk in stream]
    assert len([piece for piece in pieces if piece]) == 5
    return pieces


# -- states of the service


@check("full")
def no_free_slot_is_a_rate_limit(target: Target) -> Any:
    create = target.client().chat.completions.create
    script = user("mock: tokens=5000 delay_ms=20")
    with create(model=target.model, messages=script, stream=True, max_tokens=3000) as stream:
        assert next(iter(stream)).choices
        error = raised(
            openai.RateLimitError,
            lambda: create(model=target.model, messages=user("hi")),
            code="rate_limit_exceeded",
            type="rate_limit_error",
            status_code=429,
        )
        headers = error.response.headers
        assert 1 <= int(headers["retry-after"]) <= 60
        assert 0 < int(headers["retry-after-ms"]) <= 60_000
    return told(error)


@check("full")
def retries_find_the_slot_free(target: Target) -> Any:
    script = user("mock: tokens=10 delay_ms=20")
    with target.client().chat.completions.create(
        model=target.model, messages=script, stream=True
    ) as stream:
        assert next(iter(stream)).choices
        create = target.client(max_retries=3).chat.completions.create
        reply = create(model=target.model, messages=user("mock: tokens=2"))
        assert reply.choices[0].finish_reason == "stop"
    return None


@check("loading")
def service_that_loads_says_so(target: Target) -> Any:
    client = target.client()
    assert client.models.list().data
    error = raised(
        openai.InternalServerError,
        lambda: client.chat.completions.create(model=target.model, messages=QUESTION),
        code="queue_timeout",
        type="server_error",
        status_code=503,
    )
    assert int(error.response.headers["retry-after"]) >= 1
    return told(error)


@check("draining")
def service_that_stops_takes_no_more_and_finishes_what_runs(target: Target) -> Any:
    client = target.client()
    create = client.chat.completions.create
    model = target.model
    script = user("mock: tokens=40 delay_ms=30")
    stream = create(model=model, messages=script, stream=True, max_tokens=100)
    chunks = [next(stream)]
    os.kill(target.pid, signal.SIGTERM)
    error = _first_refusal(lambda: create(model=model, messages=user("mock: tokens=1")))
    as_expected(error, openai.InternalServerError, code="draining", status_code=503)
    chunks += list(stream)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) == 40
    return told(error)


def _first_refusal(call: Callable[[], Any]) -> Exception:
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            call()
        except Exception as error:
            return error
    raise AssertionError("every call was answered")
