"""Models, chat and completions, with both clients."""

from __future__ import annotations

import asyncio
from typing import Any

import openai

from tests.clients.sdk_kit import (
    QUESTION,
    SAME,
    Target,
    as_expected,
    check,
    told,
    user,
)


@check("chat")
def models_are_listed(target: Target) -> Any:
    page = target.client().models.list()
    assert page.object == "list"
    (model,) = list(page)
    assert (model.object, type(model.created)) == ("model", int)
    assert model.owned_by
    return model.id


@check("chat")
def model_is_retrieved(target: Target) -> Any:
    model = target.client().models.retrieve(target.model)
    assert model.id == target.model
    return model.to_dict()


@check("chat")
def chat_answers(target: Target) -> Any:
    reply = target.client().chat.completions.create(model=target.model, messages=QUESTION, **SAME)
    assert (reply.object, reply.model) == ("chat.completion", target.model)
    (choice,) = reply.choices
    assert (choice.index, choice.finish_reason) == (0, "length")
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert reply.usage is not None
    assert reply.usage.completion_tokens == SAME["max_tokens"]
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + SAME["max_tokens"]
    assert reply.usage.prompt_tokens_details is not None
    assert reply._request_id
    return choice.message.content


@check("chat")
def stream_brings_the_same_words(target: Target) -> Any:
    create = target.client().chat.completions.create
    whole = create(model=target.model, messages=QUESTION, **SAME)
    stream = create(model=target.model, messages=QUESTION, stream=True, **SAME)
    chunks = list(stream)
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    # Code of users reads choices[0] of every chunk unless it asked for the usage.
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    pieces = [chunk for chunk in chunks if chunk.choices[0].delta.content]
    assert len(pieces) > SAME["max_tokens"] / 2, "the pieces did not come one by one"
    return len(chunks)


@check("chat")
def stream_with_usage_ends_with_it(target: Target) -> Any:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    create: Any = target.client().chat.completions.create
    chunks = list(create(model=target.model, messages=QUESTION, **SAME, **options))
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])
    usage = chunks[-1].usage
    assert usage.completion_tokens == SAME["max_tokens"]
    assert usage.total_tokens == usage.prompt_tokens + SAME["max_tokens"]
    return usage.to_dict()


@check("chat")
def stream_helper_collects_the_answer(target: Target) -> Any:
    client = target.client()
    completions: Any = client.chat.completions
    if not hasattr(completions, "stream"):
        completions = client.beta.chat.completions  # type: ignore[attr-defined]
    # An answer that ends by length would be an exception here, as it is with OpenAI's service.
    asked = {"model": target.model, "messages": QUESTION, "temperature": 0, "stop": ["roof"]}
    with completions.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"
    return len(deltas)


@check("chat")
def stream_left_early_closes(target: Target) -> Any:
    client = target.client()
    long = {**SAME, "max_tokens": 1500}
    for _ in range(8):  # more than there are slots: each one must be free again
        with client.chat.completions.create(
            model=target.model, messages=QUESTION, stream=True, **long
        ) as stream:
            assert next(iter(stream)).choices
    return client.chat.completions.create(model=target.model, messages=QUESTION, **SAME).id


@check("chat")
def developer_and_parts_are_understood(target: Target) -> Any:
    messages: Any = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "one"}]},
        {"role": "assistant", "content": "two", "refusal": None, "annotations": []},
        {"role": "user", "content": "three", "name": "me"},
    ]
    create = target.client().chat.completions.create
    return create(model=target.model, messages=messages, **SAME).choices[0].message.content


@check("chat")
def history_is_replayed_as_it_came(target: Target) -> Any:
    create = target.client().chat.completions.create
    first = create(model=target.model, messages=QUESTION, **SAME).choices[0].message
    messages: Any = [*QUESTION, first.model_dump(), *user("And then?")]
    second = create(model=target.model, messages=messages, **SAME)
    messages = [*QUESTION, first, *user("And then?")]
    assert create(model=target.model, messages=messages, **SAME).choices == second.choices
    return second.usage.prompt_tokens if second.usage else None


