"""Pure. The turns of a Messages request, told as messages of chat.

A turn is a text or a list of blocks. Results of tools are blocks of the user's turn here and
messages of their own in chat, which come before what else the user said. Lengths, names and images
are looked at by the rebuild of chat's messages; here they only find their place.
"""

from __future__ import annotations

from typing import Any

from gateway.dialects.places import Places
from gateway.errors import ApiError
from gateway.request.fields.kinds import wrong_type, wrong_value

__all__ = ["as_object", "as_string", "turns_as_messages"]


def as_object(value: Any, at: str) -> dict[str, Any]:
    """*value*, which stands at *at*; 400 if it is no object."""
    if not isinstance(value, dict):
        raise wrong_type(at, "an object")
    return value


def as_string(value: Any, at: str) -> str:
    """*value*, which stands at *at*; 400 if it is absent or no string."""
    if value is None:
        raise ApiError("missing_parameter", f"'{at}' is required.", param=at)
    if not isinstance(value, str):
        raise wrong_type(at, "a string")
    return value


def turns_as_messages(given: Any, system: Any, places: Places) -> Any:
    """
    The messages that the request's `messages` and `system` make.

    Args:
        given: What is no list, or an empty one, is given back for chat to refuse.
        system: Goes first.
        places: Is told where each of the messages comes from.

    Raises:
        ApiError: 400 with the place in the request, for what no message can be made of.
    """
    if not isinstance(given, list) or not given:
        return given
    made = _Made(places)
    if text := _system(system):
        made.add("system", "system", content=text)
    for index, message in enumerate(given):
        _message(message, f"messages[{index}]", made)
    return made.messages


_Placed = list[tuple[dict[str, Any], str]]
"""Parts of chat messages, each with the place of the block it was made of."""


class _Made:
    """The chat messages so far."""

    def __init__(self, places: Places) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places = places

    def add(self, at: str, role: str, parts: _Placed | None = None, **more: Any) -> str:
        """One more, made of what stands at *at*; gives its place in chat."""
        place = f"messages[{len(self.messages)}]"
        self.places.note(place, at)
        message = {"role": role, **more}
        if parts is not None:
            message["content"] = self._content(parts, place)
        self.messages.append(message)
        return place

    def note_calls(self, place: str, blocks: list[str]) -> None:
        """The tool calls of the message at *place* came from *blocks*."""
        for index, at in enumerate(blocks):
            call = f"{place}.tool_calls[{index}]"
            self.places.note(call, at)
            self.places.note(f"{call}.function", at)
            self.places.note(f"{call}.function.arguments", f"{at}.input")

    def _content(self, parts: _Placed, place: str) -> str | list[dict[str, Any]]:
        if len(parts) == 1 and "text" in parts[0][0]:  # templates like it best
            return str(parts[0][0]["text"])
        for index, (_, at) in enumerate(parts):
            self.places.note(f"{place}.content[{index}]", at)
            self.places.note(f"{place}.content[{index}].image_url", f"{at}.source")
        return [part for part, _ in parts]


def _system(system: Any) -> str:
    if system is None or isinstance(system, str):
        return system or ""
    if not isinstance(system, list):
        raise wrong_type("system", "a string or a list of text blocks")
    texts = []
    for index, block in enumerate(system):
        at = f"system[{index}]"
        if _kind(block, at) != "text":
            raise _unsupported(at, "text")
        texts.append(as_string(block.get("text"), f"{at}.text"))
    return "\n\n".join(text for text in texts if text)


def _message(message: Any, at: str, made: _Made) -> None:
    role = as_string(as_object(message, at).get("role"), f"{at}.role")
    if role not in ("user", "assistant", "system"):
        raise wrong_value(f"{at}.role", "'user', 'assistant' or 'system'")
    content = message.get("content")
    if isinstance(content, str):
        made.add(at, role, content=content)
    elif content is None:
        as_string(None, f"{at}.content")
    elif not isinstance(content, list):
        raise wrong_type(f"{at}.content", "a string or a list of blocks")
    elif role == "assistant":
        _assistant(content, at, made)
    else:
        _user(content, at, role, made)


