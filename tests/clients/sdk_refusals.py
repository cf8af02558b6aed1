"""What is refused, and the exception that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai

from tests.clients.sdk_kit import (
    QUESTION,
    TOOL,
    Target,
    check,
    raised,
    told,
    user,
)


@check("chat")
def wrong_key_is_an_authentication_error(target: Target) -> Any:
    for key in ("sk-wrong", target.key[:-1] + "_", target.key[:-10]):
        error = raised(
            openai.AuthenticationError,
            target.client(api_key=key).models.list,
            code="invalid_api_key",
            type="authentication_error",
            param=None,
            status_code=401,
        )
        assert "Incorrect API key provided" in error.message
    return told(error)


@check("chat")
def key_without_the_scope_is_refused(target: Target) -> Any:
    client = target.client(api_key=target.limited_key)
    return told(
        raised(
            openai.PermissionDeniedError,
            lambda: client.chat.completions.create(model="m", messages=QUESTION),
            code="permission_denied",
            status_code=403,
        )
    )


@check("chat")
def unknown_model_is_not_found(target: Target) -> Any:
    client = target.client()
    expected: Any = {"code": "model_not_found", "type": "invalid_request_error"}
    raised(openai.NotFoundError, lambda: client.models.retrieve("gpt-4o"), **expected)
    raised(
        openai.NotFoundError,
        lambda: client.completions.create(model="gpt-4o", prompt="x"),
        param="model",
        **expected,
    )
    return told(
        raised(
            openai.NotFoundError,
            lambda: client.chat.completions.create(model="gpt-4o", messages=QUESTION, stream=True),
            param="model",
            **expected,
        )
    )


@check("chat")
def unknown_path_is_not_found(target: Target) -> Any:
    client = target.client()
    calls: list[Callable[[], Any]] = [
        client.files.list,
        lambda: client.images.generate(prompt="a cat", model="m"),
        lambda: client.audio.transcriptions.create(file=("a.wav", b"RIFF" * 1000), model="m"),
        lambda: client.responses.retrieve("resp_1"),
        lambda: client.moderations.create(input="x"),
        lambda: client.post("/v1/chat/completions", body={}, cast_to=object),
    ]
    for call in calls:
        error = raised(openai.NotFoundError, call, code="not_found", status_code=404)
    return told(error)


@check("chat")
def base_url_without_v1_says_so(target: Target) -> Any:
    client = target.client(base_url=target.base_url.removesuffix("/v1"))
    error = raised(openai.NotFoundError, lambda: client.models.list(), code="not_found")
    assert "/v1" in error.body["hint"]  # type: ignore[index]
    return error.body


@check("chat")
def bad_parameter_is_named(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    told_of = {}
    for field, value in {
        "temperature": "hot",
        "top_p": 7,
        "max_tokens": 0,
        "n": 100,
        "stop": 5,
        "tool_choice": "sometimes",
        "logit_bias": {"x": 1},
        "response_format": {"type": "xml"},
        "grammar": "root ::= root",
        "messages": "hello",
    }.items():
        asked = {"model": target.model, "messages": QUESTION, "tools": [TOOL]}
        asked["extra_body"] = {field: value}
        error: Any = raised(
            openai.BadRequestError, lambda asked=asked: create(**asked), status_code=400
        )
        assert (error.param or "").startswith(field), told(error)
        assert isinstance(error.code, str)
        assert error.type == "invalid_request_error"
        told_of[field] = error.code
    return told_of


@check("chat")
def picture_without_eyes_is_refused(target: Target) -> Any:
    url = "data:image/png;base64,iVBORw0KGgo="
    parts: Any = [{"type": "image_url", "image_url": {"url": url}}]
    create = target.client().chat.completions.create
    messages: Any = [{"role": "user", "content": parts}]
    return told(
        raised(
            openai.BadRequestError,
            lambda: create(model=target.model, messages=messages),
            status_code=400,
        )
    )


@check("chat")
def too_long_a_prompt_is_told_as_such(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    asked = {"model": target.model, "messages": user("word " * 3000)}
    for more in ({}, {"stream": True}):
        error = raised(
            openai.BadRequestError,
            lambda more=more: create(**asked, **more),
            code="context_length_exceeded",
            type="invalid_request_error",
            status_code=400,
        )
        assert "maximum context length is 2048 tokens" in error.message, error.message
        assert "resulted in" in error.message, error.message
    return told(error)


@check("chat")
def too_large_a_body_is_413(target: Target) -> Any:
    create = target.client().chat.completions.create
    return told(
        raised(
            openai.APIStatusError,
            lambda: create(model=target.model, messages=user("x" * 3_000_000)),
            status_code=413,
            code="payload_too_large",
        )
    )


@check("chat")
def body_that_is_no_object_is_refused(target: Target) -> Any:
    client = target.client()
    return told(
        raised(
            openai.BadRequestError,
            lambda: client.post("/chat/completions", body="hello", cast_to=object),
            code="invalid_json",
        )
    )


@check("chat")
def embeddings_of_a_chat_model_are_refused(target: Target) -> Any:
    create = target.client().embeddings.create
    return told(
        raised(
            openai.BadRequestError,
            lambda: create(model=target.model, input="x"),
            code="not_supported_by_model",
        )
    )
