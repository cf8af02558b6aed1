"""A request of Responses becomes a request of chat, or a 4xx that names the client's own field."""

import dataclasses

import orjson
import pytest

from gateway.dialects import DIALECTS, EngineCall, FieldPolicy, ModelFacts
from gateway.errors import ApiError

FACTS = ModelFacts(
    names=frozenset({"m"}), alias="m", slots=8, context_tokens=1000, vocab_size=300, audio=True
)
SEES = dataclasses.replace(FACTS, vision=True)
PATH = "/v1/responses"
COUNT = "/v1/responses/input_tokens"
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
OTHER = {"type": "function", "name": "g", "description": "d"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
MORE = {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "21"}
USER = {"role": "user", "content": "hi"}


def respond(facts=FACTS, policy=None, path=PATH, **body) -> EngineCall:
    return DIALECTS[path].build({"input": "hi", **body}, facts, policy or FieldPolicy())


def sent(*args, **body):
    return orjson.loads(respond(*args, **body).body)


def messages(*items, **body):
    return sent(input=list(items), **body)["messages"]


def refused(*args, **body) -> ApiError:
    with pytest.raises(ApiError) as caught:
        respond(*args, **body)
    assert caught.value.status in (400, 404)
    return caught.value


# -- what the engine gets


def test_a_question_is_a_chat_of_one_message_whose_usage_is_always_told():
    assert sent() == {
        "model": "m",
        "messages": [USER],
        "max_tokens": 1000,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }
    call = respond(stream=True)
    assert (call.path, call.stream, call.include_usage) == ("/v1/chat/completions", True, True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_output_tokens": 7}, {"max_tokens": 7}),
        ({"max_output_tokens": 7, "max_tokens": 5}, {"max_tokens": 5}),
        ({"max_output_tokens": 7, "max_tokens": -1}, {"max_tokens": 7}),
        ({"max_completion_tokens": 6, "n_predict": 9}, {"max_tokens": 6}),
        ({"temperature": 0.5, "top_p": 0.5}, {"temperature": 0.5, "top_p": 0.5}),
        ({"top_k": 5, "repetition_penalty": 1.1}, {"top_k": 5, "repeat_penalty": 1.1}),
        ({"repeat_last_n": -1, "stop": ["", "x"]}, {"repeat_last_n": 1000, "stop": ["x"]}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {}),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": 1}),
        (
            {"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "strict": True,
                        "schema": {"type": "object"},
                    }
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "object"}},
                }
            },
        ),
    ],
)
def test_fields_reach_the_engine_under_the_names_of_chat(body, expected):
    assert expected.items() <= sent(**body).items()


@pytest.mark.parametrize(
    "body",
    [
        {"text": {"format": {"type": "text"}}},
        {"text": {"format": None}},
        {"text": {}},
        {"reasoning": {"effort": None}},
        {"include": ["reasoning.encrypted_content"]},
        {"top_logprobs": 0},
        {"background": False, "store": True, "metadata": {"a": "b"}, "truncation": "auto"},
        {"client_metadata": {"x": 1}, "service_tier": "auto", "max_tool_calls": 3, "user": "u"},
        {"stream_options": {"include_obfuscation": False}, "prompt_cache_key": "k"},
        {"instructions": ""},
        {"tools": []},
        {"tool_choice": "required"},
    ],
)
def test_what_means_nothing_here_is_dropped_without_a_word(body):
    call = respond(**body)
    assert orjson.loads(call.body) == sent()
    assert call.ignored == ()


def test_null_is_absent_for_every_field():
    table = DIALECTS[PATH].table
    names = {row.name.replace("*", "x") for row in table.rows} - {"input"}
    call = respond(**dict.fromkeys(names))
    assert orjson.loads(call.body) == sent()
    assert call.ignored == ()


def test_fields_of_the_engine_and_unknown_ones_are_dropped_and_named():
    call = respond(n=3, cache_prompt=True, surprise=1, reasoning={"effort": "huge"})
    assert call.choices == 1
    assert "n" not in orjson.loads(call.body)
    assert call.ignored == ("n", "cache_prompt", "surprise", "reasoning.effort")
    assert refused(policy=FieldPolicy(unknown="reject"), surprise=1).param == "surprise"


def test_an_allowed_field_of_chat_cannot_make_several_answers_of_one():
    allow = FieldPolicy(allow=frozenset({"n", "messages", "response_format"}))
    assert respond(policy=allow, n=3).choices == 1
    assert refused(policy=allow, messages=[USER]).param == "messages"


