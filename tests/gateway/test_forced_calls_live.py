"""A call comes where it must, from a real engine, whatever the model would rather say.

The tiny model recites a poem or calls the first tool that it can; above temperature 0 what it
writes under a grammar is chance, so nothing but the grammar makes its calls fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keys import create_first_key
from tests.support.service import ServiceProcess

CHAT = "/v1/chat/completions"
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/City"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
    "$defs": {"City": {"type": "string", "minLength": 2, "maxLength": 8}},
}
NUMBERS = {
    "type": "object",
    "properties": {
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3}
    },
    "required": ["numbers"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "add", "parameters": NUMBERS}},
    {"type": "function", "function": {"name": "now"}},
]
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi there"}],
    "tools": TOOLS,
    "max_tokens": 1000,
}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def check(name: str, arguments: str) -> None:
    """Fail unless the arguments fit the tool's schema."""
    found = json.loads(arguments)
    if name == "get_weather":
        assert found.keys() == {"city", "days", "unit"}
        assert 2 <= len(found["city"]) <= 8
        assert found["days"] in range(1, 10)
        assert found["unit"] in ("C", "F")
    elif name == "add":
        assert found.keys() == {"numbers"}
        assert 1 <= len(found["numbers"]) <= 3
        assert all(type(number) is int for number in found["numbers"])
    else:
        assert (name, found) == ("now", {})


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, llama_server: Path, models: Path
) -> Iterator[httpx.Client]:
    """Of a service with the tiny model."""
    folder = tmp_path_factory.mktemp("forced")
    key = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    env = {
        "LLAMA_SERVER": str(llama_server),
        "MODEL_PATH": str(models / "tiny.gguf"),
        "CTX": "8192",
        "PARALLEL": "2",
        "THREADS": "1",
    }
    with ServiceProcess(folder, env) as service:
        service.ready()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=service.url, headers=headers, timeout=60) as made:
            yield made


