"""One client connection: from bytes to requests, one reply after the other, and when it ends.

aiohttp's C parser reads heads and bodies (its minor version is pinned for the sake of that); the
rest is here. What holds:

- a request is answered by a task of its own, in the order of arrival, one at a time; a connection
  that waits has no task. When the client leaves, the task is cancelled;
- the head of a request must arrive within ``header_timeout_s`` in all, byte by byte or not, and in
  ``header_block_bytes``; the time runs from its first byte, or from the end of the reply before it.
  A new connection that sends nothing is closed after the same time, and one that waits for its next
  request after ``keepalive_s``;
- there is one timer, and a request does not touch it: it looks, when it fires, how much time is
  left, and is only set anew where it would fire too late;
- a client that sends so many requests ahead that reading would have to stop is cut: with reading
  stopped its leaving could not be noticed, and its slot would be held to the end;
- a reply is one write. The connection takes the next request when the client's backlog is below its
  high-water mark (see `gateway.front.outlet`);
- a body that was not read is let in for a moment behind its reply, which a reset would destroy, and
  then the connection ends: nobody can tell where the next request begins;
- what the parser rejects is answered in our JSON and never logged with its bytes: the raw line may
  hold somebody's key. Nothing behind it is read;
- no protocol is ever switched to: an ``Upgrade`` is read as the ordinary request that it is, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway.errors import ApiError
from gateway.front.outlet import Outlet
from gateway.front.reply import Reply, stream_head
from gateway.front.request import FrontRequest, unreadable

if TYPE_CHECKING:
    from gateway.front.server import FrontServer

__all__ = ["FrontProtocol"]

_log = logging.getLogger(__name__)

_READ_AHEAD_BYTES = 256 << 10
"""Of a body that nobody reads; reading stops at twice of it."""
_REQUESTS_AHEAD = 32
_LINGER_S = 1.0
_ONE_WRITE_BYTES = 64 << 10
"""A larger body is not copied behind its head."""

_Message = RawRequestMessage | HttpProcessingError


class BodyBrokenError(Exception):
    """The rest of a body cannot be read."""


class FrontProtocol(BaseProtocol):
    """One client connection."""

    __slots__ = (
        "_body_bytes",
        "_closing",
        "_deaf",
        "_due_s",
        "_fires_s",
        "_front",
        "_head_bytes",
        "_in_body",
        "_known",
        "_last_payload",
        "_messages",
        "_peer",
        "_request",
        "_task",
        "_timer",
        "outlet",
    )

    outlet: Outlet
    """The writing side; there from the first moment of the connection on."""

    def __init__(self, front: FrontServer, loop: asyncio.AbstractEventLoop) -> None:
        limits = front.limits
        parser = HttpRequestParser(
            self,
            loop,
            _READ_AHEAD_BYTES,
            max_line_size=limits.request_line_bytes,
            max_field_size=limits.header_line_bytes,
            max_headers=limits.headers,
            payload_exception=BodyBrokenError,
            auto_decompress=False,
            max_msg_queue_size=_REQUESTS_AHEAD,
        )
        super().__init__(loop, parser)
        self._front = front
        self._peer = ""
        self._known = False
        self._messages: deque[tuple[_Message, StreamReader]] = deque()
        self._last_payload: StreamReader = EMPTY_PAYLOAD
        self._in_body = False
        self._body_bytes: int | None = None
        self._head_bytes = 0
        self._request: FrontRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fires_s = self._due_s = 0.0
        self._deaf = self._closing = False

    def __repr__(self) -> str:
        state = "lost" if self.transport is None else "idle" if self.is_idle else "busy"
        return f"<FrontProtocol {self._peer} {state}>"

    # -- connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        socket = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        peer = socket.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else "local"
        front = self._front
        self.outlet = Outlet(socket, front.crowd, front.limits.outlet, self._loop)
        if not front.admit(self, self._peer):
            self._deaf = True
            socket.abort()
            return
        self._wait_until(self._loop.time() + front.limits.header_timeout_s)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._front.forget(self._peer, stranger=not self._known)
        self._deaf = True
        self._messages.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.outlet.lost()
        super().connection_lost(exc)
        self._parser = None
        if self._task is not None:
            self._task.add_done_callback(self._on_abandoned)
            self._task.cancel()
        else:
            self._front.drop(self)

    def _on_abandoned(self, task: asyncio.Task[None]) -> None:
        self._task = None  # it may have been cancelled before its first step
        self._front.drop(self)

    def note_authenticated(self) -> None:
        """A request on this connection passed the key check: it is no stranger's any more."""
        if not self._known:
            self._known = True
            self._front.vouched()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which no byte has come."""
        return self._task is None and not self._head_bytes

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What answers a request just now."""
        return self._task

    def cut(self) -> None:
        """Drop the connection without another byte."""
        self._deaf = True
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """End the connection behind what is written."""
        self._hear_no_more()
        if self.transport is not None:
            self.transport.close()

    def close_soon(self) -> None:
        """End the connection behind the running reply; now, where there is none."""
        self._closing = True
        if self._task is None:
            self.close()

    # -- what comes in

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        assert self._parser is not None, "nothing comes after the end"
        in_body = self._in_body
        body_left = self._body_left() if in_body else None
        try:
            messages, upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError as exc:
            self._on_bad_bytes(exc)
            return
        if messages:
            self._on_messages(messages, data)
        elif not in_body:
            self._note_head_bytes(len(data))
        else:
            self._in_body = not self._last_payload.is_eof()
            if body_left is not None and len(data) > body_left:
                self._note_head_bytes(len(data) - body_left)
        if upgraded:
            self._parser.set_upgraded(False)
            if tail:
                self.data_received(tail)

    def _body_left(self) -> int | None:
        """Bytes of the running body that are still to come; None when it does not say."""
        if self._body_bytes is None:
            return None
        return max(self._body_bytes - self._last_payload.total_bytes, 0)

    def _on_messages(
        self, messages: list[tuple[RawRequestMessage, StreamReader]], data: bytes
    ) -> None:
        """One or several heads ended in *data*; see whether the next one began in it, too."""
        message, payload = messages[-1]
        self._last_payload = payload
        self._head_bytes = 0
        self._in_body = not payload.is_eof()
        if self._in_body:
            length = message.headers.get("Content-Length", "")
            self._body_bytes = int(length) if length.isdecimal() else None
        else:  # where the last request has to end, unless a part of the next one follows
            end = len(data) if message.chunked else len(data) - payload.total_bytes
            if end >= 4 and not data.endswith(b"\r\n\r\n", 0, end):
                self._head_bytes = 1
        if self._task is None and len(messages) == 1:
            self._begin(message, payload)
            return
        self._messages.extend(messages)
        if len(self._messages) >= _REQUESTS_AHEAD:
            self.cut()
        elif self._task is None:
            self._answer_next()

    def _on_bad_bytes(self, exc: HttpProcessingError) -> None:
        """What follows is not HTTP: the last that is said is about it."""
        self._deaf = True
        if self._last_payload.is_eof():
            self._messages.append((exc, EMPTY_PAYLOAD))
            if self._task is None:
                self._answer_next()
        else:
            self._last_payload.set_exception(BodyBrokenError())

    # -- how long it takes

    def _note_head_bytes(self, count: int) -> None:
        if not self._head_bytes and count and self._task is None:
            due_s = self._loop.time() + self._front.limits.header_timeout_s
            self._wait_until(min(due_s, self._due_s))
        self._head_bytes += count
        if self._head_bytes > self._front.limits.header_block_bytes:
            self._refuse_head(ApiError("headers_too_large"))

    def _wait_until(self, due_s: float) -> None:
        self._due_s = due_s
        if self._timer is None or self._fires_s > due_s:
            self._set_timer(due_s)

    def _set_timer(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_s = due_s
        self._timer = self._loop.call_at(due_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        if self._task is not None:  # nobody is waited for
            self._set_timer(now_s + self._front.limits.keepalive_s)
        elif now_s < self._due_s:
            self._set_timer(self._due_s)
        elif self._head_bytes:
            self._refuse_head(ApiError("request_timeout"))
        else:
            self.close()

    def _refuse_head(self, error: ApiError) -> None:
        """Answer a head that never became a request, then close."""
        if self._task is None and self.transport is not None:
            self.transport.write(self._front.raw_refusal(self._peer, error))
        self._part()

    def _part(self) -> None:
        """End the connection behind a last word that its client must have time to read.

        What the client still sends is let in for a moment: to close over it would be a reset, which
        can destroy that word on its way.
        """
        self._hear_no_more()
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write_eof()
            self._timer = self._loop.call_later(_LINGER_S, self.close)

    def _hear_no_more(self) -> None:
        self._deaf = True
        self._messages.clear()
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- clients that send far ahead

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:  # each body that ends asks for it
            super().resume_reading(resume_parser)

    def pause_reading(self) -> None:
        request = self._request
        content = None if request is None else request.content
        if content is not None and content.at_eof() and content is not self._last_payload:
            self.cut()
            return
        super().pause_reading()

    # -- what goes out

    def _answer_next(self) -> None:
        message, payload = self._messages.popleft()
        if isinstance(message, HttpProcessingError):
            self._refuse(unreadable(self, self._peer), _as_api_error(message))
            self._part()
        else:
            self._begin(message, payload)

    def _begin(self, message: RawRequestMessage, payload: StreamReader) -> None:
        assert self._parser is not None, "a connection that is lost has nothing to answer"
        self._parser.message_consumed()
        whole = not self._in_body or payload is not self._last_payload
        request = FrontRequest(message, payload, whole, self, self._peer)
        self._request = request
        self._task = asyncio.Task(self._answer(request), loop=self._loop, name="request")

    async def _answer(self, request: FrontRequest) -> None:
        stays = False
        try:
            reply = await self._front.handler(request)
            if not reply.sent:
                self._send(request, reply)
            if self._paused:
                await self._drain_helper()
            all_came = request.whole or await _rest_came(request.content)
            stays = all_came and request.keep_alive and not reply.closes
        except ConnectionError:
            pass  # the client has left; nothing can be told any more
        except Exception as exc:
            self._on_failure(request, exc)
        finally:
            self._ended(stays)

    def _on_failure(self, request: FrontRequest, exc: Exception) -> None:
        _log.error("request handler failed: %s", type(exc).__name__, exc_info=exc)
        if not request.reply_begun:
            self._refuse(request, ApiError("internal_error", close=True))

    def _refuse(self, request: FrontRequest, error: ApiError) -> None:
        reply = self._front.rejected(request, error)
        reply.force_close()
        with suppress(ConnectionError):
            self._send(request, reply)

    def _send(self, request: FrontRequest, reply: Reply) -> None:
        data = reply.head(request, self._front.date.at(self._loop.time()))
        body = reply.body
        if body and reply.has_body(request):
            if len(body) <= _ONE_WRITE_BYTES:
                data += body
            else:
                self._write(request, data)
                data = body
        self._write(request, data)

    def begin_stream(self, request: FrontRequest, headers: dict[str, str]) -> bytes:
        """The head of a streamed reply, which its caller sends.

        Raises:
            ConnectionError: The client has left.
        """
        self._writable()
        head = stream_head(request, headers, self._front.date.at(self._loop.time()))
        request.reply_begun = True
        return head

    async def end_stream(self, request: FrontRequest, rest: bytes) -> None:
        """Send *rest* and what ends a stream, and wait for a slow reader.

        Raises:
            ConnectionError: The client has left.
        """
        if request.chunks:
            rest += b"0\r\n\r\n"
        if rest:
            self._write(request, rest)
        if self._paused:
            await self._drain_helper()

    def _write(self, request: FrontRequest, data: bytes) -> None:
        transport = self._writable()
        request.reply_begun = True
        transport.write(data)

    def _writable(self) -> asyncio.Transport:
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        return transport

    def _ended(self, stays: bool) -> None:
        """A reply is over; the next request, or the wait for one, or the end."""
        self._task = self._request = None
        if self.transport is None:
            return
        if not stays or self._closing:
            self.close()
        elif self._messages:
            self._answer_next()
        else:
            limits = self._front.limits
            wait_s = limits.header_timeout_s if self._head_bytes else limits.keepalive_s
            self._due_s = due_s = self._loop.time() + wait_s
            if self._timer is None or self._fires_s > due_s:  # never, as a rule
                self._set_timer(due_s)

    # -- slow readers

    def pause_writing(self) -> None:
        super().pause_writing()
        self.outlet.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.outlet.resume()


async def _rest_came(content: StreamReader) -> bool:
    """Let in what the client still sends; it may be about to read its reply."""
    if not content.is_eof():
        with suppress(TimeoutError, BodyBrokenError):
            async with asyncio.timeout(_LINGER_S):
                while not content.is_eof():
                    await content.readany()
    return content.is_eof()


def _as_api_error(exc: HttpProcessingError) -> ApiError:
    if isinstance(exc, LineTooLong):
        line = exc.args[0] if exc.args else b""
        return ApiError("uri_too_long" if bytes(line[:1]) == b"/" else "headers_too_large")
    if "Too many headers" in str(exc):
        return ApiError("headers_too_large")
    return ApiError("invalid_http")
