"""The client's end of an event stream: when it is committed to, and how it ends.

Rules:
- `commit` sends the status line; before it any failure is a clean status, after it the only honest
  failure is an error frame. It is put off to the first event, or to the first heartbeat;
- event bytes go straight to the client's transport: one write, no task, no copy but the chunk
  framing; only those for a reader that lags are kept by its `Outlet`;
- the head waits for the events that are there already, and the last events for the end, so that
  each pair is one write: what a write costs is the system's call, and a packet;
- a heartbeat is an SSE comment, never a nameless event: those crash SDKs. None is sent between two
  pieces of an event;
- a stream that failed ends where its framing says, so its connection lives on: closing it without
  a word would hit the client's next request. One that is to end while its end waits for a slow
  reader is cut, for nothing can follow an end;
- a reply that was abandoned before the commit stays silent: somebody else answers the request.
"""

from __future__ import annotations

import asyncio

from gateway.front.outlet import DrainListener
from gateway.front.reply import Reply
from gateway.front.request import FrontRequest

__all__ = ["StreamReply"]


class StreamReply:
    """One streamed reply.

    Args:
        request: The request to answer.
        headers: Reply headers, read when the reply is committed to, and added to then; the caller
            may add until then.
    """

    def __init__(self, request: FrontRequest, headers: dict[str, str]) -> None:
        self._request = request
        self._outlet = request.front.outlet
        self._headers = headers
        self._transport: asyncio.Transport | None = None  # there while events go straight to it
        self._gathered: list[bytes] | None = None  # what goes out in one write with what follows
        self._chunked = request.chunks
        self._committed = False
        self._abandoned = False
        self._ending = False
        self.bytes_out = 0
        self.complete = False
        """The last event of the answer is out."""
        self.answering = False
        """Some of the answer is out, or will be at once; comments are none of it."""
        self.mid_event = False
        """Part of an unfinished event is out; whatever follows starts with a blank line."""

    def __repr__(self) -> str:
        return f"<StreamReply {'committed' if self.committed else 'open'} {self.bytes_out} bytes>"

    @property
    def committed(self) -> bool:
        """Whether the status line is out."""
        return self._committed

    @property
    def ending(self) -> bool:
        """Whether its end is out, or waits for a slow reader: nothing can follow it."""
        return self._ending

    async def commit(self, on_drain: DrainListener | None = None) -> None:
        """Send status 200 and the headers; the second time only *on_drain* is taken note of.

        Args:
            on_drain: Told True when the client's buffer is full, False when it has room again.

        Raises:
            ConnectionError: The client has left.
        """
        if on_drain is not None:
            self._outlet.on_drain(on_drain)
        if self._committed or self._abandoned:
            return
        self._committed = True
        headers = self._headers
        headers["Content-Type"] = "text/event-stream; charset=utf-8"
        headers["Cache-Control"] = "no-cache, no-transform"
        headers["X-Accel-Buffering"] = "no"
        request = self._request
        head = request.front.begin_stream(request, headers)
        if self._gathered is not None:
            self._gathered.append(head)
        else:
            self._transport = request.transport
            self._put(head)

    def write(self, events: bytes) -> None:
        """Send *events*; dropped when the client has left."""
        transport = self._transport
        if transport is None or transport.is_closing():
            self._gather_events(events)
            return
        self.bytes_out += len(events)
        if self._chunked:
            events = b"%x\r\n%b\r\n" % (len(events), events)
        if self._outlet.slow:
            self._outlet.keep(events)
        else:
            transport.write(events)

    def _gather_events(self, events: bytes) -> None:
        if self._gathered is not None:
            self.bytes_out += len(events)
            framed = b"%x\r\n%b\r\n" % (len(events), events) if self._chunked else events
            self._gathered.append(framed)

    def gather(self) -> None:
        """Keep what is sent from here on, the head too, until `send` or the end; both are close."""
        if self._gathered is None and not self._ending:
            self._transport, self._gathered = None, []

    def send(self) -> None:
        """Send what was gathered; what is written from here on goes out at once."""
        gathered, self._gathered = self._gathered, None
        if gathered is not None and self._committed:
            self._transport = self._request.transport
            self._put(b"".join(gathered))

    def _put(self, data: bytes) -> None:
        transport = self._transport
        if not data or transport is None or transport.is_closing():
            return
        if self._outlet.slow:
            self._outlet.keep(data)
        else:
            transport.write(data)

    def comment(self, comment: bytes) -> None:
        """Send a whole SSE comment: it keeps proxies and clients waiting."""
        self.write(comment)
        self.send()

    def abandon(self) -> None:
        """Never commit after this: the request gets another reply."""
        self._abandoned = True

    async def finish(self) -> Reply:
        """End the reply where its framing says.

        Raises:
            ConnectionError: The client has left.
        """
        assert self._committed, "a reply ends after it was committed to"
        self._ending = True
        gathered, self._gathered = self._gathered, None
        self._transport = None  # the end may have to wait; nothing is written behind it
        self._outlet.on_drain(None)
        self._outlet.hand_over()
        await self._request.front.end_stream(self._request, b"".join(gathered or ()))
        reply = Reply(sent=True)
        reply.closes = not self._chunked  # nothing else tells an HTTP/1.0 client where it ends
        return reply

    async def fail(self, frame: bytes) -> Reply:
        """End the reply with an error frame."""
        assert self._committed, "before the commit a failure is a status"
        self.write(b"\n\n" + frame if self.mid_event else frame)
        return await self.finish()
