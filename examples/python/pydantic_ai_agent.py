"""Pydantic AI on the chat route.

pip install "pydantic-ai-slim[openai]"; README.md beside this folder says what must be set.
"""

import os

import openai
from lib.features import breaking_prompt, run
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, RunContext, ToolOutput
from pydantic_ai.messages import ToolCallPart, ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")


def agent(name: str = MODEL, key: str = KEY, **options: object) -> Agent:
    provider = OpenAIProvider(base_url=f"{URL}/v1", api_key=key)
    settings = {"temperature": 0, "max_tokens": 200}
    return Agent(
        OpenAIChatModel(name, provider=provider), **{"model_settings": settings, **options}
    )


class Capital(BaseModel):
    city: str
    country: str


def chat() -> str:
    result = agent().run_sync("Name the capital of France.")
    assert result.output
    assert result.response.finish_reason == "stop"
    assert result.usage.output_tokens > 0
    return result.output


def stream() -> str:
    result = agent().run_stream_sync("Name the capital of France.")
    pieces = list(result.stream_text(delta=True, debounce_by=None))
    assert len(pieces) > 3
    assert result.response.finish_reason == "stop"
    assert result.usage.output_tokens > 0
    return "".join(pieces)


def call_first(context: RunContext) -> ModelSettings:
    """The first step must call a tool; after that the model may answer."""
    choice = "required" if context.run_step <= 1 else "none"
    return {"tool_choice": choice, "max_tokens": 200, "temperature": 0}


def tools() -> str:
    """The model calls a function, the agent runs it, the model answers with what it gave."""

    def get_weather(city: str) -> str:
        """The weather in a city, now."""
        return f"It is sunny in {city}, 21 degrees."

    result = agent(tools=[get_weather], model_settings=call_first).run_sync(
        "What is the weather in Paris?"
    )
    parts = [part for message in result.all_messages() for part in message.parts]
    (call,) = [part for part in parts if isinstance(part, ToolCallPart)]
    (returned,) = [part for part in parts if isinstance(part, ToolReturnPart)]
    assert "sunny" in returned.content
    assert result.output
    return f"{call.args} -> {result.output}"


def structured() -> str:
    question = "What is the capital of France? Answer in JSON."
    for way in (NativeOutput(Capital), ToolOutput(Capital)):
        found = agent(output_type=way).run_sync(question).output
        assert isinstance(found, Capital)
    return repr(found)


def error() -> str:
    try:
        agent(key="sk-wrong").run_sync("Hello")
        raise AssertionError("a wrong key was let in")
    except ModelHTTPError as failure:
        assert (failure.status_code, failure.body["code"]) == (401, "invalid_api_key")
    try:
        agent("no-such-model").run_sync("Hello")
        raise AssertionError("an unknown model was let in")
    except ModelHTTPError as failure:
        assert (failure.status_code, failure.body["code"]) == (404, "model_not_found")
        return f"ModelHTTPError twice, {failure.body['message']}"


def truncated() -> str:
    settings = {"max_tokens": 8, "temperature": 0}
    result = agent().run_sync("Tell me a long story.", model_settings=settings)
    assert result.response.finish_reason == "length"
    streamed = agent().run_stream_sync("Tell me a long story.", model_settings=settings)
    assert list(streamed.stream_text())
    assert streamed.response.finish_reason == "length"
    return result.output


def broken() -> str:
    """A stream that breaks off: the pieces came, then an exception."""
    pieces = []
    try:
        result = agent().run_stream_sync(breaking_prompt())
        for text in result.stream_text(delta=True, debounce_by=None):
            pieces.append(text)
    except openai.APIError as failure:
        assert pieces
        return f"{len(pieces)} pieces, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {pieces}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