def _user(blocks: list[Any], at: str, role: str, made: _Made) -> None:
    """Results of tools first, as messages of their own, with their images behind them."""
    parts: _Placed = []
    results = 0
    for index, block in enumerate(blocks):
        place = f"{at}.content[{index}]"
        if role == "user" and _kind(block, place) == "tool_result":
            _result(block, place, parts, made)
            results += 1
        else:
            parts.append((_part(block, place), place))
    if parts or not results:
        made.add(at, role, parts)


def _result(block: dict[str, Any], at: str, images: _Placed, made: _Made) -> None:
    call_id = as_string(block.get("tool_use_id"), f"{at}.tool_use_id")
    failed = block.get("is_error")
    if failed not in (None, True, False):
        raise wrong_type(f"{at}.is_error", "a boolean")
    content = block.get("content")
    texts = []
    if content is None or isinstance(content, str):
        texts.append(content or "")
    elif isinstance(content, list):
        for index, inner in enumerate(content):
            place = f"{at}.content[{index}]"
            part = _part(inner, place)
            texts.append(part.get("text", "[image]"))
            if "text" not in part:
                images.append((part, place))
    else:
        raise wrong_type(f"{at}.content", "a string or a list of blocks")
    text = "\n\n".join(texts)
    place = made.add(at, "tool", content=f"Error: {text}" if failed else text, tool_call_id=call_id)
    made.places.note(f"{place}.tool_call_id", f"{at}.tool_use_id")


def _assistant(blocks: list[Any], at: str, made: _Made) -> None:
    texts, thoughts, calls, places = [], [], [], []
    for index, block in enumerate(blocks):
        place = f"{at}.content[{index}]"
        kind = _kind(block, place)
        if kind == "text":
            texts.append(as_string(block.get("text"), f"{place}.text"))
        elif kind == "thinking":
            thoughts.append(as_string(block.get("thinking"), f"{place}.thinking"))
        elif kind == "tool_use":
            arguments = block.get("input")
            function = {
                "name": as_string(block.get("name"), f"{place}.name"),
                "arguments": {} if arguments is None else as_object(arguments, f"{place}.input"),
            }
            calls.append({"id": block.get("id"), "type": "function", "function": function})
            places.append(place)
        elif kind != "redacted_thinking":
            raise _unsupported(place, "text, thinking and tool_use")
    more: dict[str, Any] = {"content": "\n\n".join(text for text in texts if text)}
    if thoughts:
        more["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        more["tool_calls"] = calls
    made.note_calls(made.add(at, "assistant", **more), places)


def _kind(block: Any, at: str) -> str:
    return as_string(as_object(block, at).get("type"), f"{at}.type")


def _part(block: Any, at: str) -> dict[str, Any]:
    """The part of a chat message for a block that is text or an image."""
    kind = _kind(block, at)
    if kind == "text":
        return {"type": "text", "text": as_string(block.get("text"), f"{at}.text")}
    if kind not in ("image", "document"):
        raise _unsupported(at, "text, image, document and tool_result")
    source = as_object(block.get("source"), f"{at}.source")
    origin = as_string(source.get("type"), f"{at}.source.type")
    if kind == "document":
        if origin != "text":
            raise _unsupported(f"{at}.source", "text")
        text = as_string(source.get("data"), f"{at}.source.data")
        about = (block.get("title"), block.get("context"))
        return {"type": "text", "text": "\n".join((*(a for a in about if _said(a)), text))}
    if origin == "url":
        raise ApiError(
            "remote_media_not_allowed",
            "Images must be sent inline, in a source of type 'base64'.",
            param=f"{at}.source",
            hint="URLs are never fetched.",
        )
    if origin != "base64":
        raise _unsupported(f"{at}.source", "base64")
    data = as_string(source.get("data"), f"{at}.source.data")
    # What it really is, chat sees for itself.
    return {"type": "image_url", "image_url": f"data:image/png;base64,{data}"}


def _said(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _unsupported(at: str, known: str) -> ApiError:
    return ApiError(
        "unsupported_parameter",
        f"'{at}' is of a type that is not supported.",
        param=f"{at}.type",
        hint=f"Supported here: {known}.",
    )
