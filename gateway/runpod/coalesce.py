"""PURE: puts the events of a stream together into pieces that are worth a round trip.

The SDK posts each piece to the platform and waits for the answer before it takes the next, so one
piece a token would bind the speed to the way there. Rules:

- the first event goes at once, and so does each that comes after a pause;
- else a piece is given when `PIECE_BYTES` have gathered, or `PIECE_S` after the last one;
- an event is never split. Comments, our heartbeats among them, are dropped: they would be output.
"""

from __future__ import annotations

__all__ = ["PIECE_BYTES", "PIECE_S", "Coalescer"]

PIECE_BYTES = 2048
PIECE_S = 0.05

_END = b"\n\n"


class Coalescer:
    """Takes a stream's bytes as they come and gives pieces of whole events."""

    def __init__(self) -> None:
        self._rest = b""
        self._events: list[bytes] = []
        self._bytes = 0
        self._last_s = float("-inf")

    def add(self, data: bytes) -> None:
        """Take the next bytes; an event that has no end yet waits for it."""
        *whole, self._rest = (self._rest + data).split(_END)
        for event in filter(None, map(_without_comments, whole)):
            self._events.append(event + _END)
            self._bytes += len(event) + len(_END)

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until the gathered events should go; 0: now; None: there are none."""
        if not self._events:
            return None
        if self._bytes >= PIECE_BYTES:
            return 0.0
        return max(0.0, self._last_s + PIECE_S - now_s)

    def take(self, now_s: float) -> str:
        """All events gathered so far, as one piece; empty when there are none."""
        piece = b"".join(self._events)
        self._events.clear()
        self._bytes = 0
        self._last_s = now_s
        return piece.decode("utf-8", "replace")


def _without_comments(event: bytes) -> bytes:
    if not event.startswith(b":") and b"\n:" not in event:
        return event
    return b"\n".join(line for line in event.split(b"\n") if not line.startswith(b":"))
