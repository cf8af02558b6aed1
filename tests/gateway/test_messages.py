"""Histories as clients replay them become what engine and template can take."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import ModelFacts
from gateway.errors import ApiError
from gateway.request.messages import rebuild

FACTS = ModelFacts(frozenset({"m"}), "m", slots=1, context_tokens=1000)
USER = {"role": "user", "content": "hi"}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "ok"}


def assistant(**more):
    return {"role": "assistant", **more}


def call(**function):
    return {"id": "c1", "type": "function", "function": {"name": "f", **function}}


def refused(messages, facts=FACTS):
    with pytest.raises(ApiError) as caught:
        rebuild(messages, facts)
    assert caught.value.status == 400
    return caught.value.param


def test_a_plain_conversation_passes_unchanged():
    messages = [
        {"role": "system", "content": "be kind"},
        USER,
        assistant(content="hello"),
        {"role": "user", "content": [{"type": "text", "text": "more"}], "name": "ann"},
    ]
    assert rebuild(messages, FACTS) == messages


def test_developer_and_function_are_older_and_newer_names():
    rebuilt = rebuild(
        [
            {"role": "developer", "content": "x"},
            USER,
            assistant(content=None, function_call={"name": "f", "arguments": "{}"}),
            {"role": "function", "name": "f", "content": "y"},
        ],
        FACTS,
    )
    assert [message["role"] for message in rebuilt] == ["system", "user", "assistant", "tool"]
    assert rebuilt[2]["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


def test_leading_system_messages_become_one():
    rebuilt = rebuild(
        [
            {"role": "system", "content": "a"},
            {"role": "developer", "content": "b"},
            USER,
            {"role": "system", "content": "c"},
        ],
        FACTS,
    )
    assert rebuilt == [
        {"role": "system", "content": "a\n\nb"},
        USER,
        {"role": "system", "content": "c"},
    ]
    parts = [{"type": "text", "text": "b"}]
    mixed = rebuild(
        [{"role": "system", "content": "a"}, {"role": "system", "content": parts}, USER], FACTS
    )
    assert mixed[0]["content"] == [{"type": "text", "text": "a"}, *parts]


def test_assistant_messages_at_the_end_become_the_one_the_engine_continues():
    rebuilt = rebuild([USER, assistant(content="a"), assistant(content="b")], FACTS)
    assert rebuilt == [USER, assistant(content="a\n\nb")]


def test_what_an_sdk_dumps_is_taken_back():
    dumped = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "parsed": {"a": 1},
        "reasoning": "r",
        "thinking": "t",
        "provider_specific_fields": {},
        "reasoning_content": "because",
        "made_up": 5,
    }
    assert rebuild([USER, dumped, USER], FACTS)[1] == {
        "role": "assistant",
        "content": "x",
        "reasoning_content": "because",
    }


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_all_kinds_of_text_are_text(kind):
    part = {"type": kind, "text": "a", "cache_control": {"type": "ephemeral"}, "annotations": []}
    rebuilt = rebuild([{"role": "user", "content": [part]}], FACTS)
    assert rebuilt[0]["content"] == [{"type": "text", "text": "a"}]


def test_a_refusal_is_text_too():
    part = {"type": "refusal", "refusal": "no"}
    assert rebuild([USER, assistant(content=[part]), USER], FACTS)[1]["content"] == [
        {"type": "text", "text": "no"}
    ]


@pytest.mark.parametrize("content", ["", []])
def test_empty_content_is_legal(content):
    assert rebuild([{"role": "user", "content": content}], FACTS)[0]["content"] == content


def test_null_content_is_empty_and_absent_content_is_for_assistants_only():
    assert rebuild([{"role": "user", "content": None}], FACTS)[0]["content"] == ""
    assert rebuild([USER, assistant(), USER], FACTS)[1]["content"] == ""
    assert refused([{"role": "user"}]) == "messages[0].content"


@pytest.mark.parametrize(
    ("given_arguments", "sent"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("", "{}"),
        (None, "{}"),
        ({"a": {"b": [1]}}, '{"a":{"b":[1]}}'),
        ('{"a":', '{"arguments":"{\\"a\\":"}'),
        ("[1]", '{"arguments":"[1]"}'),
        ("NaN", '{"arguments":"NaN"}'),
    ],
)
def test_arguments_always_hold_a_json_object(given_arguments, sent):
    rebuilt = rebuild([USER, assistant(tool_calls=[call(arguments=given_arguments)]), TOOL], FACTS)
    assert rebuilt[1]["tool_calls"][0]["function"]["arguments"] == sent


def test_json_inside_arguments_passes_the_same_guards_as_the_body():
    deep = '{"a":' + "[" * 5000 + "]" * 5000 + "}"
    rebuilt = rebuild([USER, assistant(tool_calls=[call(arguments=deep)]), TOOL], FACTS)
    sent = rebuilt[1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"arguments": deep}


def test_ids_and_types_of_calls_may_be_missing():
    rebuilt = rebuild(
        [
            USER,
            assistant(tool_calls=[{"function": {"name": "f"}}]),
            {"role": "tool", "content": "x"},
        ],
        FACTS,
    )
    assert rebuilt[1]["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert rebuilt[2] == {"role": "tool", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ("hi", "messages"),
        ([], "messages"),
        ([USER] * 2049, "messages"),
        (["hi"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "root", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([USER, {"role": "user", "content": 5}], "messages[1].content"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "file"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "video_url"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "media_marker"}]}], "messages[0].content[0].type"),
        ([{"role": "tool", "tool_call_id": 5, "content": "x"}], "messages[0].tool_call_id"),
        ([assistant(tool_calls="x"), USER], "messages[0].tool_calls"),
        ([assistant(tool_calls=[5]), USER], "messages[0].tool_calls[0]"),
        ([assistant(tool_calls=[{"type": "custom"}]), USER], "messages[0].tool_calls[0].type"),
        ([assistant(tool_calls=[{}]), USER], "messages[0].tool_calls[0].function"),
        (
            [assistant(tool_calls=[{"function": {"arguments": "{}"}}]), USER],
            "messages[0].tool_calls[0].function.name",
        ),
        (
            [assistant(tool_calls=[call(arguments=[1])]), USER],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ([USER, assistant(tool_calls=[call()])], "messages"),
    ],
)
def test_what_cannot_be_put_right_is_refused_with_its_place(messages, param):
    assert refused(messages) == param


def test_images_need_a_projector_and_inline_bytes():
    pixel = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8Dw"
        "HwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
    )
    part = {"type": "image_url", "image_url": {"url": pixel, "detail": "high"}}
    bare = {"type": "image_url", "image_url": pixel}
    messages = [{"role": "user", "content": [part, bare]}]
    assert refused(messages) == "messages[0].content[0].image_url.url"
    seeing = ModelFacts(frozenset(), "m", slots=1, context_tokens=9, vision=True)
    wanted = {"type": "image_url", "image_url": {"url": pixel}}
    assert rebuild(messages, seeing)[0]["content"] == [wanted, wanted]
    remote = {"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}}
    assert refused([{"role": "user", "content": [remote]}], seeing)


leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8)
keys = st.sampled_from(
    [
        "role",
        "content",
        "type",
        "text",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "image_url",
        "url",
        "input_audio",
        "data",
        "refusal",
        "reasoning_content",
        "x",
    ]
)
words = st.sampled_from(["user", "assistant", "system", "tool", "text", "function", "image_url"])
json_values = st.recursive(
    leaves | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=25,
)
message = st.fixed_dictionaries(
    {"role": words},
    optional={"content": json_values, "tool_calls": json_values, "name": json_values},
)
KNOWN = {"role", "content", "name", "tool_call_id", "tool_calls", "reasoning_content"}


def outcome(messages):
    try:
        return rebuild(messages, FACTS)
    except ApiError as error:
        return error.status


@settings(deadline=None)
@given(st.lists(message | json_values, max_size=5) | json_values)
def test_any_json_is_a_history_or_a_400(messages):
    rebuilt = outcome(messages)
    if rebuilt == 400:
        return
    assert rebuilt
    assert all(set(one) <= KNOWN and {"role", "content"} <= set(one) for one in rebuilt)
