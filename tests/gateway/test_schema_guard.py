"""Schemas the engine can take pass; those that end it are a 400 with the place."""

import copy
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.request.schema_guard import SchemaBudget, check_schema

TEXT = {"type": "string"}


def obj(properties, **more):
    return {"type": "object", "properties": properties, **more}


def nested(depth):
    schema = TEXT
    for _ in range(depth):
        schema = obj({"a": schema})
    return schema


def refused(schema, param="s"):
    with pytest.raises(ApiError) as caught:
        check_schema(schema, param)
    assert caught.value.status == 400
    assert (caught.value.param or "").startswith(param)
    return caught.value


PYDANTIC = {
    "$defs": {
        "Step": {
            "properties": {"explanation": {"title": "Explanation", "type": "string"}},
            "required": ["explanation"],
            "title": "Step",
            "type": "object",
            "additionalProperties": False,
        }
    },
    "properties": {
        "steps": {"items": {"$ref": "#/$defs/Step"}, "title": "Steps", "type": "array"},
        "answer": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "point": {"prefixItems": [{"type": "number"}, {"type": "number"}], "type": "array"},
        "extra": {"type": "object", "additionalProperties": {"type": "integer"}},
        "colour": {"enum": ["red", "green"], "type": "string"},
    },
    "required": ["steps"],
    "title": "Answer",
    "type": "object",
    "$schema": "http://json-schema.org/draft-07/schema#",
}
TREE = {
    "$defs": {"node": obj({"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}})},
    "$ref": "#/$defs/node",
}


def test_safe_integers_of_zod_are_no_limit():
    # beyond the digits of the engine's own integers on both sides
    schema = {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}
    assert check_schema(schema, "s") == {"type": "integer"}
    outer = {"type": "integer", "exclusiveMinimum": -1e15, "exclusiveMaximum": 9}
    assert check_schema(outer, "s") == {"type": "integer", "exclusiveMaximum": 9}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        PYDANTIC,
        TREE,
        nested(31),
        obj({f"p{i}": TEXT for i in range(512)}),
        {"enum": list(range(1000))},
        {"type": ["string", "null"], "maxLength": 10},
        {"allOf": [obj({"a": TEXT}), obj({"b": TEXT})]},
        {"type": "integer", "minimum": -5, "exclusiveMaximum": 7.5},
        {"type": "string", "pattern": "^[a-z]+$"},
        {"type": "string", "format": "date-time", "minLength": 1999},
        obj({"content-type": TEXT, "x y": TEXT}, additionalProperties=True),
    ],
)
def test_schemas_of_real_clients_pass_unchanged(schema):
    assert check_schema(copy.deepcopy(schema), "s") == schema


def test_spellings_the_engine_would_refuse_are_put_right():
    schema = obj(
        {
            "any": True,
            "none": {"type": "string", "pattern": None, "enum": None},
            "count": {"type": "array", "minItems": 2.0, "items": True},
            "long": {"type": "string", "maxLength": 10**12},
            "many": {"type": "array", "maxItems": 1950},
            "old": {"title": "Old", "allOf": [{"$ref": "#/$defs/a"}]},
            "pair": {"type": "array", "prefixItems": [True, TEXT], "items": False},
        },
        **{"$defs": {"a": TEXT}},
    )
    assert check_schema(schema, "s")["properties"] == {
        "any": {},
        "none": {"type": "string"},
        "count": {"type": "array", "minItems": 2, "items": {}},
        "long": {"type": "string", "maxLength": 1_000_000},
        "many": {"type": "array", "maxItems": 1_000_000, "items": {}},
        "old": {"title": "Old", "$ref": "#/$defs/a"},
        "pair": {"type": "array", "prefixItems": [{}, TEXT]},
    }
    assert check_schema(True, "s") == {}


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(nested(33), id="deep"),
        pytest.param(obj({f"p{i}": TEXT for i in range(513)}), id="many properties"),
        pytest.param(obj({f"p{i}": TEXT for i in range(2000)}), id="2000 optional properties"),
        pytest.param({"enum": list(range(1001))}, id="many values"),
        pytest.param({"anyOf": [{"enum": list(range(600))}] * 2}, id="many values together"),
        pytest.param({"description": "x" * 70_000}, id="bytes"),
        pytest.param(obj({"_" * 129: TEXT}), id="long property name"),
        pytest.param(obj({"a]b": TEXT}, additionalProperties=True), id="name in a class"),
        pytest.param({"$ref": "http://169.254.169.254/schema"}, id="remote reference"),
        pytest.param({"$ref": "#"}, id="reference to the root"),
        pytest.param({"$ref": "other.json"}, id="relative reference"),
        pytest.param({"$ref": 5}, id="reference of another type"),
        pytest.param({"$ref": "#/$defs/none"}, id="dangling reference"),
        pytest.param({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, id="self"),
        pytest.param(
            {
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                "allOf": [{"$ref": "#/$defs/a"}],
            },
            id="circle of references in allOf",
        ),
        pytest.param({"type": "array", "minItems": 5, "maxItems": 3}, id="items upside down"),
        pytest.param({"type": "string", "minLength": 5, "maxLength": 3}, id="length upside down"),
        pytest.param({"type": "string", "minLength": 2000}, id="least length"),
        pytest.param({"type": "string", "minLength": -1}, id="negative"),
        *(pytest.param({"type": kind}, id=f"type {kind}") for kind in (0, {}, False, "any")),
        pytest.param({"type": "string", "maxLength": "5"}, id="count of another type"),
        pytest.param({"type": "integer", "minimum": 10**17}, id="large bound"),
        pytest.param({"type": "integer", "maximum": -(2**63)}, id="least bound"),
        pytest.param({"type": "integer", "minimum": 5, "maximum": 3}, id="bounds upside down"),
        pytest.param({"type": "integer", "minimum": 1.2, "maximum": 1.8}, id="no integer between"),
        pytest.param({"type": "string", "pattern": "^a{5,3}$"}, id="pattern upside down"),
        pytest.param({"type": "string", "pattern": "^" + "a" * 255 + "$"}, id="long pattern"),
        pytest.param({"type": "string", "pattern": 5}, id="pattern of another type"),
        pytest.param({"type": "float"}, id="unknown type"),
        pytest.param({"type": 5}, id="type of another type"),
        pytest.param({"type": []}, id="no type"),
        pytest.param({"type": ["object", "object"]}, id="repeated type"),
        pytest.param({"anyOf": []}, id="no alternative"),
        pytest.param({"anyOf": {}}, id="alternatives of another type"),
        pytest.param({"anyOf": [False]}, id="false"),
        pytest.param({"enum": []}, id="no value"),
        pytest.param({"properties": []}, id="properties of another type"),
        pytest.param(obj({"a": 5}), id="no schema"),
        pytest.param({"type": "object", "additionalProperties": 5}, id="additional of no type"),
        pytest.param([], id="list"),
        pytest.param("x", id="string"),
        pytest.param(False, id="never"),
    ],
)
def test_schemas_that_end_or_stall_the_engine_are_refused(schema):
    refused(schema)


