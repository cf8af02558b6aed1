"""Tools and tool_choice of a chat request, and their legacy names.

The engine knows only the words auto, none and required, so a named function becomes that one alone
and required. It does not enforce the last against plain text: see `gateway.request.forced_calls`.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.errors import ApiError
from gateway.request.fields.kinds import wrong_type, wrong_value
from gateway.request.schema_guard import SchemaBudget, check_schema

__all__ = ["DOC", "tool_fields"]

MAX_TOOLS = 128
MAX_TOOLS_BYTES = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}", re.ASCII)
_WORDS = {"auto": "auto", "none": "none", "required": "required", "any": "required"}

DOC = f"""\
At most {MAX_TOOLS} functions, {MAX_TOOLS_BYTES >> 10} KiB in all. A name has 1 to 128 letters,
digits and any of `_.:/-`. `parameters` may be absent, and else is checked like every
[JSON schema](#json-schemas). `strict` is dropped. Tools of another type are 400 on chat.

| `tool_choice` | what happens |
|---|---|
| absent, `"auto"` | the model decides |
| `"none"` | the tools stay in the prompt, none is called |
| `"required"`, `"any"` | a call of any of them |
| `{{"type": "function", "function": {{"name": ...}}}}`, or the name beside the type | a call of \
that one |
| `{{"type": "allowed_tools", ...}}` | only those are offered, with the mode that it names |

Without tools, `tool_choice` is dropped. A name that is not among the tools is 400.
"""


def tool_fields(translate: dict[str, Any]) -> dict[str, Any]:
    """
    The engine's `tools` and `tool_choice` for what the client sent; empty without tools.

    Raises:
        ApiError: 400, with the place.
    """
    given, param = translate.get("tools"), "tools"
    if given is None:
        given, param = _from_functions(translate.get("functions")), "functions"
    if given is None:
        return {}
    if not isinstance(given, list):
        raise wrong_type(param, "a list")
    if len(given) > MAX_TOOLS:
        raise wrong_value(param, f"a list of at most {MAX_TOOLS} functions")
    budget = SchemaBudget.for_tools()
    tools = [_tool(value, f"{param}[{at}]", budget) for at, value in enumerate(given)]
    if not tools:
        return {}
    if len(orjson.dumps(tools)) > MAX_TOOLS_BYTES:
        raise wrong_value(param, f"at most {MAX_TOOLS_BYTES >> 10} KiB long")
    choice = translate.get("tool_choice")
    if choice is None:
        choice = translate.get("function_call")
        return _choose(tools, choice, "function_call")
    return _choose(tools, choice, "tool_choice")


def _from_functions(functions: Any) -> Any:
    if not isinstance(functions, list):
        return functions
    return [{"type": "function", "function": function} for function in functions]


def _tool(tool: Any, at: str, budget: SchemaBudget) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise wrong_type(at, "an object")
    if tool.get("type") not in (None, "function"):
        raise ApiError(
            "unsupported_parameter",
            "Only tools of type 'function' are supported.",
            param=f"{at}.type",
        )
    function = tool.get("function")
    if not isinstance(function, dict):
        raise wrong_type(f"{at}.function", "an object")
    name = function.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise wrong_value(
            f"{at}.function.name", "a string of 1 to 128 letters, digits, and any of _.:/-"
        )
    rebuilt: dict[str, Any] = {"name": name}
    description = function.get("description")
    if description is not None:
        if not isinstance(description, str):
            raise wrong_type(f"{at}.function.description", "a string")
        rebuilt["description"] = description
    parameters = function.get("parameters")
    if parameters:
        place = f"{at}.function.parameters"
        rebuilt["parameters"] = check_schema(parameters, place, budget)
    return {"type": "function", "function": rebuilt}


def _choose(tools: list[dict[str, Any]], choice: Any, param: str) -> dict[str, Any]:
    if choice is None:
        return {"tools": tools}
    if isinstance(choice, str):
        if choice not in _WORDS:
            raise wrong_value(param, "'auto', 'none', 'required', or an object")
        return {"tools": tools, "tool_choice": _WORDS[choice]}
    if not isinstance(choice, dict):
        raise wrong_type(param, "a word or an object")
    kind = choice.get("type")
    if kind == "allowed_tools":
        return _choose_allowed(tools, choice, param)
    if kind in ("auto", "none", "any", "required"):
        return {"tools": tools, "tool_choice": _WORDS[kind]}
    name = _named(choice)
    if name is None:
        raise wrong_value(param, "'auto', 'none', 'required', or the name of a function")
    return {"tools": _only(tools, {name}, f"{param}.function.name"), "tool_choice": "required"}


def _choose_allowed(
    tools: list[dict[str, Any]], choice: dict[str, Any], param: str
) -> dict[str, Any]:
    inner = choice.get("allowed_tools", choice)
    if not isinstance(inner, dict):
        raise wrong_type(f"{param}.allowed_tools", "an object")
    listed = inner.get("tools")
    if not isinstance(listed, list):
        raise wrong_type(f"{param}.allowed_tools.tools", "a list")
    mode = inner.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise wrong_value(f"{param}.allowed_tools.mode", "'auto' or 'required'")
    names = {name for item in listed if (name := _named(item)) is not None}
    place = f"{param}.allowed_tools.tools"
    return {"tools": _only(tools, names, place), "tool_choice": mode}


def _named(choice: Any) -> str | None:
    """The function's name in any of the shapes clients use for "this one"."""
    if not isinstance(choice, dict):
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else choice.get("name")
    return name if isinstance(name, str) else None


def _only(tools: list[dict[str, Any]], names: set[str], param: str) -> list[dict[str, Any]]:
    chosen = [tool for tool in tools if tool["function"]["name"] in names]
    if not chosen:
        raise wrong_value(param, "the name of one of the tools")
    return chosen
