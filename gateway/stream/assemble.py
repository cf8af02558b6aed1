"""PURE. Streamed events of the engine -> the JSON reply of a client that asked for no stream.

The reply has the same fields, in the same order, as the engine's own unstreamed reply. Where they
differ in content, and why:

- `usage` is the sum over all choices (each prompt once); the engine counts the first choice only.
- `timings` are those of the first choice, as the engine has it.
- Text the engine held back as the possible beginning of a stop string is missing when the reply
  then ends by length: the engine does not put it into the stream.
- A tool call cut short by length is missing; the engine shows its source as text.
- Chat `logprobs` have no entry for tokens that brought no text, such as the end-of-turn token.
- An incomplete character at the very end is left out; the engine writes U+FFFD for it.

Work and memory are linear in the events: pieces are collected and joined once, `logprobs` are kept
as JSON text, which is a tenth of what they take as Python objects.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Protocol, TypeVar

import orjson

from gateway.stream.events import DONE, EventSplitter
from gateway.stream.usage import Tally

__all__ = ["ChatAssembler", "CompletionAssembler", "IncompleteReplyError"]

_HEAD = ("created", "model", "system_fingerprint")


_MISSHAPEN = (AttributeError, LookupError, TypeError)
"""What events of another shape than they should have run into."""


class IncompleteReplyError(ValueError):
    """The stream ended before each of its choices had."""


class _Choice(Protocol):
    finish_reason: str | None

    def add(self, piece: dict[str, Any]) -> None:
        """Take this choice's part of one event."""

    def result(self, index: int) -> dict[str, Any]:
        """The finished choice."""


C = TypeVar("C", bound=_Choice)


class _Assembler(Generic[C]):
    """
    What chat and text completions have in common.

    Args:
        choices: Answers in the reply, at least 1.
        prompts: Prompts they answer; matters for counting prompt tokens only.
    """

    _object: ClassVar[str]
    _new_choice: type[C]

    def __init__(self, choices: int = 1, prompts: int = 1) -> None:
        self._choices: dict[int, C] = {}
        self._tally = Tally(choices, prompts)
        self._last: dict[str, Any] = {}
        self._events = EventSplitter()

    def feed(self, events: bytes) -> None:
        """
        Take whole events, as `EventStream` passes them on (a very large one: in pieces).

        Raises:
            ValueError: An event is not JSON, or has another shape than it should.
        """
        try:
            for payload in self._events.feed(events):
                if payload != DONE:
                    self._add(orjson.loads(payload))
        except _MISSHAPEN as exc:
            raise ValueError("an event has another shape than it should") from exc

    def result(self) -> bytes:
        """
        The JSON reply.

        Raises:
            IncompleteReplyError: No choice began, or one that began did not end.
            ValueError: An event had another shape than it should.
        """
        try:
            return self._reply()
        except _MISSHAPEN as exc:
            raise ValueError("an event had another shape than it should") from exc

    def _reply(self) -> bytes:
        ended = [choice.finish_reason is not None for choice in self._choices.values()]
        if not ended or not all(ended):
            raise IncompleteReplyError(f"{sum(ended)} of {len(ended)} choices ended")
        reply: dict[str, Any] = {
            "choices": [self._choices[index].result(index) for index in sorted(self._choices)]
        }
        reply.update({name: self._last[name] for name in _HEAD if name in self._last})
        reply["object"] = self._object
        usage = self._tally.total()
        if usage is not None:
            reply["usage"] = {
                "completion_tokens": usage.completion_tokens,
                "prompt_tokens": usage.prompt_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            }
        if "id" in self._last:
            reply["id"] = self._last["id"]
        if self._tally.timings is not None:
            reply["timings"] = self._tally.timings
        return orjson.dumps(reply)

    def _add(self, event: dict[str, Any]) -> None:
        self._last = event
        self._tally.add(event)
        for piece in event["choices"]:
            index = piece["index"]
            choice = self._choices.get(index)
            if choice is None:
                choice = self._choices[index] = self._new_choice()
            choice.add(piece)
            if (reason := piece.get("finish_reason")) is not None:
                choice.finish_reason = reason

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._choices)} choices, {self._tally!r}>"


class _Call:
    """One tool call; its arguments come in pieces, the rest with the first of them."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def add(self, piece: dict[str, Any]) -> None:
        function = piece.get("function") or {}
        self.id = piece.get("id") or self.id
        self.name = function.get("name") or self.name
        if arguments := function.get("arguments"):
            self.arguments.append(arguments)

    def result(self) -> dict[str, Any]:
        call: dict[str, Any] = {
            "type": "function",
            "function": {"name": self.name, "arguments": "".join(self.arguments)},
        }
        if self.id:
            call["id"] = self.id
        return call


class _ChatChoice:
    __slots__ = ("_calls", "_content", "_logprobs", "_reasoning", "finish_reason")

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._logprobs: list[orjson.Fragment] = []

    def add(self, piece: dict[str, Any]) -> None:
        if delta := piece.get("delta"):
            content = delta.get("content")
            if content:
                self._content.append(content)
            if len(delta) > 1 or not content:
                self._add_rest(delta)
        if logprobs := piece.get("logprobs"):
            self._logprobs.extend(map(_as_text, logprobs["content"]))

    def _add_rest(self, delta: dict[str, Any]) -> None:
        """What there may be besides content, which is most often all."""
        if reasoning := delta.get("reasoning_content"):
            self._reasoning.append(reasoning)
        if calls := delta.get("tool_calls"):
            for call in calls:
                self._calls.setdefault(call.get("index", 0), _Call()).add(call)

    def result(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._content)}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [self._calls[at].result() for at in sorted(self._calls)]
        choice = {"finish_reason": self.finish_reason, "index": index, "message": message}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return choice


class _TextChoice:
    __slots__ = ("_logprobs", "_stop_tokens", "_text", "finish_reason")

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._text: list[str] = []
        self._logprobs: list[orjson.Fragment] = []
        self._stop_tokens = 0  # how many of the last logprobs may belong to a stop string

    def add(self, piece: dict[str, Any]) -> None:
        if text := piece.get("text"):
            self._text.append(text)
        if logprobs := piece.get("logprobs"):
            for entry in logprobs["content"]:
                self._logprobs.append(_as_text(entry))
                self._stop_tokens = self._stop_tokens + 1 if _held_back(entry) else 0

    def result(self, index: int) -> dict[str, Any]:
        logprobs = self._logprobs
        if self.finish_reason == "stop":
            logprobs = logprobs[: len(logprobs) - self._stop_tokens]
        return {
            "text": "".join(self._text),
            "index": index,
            "logprobs": {"content": logprobs} if logprobs else None,
            "finish_reason": self.finish_reason,
        }


class ChatAssembler(_Assembler[_ChatChoice]):
    """`chat.completion` from `chat.completion.chunk` events."""

    _object = "chat.completion"
    _new_choice = _ChatChoice


class CompletionAssembler(_Assembler[_TextChoice]):
    """`text_completion` from the events of the same name."""

    _object = "text_completion"
    _new_choice = _TextChoice


def _as_text(entry: dict[str, Any]) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(entry))


def _held_back(entry: dict[str, Any]) -> bool:
    """
    Whether the engine sent no text for a token that has some.

    It does that for the tokens of a stop string, whose logprobs an unstreamed reply does not have.
    The token's own text shows among the alternatives; an end token has none there either.
    """
    if entry.get("token"):
        return False
    alternatives = entry.get("top_logprobs") or ()
    return any(other["id"] == entry.get("id") and other["token"] for other in alternatives)
