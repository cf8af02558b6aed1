"""Instructor on the chat route: answers that are objects.

pip install instructor; README.md beside this folder says what must be set.
"""

import logging
import os

import instructor
import openai
from instructor.core import IncompleteOutputException, InstructorRetryException
from lib.features import breaking_prompt, run
from pydantic import BaseModel

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")

# It logs each failure besides raising it.
logging.getLogger("instructor").setLevel(logging.CRITICAL)


def client(mode: instructor.Mode, key: str = KEY) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key=key), mode=mode)


class Capital(BaseModel):
    city: str
    country: str


class GetWeather(BaseModel):
    """The weather in a city, now."""

    city: str

    def run(self) -> str:
        return f"It is sunny in {self.city}, 21 degrees."


class Report(BaseModel):
    answer: str


ASKED = {"model": MODEL, "temperature": 0, "max_tokens": 200, "max_retries": 0}
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in JSON."}]


def chat() -> str:
    create = client(instructor.Mode.JSON_SCHEMA).chat.completions.create_with_completion
    found, reply = create(messages=QUESTION, response_model=Capital, **ASKED)
    assert isinstance(found, Capital)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens > 0
    return repr(found)


def stream() -> str:
    """The object grows while the answer arrives."""
    create = client(instructor.Mode.JSON_SCHEMA).chat.completions.create_partial
    grown = list(create(messages=QUESTION, response_model=Capital, **ASKED))
    assert len(grown) > 3
    assert grown[-1].city
    assert grown[-1].country
    return repr(grown[-1])


def tools() -> str:
    """The model fills a function's arguments, the program runs it, the model reports."""
    create = client(instructor.Mode.TOOLS).chat.completions.create_with_completion
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    call, reply = create(messages=messages, response_model=GetWeather, **ASKED)
    assert isinstance(call, GetWeather)
    said = reply.choices[0].message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": call.run()}
    report, _ = create(messages=[*messages, said, result], response_model=Report, **ASKED)
    assert isinstance(report, Report)
    return f"{call!r} -> {report!r}"


def structured() -> str:
    # Mode.JSON only asks for the schema in words; these are enforced.
    modes = [instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT]
    for mode in modes:
        create = client(mode).chat.completions.create
        found = create(messages=QUESTION, response_model=Capital, **ASKED)
        assert isinstance(found, Capital)
    return f"{found!r} in {len(modes)} modes"


def error() -> str:
    stranger = client(instructor.Mode.JSON_SCHEMA, "sk-wrong").chat.completions.create
    create = client(instructor.Mode.JSON_SCHEMA).chat.completions.create
    try:
        stranger(messages=QUESTION, response_model=Capital, **ASKED)
        raise AssertionError("a wrong key was let in")
    except InstructorRetryException as failure:
        assert isinstance(failure.__cause__, openai.AuthenticationError)
        assert failure.__cause__.code == "invalid_api_key"
    try:
        create(messages=QUESTION, response_model=Capital, **{**ASKED, "model": "no-such-model"})
        raise AssertionError("an unknown model was let in")
    except InstructorRetryException as failure:
        assert isinstance(failure.__cause__, openai.NotFoundError)
        return f"AuthenticationError, NotFoundError: {failure}"


def truncated() -> str:
    """An object that is cut off is no object."""
    create = client(instructor.Mode.JSON_SCHEMA).chat.completions.create
    try:
        found = create(messages=QUESTION, response_model=Capital, **{**ASKED, "max_tokens": 4})
    except IncompleteOutputException as failure:
        return f"{type(failure).__name__}: {failure}"
    raise AssertionError(f"half an answer looked complete: {found!r}")


def broken() -> str:
    """A stream that breaks off raises, and does not give half an object as a whole one."""
    messages = [{"role": "user", "content": breaking_prompt()}]
    create = client(instructor.Mode.JSON_SCHEMA).chat.completions.create_partial
    grown = []
    try:
        for part in create(messages=messages, response_model=Capital, **ASKED):
            grown.append(part)
    except InstructorRetryException as failure:
        # The class itself: an error inside the stream. A refusal would be an APIStatusError, and
        # nothing would have broken off. Parts come only of text that begins like the object.
        assert type(failure.__cause__) is openai.APIError
        return f"{len(grown)} parts, then {type(failure).__name__}: {failure}"
    raise AssertionError(f"a broken stream looked complete: {grown}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
