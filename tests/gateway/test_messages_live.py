"""/v1/messages on a real service: on the mock engine for what it can be told to do, on the demo
model for what only a real engine shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from keys import create_first_key
from tests.support.engine_stats import engine_stats
from tests.support.frame_grammar import Told, check_messages, told_by_message
from tests.support.service import ServiceProcess

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
TOOL = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CITIES = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "count": {"type": "integer"}},
    "required": ["color", "count"],
    "additionalProperties": False,
}


class Client:
    def __init__(self, service: ServiceProcess) -> None:
        self.service = service

    def post(self, path: str = PATH, **more: Any) -> httpx.Response:
        headers = {"x-api-key": self.service.key, **more.pop("headers", {})}
        return httpx.post(self.service.url + path, headers=headers, timeout=60, **more)

    def ask(self, words: str, path: str = PATH, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": words}]
        return self.post(path, json={"max_tokens": 40, "messages": messages, **body})

    def answer(self, words: str = "Say hi.", **body: Any) -> dict[str, Any]:
        reply = self.ask(words, **body)
        assert reply.status_code == 200, reply.text
        made: dict[str, Any] = reply.json()
        return made

    def stream(self, words: str = "Say hi.", **body: Any) -> Told:
        reply = self.ask(words, stream=True, **body)
        assert reply.headers["content-type"].startswith("text/event-stream")
        return check_messages(reply.content)


def started(folder: Path, **env: str) -> Iterator[Client]:
    secret = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    assert secret is not None
    with ServiceProcess(folder, env) as service:
        service.key = secret
        yield Client(service.ready())


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    yield from started(tmp_path_factory.mktemp("mock"), USE_MOCK_MODEL="true")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    yield from started(tmp_path_factory.mktemp("demo"), THREADS="1")


# -- the demo model


def test_an_answer_streamed_or_not_is_the_same(demo: Client) -> None:
    body: dict[str, Any] = {"temperature": 0, "system": "You are brief."}
    demo.answer(**body)  # from here on the prompt is cached
    whole = told_by_message(orjson.dumps(demo.answer(**body)))
    streamed = demo.stream(**body)
    assert streamed.text == whole.text != ""
    assert streamed.ending == whole.ending
    assert streamed.usage == whole.usage
    assert whole.usage is not None
    assert whole.usage[1] > 0


def test_counting_tells_what_the_answer_s_prompt_has(demo: Client) -> None:
    body: dict[str, Any] = {"system": "Be kind.", "tools": [TOOL]}
    counted = demo.ask("Say hi.", COUNT, **body)
    assert counted.status_code == 200, counted.text
    usage = demo.answer(**body)["usage"]
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert counted.json()["input_tokens"] == prompt


def test_the_token_limit_is_told(demo: Client) -> None:
    assert demo.answer("Count to one hundred.", max_tokens=3)["stop_reason"] == "max_tokens"
    assert demo.stream("Count to one hundred.", max_tokens=3).ending == "length"


def test_a_stop_sequence_is_named_and_not_part_of_the_text(demo: Client) -> None:
    # a likely answer, not a sampled one: "The capital of France is Paris."
    asked = "What is the capital of France?"
    made = demo.answer(asked, temperature=0, stop_sequences=["zzzz", " "], max_tokens=200)
    assert (made["stop_reason"], made["stop_sequence"]) == ("stop_sequence", " ")
    assert " " not in "".join(block["text"] for block in made["content"])


def test_a_begun_answer_goes_on_without_being_repeated(demo: Client) -> None:
    turns = [
        {"role": "user", "content": "Count from one to ten in words."},
        {"role": "assistant", "content": "One, two, three, four,"},
    ]
    body = {"messages": turns, "max_tokens": 8, "temperature": 0}
    made = demo.post(json=body).json()
    assert not made["content"][0]["text"].startswith("One")
    streamed = check_messages(demo.post(json={**body, "stream": True}).content)
    assert not streamed.text.startswith("One")


def test_the_answer_has_the_asked_format(demo: Client) -> None:
    config = {"format": {"type": "json_schema", "schema": SCHEMA}}
    made = demo.answer("A color and a count, please.", output_config=config, max_tokens=200)
    answer = orjson.loads(made["content"][0]["text"])
    assert answer["color"] in ("red", "blue")
    assert isinstance(answer["count"], int)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_call_that_must_come_comes(demo: Client, choice: dict[str, str]) -> None:
    body = {"tools": [CITIES], "tool_choice": choice, "max_tokens": 300, "temperature": 0}
    made = demo.answer("What is the weather in Rome?", **body)
    assert made["stop_reason"] == "tool_use"
    (used,) = made["content"]  # nothing is said beside it
    assert (used["type"], used["name"]) == ("tool_use", "get_weather")
    assert used["input"] in ({"city": "Rome"}, {"city": "Oslo"})
    streamed = demo.stream("What is the weather in Rome?", **body)
    assert (streamed.ending, streamed.text) == ("complete", "")
    ((name, arguments),) = streamed.calls
    assert (name, orjson.loads(arguments)) == (used["name"], used["input"])


def test_a_prompt_that_is_too_long_is_the_client_s_fault(demo: Client) -> None:
    reply = demo.ask("word " * 40_000)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("prompt is too long: This model's maximum")


# -- the mock engine


def test_a_loop_of_two_turns_with_calls_side_by_side(mock: Client) -> None:
    words = "weather? mock: reasoning=3 tool_calls=2"
    made = mock.answer(words, tools=[TOOL])
    assert made["stop_reason"] == "tool_use"
    kinds = [block["type"] for block in made["content"]]
    assert kinds == ["thinking", "tool_use", "tool_use"]
    streamed = mock.stream(words, tools=[TOOL])
    assert [(name, orjson.loads(arguments)) for name, arguments in streamed.calls] == [
        (block["name"], block["input"]) for block in made["content"][1:]
    ]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "rain"}
        for block in made["content"][1:]
    ]
    turns = [
        {"role": "user", "content": words},
        {"role": "assistant", "content": made["content"]},
        {"role": "user", "content": [*results, {"type": "text", "text": "mock: say=It rains."}]},
    ]
    second = mock.answer(messages=turns, tools=[TOOL])
    assert second["stop_reason"] == "end_turn"
    assert second["content"] == [{"type": "text", "text": "It rains."}]


@pytest.mark.parametrize("words", ["error_after=3", "cut_after=900", "tool_calls=1 cut_after=1200"])
def test_an_answer_that_breaks_off_never_looks_complete(mock: Client, words: str) -> None:
    reply = mock.ask(f"mock: {words}", stream=True, tools=[TOOL])
    assert check_messages(reply.content).ending == "failed"
    assert b"event: error\n" in reply.content
    last = orjson.loads(reply.content.rstrip().rpartition(b"data: ")[2])
    assert last["request_id"] == reply.headers["request-id"]
    assert mock.ask(f"mock: {words}", tools=[TOOL]).status_code >= 400


def test_senseless_arguments_are_a_failure(mock: Client) -> None:
    words = "mock: tool_calls=1 tool_args=[1]"
    assert mock.stream(words, tools=[TOOL]).ending == "failed"
    reply = mock.ask(words, tools=[TOOL])
    assert reply.status_code == 502
    assert reply.json()["error"]["type"] == "api_error"


def test_dropped_fields_are_named(mock: Client) -> None:
    reply = mock.ask("hi", metadata={"user_id": "u"}, n_probs=3, tools=[{"type": "bash_20250124"}])
    assert reply.status_code == 200
    assert reply.headers["x-ignored-params"] == "n_probs, tools[0]"


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no key": ({"headers": {"x-api-key": ""}}, 401, "authentication_error"),
    "another model": (
        {"json": {"model": "x", "messages": [{"role": "user", "content": "a"}]}},
        404,
        "not_found_error",
    ),
    "no JSON": (
        {"content": b"{", "headers": {"content-type": "application/json"}},
        400,
        "invalid_request_error",
    ),
    "another type": (
        {"content": b"{}", "headers": {"content-type": "text/plain"}},
        415,
        "invalid_request_error",
    ),
    "too large": (
        {"content": b" " * (70 << 20), "headers": {"content-type": "application/json"}},
        413,
        "request_too_large",
    ),
    "a wrong block": (
        {"json": {"messages": [{"role": "user", "content": [{"type": "x"}]}]}},
        400,
        "invalid_request_error",
    ),
    "the engine's refusal": (
        {"json": {"messages": [{"role": "user", "content": "mock: error=400"}]}},
        400,
        "invalid_request_error",
    ),
    "the engine is away": (
        {"json": {"messages": [{"role": "user", "content": "mock: error=503"}]}},
        503,
        "overloaded_error",
    ),
}


@pytest.mark.parametrize(("request_", "status", "kind"), REFUSED.values(), ids=list(REFUSED))
def test_refusals_come_in_anthropic_s_envelope(
    mock: Client, request_: dict[str, Any], status: int, kind: str
) -> None:
    assert_envelope(mock.post(**request_), status, kind)


def assert_envelope(reply: httpx.Response, status: int, kind: str) -> None:
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["request_id"] == reply.headers["request-id"] == reply.headers["x-request-id"]


def test_other_methods_are_refused_in_it_too(mock: Client) -> None:
    reply = httpx.get(mock.service.url + PATH, headers={"x-api-key": mock.service.key})
    assert_envelope(reply, 405, "invalid_request_error")


def test_too_many_requests_are_refused_in_it_too(tmp_path: Path) -> None:
    for client in started(tmp_path, USE_MOCK_MODEL="true", MAX_REQUESTS_PER_MINUTE="1"):
        replies = [client.ask("hi") for _ in range(3)]
        assert_envelope(replies[-1], 429, "rate_limit_error")
        assert_envelope(client.ask("hi", COUNT), 429, "rate_limit_error")


def test_a_query_is_dropped_and_no_version_is_needed(mock: Client) -> None:
    assert mock.ask("hi", f"{PATH}?beta=true").status_code == 200
    assert mock.ask("hi", f"{COUNT}?beta=true").json()["input_tokens"] > 0


def test_counting_makes_no_work(mock: Client) -> None:
    before = engine_stats(mock.service)["tokens"]
    assert mock.ask("hi", COUNT).status_code == 200
    assert engine_stats(mock.service)["tokens"] == before
