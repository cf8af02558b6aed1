"""The OpenAI SDK on /v1/responses, streamed and not, with turns, tools and structured output.

pip install openai; README.md beside this folder says what must be set.
"""

import json
import os

import openai
from lib.features import breaking_prompt, run
from pydantic import BaseModel

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY)

WEATHER = {
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


def get_weather(city: str) -> str:
    return f"It is sunny in {city}, 21 degrees."


class Capital(BaseModel):
    city: str
    country: str


def chat() -> str:
    """Two turns: nothing is stored, so the second brings the first one's output along."""
    question = {"role": "user", "content": "Name the capital of France."}
    first = client.responses.create(
        model=MODEL, instructions="Be short.", input=[question], temperature=0
    )
    assert first.status == "completed"
    assert first.output_text
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    again = {"role": "user", "content": "Say it once more."}
    second = client.responses.create(
        model=MODEL, input=[question, *first.output, again], max_output_tokens=100, temperature=0
    )
    assert second.output_text
    assert second.usage.input_tokens > first.usage.input_tokens
    return f"{first.output_text} | {second.output_text}"


def stream() -> str:
    with client.responses.stream(
        model=MODEL, input="Name the capital of France.", temperature=0
    ) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert len(deltas) > 3
    assert final.status == "completed"
    assert final.output_text == "".join(deltas)
    assert final.usage.output_tokens > 0
    raw = client.responses.create(
        model=MODEL, input="Name the capital of France.", temperature=0, stream=True
    )
    numbers, kinds = zip(*((event.sequence_number, event.type) for event in raw), strict=True)
    assert list(numbers) == list(range(len(numbers)))
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    return final.output_text


def tools() -> str:
    """The model calls a function, the program runs it, the model answers; then a call streamed."""
    turns = [{"role": "user", "content": "What is the weather in Paris?"}]
    must = {"type": "function", "name": "get_weather"}
    asked = {"model": MODEL, "tools": [WEATHER], "max_output_tokens": 200, "temperature": 0}
    first = client.responses.create(input=turns, tool_choice=must, **asked)
    turns += first.output
    calls = [item for item in first.output if item.type == "function_call"]
    assert calls
    for call in calls:
        assert call.name == "get_weather"
        result = get_weather(**json.loads(call.arguments))
        turns.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    last = client.responses.create(input=turns, tool_choice="none", **asked)
    assert last.output_text
    with client.responses.stream(input=turns[:1], tool_choice=must, **asked) as events:
        kinds = [event.type for event in events]
        streamed = events.get_final_response().output[0]
    assert "response.function_call_arguments.delta" in kinds
    assert json.loads(streamed.arguments)["city"] in ("Paris", "Rome")
    return f"{calls[0].arguments} -> {last.output_text}"


def structured() -> str:
    asked = {"model": MODEL, "input": "What is the capital of France? Answer in JSON."}
    reply = client.responses.parse(text_format=Capital, temperature=0, **asked)
    assert isinstance(reply.output_parsed, Capital)
    with client.responses.stream(text_format=Capital, temperature=0, **asked) as events:
        assert events.get_final_response().output_parsed == reply.output_parsed
    return repr(reply.output_parsed)


def error() -> str:
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="sk-wrong")
    try:
        stranger.responses.create(model=MODEL, input="Hello")
        raise AssertionError("a wrong key was let in")
    except openai.AuthenticationError as failure:
        assert failure.code == "invalid_api_key"
    try:
        client.responses.create(model=MODEL, input="Hello", previous_response_id="resp_1")
        raise AssertionError("a turn that is not stored was let in")
    except openai.BadRequestError as failure:
        assert failure.param == "previous_response_id"
        return f"AuthenticationError, BadRequestError: {failure.message}"


def truncated() -> str:
    asked = {
        "model": MODEL,
        "input": "Tell me a long story.",
        "max_output_tokens": 8,
        "temperature": 0,
    }
    reply = client.responses.create(**asked)
    assert reply.status == "incomplete"
    assert reply.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(**asked, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.status == "incomplete"
    return reply.output_text


def broken() -> str:
    """A stream that breaks off: the pieces came, then the SDK raises."""
    asked = {"model": MODEL, "input": breaking_prompt(), "stream": True}
    kinds = []
    try:
        for event in client.responses.create(**asked):
            kinds.append(event.type)
    except openai.APIError as failure:
        assert "response.output_text.delta" in kinds
        assert "response.completed" not in kinds
        return f"{len(kinds)} events, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {kinds}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
