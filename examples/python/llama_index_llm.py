"""LlamaIndex's OpenAILike on the chat route.

pip install llama-index-llms-openai-like; README.md beside this folder says what must be set.
"""

import os

import openai
from lib.features import breaking_prompt, run
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")


def model(**options: object) -> OpenAILike:
    asked = {"model": MODEL, "api_key": KEY, "temperature": 0, **options}
    return OpenAILike(
        api_base=f"{URL}/v1",
        context_window=2048,
        is_chat_model=True,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
        **asked,
    )


def get_weather(city: str) -> str:
    """The weather in a city, now."""
    return f"It is sunny in {city}, 21 degrees."


class Capital(BaseModel):
    city: str
    country: str


def chat() -> str:
    reply = model().chat([ChatMessage("Name the capital of France.")])
    assert reply.message.content
    assert reply.raw.choices[0].finish_reason == "stop"
    return reply.message.content


def stream() -> str:
    pieces = list(model().stream_chat([ChatMessage("Name the capital of France.")]))
    assert len(pieces) > 3
    assert pieces[-1].raw.choices[0].finish_reason == "stop"
    assert "".join(piece.delta or "" for piece in pieces) == pieces[-1].message.content
    return pieces[-1].message.content


def tools() -> str:
    """The model calls a function, the program runs it, the model answers with what it gave."""
    weather = FunctionTool.from_defaults(get_weather)
    short = model(max_tokens=200)
    messages = [ChatMessage("What is the weather in Paris?")]
    first = short.chat_with_tools([weather], chat_history=messages, tool_required=True)
    calls = short.get_tool_calls_from_response(first)
    messages.append(first.message)
    for call in calls:
        assert call.tool_name == "get_weather"
        result = weather.call(**call.tool_kwargs).content
        extra = {"tool_call_id": call.tool_id}
        messages.append(ChatMessage(role="tool", content=result, additional_kwargs=extra))
    last = short.chat_with_tools([weather], chat_history=messages)
    assert last.message.content
    return f"{calls[0].tool_kwargs} -> {last.message.content}"


def structured() -> str:
    question = PromptTemplate("What is the capital of {country}? Answer in JSON.")
    found = model().structured_predict(Capital, question, country="France")
    assert isinstance(found, Capital)
    return repr(found)


def error() -> str:
    try:
        model(api_key="sk-wrong").chat([ChatMessage("Hello")])
        raise AssertionError("a wrong key was let in")
    except openai.AuthenticationError as failure:
        assert failure.code == "invalid_api_key"
    try:
        model(model="no-such-model").chat([ChatMessage("Hello")])
        raise AssertionError("an unknown model was let in")
    except openai.NotFoundError as failure:
        assert failure.code == "model_not_found"
        return f"AuthenticationError, NotFoundError: {failure.message}"


def truncated() -> str:
    messages = [ChatMessage("Tell me a long story.")]
    reply = model(max_tokens=8).chat(messages)
    assert reply.raw.choices[0].finish_reason == "length"
    pieces = list(model(max_tokens=8).stream_chat(messages))
    assert pieces[-1].raw.choices[0].finish_reason == "length"
    return reply.message.content


def broken() -> str:
    """A stream that breaks off: the pieces came, then an exception."""
    pieces = []
    try:
        for piece in model().stream_chat([ChatMessage(breaking_prompt())]):
            pieces.append(piece.delta or "")
    except openai.APIError as failure:
        assert "".join(pieces)
        return f"{len(pieces)} pieces, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {pieces}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
