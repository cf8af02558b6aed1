"""A Messages request becomes the chat request that means the same, or a 4xx at its own place."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, Dialect, EngineCall, FieldPolicy, ModelFacts, ReplyHead
from gateway.dialects.messages import MESSAGES, MESSAGES_COUNT_DIALECT, MESSAGES_DIALECT
from gateway.errors import ERRORS, ApiError
from gateway.request.fields import Fate
from gateway.request.jsonbody import parse

FACTS = ModelFacts(
    names=frozenset({"m"}), alias="m", slots=4, context_tokens=1000, vocab_size=300, vision=True
)
BLIND = replace(FACTS, vision=False)
POLICY = FieldPolicy()
HEAD = ReplyHead("req_1", "1", created=0)
PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + bytes((0, 0, 0, 1, 0, 0, 0, 1)) + bytes(9)
).decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
AS_PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "get_weather", "description": "d", "input_schema": SCHEMA}
FUNCTION = {
    "type": "function",
    "function": {"name": "get_weather", "description": "d", "parameters": SCHEMA},
}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def used(**more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "x"}, **more}


def result(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c1", "content": content, **more}


CALLED = {"role": "assistant", "content": [used()]}
HI = [user("hi")]


def build(**body: Any) -> EngineCall:
    full = {"model": "m", "max_tokens": 50, "messages": HI, **body}
    return MESSAGES_DIALECT.build(full, FACTS, POLICY)


def sent(**body: Any) -> dict[str, Any]:
    made: dict[str, Any] = orjson.loads(build(**body).body)
    return made


def told(*messages: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    """The chat messages for these, behind each other."""
    made: list[dict[str, Any]] = sent(messages=list(messages), **body)["messages"]
    return made


# -- messages

SIMPLE: dict[str, tuple[list[Any], list[Any]]] = {
    "a text": ([user("hi")], [user("hi")]),
    "one block": ([user([text("hi", **EPHEMERAL)])], [user("hi")]),
    "blocks": (
        [user([text("a"), text("b", citations=None)])],
        [user([text("a"), text("b")])],
    ),
    "no blocks": ([user([])], [user([])]),
    "an image": ([user([text("a"), IMAGE])], [user([text("a"), AS_PART])]),
    "a document": (
        [
            user(
                [
                    {
                        "type": "document",
                        "title": "T",
                        "context": None,
                        "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                    },
                    text("sum up"),
                ]
            )
        ],
        [user([text("T\nd"), text("sum up")])],
    ),
    "the system in the middle": (
        [user("a"), {"role": "system", "content": [text("be kind")]}, user("b")],
        [user("a"), {"role": "system", "content": "be kind"}, user("b")],
    ),
    "an answer": (
        [user("a"), {"role": "assistant", "content": "b"}, user("c")],
        [user("a"), {"role": "assistant", "content": "b"}, user("c")],
    ),
    "an answer to go on with": (
        [user("a"), {"role": "assistant", "content": [text("{")]}],
        [user("a"), {"role": "assistant", "content": "{"}],
    ),
    "thoughts": (
        [
            user("a"),
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    text("b"),
                    text("c"),
                ],
            },
            user("d"),
        ],
        [
            user("a"),
            {"role": "assistant", "content": "b\n\nc", "reasoning_content": "hm"},
            user("d"),
        ],
    ),
}


@pytest.mark.parametrize(("given", "chat"), SIMPLE.values(), ids=list(SIMPLE))
def test_turns_are_told_as_messages_of_chat(given: list[Any], chat: list[Any]) -> None:
    assert told(*given) == chat


@pytest.mark.parametrize(
    "system", ["be kind\n\nbe brief", [text("be kind", **EPHEMERAL), text("be brief")]]
)
def test_the_system_prompt_goes_first(system: Any) -> None:
    assert told(*HI, system=system) == [
        {"role": "system", "content": "be kind\n\nbe brief"},
        user("hi"),
    ]


@pytest.mark.parametrize("system", ["", [], [text("")], None])
def test_an_empty_system_prompt_is_none(system: Any) -> None:
    assert told(*HI, system=system) == HI


def test_a_call_and_its_result_go_both_ways() -> None:
    said = {"role": "assistant", "content": [text("let me see"), used(cache_control=None)]}
    assert told(user("weather?"), said, user([result("rain"), text("so?")])) == [
        user("weather?"),
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city":"x"}'},
                }
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        user("so?"),
    ]


RESULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a text": (result("rain"), "rain"),
    "nothing": ({"type": "tool_result", "tool_use_id": "c1"}, ""),
    "null": (result(None), ""),
    "blocks": (result([text("a"), text("b", **EPHEMERAL)]), "a\n\nb"),
    "an error": (result("no such city", is_error=True), "Error: no such city"),
    "an error in blocks": (result([text("no such city")], is_error=True), "Error: no such city"),
    "no error": (result("rain", is_error=False), "rain"),
    "error unknown": (result("rain", is_error=None), "rain"),
}


@pytest.mark.parametrize(("block", "content"), RESULTS.values(), ids=list(RESULTS))
def test_results_of_tools_are_messages_of_tools(block: dict[str, Any], content: str) -> None:
    *_, last = told(user("a"), CALLED, user([block]))
    assert last == {"role": "tool", "content": content, "tool_call_id": "c1"}


def test_results_come_before_what_else_the_user_said_and_their_images_behind_them() -> None:
    blocks = [text("look"), result([text("a map:"), IMAGE]), result("b", tool_use_id="c2")]
    assert told(user("a"), CALLED, user(blocks))[2:] == [
        {"role": "tool", "content": "a map:\n\n[image]", "tool_call_id": "c1"},
        {"role": "tool", "content": "b", "tool_call_id": "c2"},
        user([text("look"), AS_PART]),
    ]


# -- fields

FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the limit": ({"max_tokens": 7}, {"max_tokens": 7}),
    "the limit is cut": ({"max_tokens": 10**9}, {"max_tokens": 1000}),
    "no limit": ({"max_tokens": None}, {"max_tokens": 1000}),
    "stop": (
        {"stop_sequences": ["a", "", "b"]},
        {"stop": ["a", "b"], "verbose": True},
    ),
    "no stop": ({"stop_sequences": []}, {"stop": None, "verbose": None}),
    "sampling": (
        {"temperature": 0.5, "top_p": 1, "top_k": 5, "min_p": 0.1, "seed": 3},
        {"temperature": 0.5, "top_p": 1, "top_k": 5, "min_p": 0.1, "seed": 3},
    ),
    "usage is asked for": ({"stream": True}, {"stream_options": {"include_usage": True}}),
    "and unstreamed": ({"stream": False}, {"stream_options": {"include_usage": True}}),
    "tools": ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
    "custom tools": (
        {"tools": [{**TOOL, "type": "custom", "strict": True, **EPHEMERAL}]},
        {"tools": [FUNCTION]},
    ),
    "no tools": ({"tools": []}, {"tools": None}),
    "auto": ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
    "none": ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
    "one at a time": (
        {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"parallel_tool_calls": False},
    ),
    "several": (
        {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": None}},
        {"parallel_tool_calls": None},
    ),
    "a format": (
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    ),
    "its old name": (
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    ),
    "no format": ({"output_config": {"format": None}}, {"response_format": None}),
    "effort": ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
    "all effort": ({"output_config": {"effort": "max"}}, {"reasoning_effort": "xhigh"}),
    "no thoughts": (
        {"thinking": {"type": "disabled"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ),
    "thoughts": (
        {"thinking": {"type": "enabled", "budget_tokens": 10**6, "display": "omitted"}},
        {"chat_template_kwargs": {"enable_thinking": True}, "thinking_budget_tokens": 1000},
    ),
    "as it likes": (
        {"thinking": {"type": "adaptive"}},
        {"chat_template_kwargs": None, "thinking_budget_tokens": None},
    ),
    "arguments of the template": (
        {"thinking": {"type": "disabled"}, "chat_template_kwargs": {"enable_thinking": True}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ),
    "no servers": ({"mcp_servers": []}, {"mcp_servers": None}),
}


@pytest.mark.parametrize(("body", "fields"), FIELDS.values(), ids=list(FIELDS))
def test_fields_are_told_in_chat_s_terms(body: dict[str, Any], fields: dict[str, Any]) -> None:
    call = build(**body)
    made = orjson.loads(call.body)
    assert {name: made.get(name) for name in fields} == fields
    assert call.ignored == ()


def test_which_stop_sequence_it_was_is_not_asked_behind_a_long_prompt() -> None:
    made = sent(messages=[user("x" * 300_000)], stop_sequences=["a"])
    assert made["stop"] == ["a"]
    assert "verbose" not in made


DROPPED = [
    *("metadata", "service_tier", "cache_control", "container"),
    *("context_management", "inference_geo", "diagnostics", "speed"),
]


def test_several_answers_are_one_and_that_is_named() -> None:
    call = build(n=2)
    assert (call.choices, call.ignored) == (1, ("n",))


def test_stop_sequences_that_a_forced_call_leaves_out_are_named_and_not_asked_for() -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    call = build(
        messages=[user("hi")], stop_sequences=["a"], tools=tools, tool_choice={"type": "any"}
    )
    assert call.ignored == ("stop_sequences",)
    assert not {"stop", "verbose"} & orjson.loads(call.body).keys()


@pytest.mark.parametrize("name", DROPPED)
def test_what_changes_nothing_is_dropped(name: str) -> None:
    plain = build()
    assert build(**{name: {"any": "thing"}}) == plain


@pytest.mark.parametrize("name", [row.name for row in MESSAGES.rows if "*" not in row.name])
def test_null_is_absent(name: str) -> None:
    body = {"model": "m", "max_tokens": 50, "messages": HI}
    body.pop(name, None)
    absent = refused_or_made(body)
    assert refused_or_made({**body, name: None}) == absent


def refused_or_made(
    body: dict[str, Any], policy: FieldPolicy = POLICY, dialect: Dialect = MESSAGES_DIALECT
) -> EngineCall | tuple[str, str | None, str]:
    try:
        return dialect.build(body, FACTS, policy)
    except ApiError as error:
        return error.code, error.param, error.message


def test_tools_of_the_server_are_left_out_and_named() -> None:
    bash = {"type": "bash_20250124", "name": "bash"}
    call = build(tools=[SEARCH, TOOL, bash])
    assert orjson.loads(call.body)["tools"] == [FUNCTION]
    assert call.ignored == ("tools[0]", "tools[2]")


def test_a_choice_among_no_tools_is_dropped_and_named() -> None:
    call = build(tools=[SEARCH], tool_choice={"type": "any"})
    assert "tools" not in orjson.loads(call.body)
    assert call.ignored == ("tools[0]", "tool_choice")


def test_what_was_ignored_has_the_client_s_names() -> None:
    call = build(
        no_such="x",
        chat_template_kwargs={"other": 1},
        output_config={"effort": "heroic", "task_budget": {"total": 3}},
    )
    assert call.ignored == (
        "no_such",
        "output_config.task_budget",
        "output_config.effort",
        "chat_template_kwargs.other",
    )


def test_names_of_what_was_ignored_are_few() -> None:
    call = build(**{f"x{index}": 1 for index in range(40)})
    assert len(call.ignored) == 17


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_call_that_must_come_is_asked_for_as_in_chat(choice: dict[str, Any]) -> None:
    word = {"any": "required"}.get(choice["type"])
    named = {"type": "function", "function": {"name": "get_weather"}}
    asked = {"model": "m", "max_tokens": 50, "messages": HI, "tools": [FUNCTION]}
    chat = DIALECTS["/v1/chat/completions"].build(
        {**asked, "tool_choice": word or named}, FACTS, POLICY
    )
    call = build(tools=[TOOL], tool_choice=choice)
    assert call.body == chat.body
    assert call.forced_calls == chat.forced_calls


# -- what is wrong

_TWO = [user("a"), user("b")]
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no messages": ({"messages": None}, "missing_parameter", "messages"),
    "no list": ({"messages": "hi"}, "invalid_type", "messages"),
    "an empty list": ({"messages": [], "system": "s"}, "invalid_value", "messages"),
    "too many": ({"messages": [user("a")] * 2049}, "invalid_value", "messages"),
    "no object": ({"messages": [*HI, 3]}, "invalid_type", "messages[1]"),
    "no role": ({"messages": [{"content": "a"}]}, "missing_parameter", "messages[0].role"),
    "another role": (
        {"messages": [{"role": "tool", "content": "a"}]},
        "invalid_value",
        "messages[0].role",
    ),
    "no content": (
        {"system": "s", "messages": [*HI, {"role": "user"}]},
        "missing_parameter",
        "messages[1].content",
    ),
    "content of a kind": ({"messages": [user(3)]}, "invalid_type", "messages[0].content"),
    "a bare block": ({"messages": [user(["a"])]}, "invalid_type", "messages[0].content[0]"),
    "a block of no type": (
        {"messages": [user([{"text": "a"}])]},
        "missing_parameter",
        "messages[0].content[0].type",
    ),
    "text that is none": (
        {"messages": [user([text("a"), {"type": "text", "text": 3}])]},
        "invalid_type",
        "messages[0].content[1].text",
    ),
    "an unknown block": (
        {"messages": [user([{"type": "search_result", "content": []}])]},
        "unsupported_parameter",
        "messages[0].content[0].type",
    ),
    "a call of the user": (
        {"messages": [user([used()])]},
        "unsupported_parameter",
        "messages[0].content[0].type",
    ),
    "a result of the assistant": (
        {"messages": [*HI, {"role": "assistant", "content": [result("a")]}]},
        "unsupported_parameter",
        "messages[1].content[0].type",
    ),
    "a call at the end": ({"messages": [*HI, CALLED]}, "invalid_value", "messages"),
    "a call without a name": (
        {"messages": [*HI, {"role": "assistant", "content": [used(name=None)]}, user("a")]},
        "missing_parameter",
        "messages[1].content[0].name",
    ),
    "a call with a long name": (
        {
            "system": "s",
            "messages": [
                *HI,
                {"role": "assistant", "content": [text("a"), used(name="x" * 300)]},
                user("a"),
            ],
        },
        "invalid_value",
        "messages[1].content[1].name",
    ),
    "arguments of a kind": (
        {"messages": [*HI, {"role": "assistant", "content": [used(input="{}")]}, user("a")]},
        "invalid_type",
        "messages[1].content[0].input",
    ),
    "an id of a kind": (
        {"messages": [*HI, {"role": "assistant", "content": [used(id=3)]}, user("a")]},
        "invalid_type",
        "messages[1].content[0].id",
    ),
    "a result of nothing": (
        {"messages": [*HI, CALLED, user([result("a", tool_use_id=None)])]},
        "missing_parameter",
        "messages[2].content[0].tool_use_id",
    ),
    "a result with a long id": (
        {"system": "s", "messages": [*HI, CALLED, user([result("a", tool_use_id="x" * 300)])]},
        "invalid_value",
        "messages[2].content[0].tool_use_id",
    ),
    "a result of a kind": (
        {"messages": [*HI, CALLED, user([result(3)])]},
        "invalid_type",
        "messages[2].content[0].content",
    ),
    "an error of a kind": (
        {"messages": [*HI, CALLED, user([result("a", is_error="yes")])]},
        "invalid_type",
        "messages[2].content[0].is_error",
    ),
    "a PDF": (
        {
            "messages": [
                user(
                    [
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf"},
                        }
                    ]
                )
            ]
        },
        "unsupported_parameter",
        "messages[0].content[0].source.type",
    ),
    "an image by its address": (
        {"messages": [user([{"type": "image", "source": {"type": "url", "url": "http://h/"}}])]},
        "remote_media_not_allowed",
        "messages[0].content[0].source",
    ),
    "an image that is none": (
        {
            "messages": [
                user([text("a"), {"type": "image", "source": {"type": "base64", "data": "QUJD"}}])
            ]
        },
        "invalid_value",
        "messages[0].content[1].source",
    ),
    "an image of a result that is none": (
        {
            "messages": [
                *HI,
                CALLED,
                user([result([{"type": "image", "source": {"type": "base64", "data": "?"}}])]),
            ]
        },
        "invalid_value",
        "messages[2].content[0].content[0].source",
    ),
    "system of a kind": ({"system": 3}, "invalid_type", "system"),
    "an image for the system": (
        {"system": [text("a"), IMAGE]},
        "unsupported_parameter",
        "system[1].type",
    ),
    "another model": ({"model": "other"}, "model_not_found", "model"),
    "no tokens": ({"max_tokens": 0}, "invalid_value", "max_tokens"),
    "a limit of a kind": ({"max_tokens": "5"}, "invalid_type", "max_tokens"),
    "too hot": ({"temperature": 3}, "invalid_value", "temperature"),
    "stop of a kind": ({"stop_sequences": [3]}, "invalid_type", "stop_sequences[0]"),
    "servers": ({"mcp_servers": [{"url": "x"}]}, "unsupported_parameter", "mcp_servers"),
    "a grammar": ({"grammar": "root ::= x"}, "unsupported_parameter", "grammar"),
    "tools of a kind": ({"tools": {}}, "invalid_type", "tools"),
    "a tool of a kind": ({"tools": ["f"]}, "invalid_type", "tools[0]"),
    "a tool without a name": (
        {"tools": [SEARCH, {"input_schema": {}}]},
        "invalid_value",
        "tools[1].name",
    ),
    "a tool's words": (
        {"tools": [SEARCH, {**TOOL, "description": 3}]},
        "invalid_type",
        "tools[1].description",
    ),
    "a tool's schema": (
        {"tools": [{**TOOL, "input_schema": "x"}]},
        "invalid_type",
        "tools[0].input_schema",
    ),
    "deep in a tool's schema": (
        {"tools": [SEARCH, {**TOOL, "input_schema": {"properties": {"a": {"type": "odd"}}}}]},
        "invalid_value",
        "tools[1].input_schema.a",
    ),
    "a choice of a kind": (
        {"tools": [TOOL], "tool_choice": "auto"},
        "invalid_type",
        "tool_choice",
    ),
    "another choice": (
        {"tools": [TOOL], "tool_choice": {"type": "required"}},
        "invalid_value",
        "tool_choice.type",
    ),
    "no name": (
        {"tools": [TOOL], "tool_choice": {"type": "tool"}},
        "missing_parameter",
        "tool_choice.name",
    ),
    "the name of no tool": (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}},
        "invalid_value",
        "tool_choice.name",
    ),
    "parallel of a kind": (
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": "no"}},
        "invalid_type",
        "tool_choice.disable_parallel_tool_use",
    ),
    "output of a kind": ({"output_config": []}, "invalid_type", "output_config"),
    "a format of a kind": (
        {"output_config": {"format": "json"}},
        "invalid_type",
        "output_config.format",
    ),
    "another format": (
        {"output_config": {"format": {"type": "json_object"}}},
        "invalid_value",
        "output_config.format.type",
    ),
    "no schema": (
        {"output_config": {"format": {"type": "json_schema"}}},
        "invalid_type",
        "output_config.format.schema",
    ),
    "a wrong schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "odd"}}}},
        "invalid_value",
        "output_config.format.schema",
    ),
    "thinking of a kind": ({"thinking": True}, "invalid_type", "thinking"),
    "other thinking": ({"thinking": {"type": "hard"}}, "invalid_value", "thinking.type"),
    "a budget of a kind": (
        {"thinking": {"type": "enabled", "budget_tokens": "5"}},
        "invalid_type",
        "thinking.budget_tokens",
    ),
    "a budget below nothing": (
        {"thinking": {"type": "enabled", "budget_tokens": -1}},
        "invalid_value",
        "thinking.budget_tokens",
    ),
}


@pytest.mark.parametrize(("body", "code", "param"), WRONG.values(), ids=list(WRONG))
@pytest.mark.parametrize("dialect", [MESSAGES_DIALECT, MESSAGES_COUNT_DIALECT], ids=repr)
def test_what_is_wrong_is_told_at_the_client_s_place(
    dialect: Dialect, body: dict[str, Any], code: str, param: str
) -> None:
    if dialect.counts and next(iter(body)) in ("max_tokens", "output_config"):
        return  # they do not matter for the prompt
    with pytest.raises(ApiError) as caught:
        dialect.build({"model": "m", "max_tokens": 50, "messages": HI, **body}, FACTS, POLICY)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.status in (400, 404)
    if re.match("'[a-z_]+[.[]", caught.value.message):  # it names a place
        assert caught.value.message.startswith(f"'{param.removesuffix('.type')}")


def test_an_image_without_a_projector_is_refused_at_its_place() -> None:
    with pytest.raises(ApiError) as caught:
        MESSAGES_DIALECT.build({"messages": [user([IMAGE])]}, BLIND, POLICY)
    assert caught.value.code == "not_supported_by_model"
    assert caught.value.param == "messages[0].content[0].source"


# -- counting


def test_counting_asks_for_the_very_prompt() -> None:
    body = {
        "model": "m",
        "system": "s",
        "messages": [*HI, CALLED, user([result("r"), IMAGE])],
        "tools": [SEARCH, TOOL],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "disabled"},
    }
    count = MESSAGES_COUNT_DIALECT.build(body, FACTS, POLICY)
    asked, prompt = orjson.loads(build(**body).body), orjson.loads(count.body)
    assert {name: asked[name] for name in prompt} == prompt
    assert {"messages", "tools", "chat_template_kwargs"} <= set(prompt)
    assert count.path == "/v1/chat/completions/input_tokens"
    assert (count.tasks, count.generates) == (0, False)
    assert count.ignored == ("tools[0]",)


# -- errors

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@pytest.mark.parametrize("code", sorted(ERRORS))
@pytest.mark.parametrize("dialect", [MESSAGES_DIALECT, MESSAGES_COUNT_DIALECT], ids=repr)
def test_errors_come_in_anthropic_s_envelope(dialect: Dialect, code: str) -> None:
    error = ApiError(code, "It went wrong.", param="p", hint="h")
    body = orjson.loads(dialect.error_body(error, HEAD))
    told = body.pop("error")
    assert body == {"type": "error", "request_id": "req_1"}
    assert told["type"] == TYPES.get(
        error.status, "api_error" if error.status > 500 else TYPES[400]
    )
    assert told["message"].endswith("It went wrong.")
    assert (told["code"], told["param"], told["hint"]) == (code, "p", "h")
    assert told["retryable"] is error.retryable
    name, data, *rest = dialect.error_frame(error, HEAD).split(b"\n")
    assert (name, rest) == (b"event: error", [b"", b""])
    assert data == b"data: " + dialect.error_body(error, HEAD)


def test_a_prompt_that_is_too_long_is_told_in_words_that_clients_know() -> None:
    error = ApiError("context_length_exceeded", "This model's maximum is 3.")
    told = orjson.loads(MESSAGES_DIALECT.error_body(error, HEAD))["error"]
    assert told["message"] == "prompt is too long: This model's maximum is 3."


# -- anything at all

_KEYS = st.sampled_from(
    [
        *("type", "text", "role", "content", "source", "data", "name", "input", "id", "title"),
        *("input_schema", "tool_use_id", "is_error", "format", "schema", "effort"),
        *("budget_tokens", "disable_parallel_tool_use", "properties", "$ref"),
    ]
)
_WORDS = st.sampled_from(
    [
        *("user", "assistant", "system", "text", "image", "document", "thinking", "tool_use"),
        *("tool_result", "base64", "url", "tool", "any", "auto", "none", "enabled", "disabled"),
        *("adaptive", "json_schema", "object", "custom", "x"),
    ]
)
_LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | _WORDS
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=15,
)
_BLOCKS = st.lists(st.fixed_dictionaries({"type": _WORDS}, optional={"text": _JSON}) | _JSON)
_MESSAGES = st.lists(
    st.fixed_dictionaries({"role": _WORDS, "content": _JSON | _BLOCKS}) | _JSON, max_size=4
)
_NAMES = st.sampled_from(sorted(row.name.removesuffix("*") for row in MESSAGES.rows))


@given(
    messages=_MESSAGES,
    more=st.dictionaries(_NAMES | st.text(max_size=8), _JSON, max_size=4),
    policy=st.sampled_from([POLICY, FieldPolicy("reject")]),
    dialect=st.sampled_from([MESSAGES_DIALECT, MESSAGES_COUNT_DIALECT]),
)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_json_becomes_an_allow_listed_body_or_a_4xx(
    messages: Any, more: dict[str, Any], policy: FieldPolicy, dialect: Dialect
) -> None:
    body = parse(orjson.dumps({"messages": messages, **more}))
    call = refused_or_made(body, policy, dialect)
    if not isinstance(call, EngineCall):
        code, param, _ = call
        assert ERRORS[code].status in (400, 404)
        own = (param or "messages").partition(".")[0].partition("[")[0]
        assert own in (*body, "messages", "model") or code == "unknown_parameter", param
        return
    forwarded = {row.to or row.name for row in MESSAGES.rows if row.fate is Fate.FORWARD}
    ours = {
        *("model", "messages", "max_tokens", "stream", "stream_options", "return_progress"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
        *("chat_template_kwargs", "thinking_budget_tokens", "verbose"),
    }
    assert set(orjson.loads(call.body)) <= forwarded | ours
    assert call.choices == 1
