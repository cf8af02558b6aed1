"""The bytes of a request body become one JSON object, or a 400.

Rules:
- many brackets are refused before they are parsed: they cost a parser a hundred times the memory
  that they cost the sender; deep nesting is refused after it, for the stacks further down;
- one reading only: UTF-8 without a byte order mark, no NaN or Infinity, no number beyond a double
  or 64 bits, no lone surrogate. Of duplicate keys the last wins, here and nowhere else, because
  what goes on to the engine is serialised anew;
- an error says where it is at most, never what stood there.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.errors import ApiError

__all__ = ["MAX_DEPTH", "MAX_STRUCTURE", "parse"]

MAX_STRUCTURE = 20_000
"""Objects and arrays in one body."""
MAX_DEPTH = 64
"""Objects and arrays inside each other."""

_STRING = re.compile(rb'"[^"]*+"?')
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DIGITS_ONLY = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG_NUMBER = b"0" * 19
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def parse(
    body: bytes, *, max_structure: int = MAX_STRUCTURE, max_depth: int = MAX_DEPTH
) -> dict[str, Any]:
    """
    Read one JSON object.

    Args:
        body: The whole request body.
        max_structure: Most objects and arrays in it.
        max_depth: Most objects and arrays inside each other, the outermost included.

    Raises:
        ApiError: `invalid_json` (400), whatever is wrong with it.
    """
    value = parse_value(body, max_structure=max_structure, max_depth=max_depth)
    if not isinstance(value, dict):
        raise ApiError("invalid_json", "The request body must be a JSON object.")
    return value


def parse_value(
    text: bytes, *, max_structure: int = MAX_STRUCTURE, max_depth: int = MAX_DEPTH
) -> Any:
    """`parse` for any JSON value; also for JSON that travels inside a string."""
    # One pass for two questions: what it lost are its brackets, and its digits are zeros now.
    zeros = text.translate(_DIGITS_ONLY, b"{[")
    # Brackets inside strings are counted too, as long as that refuses nothing.
    brackets = len(text) - len(zeros)
    has_long_number = zeros.find(_LONG_NUMBER) >= 0
    del zeros  # it is as large as the body
    if brackets > max_structure:
        _check_structure(text, max_structure)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        _refuse_byte_order_mark(text)  # which the parser takes for no JSON
        raise ApiError(
            "invalid_json",
            f"The request body is not valid JSON (line {exc.lineno}, column {exc.colno}).",
        ) from None
    if brackets > max_depth:
        _check_depth([value], max_depth)
    # The parser turns longer integers into doubles; a client that means the integer is told.
    if has_long_number:
        _check_integers(text)
    return value


def _refuse_byte_order_mark(text: bytes) -> None:
    if text.startswith(_BYTE_ORDER_MARKS):
        raise ApiError("invalid_json", "The request body must be UTF-8 without a byte order mark.")


def _check_structure(text: bytes, max_structure: int) -> None:
    _refuse_byte_order_mark(text)
    bare = _outside_strings(text)
    if bare.count(b"{") + bare.count(b"[") > max_structure:
        raise ApiError("invalid_json", f"More than {max_structure} objects and arrays.")


def _outside_strings(text: bytes) -> bytes:
    """
    *text* without its strings, in time that grows with its length whatever stands in it.

    Escaped quotes go first, so that a quote is a quote. A backslash outside a string is no JSON:
    the parser stops there, and what is misread after it is never parsed.
    """
    return _STRING.sub(b'"', text.replace(rb"\\", b"").replace(rb"\"", b""))


def _check_depth(value: Any, max_depth: int) -> None:
    """Go down level by level; the parser's own bound of 1024 keeps its stack safe before that."""
    level = [value]
    for _ in range(max_depth + 1):
        below: list[Any] = []
        for container in level:
            inner = container.values() if type(container) is dict else container
            below += [item for item in inner if type(item) is dict or type(item) is list]
        if not below:
            return
        level = below
    raise ApiError("invalid_json", f"More than {max_depth} levels of nesting.")


def _check_integers(text: bytes) -> None:
    for found in _NUMBER.finditer(_outside_strings(text)):
        number = found.group()
        if len(number) < 19 or not number.lstrip(b"-").isdigit():
            continue
        # 20 digits bound the conversion's cost as well
        if len(number) > 20 or not -(2**63) <= int(number) < 2**64:
            raise ApiError("invalid_json", "An integer is longer than 64 bits.")
