"""PURE. The bytes of one streamed answer -> what came when, and whether all of it came.

An answer is whole only if it named a reason to finish and said ``[DONE]``. A connection that just
ends, however politely, is not the end of an answer.
"""

from __future__ import annotations

from array import array
from typing import Any

import orjson

_DONE = b"[DONE]"
_TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")


class StreamWatch:
    """Reads one answer of chat completions, in pieces of any size. Times in seconds of any clock.

    Args:
        sent_s: When the request was sent.
    """

    __slots__ = (
        "_rest",
        "done",
        "error",
        "events",
        "finish",
        "first_s",
        "gaps_s",
        "last_s",
        "sent_s",
        "usage",
    )

    def __init__(self, sent_s: float) -> None:
        self.sent_s = sent_s
        self.first_s: float | None = None
        self.last_s = sent_s
        self.gaps_s = array("d")
        """Between an event with text and the one before; 0 for two that came in one piece."""
        self.events = 0
        """Those with text in them, a call's or a thought's included."""
        self.done = False
        self.finish: str | None = None
        self.usage: dict[str, Any] | None = None
        self.error: str | None = None
        """What an error event said."""
        self._rest = b""

    def feed(self, data: bytes, now_s: float) -> None:
        """Take what came at *now_s*."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now_s)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.done or self.error is not None

    @property
    def tokens(self) -> int:
        """Tokens of the answer: as the server counts them if it said so, else events with text."""
        counted = (self.usage or {}).get("completion_tokens")
        return counted if isinstance(counted, int) else self.events

    def missing(self) -> str | None:
        """What a whole answer would have besides; None for one that is whole."""
        if self._rest.strip():
            return "the stream ended within an event"
        if not self.done:
            return "the stream ended without [DONE]"
        if self.finish is None:
            return "the stream ended without a finish_reason"
        return None

    def _event(self, data: bytes, now_s: float) -> None:
        if data == _DONE:
            self.done = True
            return
        try:
            event = orjson.loads(data)
            if event.get("error"):
                self.error = _message(event["error"])
                return
            self.usage = event.get("usage") or self.usage
            choices = event.get("choices") or ()
            texts = [self._choice(choice) for choice in choices]
        except (ValueError, AttributeError, TypeError):
            self.error = "an event is not in OpenAI's shape"
            return
        if any(texts):
            self._text(now_s)

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Whether a choice of an event has text."""
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or {}
        return any(delta.get(name) for name in _TEXTS)

    def _text(self, now_s: float) -> None:
        if self.first_s is None:
            self.first_s = now_s
        else:
            self.gaps_s.append(now_s - self.last_s)
        self.last_s = now_s
        self.events += 1


def _message(error: object) -> str:
    if isinstance(error, dict):
        return " ".join(str(error.get(name) or "") for name in ("code", "message")).strip()
    return str(error)