# -- items


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([USER], [USER]),
        ([{"type": "message", **USER, "id": "x", "status": "completed", "phase": None}], [USER]),
        (
            [{"role": "developer", "content": "a"}, {"role": "system", "content": "b"}, USER],
            [{"role": "system", "content": "a\n\nb"}, USER],
        ),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        ),
        (
            [
                USER,
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [
                        {"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
                        {"type": "refusal", "refusal": "no"},
                    ],
                },
                USER,
            ],
            [
                USER,
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "no"}],
                },
                USER,
            ],
        ),
        (
            [
                USER,
                {"role": "assistant", "content": "a"},
                {"role": "assistant", "content": "b"},
                USER,
            ],
            [
                USER,
                {"role": "assistant", "content": "a"},
                {"role": "assistant", "content": "b"},
                USER,
            ],
        ),
    ],
)
def test_messages_come_with_and_without_a_type(items, expected):
    assert messages(*items) == expected


def test_instructions_come_first_and_join_the_system_messages():
    system = {"role": "developer", "content": "b"}
    assert messages(system, USER, instructions="a")[0] == {"role": "system", "content": "a\n\nb"}


def call_of(call_id, name, arguments):
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "function": function, "id": call_id}


def test_calls_and_what_stands_before_them_are_one_message():
    content = [{"type": "reasoning_text", "text": "hm"}]
    thought = {"type": "reasoning", "id": "rs", "summary": [], "content": content}
    said = {"type": "message", "role": "assistant", "content": "I look."}
    other = {**RESULT, "call_id": "c2", "output": [{"type": "input_text", "text": "22"}]}
    expected = [
        USER,
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [call_of("c1", "f", '{"a":1}'), call_of("c2", "g", "{}")],
        },
        {"role": "tool", "content": "21", "tool_call_id": "c1"},
        {"role": "tool", "content": [{"type": "text", "text": "22"}], "tool_call_id": "c2"},
    ]
    assert messages(USER, thought, said, CALL, MORE, RESULT, other) == expected
    assert messages(USER, said, thought, CALL, MORE, RESULT, other) == expected
    assert messages(USER, CALL, thought, said, MORE, RESULT, other) == expected


def test_calls_that_were_answered_one_by_one_stay_apart():
    roles = [m["role"] for m in messages(USER, CALL, RESULT, MORE, {**RESULT, "call_id": "c2"})]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]


def test_thoughts_belong_to_what_follows_them():
    def thought(text):
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}

    first, second = ({"role": "assistant", "content": word} for word in "ab")
    told = messages(USER, thought("1"), first, thought("2"), second, USER)
    assert [message.get("reasoning_content") for message in told] == [None, "1", "2", None]
    assert messages(USER, thought("1"), USER) == [USER, USER]


@pytest.mark.parametrize(
    "item",
    [
        {"id": "rs", "summary": [], "encrypted_content": "x"},
        {"summary": None, "content": None},
        {"summary": 5, "content": 7},
        {"content": [{"text": 3}, "x", None], "summary": [[]]},
        {},
    ],
)
def test_reasoning_is_never_refused(item):
    assert messages({"type": "reasoning", **item}, USER) == [USER]


def test_images_and_sound_pass_the_guards_of_chat():
    image = {"type": "input_image", "image_url": PNG, "detail": "auto"}
    asked = sent(SEES, input=[{"role": "user", "content": [image]}])
    assert asked["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": PNG}}]
    output = sent(SEES, input=[USER, CALL, {**RESULT, "output": [image]}])["messages"][2]
    assert output["content"][0]["type"] == "image_url"


# -- tools


def test_flat_tools_become_those_of_chat():
    assert sent(tools=[TOOL, OTHER])["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "g", "description": "d"}},
    ]
    nested = {"type": "function", "function": {"name": "g", "description": "d"}}
    assert sent(tools=[nested])["tools"] == sent(tools=[OTHER])["tools"]


def test_tools_that_a_server_would_run_are_dropped_and_named():
    hosted = [{"type": "web_search"}, TOOL, {"type": "namespace", "name": "x", "tools": [OTHER]}]
    call = respond(tools=hosted)
    assert orjson.loads(call.body)["tools"] == sent(tools=[TOOL])["tools"]
    assert call.ignored == ("tools[0]", "tools[2]")
    assert "tools" not in sent(tools=[{"type": "web_search"}], tool_choice="required")


@pytest.mark.parametrize(
    ("choice", "ignored"),
    [
        ("auto", ()),
        ({"type": "auto"}, ()),
        ({"type": "web_search_preview"}, ("tool_choice",)),
        ({"type": "custom", "name": "f"}, ("tool_choice",)),
    ],
)
def test_a_choice_that_does_not_bind_leaves_the_model_free(choice, ignored):
    call = respond(tools=[TOOL, OTHER], tool_choice=choice)
    body = orjson.loads(call.body)
    assert len(body["tools"]) == 2
    assert body.get("tool_choice", "auto") == "auto"
    assert call.ignored == ignored
    assert not call.forced_calls


