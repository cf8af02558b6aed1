"""What the engine says of a planned call's prompts is what it reports after the work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import EngineSettings
from gateway.dialects import (
    DIALECTS,
    CountCall,
    Counted,
    EngineCall,
    FieldPolicy,
    ModelFacts,
    count_call,
)
from tests.support.engine_process import running_engine

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
EMBED, RERANK = "/v1/embeddings", "/v1/rerank"
COUNT = "/v1/chat/completions/input_tokens"
FACTS = ModelFacts(
    names=frozenset({"tiny"}),
    alias="tiny",
    slots=2,
    context_tokens=2048,
    embeddings=True,
    rerank=True,
)
HI = [{"role": "user", "content": "red fox <|im_end|> né"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLED = [
    *HI,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city":"x"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
]
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
SHAPED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}

GENERATED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HI}),
    "chat streamed": (
        CHAT,
        {"messages": HI, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "system": (CHAT, {"messages": [{"role": "system", "content": "be kind"}, *HI]}),
    "tools": (CHAT, {"messages": HI, "tools": [WEATHER]}),
    "tools refused": (CHAT, {"messages": HI, "tools": [WEATHER], "tool_choice": "none"}),
    "tool answered": (CHAT, {"messages": CALLED, "tools": [WEATHER]}),
    "schema": (CHAT, {"messages": HI, "response_format": SHAPED}),
    "object": (CHAT, {"messages": HI, "response_format": {"type": "json_object"}}),
    "template arguments": (CHAT, {"messages": HI, "chat_template_kwargs": {"thinking": True}}),
    "begun": (CHAT, {"messages": [*HI, {"role": "assistant", "content": "a low"}]}),
    "two answers": (CHAT, {"messages": HI, "n": 2}),
    "text": (TEXT, {"prompt": "red fox ran<|im_end|>"}),
    "space": (TEXT, {"prompt": " "}),
    "tokens": (TEXT, {"prompt": [40, 41, 42]}),
    "texts": (TEXT, {"prompt": ["red fox", "blue sea saw", "né"]}),
    "texts and tokens": (TEXT, {"prompt": ["red fox", [40, 41, 42], "-1"]}),
    "tokens of two": (TEXT, {"prompt": [[40, 41], [42]]}),
    "two answers to two": (TEXT, {"prompt": ["red fox", "a"], "n": 2}),
}
VECTORS: dict[str, Any] = {
    "text": "red fox<|im_end|> ran",
    "tokens": [40, 41, 42],
    "texts": ["red fox", "a", "né né"],
    "texts and tokens": [[40, 41, 42], "red fox"],
}


def planned(path: str, body: dict[str, Any]) -> EngineCall:
    return DIALECTS[path].build({"model": "tiny", **body}, FACTS, FieldPolicy())


def counted(engine: httpx.Client, call: EngineCall) -> tuple[int, ...]:
    """What the engine says, if it has to be asked."""
    count = count_call(call)
    if isinstance(count, Counted):
        return count.tokens
    reply = engine.post(count.path, content=count.body)
    assert reply.status_code == 200, reply.text
    return count.read(reply.content)


def used(engine: httpx.Client, call: EngineCall) -> int:
    """Prompt tokens of all prompts together, as the engine reports them after the work."""
    # The engine closes a connection behind a stream without saying so.
    reply = engine.post(call.path, content=call.body, headers={"Connection": "close"})
    assert reply.status_code == 200, reply.text
    if not call.generates:
        return int(reply.json()["usage"]["prompt_tokens"])
    found = [each for each in reply.text.split("\n\n") if each.startswith("data: {")]
    usages = [orjson.loads(each.removeprefix("data: ")).get("usage") for each in found]
    told = [usage["prompt_tokens"] for usage in usages if usage]
    assert len(told) == call.choices, "one usage for each answer"
    return sum(told) * call.prompts // call.choices


def an_engine(
    llama_server: Path, models: Path, name: str, bos: bool, **flags: Any
) -> EngineSettings:
    says = "true" if bos else "false"
    return EngineSettings(
        binary=llama_server,
        model=models / name,
        alias="tiny",
        ctx=4096,
        parallel=2,
        threads=1,
        extra_args=("--override-kv", f"tokenizer.ggml.add_bos_token=bool:{says}"),
        **flags,
    )


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "begin token"])
def writer(
    request: pytest.FixtureRequest, llama_server: Path, models: Path
) -> Iterator[httpx.Client]:
    """The real engine; with a model that adds nothing to a prompt, and with one that does."""
    settings = an_engine(llama_server, models, "tiny.gguf", request.param)
    with tempfile.TemporaryDirectory(prefix="lg-") as short:
        with running_engine(settings, Path(short)) as engine:
            yield engine


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "begin token"])
def embedder(
    request: pytest.FixtureRequest, llama_server: Path, models: Path
) -> Iterator[httpx.Client]:
    settings = an_engine(
        llama_server, models, "tiny.gguf", request.param, embeddings=True, pooling="mean"
    )
    with tempfile.TemporaryDirectory(prefix="lg-") as short:
        with running_engine(settings, Path(short)) as engine:
            yield engine


@pytest.fixture(scope="module")
def reranker(llama_server: Path, models: Path) -> Iterator[httpx.Client]:
    settings = an_engine(llama_server, models, "rerank.gguf", False, rerank=True)
    with tempfile.TemporaryDirectory(prefix="lg-") as short:
        with running_engine(settings, Path(short)) as engine:
            yield engine


# -- held against the real engine


@pytest.mark.parametrize("case", GENERATED)
def test_count_is_what_generation_reports(writer: httpx.Client, case: str) -> None:
    path, body = GENERATED[case]
    call = planned(path, {"max_tokens": 1, **body})
    tokens = counted(writer, call)
    assert len(tokens) == call.prompts
    assert all(count > 0 for count in tokens)
    assert sum(tokens) == used(writer, call)


@pytest.mark.parametrize("case", VECTORS)
def test_count_is_what_embeddings_report(embedder: httpx.Client, case: str) -> None:
    call = planned(EMBED, {"input": VECTORS[case]})
    tokens = counted(embedder, call)
    assert len(tokens) == call.tasks
    assert sum(tokens) == used(embedder, call)


def test_count_of_a_rerank_lacks_only_the_models_template(reranker: httpx.Client) -> None:
    documents = ["red fox", "a", "blue sea<|im_end|> né"]
    call = planned(RERANK, {"query": "red", "documents": documents})
    tokens = counted(reranker, call)
    # The tiny model's template has a line feed and an end token besides the two texts.
    assert sum(tokens) + 2 * len(documents) == used(reranker, call)
    count = count_call(call)
    assert isinstance(count, CountCall)
    assert not count.exact


def test_counting_takes_no_slot(writer: httpx.Client) -> None:
    for path, body in GENERATED.values():
        counted(writer, planned(path, body))
    before = [slot.get("id_task") for slot in writer.get("/slots").json()]
    for path, body in GENERATED.values():
        counted(writer, planned(path, body))
    slots = writer.get("/slots").json()
    assert [slot.get("id_task") for slot in slots] == before
    assert not any(slot["is_processing"] for slot in slots)


def test_prompt_that_fits_no_slot_is_counted_all_the_same(writer: httpx.Client) -> None:
    text = "x" * 5000
    (plain,) = counted(writer, planned(TEXT, {"prompt": text}))
    (chat,) = counted(writer, planned(CHAT, {"messages": [{"role": "user", "content": text}]}))
    assert 5000 <= plain < chat


# -- without an engine


def test_tokens_need_no_asking() -> None:
    assert count_call(planned(TEXT, {"prompt": [1, 2, 3]})) == Counted((3,))
    assert count_call(planned(TEXT, {"prompt": [[1, 2], [3]]})) == Counted((2, 1))
    assert count_call(planned(EMBED, {"input": [7]})) == Counted((1,))


def test_counting_works_on_no_prompt() -> None:
    assert count_call(planned(COUNT, {"messages": HI})) == Counted(())


def test_chat_is_counted_from_the_very_body_that_will_be_sent() -> None:
    call = planned(CHAT, {"messages": HI, "tools": [WEATHER], "response_format": SHAPED})
    count = count_call(call)
    assert isinstance(count, CountCall)
    assert (count.path, count.exact) == (COUNT, True)
    assert count.body is call.body


def test_every_text_of_a_request_is_asked_for_at_once() -> None:
    count = count_call(planned(TEXT, {"prompt": ["a b", [5], "c"]}))
    assert isinstance(count, CountCall)
    assert count.path == "/tokenize"
    assert orjson.loads(count.body) == {
        "content": ["", -1, "a b", -1, "c"],
        "add_special": True,
        "parse_special": True,
    }
    # The model adds one token of its own to each text.
    assert count.read(b'{"tokens":[0,-1,10,11,-1,12]}') == (3, 1, 2)


@given(st.lists(st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9))), min_size=1))
@settings(deadline=None)
def test_each_prompt_gets_its_own_number(sizes: list[int | list[int]]) -> None:
    """A number stands for a text of so many tokens, a list for itself."""
    prompts = ["x" if isinstance(size, int) else [*size, 1] for size in sizes]
    count = count_call(planned_raw(TEXT, {"prompt": prompts}))
    wanted = tuple(size if isinstance(size, int) else len(size) + 1 for size in sizes)
    if isinstance(count, Counted):
        assert count.tokens == wanted
        return
    tokens: list[int] = []
    for size in sizes:
        if isinstance(size, int):
            tokens += [-1, *range(size)]
    assert count.read(orjson.dumps({"tokens": tokens})) == wanted


def planned_raw(path: str, body: dict[str, Any]) -> EngineCall:
    """A call with a body that no table bounds."""
    return EngineCall(path, orjson.dumps(body), True, False, False, "tiny")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"tokens":null}',
        b'{"tokens":[1,2]}',
        b'{"tokens":[-1,1,-1,2,-1,3]}',
        b'{"input_tokens":"5"}',
        b'{"input_tokens":-5}',
        b'{"input_tokens":true}',
        b'{"input_tokens":1.5}',
        b'{"error":{"code":500,"message":"no"}}',
    ],
)
def test_an_answer_to_something_else_is_an_error(answer: bytes) -> None:
    bodies: dict[str, dict[str, Any]] = {
        TEXT: {"prompt": ["a", "b"]},
        EMBED: {"input": ["a", "b"]},
        RERANK: {"query": "a", "documents": ["b"]},
        CHAT: {"messages": HI},
    }
    for path, body in bodies.items():
        count = count_call(planned(path, body))
        assert isinstance(count, CountCall)
        with pytest.raises(ValueError, match=r"."):
            count.read(answer)


def test_what_is_asked_is_not_shown() -> None:
    count = count_call(planned(TEXT, {"prompt": "a secret"}))
    assert "secret" not in repr(count)
    assert repr(count).startswith("<CountCall /tokenize ")
