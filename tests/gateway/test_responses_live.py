"""The OpenAI SDK on /v1/responses of a running service: the mock engine, and the demo model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ParsedResponse, Response
from pydantic import BaseModel

from keys import create_first_key
from tests.support.frame_grammar import check_responses
from tests.support.service import ServiceProcess

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city, now.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
MODEL = "smollm2-135m-instruct"
HOSTED: Any = {"type": "web_search"}


class Capital(BaseModel):
    city: str
    country: str


def started(folder: Path, **env: str) -> ServiceProcess:
    service = ServiceProcess(folder, {"THREADS": "1", **env})
    secret = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    assert secret is not None
    service.key = secret
    return service.start()


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with_mock = {"USE_MOCK_MODEL": "true", "CRASH_LIMIT": "1000", "RESTART_BACKOFF_MAX": "0.1"}
    service = started(tmp_path_factory.mktemp("mock"), **with_mock)
    yield service.ready()
    service.kill()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, llama_server: Path) -> Iterator[ServiceProcess]:
    service = started(tmp_path_factory.mktemp("demo"), LLAMA_SERVER=str(llama_server), CTX="4096")
    yield service.ready()
    service.kill()


def client_of(service: ServiceProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)


@pytest.fixture
def client(mock: ServiceProcess) -> Iterator[openai.OpenAI]:
    with client_of(mock) as client:
        yield client


@pytest.fixture
def real(demo: ServiceProcess) -> Iterator[openai.OpenAI]:
    with client_of(demo) as client:
        yield client


def streamed(client: openai.OpenAI, **asked: Any) -> tuple[list[str], ParsedResponse[Any]]:
    """Types of the events, and what the SDK made of them."""
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        return kinds, stream.get_final_response()


# -- the mock engine, which does as it is told


def test_an_answer_comes_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "mock", "input": "mock: reasoning=2 cached=3 say=Hello there"}
    reply = client.responses.create(**asked)
    assert (reply.status, reply.output_text) == ("completed", "Hello there")
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert reply.usage is not None
    assert reply.usage.input_tokens_details.cached_tokens == 3
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    kinds, final = streamed(client, **asked)
    assert final.output_text == "Hello there"
    assert final.usage == reply.usage
    assert "response.reasoning_text.delta" in kinds


def test_a_second_turn_takes_what_came_back(client: openai.OpenAI) -> None:
    question: Any = {"role": "user", "content": "mock: reasoning=2 tokens=3"}
    first = client.responses.create(model="mock", instructions="Be short.", input=[question])
    again: Any = {"role": "user", "content": "mock: say=Twice"}
    turns: Any = [question, *first.output, again]
    second = client.responses.create(model="mock", input=turns)
    assert second.output_text == "Twice"
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    dumped: Any = [question, *(item.model_dump() for item in first.output), again]
    assert client.responses.create(model="mock", input=dumped).output_text == "Twice"


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_tool_loop_with_two_calls_at_once(client: openai.OpenAI, in_pieces: bool) -> None:
    turns: Any = [{"role": "user", "content": 'mock: tool_calls=2 tool_args={"city":"Rome"}'}]
    asked: Any = {"model": "mock", "tools": [WEATHER, HOSTED]}
    if in_pieces:
        kinds, reply = streamed(client, input=turns, **asked)
        assert kinds.count("response.function_call_arguments.done") == 2
        first: Response = reply
    else:
        first = client.responses.create(input=turns, **asked)
    calls = [item for item in first.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Rome"}] * 2
    assert len({call.call_id for call in calls}) == 2
    turns += [item.model_dump(exclude_none=True) for item in first.output]
    for call in calls:
        output = [{"type": "input_text", "text": "sunny"}]
        turns.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    turns.append({"role": "user", "content": "mock: say=It is sunny."})
    assert client.responses.create(input=turns, **asked).output_text == "It is sunny."


def test_dropped_tools_are_named(mock: ServiceProcess) -> None:
    body = {"input": "mock: tokens=1", "tools": [HOSTED, WEATHER], "cache_prompt": False}
    reply = post(mock, body)
    assert reply.status_code == 200
    assert reply.headers["x-ignored-params"] == "cache_prompt, tools[0]"


def test_what_the_limit_cuts_is_incomplete(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "mock",
        "input": "mock: tokens=50",
        "max_output_tokens": 5,
        "temperature": 0,
    }
    reply = client.responses.create(**asked)
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(**asked, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == reply.output_text != ""


def test_a_stream_that_breaks_raises(client: openai.OpenAI, mock: ServiceProcess) -> None:
    asked: Any = {"model": "mock", "input": "mock: tokens=8 error_after=3"}
    kinds: list[str] = []
    with client.responses.create(**asked, stream=True) as events:
        with pytest.raises(openai.APIError) as caught:
            kinds.extend(event.type for event in events)
    assert kinds.count("response.output_text.delta") == 3
    assert caught.value.code
    with pytest.raises(openai.APIError):
        streamed(client, **asked)
    assert check_responses(post(mock, {**asked, "stream": True}).content).ending == "failed"
    assert post(mock, asked).status_code >= 400


def test_every_stream_has_the_grammar_of_its_dialect(mock: ServiceProcess) -> None:
    for text in ("reasoning=2 tokens=3", "tool_calls=3 split=7", "tokens=0", "tokens=9 split=1"):
        body = {"input": f"mock: {text}", "stream": True, "tools": [WEATHER]}
        assert check_responses(post(mock, body).content).ending == "complete", text


def post(service: ServiceProcess, body: Any, path: str = "/v1/responses") -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.key}"}
    return httpx.post(f"{service.url}{path}", json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/input_tokens"])
@pytest.mark.parametrize("name", ["messages", "response_format"])
def test_a_field_of_chat_is_refused_under_its_own_name(
    mock: ServiceProcess, path: str, name: str
) -> None:
    told = post(mock, {"input": "hi", name: []}, path).json()["error"]
    assert told["param"] == name
    assert told["message"] == f"'{name}' is not supported here."


@pytest.mark.parametrize(
    ("asked", "error", "param"),
    [
        ({"model": "other"}, openai.NotFoundError, "model"),
        (
            {"input": [{"type": "item_reference", "id": "x"}]},
            openai.BadRequestError,
            "input[0].type",
        ),
        ({"previous_response_id": "resp_1"}, openai.BadRequestError, "previous_response_id"),
        ({"background": True}, openai.BadRequestError, "background"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools[0].name"),
        ({"text": {"format": {"type": "x"}}}, openai.BadRequestError, "text.format.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            openai.BadRequestError,
            "input[0].content[0].image_url",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_clients_fault_is_its_own(
    client: openai.OpenAI, asked: Any, error: type[openai.APIStatusError], param: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.responses.create(**{"model": "mock", "input": "hi", "stream": stream, **asked})
    assert caught.value.param == param
    assert caught.value.status_code < 500


def test_a_wrong_key_and_a_stored_response(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong").responses.create(model="mock", input="hi")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")


def test_tokens_are_counted_without_an_answer(client: openai.OpenAI) -> None:
    question = "mock: tokens=1"
    counted = client.responses.input_tokens.count(model="mock", input=question)
    reply = client.responses.create(model="mock", input=question)
    assert reply.usage is not None
    assert (counted.object, counted.input_tokens) == (
        "response.input_tokens",
        reply.usage.input_tokens,
    )


def test_a_stream_goes_on_with_the_next_engine(mock: ServiceProcess) -> None:
    body = {"input": "mock: tokens=20 crash_after=5 once=responses", "stream": True}
    headers = {"Authorization": f"Bearer {mock.key}", "X-Continue-Stream": "true"}
    reply = httpx.post(f"{mock.url}/v1/responses", json=body, headers=headers, timeout=30)
    told = check_responses(reply.content)
    last = json.loads(reply.text.strip().rpartition("data: ")[2])
    assert told.ending == "complete", last
    assert last["response"]["x_continued"]["reason"] == "engine_restarted"
    assert told.usage is not None
    assert told.usage[2] == 5 + 20  # the second engine's script begins anew


# -- the demo model


def test_the_model_answers_in_turns(real: openai.OpenAI) -> None:
    question: Any = {"role": "user", "content": "Name the capital of France."}
    asked: Any = {"model": MODEL, "temperature": 0, "max_output_tokens": 60}
    first = real.responses.create(input=[question], **asked)
    assert "Paris" in first.output_text
    kinds, final = streamed(real, input=[question], **asked)
    assert final.output_text == first.output_text
    assert kinds.count("response.output_text.delta") > 3
    turns: Any = [question, *first.output, {"role": "user", "content": "Say it once more."}]
    second = real.responses.create(input=turns, **asked)
    assert second.output_text
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens


def test_the_model_writes_what_the_schema_says(real: openai.OpenAI) -> None:
    asked: Any = {
        "model": MODEL,
        "input": "What is the capital of France? Answer in JSON.",
        "temperature": 0,
        "text_format": Capital,
    }
    parsed = real.responses.parse(**asked).output_parsed
    assert isinstance(parsed, Capital)
    _, final = streamed(real, **asked)
    assert final.output_parsed == parsed


def test_the_model_is_asked_for_logprobs(real: openai.OpenAI) -> None:
    reply = real.responses.create(
        model=MODEL, input="Hi", max_output_tokens=16, top_logprobs=2, temperature=0
    )
    (message,) = reply.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)


def test_the_model_counts_as_it_is_billed(real: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "input": "Hello there", "instructions": "Be short."}
    counted = real.responses.input_tokens.count(**asked)
    reply = real.responses.create(max_output_tokens=16, **asked)
    assert reply.usage is not None
    assert counted.input_tokens == reply.usage.input_tokens


def test_a_prompt_that_does_not_fit_is_a_400_that_clients_know(real: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            real.responses.create(model=MODEL, input="word " * 9000, stream=stream)
        assert caught.value.code == "context_length_exceeded"
        assert "maximum context length" in caught.value.message
