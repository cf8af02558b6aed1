"""PURE. The JSON that the engine has to write where a tool must be called.

Under the tool choice "required" the engine's own grammar lets a model talk for as long as it likes
before the call. A schema for the whole answer does not. So where a call must come, the tools stay
in the prompt, the engine is told to call none, and gets the schema of a call: a name and its
arguments, any of the tools, or a list of such calls. What it writes then is turned into calls again
by `gateway.stream.forced_calls`.

The parameters of each tool are hung under ``$defs`` of the whole, and their references moved along.
They have been through `schema_guard` each for itself and with one budget; what is added here is one
alternative and two properties for each tool.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DOC", "MAX_CALLS", "call_schema"]

MAX_CALLS = 16
"""Calls in one answer, where several may come. A small model might not come to an end."""

DOC = f"""\
A call that must come is enforced: the answer is one call, with arguments that fit the function's
`parameters`, or 1 to {MAX_CALLS} calls with `parallel_tool_calls: true`. `stop`, `response_format`
and `ignore_eos` are then dropped and named, and `reasoning_format` is `auto`. The finish reason is
`tool_calls`; a call that was cut at the token limit has `length`, and arguments without an end.
"""

_DATA = ("const", "enum")
_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_SHAPES = ("type", "$ref", "anyOf", "oneOf", "allOf", "const", "enum", "properties")

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def call_schema(tools: list[dict[str, Any]], *, several: bool) -> dict[str, Any]:
    """
    The schema of a call of one of *tools*.

    Args:
        tools: As `gateway.request.tools` makes them, at least one; not changed.
        several: A list of 1 to `MAX_CALLS` calls instead of one.
    """
    functions = [tool["function"] for tool in tools]
    calls = [_call(function["name"], at) for at, function in enumerate(functions)]
    one = calls[0] if len(calls) == 1 else {"anyOf": calls}
    schema = one
    if several:
        schema = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_CALLS}
    arguments = {str(at): _arguments(function, at) for at, function in enumerate(functions)}
    return {**schema, "$defs": arguments}


def _place(at: int) -> str:
    return f"#/$defs/{at}"


def _call(name: str, at: int) -> dict[str, Any]:
    # The name comes first: which arguments fit is known only then.
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": _place(at)}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _arguments(function: dict[str, Any], at: int) -> dict[str, Any]:
    parameters = function.get("parameters")
    if parameters is None:
        return _NO_ARGUMENTS
    moved: dict[str, Any] = _moved(parameters, _place(at))
    kind = moved.get("type")
    if (isinstance(kind, list) and "object" in kind) or not any(word in moved for word in _SHAPES):
        moved["type"] = "object"  # it would be a wish to the engine otherwise, not a demand
    return moved


def _moved(value: Any, place: str, *, named: bool = False) -> Any:
    """
    A copy of a part of a schema, as it has to be below *place*.

    Args:
        value: The part.
        place: Where the schema's root is now.
        named: Its keys are names that the client chose, not keywords.
    """
    if isinstance(value, list):
        return [_moved(item, place) for item in value]
    if not isinstance(value, dict):
        return value
    copy: dict[str, Any] = {}
    for key, part in value.items():
        if named:
            copy[key] = _moved(part, place)
        elif key == "$ref" and isinstance(part, str) and part.startswith("#/"):
            copy[key] = place + part[1:]
        elif key in _DATA:
            copy[key] = part
        else:
            copy[key] = _moved(part, place, named=key in _NAMED)
    return copy
