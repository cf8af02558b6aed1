"""The leaves of a JSON schema: strings, counts and bounds, as the engine can take them.

Every function looks at one schema, not below it. A lower bound above an upper one makes the
engine's grammar grow until memory ends, so none of these checks is a matter of taste.
"""

from __future__ import annotations

import math
from typing import Any

from gateway.request.fields.kinds import as_integer
from gateway.request.pattern_guard import PatternError, check_pattern

__all__ = ["SchemaError", "check_array", "check_integer", "check_string", "tidy"]

MAX_PATTERN_CHARS = 256
MAX_REPEAT = 2000
"""Least counts stay below it; greatest counts beyond it mean "unlimited" to the engine."""
MAX_ITEMS = 1900
"""Greatest counts of arrays from here to 2000 make a grammar the engine refuses: unlimited."""
UNLIMITED = 1_000_000
MAX_INTEGER = 10**15
"""Bounds of integers; the engine's grammars hold 16 digits."""

_OUTER = {"minimum": -1, "exclusiveMinimum": -1, "maximum": 1, "exclusiveMaximum": 1}
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_KEYWORDS = {
    *("$ref", "oneOf", "anyOf", "allOf", "type", "enum", "properties", "required"),
    *("additionalProperties", "items", "prefixItems", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "const",
    *_COUNTS,
}


_NULLABLE = _KEYWORDS - {"const"}


class SchemaError(ValueError):
    """Why a schema is refused; its text completes "The schema ..."."""


def tidy(node: dict[str, Any]) -> None:
    """Put right, in place, what honest clients write and the engine refuses."""
    for key in [key for key, value in node.items() if value is None and key in _NULLABLE]:
        del node[key]
    if node.get("items") is True:
        node["items"] = {}
    elif node.get("items") is False:
        # "nothing beyond prefixItems", which is what the engine assumes without it
        del node["items"]
        if "prefixItems" not in node:
            node["maxItems"] = 0
    all_of = node.get("allOf")
    if isinstance(all_of, list) and len(all_of) == 1 and _only(node, "allOf"):
        # how pydantic 1 annotates a reference; the engine overflows where such a one is recursive
        only = all_of[0]
        if isinstance(only, dict) and _only(only, "$ref"):
            del node["allOf"]
            node["$ref"] = only["$ref"]
    for key in _COUNTS:
        count = as_integer(node.get(key))
        if count is not None:
            # beyond 32 bits the engine would read another number
            node[key] = min(count, UNLIMITED) if key.startswith("max") else count
    for key, side in _OUTER.items():
        if type(node.get(key)) in (int, float) and node[key] * side >= MAX_INTEGER:
            # zod writes the safe integers of JavaScript: no limit, the engine's digits end before
            del node[key]


def _only(node: dict[str, Any], keyword: str) -> bool:
    """Whether *keyword* is the only one of a schema that the engine looks at."""
    return _KEYWORDS.intersection(node) == {keyword}


def check_string(node: dict[str, Any]) -> None:
    """Length, format and pattern."""
    pattern = node.get("pattern")
    if pattern is not None:
        if not isinstance(pattern, str):
            raise SchemaError("has a pattern that is no string")
        if len(pattern) > MAX_PATTERN_CHARS:
            raise SchemaError(f"has a pattern longer than {MAX_PATTERN_CHARS} characters")
        try:
            check_pattern(pattern)
        except PatternError as exc:
            raise SchemaError(str(exc)) from None
    if not isinstance(node.get("format", ""), str):
        raise SchemaError("has a format that is no string")
    _check_counts(node, "minLength", "maxLength")


def check_array(node: dict[str, Any]) -> None:
    """The number of items, and that there is a word about them: some templates look for it."""
    if "items" not in node and "prefixItems" not in node:
        node["items"] = {}
    _check_counts(node, "minItems", "maxItems")
    if node.get("maxItems", 0) > MAX_ITEMS:
        node["maxItems"] = UNLIMITED


def _check_counts(node: dict[str, Any], low_key: str, high_key: str) -> None:
    for key in (low_key, high_key):
        count = node.get(key, 0)
        if type(count) is not int or count < 0:
            raise SchemaError(f"has '{key}' that is no count")
    low, high = node.get(low_key, 0), node.get(high_key)
    if low >= MAX_REPEAT:
        raise SchemaError(f"has '{low_key}' of {MAX_REPEAT} or more")
    if high is not None and low > high:
        raise SchemaError(f"has '{low_key}' above '{high_key}'")


def check_integer(node: dict[str, Any]) -> None:
    """The bounds of an integer, rounded inwards as the engine rounds them."""
    low = high = None
    if (value := _bound(node, "minimum")) is not None:
        low = math.ceil(value)
    elif (value := _bound(node, "exclusiveMinimum")) is not None:
        low = math.floor(value) + 1
    if (value := _bound(node, "maximum")) is not None:
        high = math.floor(value)
    elif (value := _bound(node, "exclusiveMaximum")) is not None:
        high = math.ceil(value) - 1
    if low is not None and high is not None and low > high:
        raise SchemaError("allows no integer: its minimum is above its maximum")


def _bound(node: dict[str, Any], key: str) -> float | None:
    value = node.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise SchemaError(f"has '{key}' that is no number or too large")
    return float(value)