@check("chat")
def fields_without_meaning_here_do_no_harm(target: Target) -> Any:
    create: Any = target.client().chat.completions.with_raw_response.create
    extra = {"ignore_eos": True, "cache_prompt": True, "made_up": 1}
    raw = create(
        model=target.model,
        messages=QUESTION,
        user="me",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        parallel_tool_calls=None,
        extra_body=extra,
        extra_query={"api-version": "1"},
        **SAME,
    )
    assert raw.parse().choices
    ignored = raw.headers["x-ignored-params"]
    assert "made_up" in ignored
    return ignored


@check("chat")
def stop_string_ends_the_answer(target: Target) -> Any:
    create = target.client().chat.completions.create
    whole = create(model=target.model, messages=QUESTION, **SAME).choices[0].message.content or ""
    word = whole.split()[5]
    reply = create(model=target.model, messages=QUESTION, stop=[f" {word}"], **SAME).choices[0]
    assert reply.finish_reason == "stop"
    assert reply.message.content == whole[: whole.index(f" {word}")]
    return reply.message.content


@check("chat")
def logprobs_come_for_each_token(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    asked = {"model": target.model, "messages": QUESTION, "logprobs": True, "top_logprobs": 3}
    content = create(**asked, **SAME).choices[0].logprobs.content
    assert len(content) == SAME["max_tokens"]
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in content)
    streamed = []
    for chunk in create(**asked, **SAME, stream=True):
        if chunk.choices[0].logprobs is not None:
            streamed += chunk.choices[0].logprobs.content
    assert [token.token for token in streamed] == [token.token for token in content]
    return content[0].token


@check("chat")
def two_answers_at_once(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    asked = {"model": target.model, "messages": QUESTION, "n": 2, "max_tokens": 8}
    reply = create(**asked, temperature=1.0)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert all(choice.message.content for choice in reply.choices)
    assert reply.usage.completion_tokens == 16
    pieces = {0: "", 1: ""}
    ends = {}
    for chunk in create(**asked, stream=True):
        choice = chunk.choices[0]
        pieces[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert ends == {0: "length", 1: "length"}
    assert all(pieces.values())
    return pieces


@check("chat")
def completion_of_a_text(target: Target) -> Any:
    create = target.client().completions.create
    reply = create(model=target.model, prompt="red fox", **SAME)
    assert reply.object == "text_completion"
    assert (reply.choices[0].finish_reason, reply.choices[0].index) == ("length", 0)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == SAME["max_tokens"]
    chunks = list(create(model=target.model, prompt="red fox", stream=True, **SAME))
    assert "".join(chunk.choices[0].text for chunk in chunks) == reply.choices[0].text
    assert create(model=target.model, prompt="red fox").usage.completion_tokens == 16  # type: ignore[union-attr]
    return reply.choices[0].text


@check("chat")
def completions_of_a_list(target: Target) -> Any:
    create = target.client().completions.create
    reply = create(model=target.model, prompt=["red fox", "blue sea", "two fish"], **SAME)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    single = create(model=target.model, prompt="blue sea", **SAME)
    assert reply.choices[1].text == single.choices[0].text
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 3 * SAME["max_tokens"]
    return [choice.text for choice in reply.choices]


@check("chat")
def async_client_streams(target: Target) -> Any:
    async def run() -> str:
        async with target.async_client() as client:
            asked: Any = {"model": target.model, "messages": QUESTION, **SAME}

            async def streamed() -> str:
                stream = await client.chat.completions.create(**asked, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            whole = await client.chat.completions.create(**asked)
            texts = await asyncio.gather(*(streamed() for _ in range(8)))
            assert set(texts) == {whole.choices[0].message.content}, texts
            return texts[0]

    return asyncio.run(run())


@check("chat")
def async_client_raises_the_same(target: Target) -> Any:
    async def run() -> Any:
        async with target.async_client(api_key="sk-wrong") as client:
            try:
                await client.chat.completions.create(model="m", messages=QUESTION)
            except Exception as error:
                return as_expected(error, openai.AuthenticationError, code="invalid_api_key")
        raise AssertionError("nothing was raised")

    return told(asyncio.run(run()))
