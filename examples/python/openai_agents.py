"""OpenAI's Agents SDK, on /v1/responses or on the chat route.

pip install openai-agents; README.md beside this folder says what must be set. Which of the two
routes it speaks is chosen by AGENTS_API: responses (what the SDK does by itself) or chat.
"""

import asyncio
import logging
import os

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
from lib.features import Skipped, breaking_prompt, run
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")
API = os.environ.get("AGENTS_API", "responses")

set_tracing_disabled(True)  # traces go to OpenAI otherwise
logging.getLogger("openai.agents").setLevel(logging.CRITICAL)  # it raises failures as well

# Its connections belong to the event loop that opened them, so everything here runs in one loop,
# and the client is closed before that ends.
gateway = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY)
stranger = gateway.with_options(api_key="sk-wrong")


def agent(
    name: str = MODEL,
    client: openai.AsyncOpenAI = gateway,
    *,
    limit: int = 200,
    **options: object,
) -> Agent:
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


async def chat() -> str:
    """Two turns: the second brings the first one's items along."""
    first = await Runner.run(agent(), "Name the capital of France.")
    again = [*first.to_input_list(), {"role": "user", "content": "Say it once more."}]
    second = await Runner.run(agent(), again)
    assert first.final_output
    assert second.final_output
    assert first.context_wrapper.usage.output_tokens > 0
    return f"{first.final_output} | {second.final_output}"


async def stream() -> str:
    result = Runner.run_streamed(agent(), "Name the capital of France.")
    pieces = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
    ]
    assert len(pieces) > 3
    assert "".join(pieces) == result.final_output
    assert result.context_wrapper.usage.output_tokens > 0
    return result.final_output


async def tools() -> str:
    """The model must call a function, the SDK runs it, the model answers; then streamed."""
    question = "What is the weather in Paris?"
    result = await Runner.run(agent(tools=[get_weather]), question)
    assert "tool_call_output_item" in [item.type for item in result.new_items]
    assert result.final_output
    streamed = Runner.run_streamed(agent(tools=[get_weather]), question)
    names = [event.name async for event in streamed.stream_events() if hasattr(event, "name")]
    assert {"tool_called", "tool_output", "message_output_created"} <= set(names)
    return result.final_output


async def structured() -> str:
    question = "What is the capital of France? Answer in JSON."
    found = (await Runner.run(agent(output_type=Capital), question)).final_output
    assert isinstance(found, Capital)
    return repr(found)


async def error() -> str:
    try:
        await Runner.run(agent(client=stranger), "Hello")
        raise AssertionError("a wrong key was let in")
    except openai.AuthenticationError as failure:
        assert failure.code == "invalid_api_key"
    try:
        await Runner.run(agent("no-such-model"), "Hello")
        raise AssertionError("an unknown model was let in")
    except openai.NotFoundError as failure:
        assert failure.code == "model_not_found"
        return f"AuthenticationError, NotFoundError: {failure.message}"


async def truncated() -> str:
    """Half an object is no object; half a text is an error only where Responses are streamed."""
    question = "What is the capital of France? Answer in JSON."
    try:
        result = await Runner.run(agent(limit=4, output_type=Capital), question)
        raise AssertionError(f"half an object looked complete: {result.final_output}")
    except ModelBehaviorError as failure:
        seen = f"{type(failure).__name__}: {failure}"
    if API == "chat":
        raise Skipped("the SDK does not tell that plain text was cut on the chat route")
    cut = Runner.run_streamed(agent(limit=4), "Tell me a long story.")
    try:
        async for _ in cut.stream_events():
            pass
    except ModelBehaviorError as failure:
        assert "max_output_tokens" in str(failure)
        return f"{seen}; {type(failure).__name__}: {failure}"
    raise AssertionError(f"half a text looked complete: {cut.final_output}")


async def broken() -> str:
    """A stream that breaks off: the pieces came, then an exception."""
    result = Runner.run_streamed(agent(), breaking_prompt())
    kinds = []
    try:
        async for event in result.stream_events():
            kinds.append(event.data.type if event.type == "raw_response_event" else event.type)
    except openai.APIError as failure:
        assert "response.output_text.delta" in kinds
        return f"{len(kinds)} events, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {kinds}")


if __name__ == "__main__":
    features = [chat, stream, tools, structured, error, truncated, broken]
    with asyncio.Runner() as loop:
        try:
            run(*features, call=lambda feature: loop.run(feature()))
        finally:
            loop.run(gateway.close())
