"""The ``llm`` library, which the command of the same name is made of.

pip install llm; README.md beside this folder says what must be set. What is written into
extra-openai-models.yaml here is what the command needs as well; its folder is what
``dirname "$(llm logs path)"`` prints.
"""

import os
import tempfile
from pathlib import Path

URL = os.environ.get("LLAMA_GATEWAY_URL", "http://localhost:8000")
KEY = os.environ.get("LLAMA_GATEWAY_KEY") or "none"  # some SDKs do not start without one
MODEL = os.environ.get("LLAMA_GATEWAY_MODEL", "smollm2-135m-instruct")

# Its models are listed in a file; to leave yours alone, this program has a folder of its own.
os.environ["LLM_USER_PATH"] = tempfile.mkdtemp(prefix="llm-")
Path(os.environ["LLM_USER_PATH"], "extra-openai-models.yaml").write_text(
    f"""
- model_id: gateway
  model_name: {MODEL}
  api_base: {URL}/v1
  api_key_name: gateway
  supports_schema: true
  supports_tools: true
- model_id: unknown
  model_name: no-such-model
  api_base: {URL}/v1
  api_key_name: gateway
"""
)

import llm
import openai
from lib.features import Skipped, breaking_prompt, run
from pydantic import BaseModel

model = llm.get_model("gateway")


class Capital(BaseModel):
    city: str
    country: str


def chat() -> str:
    """Two turns of a conversation."""
    conversation = model.conversation()
    first = conversation.prompt("Name the capital of France.", key=KEY, stream=False, temperature=0)
    assert first.text(), "the answer is empty"
    assert first.usage().output > 0, "no tokens were counted"
    second = conversation.prompt(
        "Say it again.", key=KEY, stream=False, max_tokens=50, temperature=0
    )
    assert second.text(), "the second answer is empty"
    assert second.usage().input > first.usage().input, "the first turn was not sent again"
    return f"{first.text()} | {second.text()}"


def stream() -> str:
    response = model.prompt("Name the capital of France.", key=KEY, temperature=0)
    pieces = list(response)
    assert len(pieces) > 3, f"that is no stream: {pieces}"
    assert "".join(pieces) == response.text(), "the pieces are not the answer"
    assert response.usage().output > 0, "no tokens were counted"
    return response.text()


def tools() -> str:
    """The model calls a function, the library runs it, the model answers with what it gave."""

    def get_weather(city: str) -> str:
        """The weather in a city, now."""
        ran.append(city)
        return f"It is sunny in {city}, 21 degrees."

    ran = []
    # The library cannot force a call: whether one is made is up to the model.
    prepared = os.environ.get("LLAMA_GATEWAY_TOOLS_PROMPT")
    question = prepared or "What is the weather in Paris?"
    chain = model.chain(
        question, tools=[get_weather], key=KEY, options={"max_tokens": 200, "temperature": 0}
    )
    text = chain.text()
    if not ran and not prepared:
        raise Skipped(
            "this model made no call, and the library cannot force one; take a bigger model, or "
            "set LLAMA_GATEWAY_TOOLS_PROMPT to a prompt that makes it call get_weather"
        )
    assert ran, "the model made no call"
    assert text, "the model did not answer with what the function gave"
    return f"{ran} -> {text}"


def structured() -> str:
    question = "What is the capital of France? Answer in JSON."
    response = model.prompt(question, schema=Capital, key=KEY, temperature=0)
    return repr(Capital.model_validate_json(response.text()))


def error() -> str:
    try:
        model.prompt("Hello", key="sk-wrong").text()
        raise AssertionError("a wrong key was let in")
    except openai.AuthenticationError as failure:
        assert failure.code == "invalid_api_key", failure
    try:
        llm.get_model("unknown").prompt("Hello", key=KEY).text()
        raise AssertionError("an unknown model was let in")
    except openai.NotFoundError as failure:
        assert failure.code == "model_not_found", failure
        return f"AuthenticationError, NotFoundError: {failure.message}"


def truncated() -> str:
    asked = {"key": KEY, "max_tokens": 8, "temperature": 0}
    whole = model.prompt("Tell me a long story.", stream=False, **asked)
    assert whole.text(), "the answer is empty"
    assert whole.response_json["choices"][0]["finish_reason"] == "length", whole.response_json
    streamed = model.prompt("Tell me a long story.", **asked)
    assert streamed.text(), "the streamed answer is empty"
    assert streamed.response_json["finish_reason"] == "length", streamed.response_json
    return whole.text()


def broken() -> str:
    """A stream that breaks off: the pieces came, then an exception."""
    pieces = []
    try:
        for piece in model.prompt(breaking_prompt(), key=KEY):
            pieces.append(piece)
    except openai.APIError as failure:
        assert "".join(pieces), "it broke before its first piece"
        return f"{len(pieces)} pieces, then {type(failure).__name__}: {failure.message}"
    raise AssertionError(f"a broken stream looked complete: {pieces}")


if __name__ == "__main__":
    run(chat, stream, tools, structured, error, truncated, broken)
