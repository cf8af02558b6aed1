"""The chat history, rebuilt message by message.

SDKs replay whatever they were given, so unknown keys of a message are dropped, never refused.
What the engine or a chat template would choke on is put right here:
- developer becomes system, function becomes tool; leading system messages become one, because
  many templates know only one;
- arguments of a tool call reach the engine as a string that holds a JSON object, since templates
  parse it, and a history may well hold what a model got wrong;
- of several assistant messages at the end one is made: the engine continues the last one only.

What it cannot do (continue a tool call, unknown roles, media it was not built for) is a 400 with
the exact place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from gateway.errors import ApiError
from gateway.request.fields.kinds import wrong_type, wrong_value
from gateway.request.jsonbody import parse_value
from gateway.request.media import MediaBudget

if TYPE_CHECKING:  # the dialects import this module
    from gateway.dialects.base import ModelFacts

__all__ = ["DOC", "rebuild"]

MAX_MESSAGES = 2048
MAX_PARTS = 1024
MAX_TOOL_CALLS = 256
MAX_NAME_CHARS = 256
MAX_ARGUMENT_DEPTH = 32

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXT_PARTS = {"text": "text", "refusal": "refusal", "input_text": "text", "output_text": "text"}
"""Type of a part that is text, and the key its text is under."""

DOC = f"""\
Every message is rebuilt; keys that are not named here are dropped, so what an SDK replays may come
as it is.

