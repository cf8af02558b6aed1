"""OpenAI's Agents SDK, on /v1/responses or on the chat route.

pip install openai-agents; README.md beside this folder says what must be set. Which of the two
routes it speaks is chosen by AGENTS_API: responses (what the SDK does by itself) or chat.
"""

import asyncio
import os
import sys

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from agents.exceptions import ModelBehaviorError
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY", "")
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")
API = os.environ.get("AGENTS_API", "responses")

set_tracing_disabled(True)  # traces go to OpenAI otherwise


def agent(name: str = MODEL, key: str = KEY, *, limit: int = 200, **options: object) -> Agent:
    # A client that is not closed complains when its loop has ended, so each run has its own.
    client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=key)
    speaks = OpenAIResponsesModel if API == "responses" else OpenAIChatCompletionsModel
    choice = "required" if "tools" in options else None
    settings = ModelSettings(
        temperature=0, max_tokens=limit, tool_choice=choice, include_usage=True
    )
    model = speaks(model=name, openai_client=client)
    return Agent(
        name="Helper", instructions="Be short.", model=model, model_settings=settings, **options
    )


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city, now."""
    return f"It is sunny in {city}, 21 degrees."


class Capital(BaseModel):
    city: str
    country: str


def chat() -> str:
    """Two turns: the second brings the first one's items along."""
    helper = agent()

    async def talk() -> tuple:
        first = await Runner.run(helper, "Name the capital of France.")
        again = [*first.to_input_list(), {"role": "user", "content": "Say it once more."}]
        return first, await Runner.run(helper, again)

    first, second = asyncio.run(talk())
    assert first.final_output
    assert second.final_output
    assert first.context_wrapper.usage.output_tokens > 0
    return f"{first.final_output} | {second.final_output}"


def stream() -> str:
    async def read() -> tuple:
        result = Runner.run_streamed(agent(), "Name the capital of France.")
        pieces = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
        ]
        return pieces, result

    pieces, result = asyncio.run(read())
    assert len(pieces) > 3
    assert "".join(pieces) == result.final_output
    assert result.context_wrapper.usage.output_tokens > 0
    return result.final_output


def tools() -> str:
    """The model must call a function, the SDK runs it, the model answers; then streamed."""
    question = "What is the weather in Paris?"
    result = Runner.run_sync(agent(tools=[get_weather]), question)
    assert "tool_call_output_item" in [item.type for item in result.new_items]
    assert result.final_output

    async def read() -> list:
        streamed = Runner.run_streamed(agent(tools=[get_weather]), question)
        return [event.name async for event in streamed.stream_events() if hasattr(event, "name")]

    names = asyncio.run(read())
    assert {"tool_called", "tool_output", "message_output_created"} <= set(names)
    return result.final_output


def structured() -> str:
    question = "What is the capital of France? Answer in JSON."
    found = Runner.run_sync(agent(output_type=Capital), question).final_output
    assert isinstance(found, Capital)
    return repr(found)


def error() -> str:
    try:
        Runner.run_sync(agent(key="sk-wrong"), "Hello")
        raise AssertionError("a wrong key was let in")
    except openai.AuthenticationError as failure:
        assert failure.code == "invalid_api_key"
    try:
        Runner.run_sync(agent("no-such-model"), "Hello")
        raise AssertionError("an unknown model was let in")
    except openai.NotFoundError as failure:
        assert failure.code == "model_not_found"
        return f"AuthenticationError, NotFoundError: {failure.message}"


def truncated() -> str:
    """The SDK has no word for an answer that was cut off, but half an object is no object."""
    question = "What is the capital of France? Answer in JSON."
    try:
        result = Runner.run_sync(agent(limit=4, output_type=Capital), question)
    except ModelBehaviorError as failure:
        return f"{type(failure).__name__}: {failure}"
    raise AssertionError(f"half an answer looked complete: {result.final_output}")


def broken() -> str:
    """A stream that breaks off: the pieces came, then an exception."""
    kinds = []

    async def read() -> None:
        result = Runner.run_streamed(agent(), os.environ["LLAMA_GATEWAY_BROKEN_PROMPT"])
        async for event in result.stream_events():
            kinds.append(event.data.type if event.type == "raw_response_event" else event.type)

    try:
        asyncio.run(read())
    except openai.APIError as failure:
        assert "response.output_text.delta" in kinds
        return f"{len(kinds)} events, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {kinds}")


if __name__ == "__main__":
    features = [chat, stream, tools, structured, error, truncated]
    if "LLAMA_GATEWAY_BROKEN_PROMPT" in os.environ:
        features.append(broken)
    for feature in features:
        if feature.__name__ in (sys.argv[1:] or [each.__name__ for each in features]):
            print(f"{feature.__name__}: ok, {feature()!r}", flush=True)
