"""A reply that the service puts together from events is the one the engine would have given.

The same questions go to the service and to a llama-server of our own with the same flags. What may
differ: ids, the date, and how long things took.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend import EngineSettings
from keys import create_first_key
from tests.support.engine_process import running_engine
from tests.support.service import ServiceProcess

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
CALLED = [
    *HI,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city":"x","days":1}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "kind": {"enum": ["a", "b"]}},
    "required": ["name", "kind"],
}
SHAPED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOLS = {"messages": HI, "tools": [WEATHER], "max_tokens": 100}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "length": (CHAT, {"messages": HI, "max_tokens": 20}),
    "one token": (CHAT, {"messages": HI, "max_tokens": 1}),
    "stop": (CHAT, {"messages": HI, "max_tokens": 60, "stop": [" hill"]}),
    "stop over two tokens": (CHAT, {"messages": HI, "max_tokens": 60, "stop": " dusk all"}),
    "stop within a token": (CHAT, {"messages": HI, "max_tokens": 60, "stop": ["il"]}),
    "schema": (CHAT, {"messages": HI, "max_tokens": 60, "response_format": SHAPED}),
    "object": (CHAT, {"messages": HI, "response_format": {"type": "json_object"}}),
    "tool": (CHAT, TOOLS),
    "tool refused": (CHAT, {**TOOLS, "tool_choice": "none"}),
    "tool answered": (CHAT, {**TOOLS, "messages": CALLED, "max_tokens": 8}),
    "logprobs": (CHAT, {"messages": HI, "max_tokens": 6, "logprobs": True, "top_logprobs": 3}),
    "logprobs and stop": (
        CHAT,
        {"messages": HI, "max_tokens": 60, "logprobs": True, "top_logprobs": 1, "stop": [" sea"]},
    ),
    "two": (CHAT, {"messages": HI, "max_tokens": 8, "n": 2}),
    "two and stop": (CHAT, {"messages": HI, "max_tokens": 60, "n": 2, "stop": [" hill"]}),
    "two and logprobs": (
        CHAT,
        {"messages": HI, "max_tokens": 6, "n": 2, "logprobs": True, "top_logprobs": 2},
    ),
    "two and schema": (
        CHAT,
        {"messages": HI, "max_tokens": 60, "n": 2, "response_format": SHAPED},
    ),
    "two and tool": (CHAT, {**TOOLS, "n": 2}),
    "tools in parallel": (CHAT, {**TOOLS, "parallel_tool_calls": True, "max_tokens": 200}),
    "schema cut short": (CHAT, {"messages": HI, "max_tokens": 5, "response_format": SHAPED}),
    "length by its newer name": (CHAT, {"messages": HI, "max_completion_tokens": 7}),
    "sampled": (CHAT, {"messages": HI, "max_tokens": 30, "temperature": 0.8, "top_k": 20}),
    "begun by the assistant": (
        CHAT,
        {"messages": [*HI, {"role": "assistant", "content": "a low"}], "max_tokens": 5},
    ),
    "text": (TEXT, {"prompt": "red fox", "max_tokens": 20}),
    "text and stop": (TEXT, {"prompt": "red fox", "max_tokens": 60, "stop": [" sea"]}),
    "text and logprobs": (TEXT, {"prompt": "red fox", "max_tokens": 6, "logprobs": 2}),
    "text logprobs and stop": (
        TEXT,
        {"prompt": "red fox", "max_tokens": 60, "logprobs": 2, "stop": [" sea"]},
    ),
    "text of tokens": (TEXT, {"prompt": [40, 41, 42], "max_tokens": 6}),
    "texts": (TEXT, {"prompt": ["red fox", "blue sea"], "max_tokens": 6}),
    "two texts": (TEXT, {"prompt": "red fox", "max_tokens": 6, "n": 2}),
    "two texts and stop": (
        TEXT,
        {"prompt": "red fox", "max_tokens": 60, "n": 2, "stop": [" sea"], "logprobs": 1},
    ),
    "text sampled": (TEXT, {"prompt": "red fox", "max_tokens": 20, "temperature": 1.0}),
}


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, llama_server: Path, models: Path
) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients of the service and of an engine beside it."""
    folder = tmp_path_factory.mktemp("service")
    key = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    # Nothing is reused from an earlier prompt: which slot has what depends on chance.
    env = {
        "LLAMA_SERVER": str(llama_server),
        "MODEL_PATH": str(models / "tiny.gguf"),
        "CTX": "4096",
        "PARALLEL": "2",
        "THREADS": "1",
        "PROMPT_CACHE_SCOPE": "key",
    }
    settings = EngineSettings(
        binary=llama_server,
        model=models / "tiny.gguf",
        alias="tiny",
        ctx=4096,
        parallel=2,
        threads=1,
    )
    with (
        ServiceProcess(folder, env) as service,
        tempfile.TemporaryDirectory(prefix="lg-") as short,
        running_engine(settings, Path(short)) as engine,
    ):
        service.ready()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=service.url, headers=headers, timeout=30) as gateway:
            yield gateway, engine


@pytest.mark.parametrize("case", CASES)
def test_reply_is_the_engines_own(pair: tuple[httpx.Client, httpx.Client], case: str) -> None:
    gateway, engine = pair
    path, wanted = CASES[case]
    body = {"model": "tiny", "temperature": 0, "seed": 42, **wanted}
    ours = gateway.post(path, json=body)
    assert ours.status_code == 200, ours.text
    assert "x-ignored-params" not in ours.headers
    own = engine.post(path, json={**body, "cache_prompt": False}).json()
    assert list(ours.json()) == list(own), "the fields are in another order"
    assert comparable(ours.json()) == comparable(own)


def test_usage_counts_every_answer(pair: tuple[httpx.Client, httpx.Client]) -> None:
    """The engine counts the first one only."""
    for case, answers, prompt_tokens in (("two", 2, 24), ("texts", 2, 9)):
        path, wanted = CASES[case]
        usage = pair[0].post(path, json={"temperature": 0, **wanted}).json()["usage"]
        completion_tokens = answers * wanted["max_tokens"]
        assert usage["completion_tokens"] == completion_tokens
        assert usage["prompt_tokens"] == prompt_tokens
        assert usage["total_tokens"] == completion_tokens + prompt_tokens


def test_tool_call_cut_short_is_not_shown_as_text(
    pair: tuple[httpx.Client, httpx.Client],
) -> None:
    """The engine shows the source of the call; its stream, and so our reply, does not."""
    body = {**TOOLS, "max_tokens": 12, "temperature": 0}
    (choice,) = pair[0].post(CHAT, json=body).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"] == {"role": "assistant", "content": ""}


def comparable(reply: dict[str, Any]) -> dict[str, Any]:
    """*reply* without what is different each time."""
    found = copy.deepcopy(reply)
    assert found.pop("id")
    assert isinstance(found.pop("created"), int)
    found["timings"] = {
        name: value if name.endswith("_n") else type(value)
        for name, value in found["timings"].items()
    }
    for choice in found["choices"]:
        for call in choice.get("message", {}).get("tool_calls", ()):
            assert call.pop("id")
    if len(found["choices"]) > 1:
        del found["usage"]
    return found
