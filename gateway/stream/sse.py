"""PURE. Watches the engine's event stream go by and says which bytes go on to the client.

Rules:
1. The bytes of an event that is passed on are never changed, and no payload is parsed to decide
   where an event ends.
2. Only whole events are passed on, so that an error event can always follow. The one exception is
   an event larger than `EVENT_LIMIT_BYTES`: it goes on in pieces, and `mid_event` says so.
3. Dropped: comments, progress events, an error event of the engine (kept in `error`), and whatever
   follows an error event or `[DONE]`. A progress event that brings text is passed on: when the
   engine continues an answer that the request began, it repeats that beginning in the first one.

Why the quick test in `feed` is safe: inside JSON every quote of a text is written as ``\\"`` and
every line feed as ``\\n``. So ``"finish_reason":null`` with bare quotes, and a bare blank line, can
only come from the engine itself, whatever a prompt or an answer contains. An event with
``"finish_reason":null`` is a token event: no error, no end, no usage. Everything else takes the
slower way, which does not rely on the order or the presence of any field.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.stream.usage import Tally

__all__ = ["EVENT_LIMIT_BYTES", "EventStream", "Outcome"]

EVENT_LIMIT_BYTES = 1 << 20
"""An event that has not ended after this many bytes is no longer held back."""

_REPORT_LIMIT_BYTES = 64 << 10
"""Of larger final events `outcome` knows no more than how the answer ended. The engine's are below
one KiB, unless they repeat the prompt and the grammar (`verbose`)."""

_FINISHED = b'"finish_reason":"'
_REASON = re.compile(rb'"finish_reason":"([a-z_]{1,32})"')
_TOKEN = b'"finish_reason":null'
_USUAL = b'data: {"choices":[{"finish_reason":null,'  # how the engine begins a token event today
_PROGRESS = b'"prompt_progress":'
_OPENING = b'"content":null'  # of a chat choice: its role, before any text
_LINE_FEED = 10
_REPORTS = (b'"usage":{', b'"timings":{', _FINISHED)
_ERROR = (b'data: {"error":', b'data:{"error":', b"event: error", b"event:error")
_DONE = (b"data: [DONE]", b"data:[DONE]")
_UNREADABLE = b'{"error":{"code":500,"message":"","type":"server_error"}}'


@dataclass(slots=True)
class Outcome:
    """What the last events said; `None` where they did not say it. Not changed once it is made."""

    finish_reason: str | None = None
    """Of the first choice."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Part of `prompt_tokens`."""
    completion_tokens: int | None = None
    """Of all choices together."""
    prompt_ms: float | None = None
    """The engine's time over the prompt; the longest when there are several."""
    predicted_ms: float | None = None
    """The engine's time over the answer; the longest when there are several."""


