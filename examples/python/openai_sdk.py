"""The OpenAI SDK on the chat route: works with openai 1, 2 and 3.

pip install openai; see README.md beside this folder for what must be set, then
``python openai_sdk.py`` runs everything, ``python openai_sdk.py chat stream`` only that.
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
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def get_weather(city: str) -> str:
    return f"It is sunny in {city}, 21 degrees."


class Capital(BaseModel):
    city: str
    country: str


def user(text: str) -> list:
    return [{"role": "user", "content": text}]


def chat() -> str:
    messages = user("Name the capital of France.")
    reply = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens > reply.usage.prompt_tokens > 0
    assert reply.choices[0].message.content
    return reply.choices[0].message.content


def stream() -> str:
    options = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    messages = user("Name the capital of France.")
    pieces, finish, usage = [], None, None
    for chunk in client.chat.completions.create(model=MODEL, messages=messages, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    assert finish == "stop"
    assert usage.completion_tokens > 0
    assert len(pieces) > 3
    return "".join(pieces)


def tools() -> str:
    """The model calls a function, the program runs it, the model answers with what it gave."""
    asked = {"model": MODEL, "tools": [WEATHER], "max_tokens": 200, "temperature": 0}
    create = client.chat.completions.create
    messages = user("What is the weather in Paris?")
    must = {"type": "function", "function": {"name": "get_weather"}}
    first = create(messages=messages, tool_choice=must, **asked).choices[0]
    assert first.finish_reason == "tool_calls"  # OpenAI says "stop" of a forced call
    messages.append(first.message)
    for call in first.message.tool_calls:
        assert call.function.name == "get_weather"
        result = get_weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    last = create(messages=messages, **asked)
    assert last.choices[0].message.content
    streamed = create(messages=messages[:1], tool_choice=must, stream=True, **asked)
    choices = [chunk.choices[0] for chunk in streamed]
    assert choices[-1].finish_reason == "tool_calls"
    pieces = [piece for choice in choices for piece in choice.delta.tool_calls or []]
    assert pieces[0].function.name == "get_weather"
    json.loads("".join(piece.function.arguments or "" for piece in pieces if piece.index == 0))
    return f"{call.function.arguments} -> {last.choices[0].message.content}"


def structured() -> str:
    parse = getattr(client.chat.completions, "parse", None) or client.beta.chat.completions.parse
    messages = user("What is the capital of France? Answer in JSON.")
    reply = parse(model=MODEL, messages=messages, response_format=Capital, temperature=0)
    assert isinstance(reply.choices[0].message.parsed, Capital)
    return repr(reply.choices[0].message.parsed)


def error() -> str:
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="sk-wrong")
    try:
        stranger.chat.completions.create(model=MODEL, messages=user("Hello"))
        raise AssertionError("a wrong key was let in")
    except openai.AuthenticationError as failure:
        assert failure.code == "invalid_api_key"
        assert failure.request_id
    try:
        client.chat.completions.create(model="no-such-model", messages=user("Hello"))
        raise AssertionError("an unknown model was let in")
    except openai.NotFoundError as failure:
        assert failure.code == "model_not_found"
        return f"AuthenticationError, NotFoundError: {failure.message}"


def truncated() -> str:
    messages = user("Tell me a long story.")
    create = client.chat.completions.create
    reply = create(model=MODEL, messages=messages, max_tokens=8, temperature=0)
    assert reply.choices[0].finish_reason == "length"
    chunks = list(create(model=MODEL, messages=messages, max_tokens=8, temperature=0, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    return reply.choices[0].message.content


def broken() -> str:
    """A stream that breaks off: the pieces came, then the SDK raises."""
    messages = user(breaking_prompt())
    pieces = []
    try:
        for chunk in client.chat.completions.create(model=MODEL, messages=messages, stream=True):
            pieces.append(chunk.choices[0].delta.content or "")
    except openai.APIError as failure:
        assert "".join(pieces)
        return f"{len(pieces)} pieces, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {pieces}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
