"""PURE. Cuts an event stream into the payloads of its events, wherever it was cut before.

Only for what has to look into events: assembling, translating, continuing. What goes to clients of
chat and completions passes by untouched, see `gateway.stream.sse`.
"""

from __future__ import annotations

__all__ = ["DONE", "MARK", "EventSplitter"]

DONE = b"[DONE]"
"""Payload of the event that ends a stream of chat or completions."""

_LINE_FEED = 10

MARK = "x_continued"
"""Name of the field that marks the final event of a continued stream."""


class EventSplitter:
    """
    One stream, from its first byte to its last.

    Args:
        limit_bytes: The largest event that is waited for.
    """

    __slots__ = ("_held", "_limit_bytes", "_size")

    def __init__(self, limit_bytes: int = 64 << 20) -> None:
        self._limit_bytes = limit_bytes
        self._held: list[bytes] = []  # pieces of an event that has not ended
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """
        The ``data:`` payloads of the events that are whole by now, in order; `DONE` is one.

        Raises:
            ValueError: An event grows past the limit.
        """
        line_end = data.find(b"\n")
        if line_end < 0:  # an end has one, and JSON has none elsewhere
            self._hold(data)
            return []
        if line_end == len(data) - 2 and data[-1] == _LINE_FEED and not self._held:
            payload = _payload(data)  # one event, as nearly always
            return [] if payload is None else [payload]
        if self._held:
            data = b"".join((*self._held, data))
            self._held.clear()
            self._size = 0
        if data.find(b"\r") >= 0:
            data = data.replace(b"\r\n", b"\n")
        events = data.split(b"\n\n")
        self._hold(events.pop())
        return [payload for event in events if (payload := _payload(event)) is not None]

    @property
    def between(self) -> bool:
        """Whether no event is half in."""
        return not self._held

    def _hold(self, piece: bytes) -> None:
        if not piece:
            return
        self._size += len(piece)
        if self._size > self._limit_bytes:
            raise ValueError("an event is too large to be looked into")
        self._held.append(piece)

    def __repr__(self) -> str:
        return f"<EventSplitter {self._size} bytes held>"


def _payload(event: bytes) -> bytes | None:
    """What stands on the event's line of data; the engine never writes two."""
    if event.startswith(b"data:"):
        return event[5:].strip()
    at = event.find(b"\ndata:")  # behind a comment or a name
    return event[at + 6 :].strip() if at >= 0 else None
