"""What a stream of each dialect must look like, written from the dialects' public descriptions.

Knows nothing of the code that writes the frames. Each checker reads a whole stream, raises
`GrammarError` with the first thing that is wrong, and returns what a client has been told: the same
value for the same answer, whichever dialect told it.

What is the same in all of them: one blank line behind each frame, one line of data in it, comments
between frames, exactly one terminal frame and nothing behind it. A stream without a terminal frame
is no error of grammar as such: its `ending` is "cut".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "CHECKERS",
    "Frame",
    "GrammarError",
    "Told",
    "check_chat",
    "check_completions",
    "check_messages",
    "check_responses",
    "frames",
    "told_by_chat",
    "told_by_completion",
    "told_by_message",
    "told_by_response",
]

Ending = Literal["complete", "length", "failed", "cut"]


class GrammarError(AssertionError):
    """A frame, or a reply, that no client expects."""


@dataclass(frozen=True)
class Frame:
    event: str | None
    data: str


@dataclass
class Told:
    """An answer, as somebody who reads the dialect understands it."""

    ending: Ending = "cut"
    """How it ended; "length": it is shorter than the model wanted it."""
    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Name and arguments, in order."""
    call_ids: list[str] = field(default_factory=list)
    usage: tuple[int, int, int] | None = None
    """Tokens of the prompt, those of them that were cached, tokens of the answer."""
    error: dict[str, Any] | None = None


def need(holds: object, what: str, *context: object) -> None:
    if not holds:
        raise GrammarError(": ".join([what, *map(repr, context)]))


def frames(stream: bytes) -> list[Frame]:
    """The frames of a stream, each exactly in the form that every client reads."""
    need(not stream or stream.endswith(b"\n\n"), "the last frame has no end", stream[-80:])
    need(b"\r" not in stream, "a carriage return between frames")
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        event = None
        if lines[0].startswith("event: "):
            event = lines.pop(0).removeprefix("event: ")
            need(event, "an event without a name")
        need(len(lines) == 1, "not one line of data", block)
        need(lines[0].startswith("data: ") and len(lines[0]) > 6, "no data", block)
        found.append(Frame(event, lines[0][6:]))
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise GrammarError(f"not JSON: {text[:200]!r}") from exc
    need(isinstance(value, dict), "no object", text[:200])
    return value  # type: ignore[no-any-return]


def _count(value: object, what: str) -> int:
    need(isinstance(value, int) and not isinstance(value, bool) and value >= 0, what, value)
    return value  # type: ignore[return-value]


def _error_object(error: object) -> dict[str, Any]:
    need(isinstance(error, dict), "the error is no object", error)
    assert isinstance(error, dict)
    for name in ("message", "type"):
        need(isinstance(error.get(name), str) and error[name], f"no {name} in the error", error)
    return error


# -- chat and completions


def check_chat(stream: bytes, choices: int = 1) -> Told:
    """Chunks of chat; several choices are told as one, in the order of their numbers."""
    return _check_chunks(stream, choices, _ChatChoice)


def check_completions(stream: bytes, choices: int = 1) -> Told:
    """Chunks of text completions."""
    return _check_chunks(stream, choices, _TextChoice)


class _TextChoice:
    def __init__(self) -> None:
        self.finish: str | None = None
        self.text = ""
        self.reasoning = ""
        self.calls: dict[int, list[str]] = {}

    def take(self, choice: dict[str, Any]) -> None:
        text = choice.get("text")
        need(isinstance(text, str), "a completion without text", choice)
        self.text += str(text)


