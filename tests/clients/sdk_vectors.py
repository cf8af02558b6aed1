"""Embeddings and rerank."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

import openai

from tests.clients.sdk_kit import (
    Target,
    check,
    raised,
    told,
)


@check("embeddings")
def base64_and_float_are_the_same_vector(target: Target) -> Any:
    create: Any = target.client().embeddings.create
    usual = create(model=target.model, input="red fox")
    assert usual.object == "list"
    assert usual.usage.prompt_tokens > 0
    floats = create(model=target.model, input="red fox", encoding_format="float")
    packed = create(model=target.model, input="red fox", encoding_format="base64")
    raw = base64.b64decode(packed.data[0].embedding)
    numbers = list(struct.unpack(f"<{len(raw) // 4}f", raw))
    for vector in (floats.data[0].embedding, numbers):
        pairs = zip(usual.data[0].embedding, vector, strict=True)
        assert all(abs(one - other) < 1e-5 for one, other in pairs)
    return len(numbers)


@check("embeddings")
def embeddings_of_a_list_keep_the_order(target: Target) -> Any:
    create = target.client().embeddings.create
    texts = [f"text number {at}" for at in range(9)]
    found = create(model=target.model, input=texts)
    assert [one.index for one in found.data] == list(range(9))
    single = create(model=target.model, input=texts[4])
    pairs = zip(found.data[4].embedding, single.data[0].embedding, strict=True)
    assert all(abs(one - other) < 1e-3 for one, other in pairs)
    return found.usage.to_dict()


@check("embeddings")
def embeddings_refuse_what_cannot_be(target: Target) -> Any:
    create = target.client().embeddings.create
    raised(openai.BadRequestError, lambda: create(model=target.model, input=""), param="input")
    raised(openai.NotFoundError, lambda: create(model="gpt", input="x"), code="model_not_found")
    return told(
        raised(
            openai.BadRequestError,
            lambda: create(model=target.model, input="x", dimensions=8),
            param="dimensions",
        )
    )


@check("embeddings")
def async_embeddings(target: Target) -> Any:
    async def run() -> int:
        async with target.async_client() as client:
            calls = [client.embeddings.create(model=target.model, input=f"{n}") for n in range(8)]
            return len({tuple(one.data[0].embedding) for one in await asyncio.gather(*calls)})

    assert asyncio.run(run()) == 8
    return None


@check("embeddings")
def too_long_an_input_is_told_as_such(target: Target) -> Any:
    create = target.client().embeddings.create
    return told(
        raised(
            openai.BadRequestError,
            lambda: create(model=target.model, input="word " * 3000),
            code="context_length_exceeded",
        )
    )


# -- rerank, which the package has no method for


def rerank(target: Target, **body: Any) -> Any:
    return target.client().post("/rerank", body={"model": target.model, **body}, cast_to=object)


@check("rerank")
def documents_are_scored(target: Target) -> Any:
    documents = ["the blue sea", "a red fox", "rain on my roof"]
    reply = rerank(target, query="fox", documents=documents)
    results = reply["results"]
    assert sorted(one["index"] for one in results) == [0, 1, 2]
    assert all(isinstance(one["relevance_score"], float) for one in results)
    best = rerank(target, query="fox", documents=documents, top_n=1)["results"]
    highest = max(results, key=lambda one: one["relevance_score"])
    assert [one["index"] for one in best] == [highest["index"]]
    return results


@check("rerank")
def rerank_refuses_what_cannot_be(target: Target) -> Any:
    raised(openai.BadRequestError, lambda: rerank(target, query="x"), param="documents")
    return told(
        raised(
            openai.BadRequestError,
            lambda: rerank(target, query="x", documents=["a", 5]),
            param="documents[1]",
        )
    )
