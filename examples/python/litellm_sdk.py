"""LiteLLM as an SDK, on the chat route.

pip install litellm; README.md beside this folder says what must be set.
"""

import json
import os

# LiteLLM fetches a list of prices from the internet when it is imported, unless told otherwise.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm
from lib.features import breaking_prompt, run
from pydantic import BaseModel

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")

litellm.suppress_debug_info = True  # no advice on standard output

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


def get_weather(city: str) -> str:
    return f"It is sunny in {city}, 21 degrees."


class Capital(BaseModel):
    city: str
    country: str


def ask(text: str | list, name: str = MODEL, key: str = KEY, **options: object):
    """One request; the prefix openai/ means any server that speaks like OpenAI's."""
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    asked = {"api_base": f"{URL}/v1", "api_key": key, "temperature": 0, **options}
    return litellm.completion(f"openai/{name}", messages=messages, **asked)


def chat() -> str:
    reply = ask("Name the capital of France.")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens > 0
    assert reply.choices[0].message.content
    return reply.choices[0].message.content


def stream() -> str:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask("Name the capital of France.", **options))
    whole = litellm.stream_chunk_builder(chunks)
    assert len(chunks) > 3
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens > 0
    assert whole.choices[0].message.content
    return whole.choices[0].message.content


def tools() -> str:
    """The model calls a function, the program runs it, the model answers with what it gave."""
    must = {"type": "function", "function": {"name": "get_weather"}}
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = ask(messages, tools=[WEATHER], tool_choice=must, max_tokens=200).choices[0].message
    assert first.tool_calls
    messages.append(first)
    for call in first.tool_calls:
        assert call.function.name == "get_weather"
        result = get_weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    last = ask(messages, tools=[WEATHER], max_tokens=100).choices[0].message
    assert last.content
    return f"{call.function.arguments} -> {last.content}"


def structured() -> str:
    question = "What is the capital of France? Answer in JSON."
    reply = ask(question, response_format=Capital)
    return repr(Capital.model_validate_json(reply.choices[0].message.content))


def error() -> str:
    try:
        ask("Hello", key="sk-wrong")
        raise AssertionError("a wrong key was let in")
    except litellm.AuthenticationError as failure:
        assert failure.status_code == 401
    try:
        ask("Hello", name="no-such-model")
        raise AssertionError("an unknown model was let in")
    except litellm.NotFoundError as failure:
        assert failure.status_code == 404
    try:
        ask("word " * 100_000)
        raise AssertionError("a prompt that is too long was let in")
    except litellm.ContextWindowExceededError as failure:
        said = failure.message
    return f"AuthenticationError, NotFoundError, ContextWindowExceededError: {said}"


def truncated() -> str:
    reply = ask("Tell me a long story.", max_tokens=8)
    assert reply.choices[0].finish_reason == "length"
    chunks = list(ask("Tell me a long story.", max_tokens=8, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    return reply.choices[0].message.content


def broken() -> str:
    """A stream that breaks off: the pieces came, then an exception."""
    pieces = []
    try:
        for chunk in ask(breaking_prompt(), stream=True):
            pieces.append(chunk.choices[0].delta.content or "")
    except (
        litellm.exceptions.MidStreamFallbackError,
        # An engine can find only while it writes that the context is full.
        litellm.ContextWindowExceededError,
    ) as failure:
        assert "".join(pieces)
        return f"{len(pieces)} pieces, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {pieces}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