def test_a_schema_twenty_thousand_deep_is_refused():
    schema = {}
    for _ in range(250):  # what orjson and the body's own bound would let through, and more
        schema = {"properties": {"a": schema}}
    refused(schema)


def test_types_that_double_at_each_level_are_counted_as_often_as_the_engine_does():
    schema = obj({"a": TEXT})
    for _ in range(30):
        schema = {"type": ["object", "string"], "allOf": [schema]}
    started = time.perf_counter()
    refused(schema)
    assert time.perf_counter() - started < 1


def test_references_do_not_hide_depth():
    definitions = {f"d{i}": obj({"a": {"$ref": f"#/$defs/d{i + 1}"}}) for i in range(200)}
    definitions["d200"] = TEXT
    refused({"$defs": definitions, "$ref": "#/$defs/d0"})


def test_a_recursive_object_inside_allof_is_refused_unless_it_can_be_rewritten():
    """The engine writes referenced objects into an allOf anew each time, and overflows."""

    def recursive(part):
        return {"$defs": {"a": obj({"x": part})}, "$ref": "#/$defs/a"}

    a = {"$ref": "#/$defs/a"}
    check_schema(recursive({"allOf": [a]}), "s")
    refused(recursive({"allOf": [a, obj({"y": TEXT})]}))
    refused(recursive({"allOf": [{"anyOf": [TEXT, a]}]}))
    refused(recursive({"type": ["string", "null"], "allOf": [a]}))


def test_ways_through_alternatives_are_counted_not_only_schemas():
    definitions = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(40)
    }
    definitions["d40"] = TEXT
    refused({"$defs": definitions, "$ref": "#/$defs/d0"})


def test_objects_doubled_by_allof_are_counted_as_often_as_they_are_written():
    definitions = {
        f"d{i}": obj({name: {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {}]} for name in "ab"})
        for i in range(20)
    }
    definitions["d20"] = TEXT
    refused({"$defs": definitions, "$ref": "#/$defs/d0"})


def test_a_long_chain_of_references_is_refused():
    definitions = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(1500)}
    definitions["d1500"] = TEXT
    refused({"$defs": definitions, "$ref": "#/$defs/d0"})


def test_references_are_followed_once():
    definitions = {
        f"d{i}": obj({name: {"$ref": f"#/$defs/d{i + 1}"} for name in "abcd"}) for i in range(20)
    }
    definitions["d20"] = TEXT
    check_schema({"$defs": definitions, "$ref": "#/$defs/d0"}, "s")


def test_long_names_of_nested_objects_cost_what_they_cost_the_engine():
    inner = obj({f"p{i}": TEXT for i in range(200)})
    for _ in range(8):
        inner = obj({"n" * 120: inner})
    refused(inner)


def test_tools_share_a_budget():
    budget = SchemaBudget.for_tools()
    schema = obj({f"p{i}": TEXT for i in range(500)}, required=[f"p{i}" for i in range(500)])
    for _ in range(4):
        check_schema(copy.deepcopy(schema), "s", budget)
    with pytest.raises(ApiError):
        check_schema(schema, "s", budget)


def test_the_place_is_named_escaped_and_cut():
    error = refused(obj({"outer": obj({'ev"il\n' + "x" * 100: {"type": "nope"}})}), "tools[0].p")
    assert error.param is not None
    assert error.param.startswith("tools[0].p.outer.ev%22il%0A")
    assert len(error.param) <= 160
    assert "nope" not in error.message


words = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "$ref",
        "anyOf",
        "allOf",
        "enum",
        "pattern",
        "minItems",
        "const",
        "maxItems",
        "minimum",
        "maximum",
        "additionalProperties",
        "prefixItems",
        "required",
        "a",
    ]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(-1e300, 1e300)
    | st.sampled_from(["object", "string", "integer", "array", "#/properties/a", "#/a/0", "^a*$"])
    | st.text(max_size=5)
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=30,
)


def outcome(schema):
    try:
        return type(check_schema(schema, "s")).__name__
    except ApiError as error:
        return error.status


@settings(deadline=None)
@given(anything)
def test_any_json_is_a_schema_or_a_400(schema):
    assert outcome(schema) in ("dict", 400)