def whole(client: httpx.Client, body: dict[str, Any]) -> list[tuple[str, str]]:
    """The calls of a reply in one piece."""
    reply = client.post(CHAT, json=body)
    assert reply.status_code == 200, reply.text
    (choice,) = reply.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ""
    calls = choice["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def streamed(client: httpx.Client, body: dict[str, Any]) -> list[tuple[str, str]]:
    """The calls of a stream."""
    reply = client.post(CHAT, json={**body, "stream": True})
    assert reply.status_code == 200, reply.text
    *events, last = [part[6:] for part in reply.text.split("\n\n") if part]
    assert last == "[DONE]"
    calls: list[list[str]] = []
    reasons = []
    for event in map(json.loads, events):
        (choice,) = event["choices"]
        assert not choice["delta"].get("content")
        reasons.append(choice["finish_reason"])
        for entry in choice["delta"].get("tool_calls", ()):
            if "id" in entry:
                assert entry["index"] == len(calls)
                calls.append([entry["function"]["name"], ""])
            calls[entry["index"]][1] += entry["function"]["arguments"]
    assert reasons[-1] == "tool_calls"
    assert set(reasons[:-1]) == {None}
    return [(name, arguments) for name, arguments in calls]


@pytest.mark.parametrize("ask", [whole, streamed])
def test_one_of_the_tools_is_called(client, ask):
    seen = set()
    for seed in range(12):
        body = {**ASKED, "tool_choice": "required", "temperature": 2, "top_p": 1, "seed": seed}
        ((name, arguments),) = ask(client, body)
        check(name, arguments)
        seen.add(name)
    assert len(seen) > 1, "it was chance, or should have been"


@pytest.mark.parametrize("ask", [whole, streamed])
def test_the_named_tool_is_called(client, ask):
    for name in ("add", "now", "get_weather"):
        ((called, arguments),) = ask(
            client, {**ASKED, "tool_choice": named(name), "temperature": 1.5}
        )
        assert called == name
        check(called, arguments)


@pytest.mark.parametrize("ask", [whole, streamed])
def test_several_calls_may_come_where_the_client_wants_them(client, ask):
    counts = set()
    for seed in range(8):
        body = {**ASKED, "tool_choice": "required", "parallel_tool_calls": True}
        calls = ask(client, {**body, "temperature": 1.5, "seed": seed})
        assert 1 <= len(calls) <= 16
        for name, arguments in calls:
            check(name, arguments)
        counts.add(len(calls))
    assert max(counts) > 1


def test_a_reply_in_one_piece_is_what_the_stream_is(client):
    for more in ({}, {"parallel_tool_calls": True}, {"tool_choice": named("get_weather")}):
        body = {**ASKED, "tool_choice": "required", "temperature": 0, **more}
        assert whole(client, body) == streamed(client, body)


def test_every_answer_makes_its_call(client):
    body = {**ASKED, "tool_choice": "required", "n": 2, "temperature": 1}
    choices = client.post(CHAT, json=body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for choice in choices:
        (call,) = choice["message"]["tool_calls"]
        check(call["function"]["name"], call["function"]["arguments"])
        assert choice["finish_reason"] == "tool_calls"


def test_what_would_break_a_call_does_not(client):
    """A stop string inside of it, a format for text, an end that is not allowed."""
    more = {
        "tool_choice": named("get_weather"),
        "stop": ['"', "city"],
        "response_format": {"type": "json_object"},
        "ignore_eos": True,
        "reasoning_format": "none",
        "temperature": 0,
    }
    ((name, arguments),) = whole(client, {**ASKED, **more})
    check(name, arguments)


def test_a_call_cut_at_the_limit_says_so(client):
    body = {**ASKED, "tool_choice": named("get_weather"), "max_tokens": 45, "temperature": 0}
    (choice,) = client.post(CHAT, json=body).json()["choices"]
    assert choice["finish_reason"] == "length"


def test_counting_counts_the_prompt_of_the_call(client):
    for more in ({}, {"tool_choice": named("add")}, {"parallel_tool_calls": True}):
        body = {**ASKED, "tool_choice": "required", **more}
        counted = client.post(f"{CHAT}/input_tokens", json=body).json()["input_tokens"]
        assert counted == client.post(CHAT, json=body).json()["usage"]["prompt_tokens"]


def test_where_nothing_is_forced_the_engine_makes_its_own_calls(client):
    for choice in ("auto", None):
        ((name, arguments),) = whole(client, {**ASKED, "tool_choice": choice, "temperature": 0})
        check(name, arguments)


def test_demo_model_calls_a_tool_by_name(serve, llama_server):
    """Its template tells it of no tools; the names in the call say enough here."""
    service = serve(LLAMA_SERVER=str(llama_server), THREADS="1", CTX="2048").ready()
    headers = {"Authorization": f"Bearer {service.key}"}
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    body = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [tool],
        "tool_choice": named("get_weather"),
        "max_tokens": 100,
        "temperature": 0,
    }
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
        ((name, arguments),) = whole(client, body)
        assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})
        assert streamed(client, body) == [(name, arguments)]


def test_what_is_no_call_is_an_error_and_never_a_call(mock_service):
    """The mock writes what no grammar would let through."""
    headers = {"Authorization": f"Bearer {mock_service.key}"}
    for said in ("It is sunny.", '{"name": "now", "arguments": {"a":', '{"name": "now"}'):
        messages = [{"role": "user", "content": f"mock: delay_ms=50 say={said}"}]
        body = {**ASKED, "messages": messages, "tool_choice": "required"}
        # Each on a connection of its own: that of a broken stream is closed behind it.
        reply = httpx.post(mock_service.url + CHAT, json=body, headers=headers)
        assert reply.status_code == 502
        assert reply.json()["error"]["code"] == "engine_error"
        body["stream"] = True
        stream = httpx.post(mock_service.url + CHAT, json=body, headers=headers).text
        assert "[DONE]" not in stream
        assert '"finish_reason":"' not in stream
        assert "engine_error" in stream


def test_the_mock_writes_the_calls_of_its_script(mock_service):
    headers = {"Authorization": f"Bearer {mock_service.key}"}
    script = 'mock: tool_calls=3 tool_args={"numbers":[1,2]}'
    body = {
        **ASKED,
        "messages": [{"role": "user", "content": script}],
        "tool_choice": named("add"),
        "parallel_tool_calls": True,
    }
    with httpx.Client(base_url=mock_service.url, headers=headers, timeout=60) as client:
        for ask in (whole, streamed):
            assert ask(client, body) == [("add", '{"numbers":[1,2]}')] * 3
