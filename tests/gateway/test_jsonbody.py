"""One reading of a body, and nothing that costs more than it cost the sender."""

import json
import sys

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.request.jsonbody import MAX_DEPTH, MAX_STRUCTURE, parse


def refused(body: bytes, **limits: int) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(body, **limits)
    assert caught.value.code == "invalid_json"
    assert caught.value.status == 400
    return caught.value


def test_an_object_is_read():
    assert parse('{"a": [1, 2.5, "é", null, true]}'.encode()) == {"a": [1, 2.5, "é", None, True]}


def test_of_duplicate_keys_the_last_wins():
    assert parse(b'{"max_tokens":1,"max_tokens":2}') == {"max_tokens": 2}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1}x',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e400}',
        b'{"a":-1e400}',
        b'{"a":18446744073709551616}',
        b'{"a":-9223372036854775809}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\n"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-32"),
        b"[]",
        b"null",
        b'"x"',
        b"1",
        b"\x00",
    ],
)
def test_what_is_not_one_json_object_is_refused(body):
    refused(body)


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
def test_a_byte_order_mark_is_named_whatever_else_is_wrong(mark: bytes) -> None:
    for rest in (b'{"a":1}', b"x", b"[" * 100):
        assert "byte order mark" in refused(mark + rest, max_structure=50).message


@pytest.mark.parametrize(
    "body", [b'{"a":18446744073709551615}', b'{"a":-9223372036854775808}', b'{"a":1e300}']
)
def test_the_largest_numbers_pass(body):
    assert parse(body) == json.loads(body)


def test_long_digits_inside_a_string_or_a_fraction_are_no_integer():
    body = b'{"a":"123456789012345678901234567890","b":0.1234567890123456789012345}'
    assert parse(body)["a"].startswith("1234")


def test_an_error_quotes_nothing():
    error = refused(b'{"secret-word": oops}')
    assert "secret" not in error.message
    assert "oops" not in error.message


def test_nesting_is_bounded_before_parsing():
    deepest = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert parse(deepest)
    refused(b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}")
    refused(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    refused(b'{"a":' + b'{"a":[' * 5000)


def test_the_number_of_brackets_is_bounded_before_parsing():
    assert parse(b'{"a":[' + b"[]," * (MAX_STRUCTURE - 3) + b"[]]}")
    refused(b'{"a":[' + b"[]," * (MAX_STRUCTURE - 2) + b"[]]}")
    refused(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}")


def test_brackets_inside_strings_count_for_nothing():
    text = '[{"' * 50_000 + "\\"
    assert parse(orjson.dumps({"a": text})) == {"a": text}


@pytest.mark.parametrize("body", [b'{"a":"' + b'\\"' * 200_000, b'"' * 200_001, b"\\" * 200_000])
def test_unterminated_strings_cost_no_more_than_their_length(body):
    # quadratic work would run into the test's time limit
    refused(b"[" * 100 + body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
@settings(deadline=None)
def test_whatever_is_written_is_read_back(value):
    assert parse(orjson.dumps(value)) == value
    assert parse(orjson.dumps(value), max_depth=20, max_structure=200) == value


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_object_or_a_400(body):
    try:
        found = parse(body, max_depth=3, max_structure=5)
    except ApiError as error:
        outcome = error.code
    else:
        outcome = type(found).__name__
    assert outcome in ("dict", "invalid_json")


@given(st.binary(max_size=60).map(lambda noise: b'{"a":' + noise + b"}"), st.integers(1, 4))
@settings(deadline=None)
def test_depth_is_never_more_than_allowed(body, depth):
    def depth_of(value):
        inner = value.values() if isinstance(value, dict) else value
        if not isinstance(value, dict | list):
            return 0
        return 1 + max(map(depth_of, inner), default=0)

    try:
        value = parse(body, max_depth=depth)
    except ApiError:
        return
    assert depth_of(value) <= depth < sys.getrecursionlimit()