class EventStream:
    """
    One answer of the engine, from its first byte to its last.

    Args:
        choices: Independent answers in the stream. With one, progress cannot come any more once
            its first token has.
        prompts: Prompts these choices answer; matters for counting prompt tokens only.
    """

    __slots__ = (
        "_choices",
        "_held",
        "_others",
        "_plain",
        "_prompts",
        "_reports",
        "_scanned",
        "_sizes",
        "_skipping",
        "_watch",
        "done",
        "ended",
        "error",
        "events",
        "mid_event",
        "over",
        "prefill",
        "progress_events",
        "prompt_tokens",
    )

    def __init__(self, *, choices: int = 1, prompts: int = 1) -> None:
        self.events = 0
        """Events passed on, without `[DONE]`."""
        self.progress_events = 0
        """Progress events dropped; like `events` a sign that the engine is alive."""
        self.ended = 0
        """Choices that have come to their end."""
        self.done = False
        """`[DONE]` has been passed on: the stream is complete."""
        self.error: bytes | None = None
        """JSON of the engine's error event, as sent."""
        self.prefill: float | None = None
        """How much of the prompt has been worked off, 0 to 1."""
        self.prompt_tokens: int | None = None
        """Size of all prompts as progress told it; there even if the stream breaks off."""
        self.mid_event = False
        """Part of an unfinished event has been passed on; a blank line must come before more."""
        self.over = False
        """`[DONE]` or an error event has come: nothing that follows is passed on."""
        self._others = 0  # events passed on that bring no token
        self._choices = choices
        self._prompts = prompts
        self._sizes: dict[int, int] = {}  # tokens, by prompt
        self._reports: deque[bytes] = deque(maxlen=2 * choices + 2)
        self._watch = True  # progress may still come
        self._plain = True  # nothing is held back, and the stream is not over
        self._held = bytearray()  # the beginning of an event, never EVENT_LIMIT_BYTES or more
        self._scanned = 0  # bytes of it known to hold no end
        self._skipping = False  # inside an oversized comment

    def feed(self, chunk: bytes) -> bytes:
        """
        Take the next bytes, split anywhere; return what goes on to the client.

        That is *chunk* itself in the usual case, and nothing when all was dropped or is held back.
        """
        if (  # `in` is not used on bytes: it first tries to read what it looks for as a number
            self._plain
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk[-1] == _LINE_FEED
            and (chunk.startswith(_USUAL) or chunk.find(_TOKEN) >= 0)
            and not (self._watch and self._sees_progress(chunk))
        ):
            self.events += 1
            return chunk
        if self._plain and not self._watch and (tokens := _only_tokens(chunk)):
            self.events += tokens
            return chunk
        return self._feed_any(chunk)

    @property
    def between(self) -> bool:
        """Whether something else may be sent now: no event is half out, and more will come."""
        return not (self.mid_event or self.over)

    @property
    def unfinished(self) -> int:
        """Choices that have not come to their end."""
        return max(self._choices - self.ended, 0)

    @property
    def tokens(self) -> int:
        """Events passed on that brought a token: what is known of an answer that broke off."""
        return self.events - self._others

    def outcome(self) -> Outcome:
        """Read the final events; meant to be called once, at the end, however that came."""
        tally = Tally(self._choices, self._prompts)
        reasons: dict[int, str] = {}
        for report in self._reports:
            event = _payload(report)
            tally.add(event)
            for choice in event.get("choices") or ():
                if reason := choice.get("finish_reason"):
                    reasons[choice.get("index", 0)] = reason
        usage = tally.total()
        return Outcome(
            finish_reason=reasons[min(reasons)] if reasons else None,
            prompt_tokens=usage.prompt_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            prompt_ms=tally.longest("prompt_ms"),
            predicted_ms=tally.longest("predicted_ms"),
        )

    def __repr__(self) -> str:
        state = "done" if self.done else "failed" if self.error is not None else "open"
        return f"<EventStream {state}, {self.events} events, {len(self._held)} bytes held>"

    # -- the slower way: several events, pieces of events, the first and the last ones

    def _sees_progress(self, chunk: bytes) -> bool:
        if chunk.find(_PROGRESS) >= 0:
            return True
        self._note_opening(chunk.find(_OPENING) >= 0)
        return False

    def _note_opening(self, opens: bool) -> None:
        self._watch = self._choices > 1 or opens
        self._others += opens

    def _feed_any(self, chunk: bytes) -> bytes:
        if self.over:
            return b""
        data: bytes = chunk
        if self._held:
            self._held += chunk
            if _end_of_event(self._held, 0, max(0, self._scanned - 2)) < 0:
                return self._hold_more()
            data = bytes(self._held)
            self._held.clear()
        passed, rest = self._split(data)
        if rest < len(data) and not self.over:
            self._held += memoryview(data)[rest:]
            more = self._hold_more()
            passed = passed + more if more else passed
        self._plain = not (self._held or self.over or self.mid_event or self._skipping)
        return passed

    def _hold_more(self) -> bytes:
        """Hold what is in hand, which has no end yet, unless it has grown too large."""
        self._scanned = len(self._held)
        big = self.mid_event or self._skipping
        if not big and len(self._held) < EVENT_LIMIT_BYTES:
            return b""
        if not big:
            self._begin_oversized()
        keep = 2 if self._held.endswith(b"\n\r") else 1 if self._held.endswith(b"\n") else 0
        piece = bytes(self._held[: len(self._held) - keep])
        del self._held[: len(piece)]
        self._scanned = 0
        return piece if self.mid_event else b""

    def _begin_oversized(self) -> None:
        if self._held.startswith(_ERROR):
            self.error = _UNREADABLE
            self.over = self._skipping = True
        elif self._held.startswith(b":"):
            self._skipping = True
        else:
            self.mid_event = True
            self._note_report(bytes(self._held))

    def _split(self, data: bytes) -> tuple[bytes, int]:
        """Return the bytes to pass on, and where the unfinished event at the end begins."""
        kept: list[bytes] | None = None  # None as long as nothing was dropped
        start = 0
        while not self.over and (end := _end_of_event(data, start)) >= 0:
            begin = self._judge(data, start, end)
            if begin != start and kept is None:
                kept = [data[:start]]
            if kept is not None:
                kept.append(data[begin:end])
            start = end
        if kept is not None:
            return b"".join(kept), start
        return (data if start == len(data) else data[:start]), start

    def _judge(self, data: bytes, start: int, end: int) -> int:
        """Look at one event; return from where on it is passed on (*end*: not at all)."""
        if self.mid_event or self._skipping:
            return self._end_oversized(start, end)
        start = _after_comments(data, start, end)
        if start == end:
            return end
        if data.startswith(_ERROR, start):
            self.error = _data_line(data[start:end])
            self.over = True
            return end
        if data.startswith(_DONE, start):
            self.done = self.over = True
            return start
        if data.find(_PROGRESS, start, end) >= 0:
            if not self._note_progress(data[start:end]):
                return end
            self.events += 1
            return start
        self.events += 1
        self._note_opening(data.find(_OPENING, start, end) >= 0)
        if data.find(_TOKEN, start, end) < 0:
            self._others += 1
            self._note_report(data[start:end])
        return start

    def _end_oversized(self, start: int, end: int) -> int:
        if self._skipping:
            self._skipping = False
            return end
        self.mid_event = False
        self.events += 1
        return start

    def _note_progress(self, event: bytes) -> bool:
        """Take note of the progress; return whether the event brings text as well."""
        self.progress_events += 1
        payload = _payload(event)
        progress = payload.get("prompt_progress")
        if not isinstance(progress, dict):
            return False
        total, processed = progress.get("total"), progress.get("processed")
        if isinstance(total, int) and isinstance(processed, int) and total > 0:
            self._sizes[self._prompt_of(payload)] = total
            self.prompt_tokens = sum(self._sizes.values())
            self.prefill = min(1.0, max(0.0, processed / total))
        choices = payload.get("choices")
        return isinstance(choices, list) and any(map(_brings_text, choices))

    def _prompt_of(self, event: dict[str, Any]) -> int:
        """Which prompt an event is about; choices are numbered prompt by prompt."""
        choices = event.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        index = first.get("index") if isinstance(first, dict) else None
        return index * self._prompts // self._choices if isinstance(index, int) else 0

    def _note_report(self, event: bytes) -> None:
        self.ended += event.find(_FINISHED) >= 0
        if len(event) > _REPORT_LIMIT_BYTES:
            reason = _REASON.search(event)
            event = b"" if reason is None else b'data:{"choices":[{%b}]}' % reason[0]
        for mark in _REPORTS:
            if event.find(mark) >= 0:
                self._reports.append(event)
                return