def test_a_choice_means_what_it_means_in_chat():
    chat = DIALECTS["/v1/chat/completions"]
    tools = sent(tools=[TOOL, OTHER])["tools"]
    function = {"type": "function", "name": "g"}
    for here, there in (
        ("none", "none"),
        ("required", "required"),
        (function, {"type": "function", "function": {"name": "g"}}),
        ({"type": "allowed_tools", "mode": "required", "tools": [function]}, None),
        ({"type": "allowed_tools", "mode": "auto", "tools": [function, {"type": "mcp"}]}, None),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp"}]}, "none"),
    ):
        said = {"tools": tools, "tool_choice": there or here, "messages": [USER]}
        if isinstance(there, type(None)) and isinstance(here, dict):
            named = [tool for tool in here["tools"] if tool["type"] == "function"]
            said["tool_choice"] = {**here, "tools": named}
        expected = chat.build(said, FACTS, FieldPolicy())
        call = respond(tools=[TOOL, OTHER], tool_choice=here)
        assert orjson.loads(call.body) == orjson.loads(expected.body)
        assert call.forced_calls == expected.forced_calls


# -- refusals

BAD_SCHEMA = {"type": "object", "properties": 5}


def with_part(part):
    return {
        "input": [USER, {"role": "user", "content": [{"type": "input_text", "text": ""}, part]}]
    }


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"input": None}, "missing_parameter", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [5]}, "invalid_type", "input[0]"),
        ({"input": [USER] * 2049}, "invalid_value", "input"),
        ({"input": [USER, {"role": "user"}]}, "missing_parameter", "input[1].content"),
        ({"input": [USER, {"content": "x"}]}, "missing_parameter", "input[1].role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "invalid_value", "input[0].role"),
        ({"input": [{"role": ["user"], "content": "x"}]}, "invalid_value", "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "invalid_type", "input[0].content"),
        ({"input": [{"type": 5}]}, "invalid_type", "input[0].type"),
        (
            {"input": [{"type": "item_reference", "id": "x"}]},
            "unsupported_parameter",
            "input[0].type",
        ),
        ({"input": [USER, {"type": "custom_tool_call"}]}, "unsupported_parameter", "input[1].type"),
        (
            {"input": [{"type": "custom_tool_call_output"}]},
            "unsupported_parameter",
            "input[0].type",
        ),
        ({"input": [{"type": "web_search_call"}]}, "unsupported_parameter", "input[0].type"),
        (with_part({"type": "input_file"}), "unsupported_parameter", "input[1].content[1].type"),
        (with_part({"type": 5}), "invalid_type", "input[1].content[1].type"),
        (with_part(5), "invalid_type", "input[1].content[1]"),
        (with_part({"type": "input_text"}), "invalid_type", "input[1].content[1].text"),
        (
            with_part({"type": "input_image", "image_url": "http://x/y.png"}),
            "remote_media_not_allowed",
            "input[1].content[1].image_url",
        ),
        (
            with_part({"type": "input_image", "file_id": "file_1"}),
            "invalid_type",
            "input[1].content[1].image_url",
        ),
        (
            with_part({"type": "input_audio", "input_audio": {"data": "!"}}),
            "remote_media_not_allowed",
            "input[1].content[1].input_audio.data",
        ),
        ({"input": [USER, {**CALL, "name": None}, RESULT]}, "invalid_value", "input[1].name"),
        (
            {"input": [USER, CALL, {**MORE, "arguments": 5}, RESULT]},
            "invalid_type",
            "input[2].arguments",
        ),
        (
            {"input": [USER, CALL, {**MORE, "call_id": 5}, RESULT]},
            "invalid_type",
            "input[2].call_id",
        ),
        ({"input": [USER, CALL, {**RESULT, "call_id": 5}]}, "invalid_type", "input[2].call_id"),
        (
            {"input": [USER, CALL, {**RESULT, "output": None}]},
            "missing_parameter",
            "input[2].output",
        ),
        ({"input": [USER, CALL, {**RESULT, "output": {}}]}, "invalid_type", "input[2].output"),
        (
            {"input": [USER, CALL, {**RESULT, "output": [{"type": "input_file"}]}]},
            "unsupported_parameter",
            "input[2].output[0].type",
        ),
        ({"input": [USER, CALL]}, "invalid_value", "input"),
        ({"input": [USER, *[CALL] * 257, RESULT]}, "invalid_value", "input"),
        ({"instructions": ["x"]}, "invalid_type", "instructions"),
        (
            {"instructions": "x", "input": [{"role": "user", "content": 5}]},
            "invalid_type",
            "input[0].content",
        ),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": "5"}, "invalid_type", "max_output_tokens"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"stream": "yes"}, "invalid_type", "stream"),
        ({"top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"top_logprobs": 2, "tools": [TOOL]}, "unsupported_parameter", "top_logprobs"),
        ({"include": "x"}, "invalid_type", "include"),
        (
            {"include": ["message.output_text.logprobs"], "tools": [TOOL]},
            "unsupported_parameter",
            "include",
        ),
        ({"reasoning": "low"}, "invalid_type", "reasoning"),
        ({"text": "json"}, "invalid_type", "text"),
        ({"text": {"format": "json"}}, "invalid_type", "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type"),
        ({"text": {"format": {}}}, "invalid_value", "text.format.type"),
        (
            {"text": {"format": {"type": "json_schema", "schema": BAD_SCHEMA}}},
            "invalid_value",
            "text.format.schema",
        ),
        ({"tools": {}}, "invalid_type", "tools"),
        ({"tools": [5]}, "invalid_type", "tools[0]"),
        ({"tools": [{"type": 5}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{"type": "mcp"}, {"type": "function"}]}, "invalid_value", "tools[1].name"),
        (
            {"tools": [{"type": "mcp"}, {**OTHER, "description": 5}]},
            "invalid_type",
            "tools[1].description",
        ),
        (
            {"tools": [{"type": "mcp"}, {**TOOL, "parameters": BAD_SCHEMA}]},
            "invalid_value",
            "tools[1].parameters",
        ),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "invalid_value", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 5}, "invalid_type", "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}},
            "invalid_value",
            "tool_choice.name",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": 5}},
            "invalid_type",
            "tool_choice.tools",
        ),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"conversation": {"id": "x"}}, "unsupported_parameter", "conversation"),
        ({"prompt": {"id": "x"}}, "unsupported_parameter", "prompt"),
        ({"messages": [USER]}, "unsupported_parameter", "messages"),
        ({"response_format": {"type": "text"}}, "unsupported_parameter", "response_format"),
        ({"grammar": "root ::= x"}, "unsupported_parameter", "grammar"),
        ({"model": "other"}, "model_not_found", "model"),
    ],
)
def test_a_refusal_names_the_place_in_what_the_client_sent(body, code, param):
    error = refused(SEES, **body)
    assert (error.code, error.param) == (code, param)
    assert "messages[" not in error.message + (error.hint or "")


