"""The real engine takes whatever passes our tables: no row that clients send ends in its refusal.

Its answers mean nothing here (the models are tiny and random); that it answers is what counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.contract_mutants import mutants
from tests.clients.contract_rows import (
    CHAT,
    CONTEXT,
    LEAST,
    MESSAGES,
    MESSAGES_PATH,
    RANGES,
    RANKS,
    REFUSED,
    REFUSED_MESSAGES,
    RESPONSES,
    SENT_ON,
    TEXT,
    USER,
    VECTORS,
)
from tests.support.service import ServiceProcess

Make = Callable[..., ServiceProcess]
Ask = Callable[[str, Any], httpx.Response]

SETTINGS: dict[str, dict[str, str]] = {
    CHAT: {"MODEL_PATH": "tiny.gguf", "CTX": str(2 * CONTEXT), "PARALLEL": "2"},
    VECTORS: {"MODEL_PATH": "tiny.gguf", "EMBEDDINGS": "true", "POOLING": "mean"},
    RANKS: {"MODEL_PATH": "rerank.gguf", "RERANK": "true"},
}


@pytest.fixture(scope="module")
def asks(make_service: Make, llama_server: Path, models: Path) -> Iterator[dict[str, Ask]]:
    """By path: sends a body to a service whose engine was started for that path."""
    found: dict[str, Ask] = {}
    clients = []
    services = []
    for path, settings in SETTINGS.items():
        env = {"LLAMA_SERVER": str(llama_server), "THREADS": "1", **settings}
        env["MODEL_PATH"] = str(models / env["MODEL_PATH"])
        services.append((path, make_service(**env).start()))
    for path, service in services:
        service.ready()
        head = {"authorization": f"Bearer {service.key}"}
        client = httpx.Client(base_url=service.url, headers=head, timeout=60)
        clients.append(client)
        found[path] = lambda path, body, client=client: client.post(path, json=body)
    found |= dict.fromkeys(LEAST.keys() - found.keys(), found[CHAT])
    yield found
    for client in clients:
        client.close()


@pytest.mark.parametrize(("path", "more", "sent"), SENT_ON)
def test_fields_that_are_sent_on_are_answered(
    asks: dict[str, Ask], path: str, more: dict[str, Any], sent: dict[str, Any]
) -> None:
    reply = asks[path](path, {**LEAST[path], **more})
    assert reply.status_code == 200, reply.text
    assert b'"error"' not in reply.content


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES_PATH])
@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_each_range_are_answered(asks: dict[str, Ask], path: str, name: str) -> None:
    more = {"logprobs": True} if name == "top_logprobs" and path != RESPONSES else {}
    for value in RANGES[name]:
        reply = asks[path](path, {**LEAST[path], **more, name: value})
        assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(("given", "sent"), MESSAGES)
def test_messages_that_are_rebuilt_are_answered(
    asks: dict[str, Ask], given: list[dict[str, Any]], sent: list[dict[str, Any]]
) -> None:
    reply = asks[CHAT](CHAT, {"messages": given, "max_tokens": 2})
    assert reply.status_code == 200, reply.text
    assert asks[CHAT](f"{CHAT}/input_tokens", {"messages": given}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((path, {**LEAST[path], **more}) for path, more, *_ in REFUSED),
        *((CHAT, {"messages": given}) for given, *_ in REFUSED_MESSAGES),
        (VECTORS, {"input": [1, 10**6]}),
        (TEXT, {"prompt": [10**6]}),
        (CHAT, {"messages": [USER], "logit_bias": {"1000000": 1}}),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 9000}]}),
        (TEXT, {"prompt": "word " * 9000}),
        (VECTORS, {"input": "word " * 9000}),
    ],
)
def test_a_clients_fault_is_told_as_one_and_never_to_be_retried(
    asks: dict[str, Ask], path: str, body: dict[str, Any]
) -> None:
    reply = asks[path](path, body)
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.headers["x-should-retry"] == "false"
    assert isinstance(reply.json()["error"]["code"], str)


@pytest.mark.parametrize("seed", range(4))
def test_no_mistake_in_a_body_is_answered_as_a_fault_of_the_server(
    asks: dict[str, Ask], seed: int
) -> None:
    for path, body in mutants(seed, 150):
        reply = asks[path](path, body)
        if reply.status_code == 200:
            assert b'"error":{' not in reply.content, (path, body)
            continue
        error = reply.json()["error"]
        assert (reply.status_code, error["retryable"]) == (400, False), (path, body, error)
        # The engine gives no place: what it refuses by itself was to be refused before.
        assert error["param"] or error["code"] == "invalid_json", (path, body, error)


@pytest.mark.parametrize(
    ("path", "other"),
    [(VECTORS, CHAT), (RANKS, CHAT), (CHAT, VECTORS), (CHAT, RANKS), (TEXT, VECTORS)],
)
def test_a_route_that_the_model_cannot_serve_is_no_fault_of_the_server(
    asks: dict[str, Ask], path: str, other: str
) -> None:
    reply = asks[other](path, LEAST[path])
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "not_supported_by_model")
    assert reply.headers["x-should-retry"] == "false"


def test_vectors_have_the_one_length_that_may_be_asked_for(asks: dict[str, Ask]) -> None:
    plain = asks[VECTORS](VECTORS, LEAST[VECTORS]).json()["data"][0]["embedding"]
    same = asks[VECTORS](VECTORS, {**LEAST[VECTORS], "dimensions": float(len(plain))})
    assert same.status_code == 200
    other = asks[VECTORS](VECTORS, {**LEAST[VECTORS], "dimensions": len(plain) - 1})
    assert (other.status_code, other.json()["error"]["param"]) == (400, "dimensions")


def test_logprobs_of_completions_come_in_chats_shape_streamed_or_not(asks: dict[str, Ask]) -> None:
    body = {"prompt": "a", "max_tokens": 3, "logprobs": 2, "temperature": 0}
    whole = asks[TEXT](TEXT, body).json()["choices"][0]["logprobs"]
    stream = asks[TEXT](TEXT, {**body, "stream": True}).text.strip().split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in stream[:-1]]
    pieces = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"]]
    tokens = [entry["token"] for piece in pieces if piece for entry in piece["content"]]
    assert [entry["token"] for entry in whole["content"]] == tokens
    assert len(tokens) == 3
    assert set(whole) == {"content"}
    assert all(len(entry["top_logprobs"]) == 2 for entry in whole["content"])


def test_the_beginning_of_an_answer_has_to_fit_the_shape_that_is_asked_for(
    asks: dict[str, Ask],
) -> None:
    def begun(text: str) -> httpx.Response:
        messages = [USER, {"role": "assistant", "content": text}]
        shape = {"type": "json_object"}
        return asks[CHAT](CHAT, {**LEAST[CHAT], "messages": messages, "response_format": shape})

    assert begun("{").status_code == 200
    misfit = begun("Sure, here")
    assert (misfit.status_code, misfit.json()["error"]["param"]) == (400, "response_format")
    assert misfit.headers["x-should-retry"] == "false"