def _brings_text(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return bool(choice.get("text"))
    return bool(delta.get("content") or delta.get("reasoning_content"))


def _only_tokens(chunk: bytes) -> int:
    """How many events there are, if all are one line each and token events; 0 otherwise."""
    tokens = chunk.count(_TOKEN)
    if (
        tokens
        and chunk.endswith(b"\n\n")
        and chunk.count(b"\n\n") == tokens
        and chunk.count(b"\n") == 2 * tokens
        and chunk.find(b'{"error":') < 0
    ):
        return tokens
    return 0


def _end_of_event(data: bytes | bytearray, start: int, search_from: int = 0) -> int:
    """Index behind the blank line that ends the event at *start*; -1 when it has not come."""
    begin = max(start, search_from)
    feed = data.find(b"\n\n", begin)
    limit = feed + 2 if feed >= 0 else len(data)
    carriage = data.find(b"\n\r\n", begin, limit)
    if carriage >= 0:
        return carriage + 3
    return feed + 2 if feed >= 0 else -1


def _after_comments(data: bytes, start: int, end: int) -> int:
    """Skip comments and empty lines at the beginning of an event."""
    while start < end and data.startswith((b":", b"\n", b"\r\n"), start):
        start = data.index(b"\n", start) + 1
    return start


def _data_line(event: bytes) -> bytes:
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            return line[5:].strip()
    return _UNREADABLE


def _payload(event: bytes) -> dict[str, Any]:
    try:
        alone = event.startswith(b"data:") and event.find(b"\n") >= len(event) - 2
        value = orjson.loads(event[5:] if alone else _data_line(event))
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