def test_no_image_for_a_model_that_sees_none():
    error = refused(**with_part({"type": "input_image", "image_url": PNG}))
    assert (error.code, error.param) == (
        "not_supported_by_model",
        "input[1].content[1].image_url",
    )


# -- what the response repeats


def echo(**body):
    return orjson.loads(respond(**body).echo)


def test_a_response_repeats_what_was_asked():
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    assert echo() == {
        "instructions": None,
        "max_output_tokens": None,
        "parallel_tool_calls": True,
        "reasoning": {"effort": None, "summary": None},
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
    }
    told = echo(
        instructions="Be short.",
        max_output_tokens=7,
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        temperature=0.5,
        text={"format": {**schema, "surprise": 1}},
        tools=[TOOL, {"type": "web_search"}],
        tool_choice={"type": "function", "name": "f"},
        top_p=1,
    )
    assert told == {
        "instructions": "Be short.",
        "max_output_tokens": 7,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": None},
        "temperature": 0.5,
        "text": {"format": schema},
        "tool_choice": {"type": "function", "name": "f"},
        "tools": [{**TOOL, "description": None}],
        "top_p": 1,
    }


def test_a_response_does_not_repeat_megabytes():
    assert echo(instructions="x" * 200_000)["instructions"] is None
    tools = [{**OTHER, "name": f"g{at}", "description": "x" * 1000} for at in range(100)]
    assert echo(tools=tools)["tools"] == []


# -- counting


def test_counting_asks_for_the_prompt_of_the_same_request():
    asked = {"instructions": "a", "tools": [TOOL, {"type": "mcp"}]}
    call = respond(path=COUNT, **asked)
    assert call.path == "/v1/chat/completions/input_tokens"
    assert (call.generates, call.tasks, call.ignored) == (False, 0, ("tools[1]",))
    body = orjson.loads(call.body)
    assert body == {name: sent(**asked)[name] for name in body}
    assert set(body) == {"model", "messages", "tools"}
    assert refused(path=COUNT, input=[5]).param == "input[0]"
