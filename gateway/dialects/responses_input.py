"""Pure. The items of a Responses request, told as messages of chat.

What an item holds is looked at by the rebuild of chat's messages; here it only finds its place.
"""

from __future__ import annotations

from typing import Any

from gateway.dialects.places import Places
from gateway.errors import ApiError
from gateway.request.fields.kinds import wrong_type, wrong_value

__all__ = ["STATELESS", "items_as_messages"]

STATELESS = "Nothing is stored here: send the whole conversation each time."

_ROLES = ("user", "system", "developer", "assistant")
_PARTS = {"input_text", "output_text", "text", "refusal", "image_url", "input_audio"}


def items_as_messages(given: dict[str, Any], places: Places) -> list[dict[str, Any]]:
    """
    The messages that the request's `instructions` and `input` make.

    Args:
        given: The fields of the request.
        places: Is told where each of the messages comes from.

    Raises:
        ApiError: 400 with the place in the request, for what no message can be made of.
    """
    return _Conversation(places).of(given)


class _Conversation:
    """
    Makes messages of items.

    Calls, and the text and thoughts before them, are items of their own here and one message of the
    assistant in chat. Templates rely on that: the answers to calls follow the message with them.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._messages: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        """The assistant's message that more items may join; it is the last one."""
        self._thoughts: list[str] = []
        """Of the open message."""
        self._held: list[str] = []
        """Thoughts whose message has not come yet."""

    def of(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        """The messages for the instructions and the input."""
        instructions, items = given.get("instructions"), given.get("input")
        if items is None:
            raise ApiError("missing_parameter", "'input' is required.", param="input")
        if not isinstance(items, str | list):
            raise wrong_type("input", "a string or a list of items")
        if not isinstance(instructions, str | None):
            raise wrong_type("instructions", "a string")
        if instructions:
            system = {"role": "system", "content": instructions}
            self._add(system, "instructions", content="instructions")
        if isinstance(items, str):
            self._add({"role": "user", "content": items}, "input", content="input")
            return self._messages
        for at, item in enumerate(items):
            self._take(item, f"input[{at}]")
        self._close()
        return self._messages

    def _take(self, item: Any, at: str) -> None:
        if not isinstance(item, dict):
            raise wrong_type(at, "an object")
        kind = item.get("type")
        if kind is None or kind == "message":
            self._take_message(item, at)
        elif kind == "function_call":
            self._take_call(item, at)
        elif kind == "function_call_output":
            self._take_output(item, at)
        elif kind == "reasoning":
            # SDKs send back what they got from anyone, so nothing in it is refused.
            self._held += _texts(item.get("content")) or _texts(item.get("summary"))
        elif not isinstance(kind, str):
            raise wrong_type(f"{at}.type", "a string")
        else:
            raise ApiError(
                "unsupported_parameter",
                f"'{at}' is of a type that is not supported.",
                param=f"{at}.type",
                hint=STATELESS
                if kind == "item_reference"
                else "Supported are message, function_call, function_call_output and reasoning.",
            )

    def _take_message(self, item: dict[str, Any], at: str) -> None:
        role = item.get("role")
        if role is None:
            raise ApiError("missing_parameter", f"'{at}.role' is required.", param=f"{at}.role")
        if role not in _ROLES:
            raise wrong_value(f"{at}.role", "one of " + ", ".join(f"'{name}'" for name in _ROLES))
        if role != "assistant":
            self._close()
            message = {"role": role}
            self._add(message, at)
        else:
            message = self._assistant(at, joins="content")
            self._places.note(f"{self._place()}.content", f"{at}.content")
        if "content" in item:
            message["content"] = _content(item["content"], f"{at}.content")

    def _take_call(self, item: dict[str, Any], at: str) -> None:
        calls = self._assistant(at, joins=None).setdefault("tool_calls", [])
        place = f"{self._place()}.tool_calls[{len(calls)}]"
        function = {name: item.get(name) for name in ("name", "arguments")}
        calls.append({"type": "function", "id": item.get("call_id"), "function": function})
        self._places.note(f"{self._place()}.tool_calls", "input")
        self._places.note(place, at)
        self._places.note(f"{place}.id", f"{at}.call_id")
        self._places.note(f"{place}.function", at)

    def _take_output(self, item: dict[str, Any], at: str) -> None:
        self._close()
        message = {"role": "tool", "tool_call_id": item.get("call_id")}
        if item.get("output") is not None:
            message["content"] = _content(item["output"], f"{at}.output")
        self._add(message, at, content=f"{at}.output")
        self._places.note(f"{self._place()}.tool_call_id", f"{at}.call_id")

    # -- the assistant's message

    def _assistant(self, at: str, *, joins: str | None) -> dict[str, Any]:
        """The message that an item at *at* is part of: the open one, unless it has *joins*."""
        held = self._held
        if self._open is None or joins in self._open:
            self._close()
            self._open = {"role": "assistant"}
            self._add(self._open, at)
        self._thoughts += held
        self._held = []
        return self._open

    def _close(self) -> None:
        if self._open is not None and self._thoughts:
            self._open["reasoning_content"] = "\n".join(self._thoughts)
        self._open, self._thoughts, self._held = None, [], []

    # -- all messages

    def _add(self, message: dict[str, Any], at: str, *, content: str | None = None) -> None:
        """Append a message; *content* is where its content comes from, if not the usual place."""
        self._messages.append(message)
        self._places.note(self._place(), at)
        if content is not None:
            self._places.note(f"{self._place()}.content", content)

    def _place(self) -> str:
        """Where the last message is."""
        return f"messages[{len(self._messages) - 1}]"


def _texts(parts: Any) -> list[str]:
    """The texts of a reasoning item."""
    if not isinstance(parts, list):
        return []
    found = [part.get("text") for part in parts if isinstance(part, dict)]
    return [text for text in found if isinstance(text, str) and text]


def _content(content: Any, at: str) -> Any:
    """Content as chat has it; what is no content at all is left for chat to refuse."""
    if not isinstance(content, list):
        return content
    return [_part(part, f"{at}[{index}]") for index, part in enumerate(content)]


def _part(part: Any, at: str) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image":
        return {"type": "image_url", "image_url": part.get("image_url")}
    if isinstance(kind, str) and kind not in _PARTS:
        raise ApiError(
            "unsupported_parameter",
            f"'{at}' is of a type that is not supported.",
            param=f"{at}.type",
            hint="Supported are input_text, output_text, input_image and input_audio.",
        )
    return part
