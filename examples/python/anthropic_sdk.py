"""Anthropic's SDK on /v1/messages.

pip install anthropic; README.md beside this folder says what must be set. The base URL must not
end in /v1 here.
"""

import os

import anthropic
from lib.features import breaking_prompt, run
from pydantic import BaseModel

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")

client = anthropic.Anthropic(base_url=URL, api_key=KEY)

# The SDK has no word for sampling any more; what llama-server knows goes into extra_body.
GREEDY = {"extra_body": {"temperature": 0}}

WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city, now.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def get_weather(city: str) -> str:
    return f"It is sunny in {city}, 21 degrees."


class Capital(BaseModel):
    city: str
    country: str


def user(text: str) -> list:
    return [{"role": "user", "content": text}]


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def chat() -> str:
    messages = user("Name the capital of France.")
    counted = client.messages.count_tokens(model=MODEL, system="Be short.", messages=messages)
    reply = client.messages.create(
        model=MODEL, max_tokens=100, system="Be short.", messages=messages, **GREEDY
    )
    assert reply.stop_reason == "end_turn"
    assert text_of(reply)
    assert reply.usage.output_tokens > 0
    cached = reply.usage.cache_read_input_tokens or 0
    assert reply.usage.input_tokens + cached == counted.input_tokens
    return text_of(reply)


def stream() -> str:
    messages = user("Name the capital of France.")
    with client.messages.stream(model=MODEL, max_tokens=100, messages=messages, **GREEDY) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    assert len(pieces) > 3
    assert final.stop_reason == "end_turn"
    assert text_of(final) == "".join(pieces)
    assert final.usage.output_tokens > 0
    return text_of(final)


def tools() -> str:
    """The model calls a function, the program runs it, the model answers; then a call streamed."""
    messages = user("What is the weather in Paris?")
    must = {"type": "tool", "name": "get_weather"}
    asked = {"model": MODEL, "max_tokens": 200, "tools": [WEATHER], **GREEDY}
    first = client.messages.create(messages=messages, tool_choice=must, **asked)
    assert first.stop_reason == "tool_use"
    calls = [block for block in first.content if block.type == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": get_weather(**call.input)}
        for call in calls
    ]
    assert results
    turns = [
        *messages,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": results},
    ]
    last = client.messages.create(messages=turns, tool_choice={"type": "none"}, **asked)
    assert text_of(last)
    with client.messages.stream(messages=messages, tool_choice=must, **asked) as events:
        streamed = events.get_final_message()
    assert streamed.stop_reason == "tool_use"
    assert streamed.content[-1].input["city"] in ("Paris", "Rome")
    return f"{calls[0].input} -> {text_of(last)}"


def structured() -> str:
    messages = user("What is the capital of France? Answer in JSON.")
    reply = client.messages.parse(
        model=MODEL, max_tokens=200, messages=messages, output_format=Capital, **GREEDY
    )
    assert isinstance(reply.parsed_output, Capital)
    return repr(reply.parsed_output)


def error() -> str:
    stranger = anthropic.Anthropic(base_url=URL, api_key="sk-wrong")
    asked = {"max_tokens": 10, "messages": user("Hello")}
    try:
        stranger.messages.create(model=MODEL, **asked)
        raise AssertionError("a wrong key was let in")
    except anthropic.AuthenticationError as failure:
        assert failure.body["error"]["type"] == "authentication_error"
        assert failure.request_id
    try:
        client.messages.create(model="no-such-model", **asked)
        raise AssertionError("an unknown model was let in")
    except anthropic.NotFoundError as failure:
        assert failure.body["error"]["type"] == "not_found_error"
        return f"AuthenticationError, NotFoundError: {failure.body['error']['message']}"


def truncated() -> str:
    asked = {"model": MODEL, "max_tokens": 8, "messages": user("Tell me a long story."), **GREEDY}
    reply = client.messages.create(**asked)
    assert reply.stop_reason == "max_tokens"
    with client.messages.stream(**asked) as events:
        assert events.get_final_message().stop_reason == "max_tokens"
    return text_of(reply)


def broken() -> str:
    """A stream that breaks off: the pieces came, then the SDK raises."""
    messages = user(breaking_prompt())
    pieces = []
    try:
        with client.messages.stream(model=MODEL, max_tokens=100, messages=messages) as events:
            for text in events.text_stream:
                pieces.append(text)
    except anthropic.APIStatusError as failure:
        assert pieces
        return f"{len(pieces)} pieces, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {pieces}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
