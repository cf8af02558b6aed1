"""PURE. Calls that the engine was made to write as plain JSON, turned back into `tool_calls`.

The text is ``{"name": ..., "arguments": ...}`` or a list of such (`gateway.request.forced_calls`),
cut anywhere. It goes on as it comes: the name as soon as it has ended, then every piece of the
arguments, byte for byte as the engine wrote it. Nothing else in an event is changed, and thoughts
pass by untouched.

Whatever is no such text is a ValueError, and so is an answer that ends by itself before its calls
do: the client gets an error then, never a call that nobody made. An answer that was cut at its
limit keeps ``finish_reason: "length"``; its last call may be without an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import orjson

from gateway.stream.call_text import CallPart, CallText
from gateway.stream.events import DONE, EventSplitter

__all__ = ["ForcedCalls"]

Out = Callable[[bytes], None]


class ForcedCalls:
    """
    Chat events in, chat events out.

    Args:
        choices: Independent answers in the stream.
    """

    __slots__ = ("_choices", "_events", "_texts")

    def __init__(self, choices: int = 1) -> None:
        self._choices = choices
        self._events = EventSplitter()
        self._texts: dict[int, CallText] = {}

    def through(self, out: Out) -> Out:
        """
        Where the engine's events are to go, cut anywhere; it raises ValueError.

        Args:
            out: Gets whole events.
        """

        def turn(data: bytes) -> None:
            try:
                turned = b"".join(
                    event for payload in self._events.feed(data) for event in self._turned(payload)
                )
            except (AttributeError, KeyError, TypeError) as exc:
                raise ValueError("an event has not the shape of one") from exc
            if turned:
                out(turned)

        return turn

    def _turned(self, payload: bytes) -> Iterator[bytes]:
        if payload == DONE:
            yield _frame(payload)
            return
        event = orjson.loads(payload)
        choices = event.get("choices") if isinstance(event, dict) else None
        if not choices:
            yield _frame(payload)
            return
        made: list[dict[str, Any]] = []
        for choice in choices:
            made += self._choice(choice, str(event.get("id", "")))
        if len(made) == 1 and made[0] is choices[0]:
            yield _frame(orjson.dumps(event))
            return
        rest = {name: value for name, value in event.items() if name not in ("usage", "timings")}
        for at, choice in enumerate(made, 1):
            whole = event if at == len(made) else rest
            yield _frame(orjson.dumps({**whole, "choices": [choice]}))
        if not made and len(rest) < len(event):
            yield _frame(orjson.dumps({**event, "choices": []}))

    def _choice(self, choice: dict[str, Any], reply_id: str) -> Iterator[dict[str, Any]]:
        """What one choice of an event becomes; its own text is taken out of it."""
        index = choice["index"]
        calls = self._texts.get(index)
        if calls is None:
            if len(self._texts) >= self._choices:
                raise ValueError("more answers came than were asked for")
            calls = self._texts[index] = CallText()
        reason = choice.get("finish_reason")
        delta = choice.get("delta") or {}
        text = delta.pop("content", None)
        if text is None:
            text = ""
            if "role" in delta:
                delta["content"] = None
        pieces = [
            {"finish_reason": None, "index": index, "delta": {"tool_calls": [entry]}}
            for entry in (_entry(part, reply_id, index) for part in calls.feed(text))
        ]
        if reason == "stop":
            if not calls.complete:
                raise ValueError("an answer ended without the call that it had to make")
            choice["finish_reason"] = "tool_calls"
        # The role and thoughts come before a call, the reason to stop after it.
        if reason is None and delta:
            yield choice
        yield from pieces
        if reason is not None:
            yield choice

    def __repr__(self) -> str:
        return f"<ForcedCalls {self._texts}>"


def _entry(part: CallPart, reply_id: str, choice: int) -> dict[str, Any]:
    """One entry of a delta's `tool_calls`."""
    if part.name is None:
        return {"index": part.call, "function": {"arguments": part.arguments}}
    unique = sha256(f"{reply_id}/{choice}/{part.call}".encode()).hexdigest()
    return {
        "index": part.call,
        "id": "call_" + unique[:24],
        "type": "function",
        "function": {"name": part.name, "arguments": ""},
    }


def _frame(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"