| part | what happens |
|---|---|
| `role` | {", ".join(f"`{role}`" for role in _ROLES)}; `developer` becomes `system`, `function` \
becomes `tool`. Any other is 400 |
| `content` | a string, a list of at most {MAX_PARTS} parts, or null; an assistant's may be absent |
| text parts | {", ".join(f"`{kind}`" for kind in _TEXT_PARTS)}: all become text |
| `image_url`, `input_audio` | forwarded if the loaded model can take them, see [media](#media); \
`detail` is dropped |
| `file`, `video_url`, other parts | 400 |
| an assistant's `tool_calls` (or the old `function_call`) | at most {MAX_TOOL_CALLS}; arguments \
may be a string, empty, or an object. What is no JSON object is wrapped into one |
| an assistant's `reasoning_content` | forwarded |
| `tool_call_id`, `name` | forwarded, at most {MAX_NAME_CHARS} characters |

System messages at the beginning become one, and so do assistant messages at the end, because chat
templates and the engine know only one. The last message may be an assistant's, which is then
continued, but not one with tool calls.
"""


def rebuild(messages: Any, facts: ModelFacts) -> list[dict[str, Any]]:
    """
    Make the list of messages that the engine gets.

    Raises:
        ApiError: 400 with the place, such as ``messages[3].content[0].image_url``.
    """
    if messages is None:
        raise ApiError("missing_parameter", "'messages' is required.", param="messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "a list of messages")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise wrong_value("messages", f"a list of 1 to {MAX_MESSAGES} messages")
    rebuilt: list[Any] = [_plain(value) for value in messages]
    if None in rebuilt:
        media = MediaBudget(vision=facts.vision, audio=facts.audio)
        rebuilt = [_message(value, f"messages[{at}]", media) for at, value in enumerate(messages)]
    if len(rebuilt) > 1 and rebuilt[1]["role"] == "system":
        _merge_leading_system(rebuilt)
    if rebuilt[-1]["role"] == "assistant":
        _merge_trailing_assistant(rebuilt)
    return rebuilt


def _plain(message: Any) -> dict[str, Any] | None:
    """What `_message` makes of a role and a text, the usual case; `None` for any other."""
    if type(message) is dict and len(message) == 2:
        role, content = message.get("role"), message.get("content")
        if type(role) is str and type(content) is str and role in _ROLES:
            return {"role": _ROLES[role], "content": content}
    return None


def _message(message: Any, at: str, media: MediaBudget) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise wrong_type(at, "an object")
    role = message.get("role")
    known = _ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        if role is None:
            raise ApiError("missing_parameter", f"'{at}.role' is required.", param=f"{at}.role")
        raise wrong_value(f"{at}.role", "one of " + ", ".join(f"'{name}'" for name in _ROLES))
    rebuilt: dict[str, Any] = {"role": known}
    _set_content(rebuilt, message, at, media)
    if known == "assistant":
        _set_assistant(rebuilt, message, at)
    elif known == "tool":
        _copy_name(rebuilt, message, at, "tool_call_id")
        _copy_name(rebuilt, message, at, "name")
    elif known == "user":
        _copy_name(rebuilt, message, at, "name")
    return rebuilt


def _copy_name(rebuilt: dict[str, Any], message: dict[str, Any], at: str, key: str) -> None:
    value = message.get(key)
    if value is None:
        return
    if not isinstance(value, str):
        raise wrong_type(f"{at}.{key}", "a string")
    if len(value) > MAX_NAME_CHARS:
        raise wrong_value(f"{at}.{key}", f"at most {MAX_NAME_CHARS} characters long")
    rebuilt[key] = value


# -- content


def _set_content(
    rebuilt: dict[str, Any], message: dict[str, Any], at: str, media: MediaBudget
) -> None:
    content = message.get("content")
    if isinstance(content, str):
        rebuilt["content"] = content
    elif isinstance(content, list):
        if len(content) > MAX_PARTS:
            raise wrong_value(f"{at}.content", f"a list of at most {MAX_PARTS} parts")
        rebuilt["content"] = [
            _part(part, f"{at}.content[{index}]", media) for index, part in enumerate(content)
        ]
    elif content is None:
        if rebuilt["role"] != "assistant" and "content" not in message:
            raise ApiError(
                "missing_parameter", f"'{at}.content' is required.", param=f"{at}.content"
            )
        rebuilt["content"] = ""
    else:
        raise wrong_type(f"{at}.content", "a string or a list of parts")


def _part(part: Any, at: str, media: MediaBudget) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise wrong_type(at, "an object")
    kind = part.get("type")
    if not isinstance(kind, str):
        raise wrong_type(f"{at}.type", "a string")
    key = _TEXT_PARTS.get(kind)
    if key is not None:
        text = part.get(key)
        if not isinstance(text, str):
            raise wrong_type(f"{at}.{key}", "a string")
        return {"type": "text", "text": text}
    if kind == "image_url":
        return {"type": kind, kind: {"url": _image(part, at, media)}}
    if kind == "input_audio":
        return {"type": kind, kind: {"data": _audio(part, at, media)}}
    raise ApiError(
        "unsupported_parameter",
        f"'{at}' is of a type that is not supported.",
        param=f"{at}.type",
        hint="Supported are text, image_url and input_audio.",
    )


def _image(part: dict[str, Any], at: str, media: MediaBudget) -> str:
    image = part.get("image_url")
    if isinstance(image, dict):
        return media.image(image.get("url"), f"{at}.image_url.url")
    return media.image(image, f"{at}.image_url")


def _audio(part: dict[str, Any], at: str, media: MediaBudget) -> str:
    audio = part.get("input_audio")
    if not isinstance(audio, dict):
        raise wrong_type(f"{at}.input_audio", "an object")
    return media.audio(audio.get("data"), f"{at}.input_audio.data")


# -- what an assistant said before


def _set_assistant(rebuilt: dict[str, Any], message: dict[str, Any], at: str) -> None:
    reasoning = message.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning:
        rebuilt["reasoning_content"] = reasoning
    calls = message.get("tool_calls")
    if calls is None:
        calls = _legacy_call(message.get("function_call"))
    if calls:
        if not isinstance(calls, list):
            raise wrong_type(f"{at}.tool_calls", "a list")
        if len(calls) > MAX_TOOL_CALLS:
            raise wrong_value(f"{at}.tool_calls", f"a list of at most {MAX_TOOL_CALLS} calls")
        rebuilt["tool_calls"] = [
            _tool_call(call, f"{at}.tool_calls[{index}]") for index, call in enumerate(calls)
        ]


def _legacy_call(call: Any) -> list[Any] | None:
    return [{"function": call}] if isinstance(call, dict) else None


def _tool_call(call: Any, at: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise wrong_type(at, "an object")
    if call.get("type") not in (None, "function"):
        raise ApiError(
            "unsupported_parameter", "Only function calls are supported.", param=f"{at}.type"
        )
    function = call.get("function")
    if not isinstance(function, dict):
        raise wrong_type(f"{at}.function", "an object")
    name = function.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
        raise wrong_value(f"{at}.function.name", f"a string of 1 to {MAX_NAME_CHARS} characters")
    rebuilt: dict[str, Any] = {
        "type": "function",
        "function": {"name": name, "arguments": _arguments(function.get("arguments"), at)},
    }
    _copy_name(rebuilt, call, at, "id")
    return rebuilt


def _arguments(arguments: Any, at: str) -> str:
    """A string holding a JSON object; what is none is wrapped into one rather than refused."""
    if arguments is None or arguments == "":
        return "{}"
    if isinstance(arguments, dict):
        return orjson.dumps(arguments).decode()
    if not isinstance(arguments, str):
        raise wrong_type(f"{at}.function.arguments", "a string")
    try:
        # This JSON reaches the same C++ parser as the body, so it has to pass the same guards.
        parsed = parse_value(arguments.encode(), max_depth=MAX_ARGUMENT_DEPTH)
    except ApiError:
        parsed = None
    if isinstance(parsed, dict):
        return arguments
    return orjson.dumps({"arguments": arguments}).decode()


# -- what the engine or its template would choke on


def _merge_leading_system(messages: list[dict[str, Any]]) -> None:
    count = 0
    while count < len(messages) and messages[count]["role"] == "system":
        count += 1
    if count > 1:
        messages[:count] = [_merged(messages[:count])]


def _merge_trailing_assistant(messages: list[dict[str, Any]]) -> None:
    start = len(messages) - 1
    while start and messages[start - 1]["role"] == "assistant":
        start -= 1
    if any("tool_calls" in message for message in messages[start:]):
        raise ApiError(
            "invalid_value",
            "The last message may not be an assistant's with tool calls.",
            param="messages",
            hint="Append what the calls gave back.",
        )
    if start < len(messages) - 1:
        messages[start:] = [_merged(messages[start:])]


def _merged(messages: list[dict[str, Any]]) -> dict[str, Any]:
    contents = [message["content"] for message in messages]
    merged = dict(messages[-1])
    if all(isinstance(content, str) for content in contents):
        merged["content"] = "\n\n".join(content for content in contents if content)
    else:
        merged["content"] = [part for content in contents for part in _as_parts(content)]
    return merged


def _as_parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
