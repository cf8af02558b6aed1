"""Calls that must come: what the engine is made to write, and how it becomes calls again."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.request.forced_calls import MAX_CALLS, call_schema
from gateway.request.schema_guard import SchemaBudget, check_schema
from gateway.request.tools import tool_fields
from gateway.stream.assemble import ChatAssembler
from gateway.stream.forced_calls import ForcedCalls

TREE = {
    "$ref": "#/definitions/Node",
    "definitions": {
        "Node": {
            "type": "object",
            "properties": {"left": {"$ref": "#/definitions/Node"}, "$ref": {"type": "string"}},
        }
    },
}
CITY = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/City"},
        "again": {"$ref": "#/properties/city"},
        "const": {"anyOf": [{"$ref": "#/$defs/City"}, {"const": {"$ref": "#/$defs/City"}}]},
    },
    "required": ["city"],
    "$defs": {"City": {"type": "string"}},
}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    function = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return {"type": "function", "function": function}


# -- the schema


def test_one_tool_is_one_shape_with_its_name_first():
    schema = call_schema([tool("f", {"type": "object", "properties": {}})], several=False)
    assert list(schema["properties"]) == ["name", "arguments"]
    assert schema["properties"]["name"] == {"const": "f"}
    assert schema["required"] == ["name", "arguments"]
    assert schema["additionalProperties"] is False
    assert "anyOf" not in schema


def test_several_tools_are_alternatives_and_several_calls_a_list():
    tools = [tool("f"), tool("g")]
    one = call_schema(tools, several=False)
    assert [call["properties"]["name"]["const"] for call in one["anyOf"]] == ["f", "g"]
    many = call_schema(tools, several=True)
    assert (many["type"], many["minItems"], many["maxItems"]) == ("array", 1, MAX_CALLS)
    assert many["items"] == {"anyOf": one["anyOf"]}


def test_references_lead_to_where_their_schema_is_now():
    tools = [tool("tree", TREE), tool("city", CITY)]
    before = copy.deepcopy(tools)
    for several in (False, True):
        schema = call_schema(tools, several=several)
        tree, city = schema["$defs"]["0"], schema["$defs"]["1"]
        assert tree["$ref"] == "#/$defs/0/definitions/Node"
        node = tree["definitions"]["Node"]["properties"]
        assert node["left"] == {"$ref": "#/$defs/0/definitions/Node"}
        assert node["$ref"] == {"type": "string"}, "a property may have that name"
        assert city["properties"]["city"] == {"$ref": "#/$defs/1/$defs/City"}
        assert city["properties"]["again"] == {"$ref": "#/$defs/1/properties/city"}
        first, second = city["properties"]["const"]["anyOf"]
        assert first == {"$ref": "#/$defs/1/$defs/City"}
        assert second == {"const": {"$ref": "#/$defs/City"}}, "that is a value, no reference"
        check_schema(schema, "x")  # follows every reference
    assert tools == before, "they are sent as well"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, {"type": "object", "properties": {}, "additionalProperties": False}),
        ({"type": "object"}, {"type": "object"}),
        ({"type": ["object", "null"]}, {"type": "object"}),
        ({"description": "x"}, {"description": "x", "type": "object"}),
        ({"properties": {"a": {}}}, {"properties": {"a": {}}}),
    ],
)
def test_arguments_are_an_object(parameters, expected):
    schema = call_schema([tool("f", parameters)], several=False)
    assert schema["$defs"]["0"] == expected


def test_what_the_guard_lets_through_as_tools_it_lets_through_as_calls():
    """The whole costs the engine little more than its parts, which have been checked."""
    wide = {"type": "object", "properties": {f"field_{at}": {"type": "string"} for at in range(16)}}
    many = [tool(f"tool_{at}", copy.deepcopy(wide)) for at in range(128)]
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(29):
        deep = {"type": "array", "items": deep}
    for tools in (many, [tool("f", {"type": "object", "properties": {"a": deep}})]):
        checked = tool_fields({"tools": tools, "tool_choice": "required"})["tools"]
        alone = SchemaBudget.for_tools()
        for each in copy.deepcopy(checked):
            check_schema(each["function"]["parameters"], "x", alone)
        together = SchemaBudget.for_tools()
        for part in call_schema(checked, several=True)["$defs"].values():
            assert len(json.dumps(part)) < 64 * 1024
        # A part that holds no reference of its own costs what it did.
        for part in call_schema(checked, several=True)["$defs"].values():
            check_schema(copy.deepcopy(part), "x", together)
        assert together == alone


# -- the stream


def event(delta: dict[str, Any], index: int = 0, reason: str | None = None, **more: Any) -> bytes:
    choice = {"finish_reason": reason, "index": index, "delta": delta}
    head = {"created": 5, "id": "chatcmpl-x", "model": "m", "object": "chat.completion.chunk"}
    return b"data: " + json.dumps({"choices": [choice], **head, **more}).encode() + b"\n\n"


OPENING = event({"role": "assistant", "content": None})
DONE = b"data: [DONE]\n\n"


def stream(*texts: str, reason: str = "stop") -> bytes:
    written = b"".join(event({"content": text}) for text in texts)
    return OPENING + written + event({}, reason=reason) + DONE


def turned(events: bytes, choices: int = 1, cut: int | None = None) -> bytes:
    out: list[bytes] = []
    take = ForcedCalls(choices).through(out.append)
    step = cut or len(events)
    for at in range(0, len(events), step):
        take(events[at : at + step])
    return b"".join(out)


def payloads(events: bytes) -> list[dict[str, Any]]:
    parts = [part.removeprefix(b"data: ") for part in events.split(b"\n\n") if part]
    return [json.loads(part) for part in parts if part != b"[DONE]"]


def message(events: bytes, choices: int = 1) -> list[dict[str, Any]]:
    assembler = ChatAssembler(choices)
    assembler.feed(events)
    found: list[dict[str, Any]] = json.loads(assembler.result())["choices"]
    return found


def calls(events: bytes) -> list[tuple[str, str]]:
    (choice,) = message(events)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ""
    made = choice["message"]["tool_calls"]
    assert len({call["id"] for call in made}) == len(made)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in made]


ARGUMENTS = r'{"a": "}]\"{[\\", "b": [1, {"c": null}], "d": "\u00e9\\", "é🦙": -1.5e3 }'
ONE = '{"name": "f.g/h:i-j_1", "arguments": ' + ARGUMENTS + "}"
MANY = f' [\n{ONE} ,{{"name":"g","arguments":{{}}}},\t{{ "name" : "h" , "arguments" : [ ] }} ]\n'
EXPECTED = [("f.g/h:i-j_1", ARGUMENTS), ("g", "{}"), ("h", "[ ]")]


@pytest.mark.parametrize(("text", "expected"), [(ONE, EXPECTED[:1]), (MANY, EXPECTED)])
def test_text_may_be_cut_anywhere(text, expected):
    for at in range(len(text)):
        assert calls(turned(stream(text[:at], text[at:]))) == expected
    assert calls(turned(stream(*text))) == expected
    for cut in (1, 2, 7, 1000):
        assert calls(turned(stream(*text), cut=cut)) == expected


def test_parts_go_on_as_they_come():
    got: list[bytes] = []
    take = ForcedCalls().through(got.append)
    steps = [
        ('{"name', []),
        ('": "get_', []),
        ("weather", []),
        ('", "argu', [{"name": "get_weather", "arguments": ""}]),
        ('ments": {"ci', [{"arguments": '{"ci'}]),
        ('ty": "P', [{"arguments": 'ty": "P'}]),
        ('aris"} ', [{"arguments": 'aris"}'}]),
        ("}", []),
    ]
    for text, functions in steps:
        got.clear()
        take(event({"content": text}))
        made = [payload["choices"][0]["delta"] for payload in payloads(b"".join(got))]
        assert [entry["function"] for delta in made for entry in delta["tool_calls"]] == functions
        assert all(list(delta) == ["tool_calls"] for delta in made)


def test_first_entry_has_what_only_it_has():
    first, *rest = [
        payload["choices"][0]["delta"]["tool_calls"]
        for payload in payloads(turned(stream(ONE)))
        if payload["choices"][0]["delta"].get("tool_calls")
    ]
    assert [list(entry) for entry in first] == [["index", "id", "type", "function"]]
    assert first[0]["type"] == "function"
    assert first[0]["id"].startswith("call_")
    assert all(list(entry) == ["index", "function"] for (entry,) in rest)


def test_all_else_passes_as_it_is():
    thought = event({"reasoning_content": "hm"})
    usage = (
        b'data: {"choices":[],"id":"chatcmpl-x","usage":{"total_tokens":3},"timings":{"a":1}}\n\n'
    )
    end = event({}, reason="stop", timings={"predicted_n": 4})
    got = turned(OPENING + thought + event({"content": ONE}) + end + usage + DONE)
    assert got.endswith(usage + DONE)
    opening, first, *_, last, _ = payloads(got)
    assert opening == payloads(OPENING)[0]
    assert first == payloads(thought)[0]
    assert last == payloads(event({}, reason="tool_calls", timings={"predicted_n": 4}))[0]
    for payload in payloads(got)[:-1]:
        assert {name: payload[name] for name in ("created", "id", "model", "object")} == {
            "created": 5,
            "id": "chatcmpl-x",
            "model": "m",
            "object": "chat.completion.chunk",
        }


def test_text_role_and_end_in_one_event_keep_their_order():
    got = turned(event({"role": "assistant", "content": ONE}, reason="stop", usage={"x": 1}))
    deltas = [payload["choices"][0]["delta"] for payload in payloads(got)]
    reasons = [payload["choices"][0]["finish_reason"] for payload in payloads(got)]
    assert reasons == [None] * (len(deltas) - 1) + ["tool_calls"]
    assert "usage" in payloads(got)[-1]
    assert not any("usage" in payload for payload in payloads(got)[:-1])
    assert any("tool_calls" in delta for delta in deltas)


def test_answers_side_by_side_are_kept_apart():
    texts = ['{"name":"f","arguments":{"a":10}}', '{"name":"g","arguments":{"b":[]}}']
    events = b"".join(
        event({"content": piece}, index)
        for pair in zip(*texts, strict=True)
        for index, piece in enumerate(pair)
    )
    ends = event({}, 0, "stop") + event({}, 1, "stop")
    got = message(turned(events + ends + DONE, choices=2), choices=2)
    functions = [choice["message"]["tool_calls"][0]["function"] for choice in got]
    assert functions == [
        {"name": "f", "arguments": '{"a":10}'},
        {"name": "g", "arguments": '{"b":[]}'},
    ]
    ids = {choice["message"]["tool_calls"][0]["id"] for choice in got}
    assert len(ids) == 2


def test_an_answer_cut_at_its_limit_says_so():
    for at in range(len(MANY)):
        (choice,) = message(turned(stream(MANY[:at], reason="length")))
        assert choice["finish_reason"] == "length"
        written = [
            call["function"]["arguments"] for call in choice["message"].get("tool_calls", ())
        ]
        assert all(
            whole.startswith(cut)
            for cut, (_, whole) in zip(written, EXPECTED[: len(written)], strict=True)
        )


def test_an_answer_that_ends_before_its_call_is_an_error():
    whole = MANY.rstrip()
    for at in range(len(whole)):
        with pytest.raises(ValueError, match=r"\w"):
            turned(stream(whole[:at]))


@pytest.mark.parametrize(
    "text",
    [
        "The weather is fine.",
        '"x"',
        "null",
        "{}",
        "[]",
        '{"arguments": {}, "name": "f"}',
        '{"name": 5, "arguments": {}}',
        '{"name": "f"}',
        '{"name": "f", "parameters": {}}',
        '{"name": "f", "arguments": }',
        '{"name": "f", "arguments": {]}',
        '{"name": "f", "arguments": {"a": 1,}}',
        '{"name": "f", "arguments": NaN}',
        '{"name": "f", "arguments": {}, "x": 1}',
        '{"name": "f", "arguments": {}} and more',
        '{"name": "f", "arguments": {}}{"name": "f", "arguments": {}}',
        '[{"name": "f", "arguments": {}},]',
        '[{"name": "f", "arguments": {}}] x',
        '{"na me": "f", "arguments": {}}',
        '{"name": "\\u0066", "arguments": {}}',
        '{"name": "' + "f" * 2000 + '", "arguments": {}}',
        '{"name": "f", "arguments": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_text_that_is_no_call_is_an_error(text):
    for pieces in ((text,), tuple(text[:3000])):
        with pytest.raises(ValueError, match=r"\w"):
            turned(stream(*pieces))


@pytest.mark.parametrize(
    "events",
    [
        b"data: {\n\n",
        b'data: {"choices":[{"delta":{}}]}\n\n',
        b'data: {"choices":5}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":5}}]}\n\n',
        event({"content": ONE}, 0) + event({"content": ONE}, 1),
    ],
)
def test_events_that_make_no_sense_are_an_error(events):
    with pytest.raises(ValueError, match=r"\w"):
        turned(events)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    wanted=st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z0-9_.:/-]{1,20}", fullmatch=True),
            json_values,
            st.booleans(),
            st.sampled_from([None, 1]),
        ),
        min_size=1,
        max_size=4,
    ),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    blank=st.sampled_from(["", " ", "\n  ", "\t"]),
)
def test_any_arguments_come_out_byte_for_byte(wanted, sizes, blank):
    expected = [
        (name, json.dumps(value, ensure_ascii=ascii_only, indent=indent))
        for name, value, ascii_only, indent in wanted
    ]
    b = blank
    texts = [
        f'{b}{{{b}"name"{b}:{b}"{name}"{b},{b}"arguments"{b}:{b}{arguments}{b}}}{b}'
        for name, arguments in expected
    ]
    text = texts[0] if len(texts) == 1 else "[" + ",".join(texts) + "]"
    pieces, at = [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    assert calls(turned(stream(*pieces))) == expected
