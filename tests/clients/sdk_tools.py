"""Tools and structured output."""

from __future__ import annotations

import json
from typing import Any

import pydantic

from tests.clients.sdk_kit import (
    QUESTION,
    SAME,
    TOOL,
    Target,
    check,
    user,
)


class Answer(pydantic.BaseModel):
    """What a reply is parsed into."""

    city: str
    big: bool


@check("chat")
def tool_is_called_and_answered(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    asked = {"model": target.model, "tools": [TOOL], "temperature": 0, "max_tokens": 100}
    messages = user("Weather?")
    choice = create(messages=messages, **asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert call.id
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    answer = {"role": "tool", "tool_call_id": call.id, "content": '{"sky":"blue"}'}
    second = create(messages=[*messages, choice.message, answer], **asked).choices[0]
    assert second.finish_reason == "length"
    assert second.message.content
    assert not second.message.tool_calls
    return call.function.arguments


@check("chat")
def tool_call_is_streamed(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    asked = {"model": target.model, "tools": [TOOL], "temperature": 0, "max_tokens": 100}
    name, arguments, ids, reason = "", "", [], None
    for chunk in create(messages=user("Weather?"), stream=True, **asked):
        for piece in chunk.choices[0].delta.tool_calls or ():
            assert piece.index == 0
            ids += [piece.id] if piece.id else []
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert (name, reason, len(ids)) == ("get_weather", "tool_calls", 1)
    assert json.loads(arguments)["city"] in ("Paris", "Rome")
    return arguments


@check("chat")
def tool_choice_is_obeyed(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    asked = {"model": target.model, "messages": user("Hi"), "tools": [TOOL], **SAME}
    assert create(**asked, tool_choice="none").choices[0].message.tool_calls is None
    asked["max_tokens"] = 100
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("auto", "required", named):
        (call,) = create(**asked, tool_choice=choice).choices[0].message.tool_calls
        assert call.function.name == "get_weather"
    return None


@check("chat")
def json_schema_shapes_the_answer(target: Target) -> Any:
    schema = {
        "type": "object",
        "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "strict": True, "schema": schema}}
    create: Any = target.client().chat.completions.create
    asked = {"model": target.model, "messages": QUESTION, "temperature": 0, "max_tokens": 100}
    reply = create(**asked, response_format=wanted).choices[0]
    assert reply.finish_reason == "stop"
    assert json.loads(reply.message.content)["color"] in ("red", "blue")
    text = ""
    for chunk in create(**asked, response_format=wanted, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == reply.message.content
    return text


@check("chat")
def json_object_is_an_object(target: Target) -> Any:
    create: Any = target.client().chat.completions.create
    wanted = {"type": "json_object"}
    asked = {"model": target.model, "messages": QUESTION, "temperature": 0, "max_tokens": 100}
    text = create(**asked, response_format=wanted).choices[0].message.content
    assert isinstance(json.loads(text), dict)
    return text


@check("chat")
def answer_is_parsed_into_a_class(target: Target) -> Any:
    client = target.client()
    completions: Any = client.chat.completions
    if not hasattr(completions, "parse"):
        completions = client.beta.chat.completions  # type: ignore[attr-defined]
    asked = {"model": target.model, "messages": QUESTION, "temperature": 0, "max_tokens": 100}
    reply = completions.parse(**asked, response_format=Answer).choices[0]
    assert isinstance(reply.message.parsed, Answer)
    with completions.stream(**asked, response_format=Answer) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == reply.message.parsed
    return reply.message.parsed.model_dump()
