"""What the service sends over the wire keeps each dialect's grammar, also when the engine fails.

The mock engine scripts the failures; the frames are read by `tests.support.frame_grammar`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.frame_grammar import CHECKERS, Told
from tests.support.service import ServiceProcess

Make = Callable[..., ServiceProcess]

FAST = {"RESTART_BACKOFF_MAX": "0.1", "CRASH_LIMIT": "1000", "REQUEST_TIMEOUT": "2"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "get_weather", "parameters": SCHEMA}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [{"type": "function", "function": FUNCTION}],
    "/v1/responses": [{"type": "function", **FUNCTION}],
    "/v1/messages": [{"name": "get_weather", "input_schema": SCHEMA}],
}
ENDINGS = {
    "tokens=4 split=7": "complete",
    "tokens=4 reasoning=3 ping prompt_tokens=9 cached=5": "complete",
    "tokens=50": "length",
    "tokens=4 error_after=2": "failed",
    "tokens=4 crash_after=2": "failed",
    "tokens=4 cut_after=1500": "failed",
    "tokens=4 hang_after=2": "failed",
}
TOOL_ENDINGS = {
    "tool_calls=2": "complete",
    "tool_calls=1 tool_args={} split=5": "complete",
    "tool_calls=1 reasoning=2 error_after=4": "failed",
}


@pytest.fixture(scope="module")
def service(make_service: Make) -> ServiceProcess:
    return make_service(USE_MOCK_MODEL="true", **FAST).start().ready()


def ask(service: ServiceProcess, path: str, script: str, **more: Any) -> httpx.Response:
    text = f"mock: {script}"
    body: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": text}]}
    if path == "/v1/completions":
        body = {"model": "mock", "prompt": text}
    if path == "/v1/responses":
        body = {"model": "mock", "input": text}
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    body |= {limit: 20, **more}
    body.pop("model")
    headers = {"Authorization": f"Bearer {service.key}"}
    return httpx.post(f"{service.url}{path}", json=body, headers=headers, timeout=30)


def told(service: ServiceProcess, path: str, script: str, **more: Any) -> Told:
    reply = ask(service, path, script, stream=True, **more)
    assert reply.status_code == 200, reply.text
    return CHECKERS[path][0](reply.content)


@pytest.mark.parametrize("script", ENDINGS)
@pytest.mark.parametrize("path", CHECKERS)
def test_a_stream_ends_as_the_engine_did(service: ServiceProcess, path: str, script: str) -> None:
    assert told(service, path, script).ending == ENDINGS[script]


@pytest.mark.parametrize("script", TOOL_ENDINGS)
@pytest.mark.parametrize("path", TOOLS)
def test_a_stream_of_calls_ends_as_the_engine_did(
    service: ServiceProcess, path: str, script: str
) -> None:
    found = told(service, path, script, tools=TOOLS[path])
    assert found.ending == TOOL_ENDINGS[script]
    if found.ending == "complete":
        assert {name for name, _ in found.calls} == {"get_weather"}


@pytest.mark.parametrize("path", CHECKERS)
@pytest.mark.parametrize("script", ["tokens=4 reasoning=3 cached=1", "tokens=50"])
def test_a_reply_in_one_piece_says_what_the_stream_says(
    service: ServiceProcess, path: str, script: str
) -> None:
    reply = ask(service, path, script)
    assert reply.status_code == 200, reply.text
    more = {"stream_options": {"include_usage": True}} if "completions" in path else {}
    streamed, whole = told(service, path, script, **more), CHECKERS[path][1](reply.content)
    assert (whole.ending, whole.text) == (streamed.ending, streamed.text)
    assert (whole.reasoning, whole.usage) == (streamed.reasoning, streamed.usage)


def test_what_a_dialect_cannot_tell_ends_in_an_error_and_not_in_silence(
    service: ServiceProcess,
) -> None:
    tools = TOOLS["/v1/messages"]
    found = told(service, "/v1/messages", 'tool_calls=1 tool_args={"city', tools=tools)
    assert found.ending == "failed"
    reply = ask(service, "/v1/messages", 'tool_calls=1 tool_args={"city', tools=tools)
    assert reply.status_code == 502
