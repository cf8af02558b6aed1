"""The tables decide what passes; unknown fields never do."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, FieldPolicy, ModelFacts
from gateway.dialects.chat import CHAT
from gateway.dialects.completions import COMPLETIONS
from gateway.errors import ApiError
from gateway.request.fields import Fate, Row, Table, printable, sift
from gateway.request.fields.kinds import (
    Flag,
    Grammar,
    Integer,
    LogitBias,
    Number,
    OneOf,
    Seed,
    Stop,
    Texts,
)

FACTS = ModelFacts(frozenset({"m"}), "m", slots=4, context_tokens=1000, vocab_size=300)
POLICY = FieldPolicy()


def read(kind, value, facts=FACTS):
    return kind.read(value, "p", facts)


def refused(kind, value, code):
    with pytest.raises(ApiError) as caught:
        read(kind, value)
    assert caught.value.code == code
    assert caught.value.status == 400
    assert (caught.value.param or "").startswith("p")


@pytest.mark.parametrize(
    ("kind", "value", "sent"),
    [
        (Integer(0, 10), 5.0, 5),
        (Integer(0, "context"), 1000, 1000),
        (Integer(0, "vocab"), 299, 299),
        (Integer(0, "context", minus_one="context"), -1, 1000),
        (Number(0, 2), 0, 0),
        (Number(0, 2), 1.5, 1.5),
        (Seed(), -1, -1),
        (Seed(), 7, 7),
        (Seed(), 2**64 - 1, 0),
        (Flag(numbers=True), 1, True),
        (Flag(), False, False),
        (Stop(), "x", ["x"]),
        (Stop(), "", None),
        (Stop(), ["", "x", ""], ["x"]),
        (Stop(), [], None),
        (Texts(2, 3), [], None),
        (LogitBias(), {}, None),
        (LogitBias(), {"5": -100, "7": 0.5}, {"5": -100, "7": 0.5}),
        (OneOf(("a", "b")), "a", "a"),
    ],
)
def test_values_are_sent_as_the_engine_wants_them(kind, value, sent):
    found = read(kind, value)
    assert found == sent
    assert type(found) is type(sent)


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        (Integer(0, 10), "5", "invalid_type"),
        (Integer(0, 10), 5.5, "invalid_type"),
        (Integer(0, 10), True, "invalid_type"),
        (Integer(0, 10), [5], "invalid_type"),
        (Integer(0, 10), 11, "invalid_value"),
        (Integer(0, 10), -1, "invalid_value"),
        (Integer(0, 10), 1e300, "invalid_value"),
        (Integer(0, "context"), 1001, "invalid_value"),
        (Number(0, 2), "1", "invalid_type"),
        (Number(0, 2), True, "invalid_type"),
        (Number(0, 2), 2.1, "invalid_value"),
        (Number(0, 2, above=True), 0, "invalid_value"),
        (Seed(), "x", "invalid_type"),
        (Flag(), 1, "invalid_type"),
        (Flag(numbers=True), 2, "invalid_type"),
        (Stop(), 5, "invalid_type"),
        (Stop(), ["x"] * 17, "invalid_value"),
        (Stop(), ["x" * 257], "invalid_value"),
        (Stop(), [5], "invalid_type"),
        (LogitBias(), [[5, 1]], "invalid_type"),
        (LogitBias(), {"hello": 1}, "invalid_value"),
        (LogitBias(), {"٣": 1}, "invalid_value"),
        (LogitBias(), {"300": 1}, "invalid_value"),
        (LogitBias(), {"5": 101}, "invalid_value"),
        (LogitBias(), {"5": False}, "invalid_type"),
        (LogitBias(), {str(i): 1 for i in range(1025)}, "invalid_value"),
        (OneOf(("a",)), "c", "invalid_value"),
        (OneOf(("a",)), 5, "invalid_type"),
        (Grammar(), "root ::= " + "(" * 60_000 + ")" * 60_000, "invalid_value"),
        (Grammar(), "root ::= " + "(" * 33 + ")" * 33, "invalid_value"),
        (Grammar(), "x" * 16_385, "invalid_value"),
    ],
)
def test_values_out_of_range_are_refused_with_the_field(kind, value, code):
    refused(kind, value, code)


def test_null_means_absent_for_every_field():
    names = [row.name.removesuffix("*") for row in CHAT.rows] + ["made_up"]
    sifted = sift(dict.fromkeys(names), CHAT, FACTS, FieldPolicy(unknown="reject"))
    assert (sifted.forward, sifted.translate, sifted.ignored) == ({}, {}, [])


def test_unknown_fields_are_dropped_and_named():
    sifted = sift({"made_up": 1, "user": "u", "id_slot": 3}, CHAT, FACTS, POLICY)
    assert sifted.forward == {}
    assert sifted.ignored_names() == ("made_up", "id_slot")


def test_unknown_fields_are_refused_where_the_operator_wants_that():
    with pytest.raises(ApiError) as caught:
        sift({"made\r\nup": 1}, CHAT, FACTS, FieldPolicy(unknown="reject"))
    assert caught.value.code == "unknown_parameter"
    assert caught.value.param == "made%0D%0Aup"


def test_known_fields_without_effect_are_no_unknown_ones():
    sift({"user": "u", "ignore_eos": True, "id_slot": 1}, CHAT, FACTS, FieldPolicy("reject"))


@pytest.mark.parametrize(
    "name",
    [
        "grammar",
        "json_schema",
        "lora",
        "chat_parser",
        "chat_format",
        "generation_prompt",
        "parse_tool_calls",
        "continue_final_message",
        "grammar_lazy",
        "grammar_triggers",
        "audio",
    ],
)
def test_fields_that_change_the_meaning_are_refused(name):
    with pytest.raises(ApiError) as caught:
        sift({name: "x"}, CHAT, FACTS, POLICY)
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == name


def test_the_operator_can_let_fields_through():
    policy = FieldPolicy(allow=frozenset({"grammar", "id_slot", "made_up"}))
    body = {"grammar": 'root ::= "a"', "id_slot": 1, "made_up": [1]}
    assert sift(body, COMPLETIONS, FACTS, policy).forward == body


@pytest.mark.parametrize("name", ["chat_parser", "json_schema", "grammar_lazy", "chat_format"])
def test_not_even_the_operator_can_let_through_what_ends_the_engine(name):
    with pytest.raises(ApiError):
        sift({name: "x"}, COMPLETIONS, FACTS, FieldPolicy(allow=frozenset({name})))


def test_another_servers_name_is_translated_and_the_engines_own_wins():
    forward = sift({"repetition_penalty": 1.5}, CHAT, FACTS, POLICY).forward
    assert forward == {"repeat_penalty": 1.5}
    for body in (
        {"repetition_penalty": 1.5, "repeat_penalty": 1.1},
        {"repeat_penalty": 1.1, "repetition_penalty": 1.5},
    ):
        assert sift(body, CHAT, FACTS, POLICY).forward == {"repeat_penalty": 1.1}


def test_the_whole_context_is_what_minus_one_means():
    body = {"repeat_last_n": -1, "dry_penalty_last_n": -1}
    assert sift(body, CHAT, FACTS, POLICY).forward == dict.fromkeys(body, 1000)


@settings(deadline=None)
@given(st.lists(st.text(max_size=200), max_size=40, unique=True))
def test_names_of_ignored_fields_fit_a_header(names):
    sifted = sift({f"x-{name}": 1 for name in names}, CHAT, FACTS, POLICY)
    shown = sifted.ignored_names()
    assert len(shown) <= 17
    allowed = set(string.ascii_letters + string.digits + "_.-[]*:%~")
    assert all(len(name) <= 64 and set(name) <= allowed for name in shown)


def test_a_cut_name_stays_readable():
    assert printable("temperature") == "temperature"
    assert printable("a,b;c d") == "a%2Cb%3Bc%20d"
    assert printable("x" * 62 + ",,") == "x" * 62, "no half of an escape"


def test_no_table_names_a_field_twice():
    with pytest.raises(ValueError, match="twice"):
        Table("t", [Row("a", Fate.DROP), Row("a", Fate.DROP)])


def test_every_row_can_be_described():
    for table in (dialect.table for dialect in DIALECTS.values()):
        for row in table.rows:
            assert row.kind.describe()