class _ChatChoice(_TextChoice):
    def take(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        need(isinstance(delta, dict), "a chunk without delta", choice)
        assert isinstance(delta, dict)
        for name in ("content", "reasoning_content"):
            need(isinstance(delta.get(name, ""), str | None), f"{name} is no text", delta)
        self.text += delta.get("content") or ""
        self.reasoning += delta.get("reasoning_content") or ""
        for call in delta.get("tool_calls") or ():
            index = _count(call.get("index"), "a piece of a call has no index")
            function = call.get("function") or {}
            if index not in self.calls:
                need(index == len(self.calls), "the numbers of the calls have a gap", index)
                need(function.get("name"), "a call begins without its name", call)
                self.calls[index] = [call.get("id") or "", function["name"], ""]
            arguments = function.get("arguments", "")
            need(isinstance(arguments, str | None), "arguments are no text", call)
            self.calls[index][2] += arguments or ""


def _check_chunks(stream: bytes, count: int, choice_kind: Callable[[], _TextChoice]) -> Told:
    choices: dict[int, _TextChoice] = {}
    told = Told()
    over = False
    done = False
    for frame in frames(stream):
        need(not over, "something behind the terminal frame", frame)
        need(frame.event is None, "a name on a frame of chat", frame)
        if frame.data == "[DONE]":
            over = done = True
            continue
        event = _object(frame.data)
        if "error" in event:
            told.error = _error_object(event["error"])
            over = True
            continue
        need(isinstance(event.get("choices"), list), "a chunk without choices", event)
        if "prompt_progress" in event:
            deltas = [choice.get("delta") or choice for choice in event["choices"]]
            need(any(d.get("content") or d.get("text") for d in deltas), "progress goes on", event)
        for choice in event["choices"]:
            index = _count(choice.get("index"), "a choice without a number")
            need(index < count, "a choice that nobody asked for", index)
            one = choices.setdefault(index, choice_kind())
            one.take(choice)
            one.finish = choice.get("finish_reason") or one.finish
        if isinstance(event.get("usage"), dict):
            told.usage = _chat_usage(event["usage"])
    return _of_choices(told, choices, count if done else None)


def _of_choices(told: Told, choices: dict[int, _TextChoice], count: int | None) -> Told:
    """
    Put an answer together.

    Args:
        told: Takes it.
        choices: By number.
        count: How many there should be; None if the answer has not come to its end.
    """
    for index in sorted(choices):
        one = choices[index]
        told.text += one.text
        told.reasoning += one.reasoning
        for at in sorted(one.calls):
            call_id, name, arguments = one.calls[at]
            told.calls.append((name, arguments))
            told.call_ids.append(call_id)
    finishes = [one.finish for one in choices.values()]
    if told.error is not None:
        told.ending = "failed"
    elif count is not None and len(finishes) == count and all(finishes):
        told.ending = "length" if "length" in finishes else "complete"
    return told


def _chat_usage(usage: dict[str, Any]) -> tuple[int, int, int]:
    prompt = _count(usage.get("prompt_tokens"), "prompt_tokens")
    answer = _count(usage.get("completion_tokens"), "completion_tokens")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    need(cached <= prompt, "more cached than there is", usage)
    need(usage.get("total_tokens") == prompt + answer, "total_tokens", usage)
    return prompt, cached, answer


def told_by_chat(body: bytes) -> Told:
    """The same from a reply in one piece."""
    reply = _object(body.decode())
    choices: dict[int, _TextChoice] = {}
    for choice in reply["choices"]:
        message = choice["message"]
        one = choices[choice["index"]] = _ChatChoice()
        calls = [{**call, "index": at} for at, call in enumerate(message.get("tool_calls") or ())]
        one.take({"delta": {**message, "tool_calls": calls}})
        one.finish = choice["finish_reason"]
    usage = _chat_usage(reply["usage"]) if "usage" in reply else None
    return _of_choices(Told(usage=usage), choices, len(choices))


def told_by_completion(body: bytes) -> Told:
    reply = _object(body.decode())
    choices: dict[int, _TextChoice] = {}
    for choice in reply["choices"]:
        one = choices[choice["index"]] = _TextChoice()
        one.take(choice)
        one.finish = choice["finish_reason"]
    usage = _chat_usage(reply["usage"]) if "usage" in reply else None
    return _of_choices(Told(usage=usage), choices, len(choices))


# -- Responses

_RESPONSE_KEYS = {
    *("id", "object", "created_at", "status", "background", "error", "incomplete_details"),
    *("instructions", "max_output_tokens", "metadata", "model", "output", "parallel_tool_calls"),
    *("previous_response_id", "reasoning", "store", "temperature", "text", "tool_choice"),
    *("tools", "top_p", "truncation", "usage"),
}
_TERMINALS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
_PARTS = {"output_text": "message", "reasoning_text": "reasoning"}


def check_responses(stream: bytes) -> Told:
    """Events of Responses: items one by one, each part of one opened, filled and closed."""
    found = frames(stream)
    if not found:
        return Told()
    reader = _Responses()
    for number, frame in enumerate(found):
        payload = _object(frame.data)
        kind = payload.get("type")
        need(isinstance(kind, str) and frame.event == kind, "name and type differ", frame)
        assert isinstance(kind, str)
        need(payload.get("sequence_number") == number, "sequence_number", number, payload)
        need(reader.terminal is None, "something behind the terminal event", payload)
        reader.take(number, kind, payload)
    return reader.told()


class _Item:
    """An item between its `added` and its `done`."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.id: str = item["id"]
        self.type: str = item["type"]
        self.added = item
        self.parts: list[dict[str, Any]] = []
        self.part: dict[str, Any] | None = None  # the open one
        self.text = ""  # of the open part, or the arguments
        self.text_done: str | None = None


class _Responses:
    def __init__(self) -> None:
        self.begun: dict[str, Any] | None = None
        self.open: _Item | None = None
        self.ids: set[str] = set()
        self.done: list[dict[str, Any]] = []
        self.terminal: str | None = None
        self.final: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None

    def take(self, number: int, kind: str, payload: dict[str, Any]) -> None:
        if kind in _TERMINALS:
            self._end(kind, payload)
        elif number == 0:
            need(kind == "response.created", "the stream does not begin with created", kind)
            self._begin(payload)
        elif number == 1:
            need(kind == "response.in_progress", "the second event", kind)
            self._begin(payload)
        else:
            step = getattr(self, "_on_" + kind.removeprefix("response.").replace(".", "_"), None)
            need(step is not None, "an event nobody knows", kind)
            assert step is not None
            step(payload)

    def _begin(self, payload: dict[str, Any]) -> None:
        response = _response(payload.get("response"))
        need(response["status"] == "in_progress", "status", response["status"])
        need(response["output"] == [], "output before any", response["output"])
        need(response["usage"] is None, "usage before the end", response["usage"])
        need(response["error"] is None, "an error at the beginning", response["error"])
        need(self.begun in (None, response), "created and in_progress differ", response)
        self.begun = response

    # -- items

    def _on_output_item_added(self, payload: dict[str, Any]) -> None:
        need(self.open is None, "an item opens within another", payload)
        need(payload.get("output_index") == len(self.done), "output_index", payload)
        item = payload.get("item")
        need(isinstance(item, dict), "no item", payload)
        assert isinstance(item, dict)
        need(isinstance(item.get("id"), str) and item["id"], "an item without id", item)
        need(item["id"] not in self.ids, "an id for the second time", item)
        self.ids.add(item["id"])
        _item(item)
        need(item.get("status", "in_progress") == "in_progress", "status of an open item", item)
        if item["type"] == "function_call":
            need(item["arguments"] == "", "arguments before any", item)
        else:
            need(not item.get("content"), "content before any", item)
            need(not item.get("summary"), "a summary before any", item)
        self.open = _Item(item)

    def _on_output_item_done(self, payload: dict[str, Any]) -> None:
        one = self._in(payload, by_item=True)
        item = payload["item"]
        _item(item)
        need(one.part is None, "an item closes before its part", payload)
        changing = {"status", "content", "summary", "arguments", "encrypted_content"}
        for name in set(one.added) | set(item):
            if name not in changing:
                need(one.added.get(name) == item.get(name), f"{name} changed", one.added, item)
        need(item.get("status", "completed") in ("completed", "incomplete"), "status", item)
        if one.type == "function_call":
            need(one.text_done is not None, "a call closes before its arguments", payload)
            need(item["arguments"] == one.text_done, "arguments differ", item, one.text_done)
        elif one.type == "message":
            need(item["content"] == one.parts, "content differs", item["content"], one.parts)
        else:
            told = [part["text"] for part in one.parts]
            kept = [part["text"] for part in item.get("content") or ()]
            need(told == kept, "reasoning differs", told, item)
        self.done.append(item)
        self.open = None

    def _in(self, payload: dict[str, Any], *, by_item: bool = False) -> _Item:
        """The open item, which the event must be about."""
        one = self.open
        need(one is not None, "an event outside of an item", payload)
        assert one is not None
        item_id = payload.get("item", {}).get("id") if by_item else payload.get("item_id")
        need(item_id == one.id, "an event about another item", payload, one.id)
        need(payload.get("output_index") == len(self.done), "output_index", payload)
        return one

    # -- parts

    def _on_content_part_added(self, payload: dict[str, Any]) -> None:
        self._open_part(payload, "content_index", payload.get("part"))

    def _open_part(self, payload: dict[str, Any], at: str, part: Any) -> None:
        one = self._in(payload)
        need(one.part is None, "a part opens within another", payload)
        need(payload.get(at) == len(one.parts), at, payload)
        _part(part, one.type)
        need(part["text"] == "", "a part that begins with text", payload)
        one.part, one.text, one.text_done = part, "", None

    def _delta(self, payload: dict[str, Any], at: str | None, kinds: tuple[str, ...]) -> None:
        one = self._in(payload)
        need(one.type in kinds, "a piece for another kind of item", payload)
        need(one.text_done is None, "a piece behind the end", payload)
        if at is not None:
            need(one.part is not None, "a piece outside of a part", payload)
            need(payload.get(at) == len(one.parts), at, payload)
        delta = payload.get("delta")
        need(isinstance(delta, str) and delta, "an empty piece", payload)
        one.text += str(delta)

    def _text_done(self, payload: dict[str, Any], at: str | None, name: str) -> None:
        one = self._in(payload)
        need(one.text_done is None, "done for the second time", payload)
        if at is not None:
            need(one.part is not None, "done outside of a part", payload)
            need(payload.get(at) == len(one.parts), at, payload)
        need(payload.get(name) == one.text, "the pieces make another text", payload, one.text)
        one.text_done = one.text

    def _close_part(self, payload: dict[str, Any], at: str) -> None:
        one = self._in(payload)
        need(one.part is not None, "no part is open", payload)
        need(payload.get(at) == len(one.parts), at, payload)
        part = payload.get("part")
        _part(part, one.type)
        assert isinstance(part, dict)
        need(one.text_done is not None, "a part closes before its text", payload)
        need(part["text"] == one.text_done, "the part has another text", payload)
        one.parts.append(part)
        one.part = one.text_done = None

    def _on_output_text_delta(self, payload: dict[str, Any]) -> None:
        need(isinstance(payload.get("logprobs"), list), "no list of logprobs", payload)
        self._delta(payload, "content_index", ("message",))

    def _on_output_text_done(self, payload: dict[str, Any]) -> None:
        need(isinstance(payload.get("logprobs"), list), "no list of logprobs", payload)
        self._text_done(payload, "content_index", "text")

    def _on_content_part_done(self, payload: dict[str, Any]) -> None:
        self._close_part(payload, "content_index")

    def _on_reasoning_text_delta(self, payload: dict[str, Any]) -> None:
        self._delta(payload, "content_index", ("reasoning",))

    def _on_reasoning_text_done(self, payload: dict[str, Any]) -> None:
        self._text_done(payload, "content_index", "text")

    def _on_function_call_arguments_delta(self, payload: dict[str, Any]) -> None:
        self._delta(payload, None, ("function_call",))

    def _on_function_call_arguments_done(self, payload: dict[str, Any]) -> None:
        one = self._in(payload)
        need(payload.get("name") == one.added.get("name"), "the call has another name", payload)
        self._text_done(payload, None, "arguments")

    # -- the end

    def _end(self, kind: str, payload: dict[str, Any]) -> None:
        self.terminal = kind
        response = self.final = _response(payload.get("response"))
        need(response["status"] == _TERMINALS[kind], "status", response["status"])
        if self.begun is not None:
            for name in ("id", "created_at", "model", "object"):
                need(response[name] == self.begun[name], f"{name} changed", response[name])
        if kind == "response.failed":
            self.error = _error_object(payload.get("error"))
            inner = response["error"]
            need(isinstance(inner, dict), "failed without an error", response)
            for name in ("code", "message"):
                need(isinstance(inner.get(name), str), f"no {name} in the error", inner)
        else:
            need(self.begun is not None, "an end without a beginning", payload)
            need(self.open is None, "an item is open at the end", payload)
            need("error" not in payload, "an error in a success", payload)
            need(response["output"] == self.done, "output differs", response["output"], self.done)

    def told(self) -> Told:
        if self.terminal is None:
            return Told()
        told = _of_response(self.final)
        told.error = self.error
        return told


def _response(response: Any) -> dict[str, Any]:
    need(isinstance(response, dict), "no response", response)
    assert isinstance(response, dict)
    missing = _RESPONSE_KEYS - set(response)
    need(not missing, "missing in the response", missing)
    need(response["object"] == "response", "object", response["object"])
    need(isinstance(response["id"], str) and response["id"].startswith("resp_"), "id", response)
    _count(response["created_at"], "created_at")
    need(isinstance(response["output"], list), "output is no list", response["output"])
    need(isinstance(response["tools"], list), "tools is no list", response["tools"])
    need(isinstance(response["text"], dict) and "format" in response["text"], "text", response)
    need(isinstance(response["parallel_tool_calls"], bool), "parallel_tool_calls", response)
    need(response["background"] is False, "background", response)
    need(response["store"] is False, "store", response)
    need(response["truncation"] == "disabled", "truncation", response)
    status = response["status"]
    need((response["error"] is None) == (status != "failed"), "error and status", response)
    details = response["incomplete_details"]
    need((details is None) == (status != "incomplete"), "incomplete_details and status", response)
    if details is not None:
        need(details.get("reason") in ("max_output_tokens", "content_filter"), "reason", details)
    if response["usage"] is not None:
        _response_usage(response["usage"])
    return response


def _response_usage(usage: dict[str, Any]) -> tuple[int, int, int]:
    prompt = _count(usage.get("input_tokens"), "input_tokens")
    answer = _count(usage.get("output_tokens"), "output_tokens")
    cached = _count(usage["input_tokens_details"].get("cached_tokens"), "cached_tokens")
    thought = _count(usage["output_tokens_details"].get("reasoning_tokens"), "reasoning_tokens")
    need(cached <= prompt and thought <= answer, "a part is more than the whole", usage)
    need(usage.get("total_tokens") == prompt + answer, "total_tokens", usage)
    return prompt, cached, answer


def _item(item: dict[str, Any]) -> None:
    kind = item.get("type")
    if kind == "message":
        need(item.get("role") == "assistant", "role", item)
        need(isinstance(item.get("content"), list), "content is no list", item)
        need("status" in item, "no status", item)
    elif kind == "function_call":
        for name in ("call_id", "name"):
            need(isinstance(item.get(name), str) and item[name], f"no {name}", item)
        need(isinstance(item.get("arguments"), str), "no arguments", item)
    else:
        need(kind == "reasoning", "an item nobody knows", item)
        need(isinstance(item.get("summary"), list), "reasoning without summary", item)


def _part(part: Any, item_type: str) -> None:
    need(isinstance(part, dict), "no part", part)
    assert isinstance(part, dict)
    need(isinstance(part.get("text"), str), "a part without text", part)
    need(_PARTS.get(part.get("type", "")) == item_type, "a part of another kind", part, item_type)
    if item_type == "message":
        need(part.get("annotations") == [], "annotations", part)
        need(isinstance(part.get("logprobs", []), list), "logprobs", part)


def told_by_response(body: bytes) -> Told:
    """The same from a reply in one piece."""
    response = _response(_object(body.decode()))
    for item in response["output"]:
        _item(item)
    return _of_response(response)


def _of_response(response: dict[str, Any]) -> Told:
    endings: dict[str, Ending] = {"completed": "complete", "incomplete": "length"}
    told = Told(endings.get(response["status"], "failed"))
    for item in response["output"]:
        if item["type"] == "message":
            told.text += "".join(part["text"] for part in item["content"])
        elif item["type"] == "function_call":
            told.calls.append((item["name"], item["arguments"]))
            told.call_ids.append(item["call_id"])
        else:
            parts = item.get("content") or item["summary"]
            told.reasoning += "".join(part["text"] for part in parts)
    if response["usage"] is not None:
        told.usage = _response_usage(response["usage"])
    return told


# -- Messages

_STOPS = ("end_turn", "max_tokens", "stop_sequence", "tool_use")
_BLOCKS = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}


def check_messages(stream: bytes) -> Told:
    """Events of Messages: blocks one by one, then the reason why it stopped."""
    reader = _Messages()
    for frame in frames(stream):
        payload = _object(frame.data)
        kind = payload.get("type")
        need(isinstance(kind, str) and frame.event == kind, "name and type differ", frame)
        assert isinstance(kind, str)
        need(not reader.over, "something behind the terminal event", payload)
        step = getattr(reader, "_on_" + kind, None)
        need(step is not None, "an event nobody knows", kind)
        assert step is not None
        step(payload)
    return reader.told()


class _Messages:
    def __init__(self) -> None:
        self.begun = False
        self.over = False
        self.blocks: list[tuple[dict[str, Any], list[str]]] = []
        self.open = False
        self.stop: str | None = None
        self.usage: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None

    def _on_message_start(self, payload: dict[str, Any]) -> None:
        need(not self.begun, "a second beginning", payload)
        self.begun = True
        message = _message(payload.get("message"))
        need(message["content"] == [], "content before any", message)
        need(message["stop_reason"] is None, "a stop before the end", message)
        self.usage.update(message["usage"])

    def _on_ping(self, payload: dict[str, Any]) -> None:
        need(self.begun, "a ping before the beginning", payload)

    def _on_content_block_start(self, payload: dict[str, Any]) -> None:
        need(self.begun and self.stop is None, "a block out of place", payload)
        need(not self.open, "a block opens within another", payload)
        need(payload.get("index") == len(self.blocks), "index", payload)
        block = payload.get("content_block")
        need(isinstance(block, dict), "no block", payload)
        assert isinstance(block, dict)
        if block.get("type") == "tool_use":
            for name in ("id", "name"):
                need(isinstance(block.get(name), str) and block[name], f"no {name}", block)
            need(block.get("input") == {}, "input before any", block)
        else:
            need(block == _BLOCKS.get(block.get("type", "")), "how a block begins", block)
        self.open = True
        self.blocks.append((block, []))

    def _on_content_block_delta(self, payload: dict[str, Any]) -> None:
        need(self.open, "a piece outside of a block", payload)
        need(payload.get("index") == len(self.blocks) - 1, "index", payload)
        delta = payload["delta"]
        block, pieces = self.blocks[-1]
        kind, name = _DELTAS.get(delta.get("type"), ("", ""))
        need(kind == block["type"], "a piece for another kind of block", payload, block)
        need(isinstance(delta.get(name), str), "a piece without text", payload)
        if name != "signature":
            pieces.append(delta[name])

    def _on_content_block_stop(self, payload: dict[str, Any]) -> None:
        need(self.open, "no block is open", payload)
        need(payload.get("index") == len(self.blocks) - 1, "index", payload)
        self.open = False

    def _on_message_delta(self, payload: dict[str, Any]) -> None:
        need(self.begun and not self.open, "the end within a block", payload)
        need(self.stop is None, "a second reason to stop", payload)
        delta = payload["delta"]
        need(delta.get("stop_reason") in _STOPS, "stop_reason", payload)
        need("stop_sequence" in delta, "no stop_sequence", payload)
        self.stop = delta["stop_reason"]
        _count(payload["usage"].get("output_tokens"), "output_tokens")
        self.usage.update(payload["usage"])

    def _on_message_stop(self, payload: dict[str, Any]) -> None:
        need(self.stop is not None, "an end without a reason", payload)
        self.over = True

    def _on_error(self, payload: dict[str, Any]) -> None:
        self.error = _error_object(payload.get("error"))
        need(isinstance(payload.get("request_id"), str), "no request_id", payload)
        self.over = True

    def told(self) -> Told:
        if not self.over:
            return Told()
        if self.error is not None:
            return Told("failed", error=self.error)
        told = Told("length" if self.stop == "max_tokens" else "complete")
        for number, (block, pieces) in enumerate(self.blocks):
            content = "".join(pieces)
            if block["type"] == "tool_use":
                last = number == len(self.blocks) - 1
                _input(content, cut=last and self.stop == "max_tokens")
            _add_block(told, block, content)
        told.usage = _message_usage(self.usage)
        calls = any(block["type"] == "tool_use" for block, _ in self.blocks)
        need(calls or self.stop != "tool_use", "a call that nobody made")
        return told


def _input(content: str, *, cut: bool) -> None:
    """What the pieces of a call make; no piece at all is the empty object."""
    if not content or cut:
        return
    try:
        value = json.loads(content)
    except ValueError as exc:
        raise GrammarError(f"the input of a call is not JSON: {content!r}") from exc
    need(isinstance(value, dict), "the input of a call is no object", content)


def _add_block(told: Told, block: dict[str, Any], content: str) -> None:
    if block["type"] == "text":
        told.text += content
    elif block["type"] == "thinking":
        told.reasoning += content
    else:
        told.calls.append((block["name"], content))
        told.call_ids.append(block["id"])


def _message(message: Any) -> dict[str, Any]:
    need(isinstance(message, dict), "no message", message)
    assert isinstance(message, dict)
    need(message.get("type") == "message", "type", message)
    need(message.get("role") == "assistant", "role", message)
    need(str(message.get("id")).startswith("msg_"), "id", message)
    need(isinstance(message.get("model"), str), "model", message)
    need(isinstance(message.get("content"), list), "content", message)
    for name in ("stop_reason", "stop_sequence"):
        need(name in message, f"no {name}", message)
    _message_usage(message.get("usage"))
    return message


def _message_usage(usage: Any) -> tuple[int, int, int]:
    """Anthropic counts what was cached apart from the rest of the prompt."""
    need(isinstance(usage, dict), "no usage", usage)
    prompt = _count(usage.get("input_tokens"), "input_tokens")
    cached = _count(usage.get("cache_read_input_tokens") or 0, "cache_read_input_tokens")
    return prompt + cached, cached, _count(usage.get("output_tokens"), "output_tokens")


def told_by_message(body: bytes) -> Told:
    """The same from a reply in one piece."""
    message = _message(_object(body.decode()))
    need(message["stop_reason"] in _STOPS, "stop_reason", message)
    told = Told("length" if message["stop_reason"] == "max_tokens" else "complete")
    for block in message["content"]:
        if block["type"] == "tool_use":
            need(isinstance(block["input"], dict), "the input of a call is no object", block)
            _add_block(told, block, json.dumps(block["input"]))
        else:
            _add_block(told, block, block[block["type"]])
    told.usage = _message_usage(message["usage"])
    return told


CHECKERS: dict[str, tuple[Callable[[bytes], Told], Callable[[bytes], Told]]] = {
    "/v1/chat/completions": (check_chat, told_by_chat),
    "/v1/completions": (check_completions, told_by_completion),
    "/v1/responses": (check_responses, told_by_response),
    "/v1/messages": (check_messages, told_by_message),
}
"""By public path: who reads its streams, and who reads its replies in one piece."""
