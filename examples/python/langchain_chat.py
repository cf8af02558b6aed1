"""LangChain's ChatOpenAI on the chat route.

pip install langchain-openai; README.md beside this folder says what must be set.
"""

import os

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from lib.features import breaking_prompt, run
from pydantic import BaseModel

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")


def model(**options: object) -> ChatOpenAI:
    asked = {"model": MODEL, "api_key": KEY, "temperature": 0, **options}
    return ChatOpenAI(base_url=f"{URL}/v1", **asked)


@tool
def get_weather(city: str) -> str:
    """The weather in a city, now."""
    return f"It is sunny in {city}, 21 degrees."


class Capital(BaseModel):
    city: str
    country: str


def chat() -> str:
    reply = model().invoke("Name the capital of France.")
    assert reply.content
    assert reply.response_metadata["finish_reason"] == "stop"
    assert reply.usage_metadata["output_tokens"] > 0
    return reply.content


def stream() -> str:
    whole, pieces = None, 0
    for chunk in model(stream_usage=True).stream("Name the capital of France."):
        whole = chunk if whole is None else whole + chunk
        pieces += 1
    assert pieces > 3
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata["output_tokens"] > 0
    return whole.content


def tools() -> str:
    """The model calls a function, the program runs it, the model answers with what it gave."""
    short = model(max_tokens=200)
    messages = [HumanMessage("What is the weather in Paris?")]
    first = short.bind_tools([get_weather], tool_choice="get_weather").invoke(messages)
    assert first.tool_calls
    messages.append(first)
    for call in first.tool_calls:
        result = get_weather.invoke(call)
        assert isinstance(result, ToolMessage)
        messages.append(result)
    last = short.bind_tools([get_weather]).invoke(messages)
    assert last.content
    return f"{first.tool_calls[0]['args']} -> {last.content}"


def structured() -> str:
    question = "What is the capital of France? Answer in JSON."
    for method in ("json_schema", "function_calling"):
        found = model().with_structured_output(Capital, method=method).invoke(question)
        assert isinstance(found, Capital), method
    return repr(found)


def error() -> str:
    try:
        model(api_key="sk-wrong").invoke("Hello")
        raise AssertionError("a wrong key was let in")
    except openai.AuthenticationError as failure:
        assert failure.code == "invalid_api_key"
    try:
        model(model="no-such-model").invoke("Hello")
        raise AssertionError("an unknown model was let in")
    except openai.NotFoundError as failure:
        assert failure.code == "model_not_found"
        return f"AuthenticationError, NotFoundError: {failure.message}"


def truncated() -> str:
    reply = model(max_tokens=8).invoke("Tell me a long story.")
    assert reply.response_metadata["finish_reason"] == "length"
    chunks = list(model(max_tokens=8).stream("Tell me a long story."))
    assert "length" in [chunk.response_metadata.get("finish_reason") for chunk in chunks]
    return reply.content


def broken() -> str:
    """A stream that breaks off: the pieces came, then an exception."""
    pieces = []
    try:
        for chunk in model().stream(breaking_prompt()):
            pieces.append(chunk.content)
    except openai.APIError as failure:
        assert "".join(pieces)
        return f"{len(pieces)} pieces, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {pieces}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
