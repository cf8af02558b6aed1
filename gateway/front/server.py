"""The public listener: aiohttp's HTTP/1.1 protocol with the limits that it leaves open.

aiohttp parses, keeps connections alive and runs one handler at a time on each. Added here, because
its defaults are for friendly clients (behaviour of aiohttp 3.14, whose minor version is pinned for
the sake of these hooks):

- the head of a request must arrive within ``header_timeout_s`` in all, byte by byte or not, and in
  ``header_block_bytes``; a connection that sends nothing is closed after the same time;
- a client that sends so many requests ahead that aiohttp would stop reading is cut: with reading
  stopped its leaving could not be noticed, and its slot would be held to the end;
- a reader that lags gets bounded memory and bounded patience, see `gateway.front.outlet`;
- what the parser rejects is answered in our JSON and never logged with its bytes: the raw line may
  hold somebody's key;
- connections are bounded, in total and for each address; those on which no request has passed the
  key check yet may be half of the total at most, so that strangers cannot shut out everybody else;
- no ``Server`` header.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from typing import Any, cast

from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

from gateway.errors import ApiError
from gateway.front.outlet import Crowd, Outlet, OutletLimits

__all__ = ["FrontProtocol", "FrontRequest", "FrontServer", "ServerLimits"]

_log = logging.getLogger(__name__)

_LAST_WORD_S = 0.5

Handler = Callable[[Any], Awaitable[StreamResponse]]
Rejected = Callable[["FrontRequest", ApiError], Response]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds on connections and request heads. Times in seconds, sizes in bytes."""

    header_timeout_s: float = 10.0
    keepalive_s: float = 75.0
    request_line_bytes: int = 8190
    header_line_bytes: int = 8190
    headers: int = 100
    header_block_bytes: int = 32 << 10
    stream_buffer_bytes: int = 4 << 20
    stream_memory_bytes: int = 256 << 20
    """For all slow readers together; each connection may hold 64 KiB besides."""
    client_stall_s: float = 30.0
    connections: int = 10_000
    connections_per_address: int = 256

    @property
    def strangers(self) -> int:
        """Connections on which no request has passed the key check yet."""
        return max(self.connections // 2, 1)

    @property
    def outlet(self) -> OutletLimits:
        """Bounds on one reader."""
        return OutletLimits(self.stream_buffer_bytes, self.client_stall_s)


class FrontRequest(BaseRequest):
    """A request whose reply carries no product header."""

    async def _prepare_hook(self, response: StreamResponse) -> None:
        response.headers.pop("Server", None)

    @property
    def spoken_version(self) -> tuple[int, int]:
        """The version in the request line; replies never claim more than HTTP/1.1."""
        return self._message.version

    @property
    def front(self) -> FrontProtocol:
        """The connection this request came over."""
        protocol = self.protocol
        assert isinstance(protocol, FrontProtocol)
        return protocol


class FrontProtocol(RequestHandler):
    """One client connection."""

    __slots__ = (
        "_body_bytes",
        "_front",
        "_head_bytes",
        "_head_timer",
        "_known",
        "_last_payload",
        "_peer",
        "outlet",
    )

    outlet: Outlet
    """The writing side; there from the first moment of the connection on."""

    def __init__(self, front: FrontServer, **kwargs: Any) -> None:
        super().__init__(front, **kwargs)
        self._front = front
        self._body_bytes: int | None = None
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_payload: StreamReader | None = None
        self._peer = ""
        self._known = False

    # -- connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        socket = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        peer = socket.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else "local"
        self.outlet = Outlet(socket, self._front.crowd, self._front.limits.outlet, self._loop)
        if not self._front.admit(self._peer):
            socket.abort()
            return
        self._arm_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._front.forget(self._peer, stranger=not self._known)
        self._disarm_head_timer()
        self.outlet.lost()
        super().connection_lost(exc)

    def note_authenticated(self) -> None:
        """A request on this connection passed the key check: it is no stranger's any more."""
        if not self._known:
            self._known = True
            self._front.vouched()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which no byte has come."""
        busy = self._request_in_progress or self._messages or self._head_bytes
        return not busy and not self._in_body()

    def cut(self) -> None:
        """Drop the connection without another byte."""
        if self.transport is not None:
            self.transport.abort()

    # -- request heads

    def data_received(self, data: bytes) -> None:
        in_body = self._in_body()
        body_left = self._body_left()
        waiting = len(self._messages)
        super().data_received(data)
        if len(self._messages) > waiting:
            self._note_request(data)
        elif in_body:
            if body_left is not None and len(data) > body_left:
                self._note_head_bytes(len(data) - body_left)
        elif data:
            self._note_head_bytes(len(data))

    def _in_body(self) -> bool:
        return self._last_payload is not None and not self._last_payload.is_eof()

    def _body_left(self) -> int | None:
        """Bytes of the running body that are still to come; None when it does not say."""
        if self._body_bytes is None or self._last_payload is None:
            return None
        return max(self._body_bytes - self._last_payload.total_bytes, 0)

    def _note_request(self, data: bytes) -> None:
        """One or several heads ended in *data*; see whether the next one began in it, too."""
        message, self._last_payload = self._messages[-1]
        self._head_bytes = 0
        self._disarm_head_timer()
        length = "" if isinstance(message, _ErrInfo) else message.headers.get("Content-Length", "")
        self._body_bytes = int(length) if length.isdecimal() else None
        if not self._in_body() and not _ends_with_message(data, self._body_bytes or 0):
            self._note_head_bytes(1)

    def _note_head_bytes(self, count: int) -> None:
        self._head_bytes += count
        self._arm_head_timer()
        if self._head_bytes > self._front.limits.header_block_bytes:
            self._refuse_head(ApiError("headers_too_large"))

    # -- clients that send far ahead

    def pause_reading(self) -> None:
        if self._request_in_progress and self._current_request is not None:
            content = self._current_request.content
            if content.at_eof() and content is not self._last_payload:
                self.cut()
                return
        super().pause_reading()

    def _pause_reading_for_buffer(self) -> None:
        self.cut()

    def _arm_head_timer(self) -> None:
        if self._head_timer is None:
            timeout_s = self._front.limits.header_timeout_s
            self._head_timer = self._loop.call_later(timeout_s, self._head_is_late)

    def _disarm_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._request_in_progress or self._messages:
            # The next request's head waits behind a running one; its sender may be waiting too.
            self._arm_head_timer()
        elif self._head_bytes:
            self._refuse_head(ApiError("request_timeout"))
        else:
            self.force_close()

    def _refuse_head(self, error: ApiError) -> None:
        """Answer a head that never became a request, then close."""
        transport = self.transport
        if transport is None:
            return
        if not self._request_in_progress and not self._messages:
            transport.write(self._front.raw_refusal(self._peer, error))
        self.force_close()

    # -- what the parser rejects

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what aiohttp could not parse or what escaped a handler, without quoting it."""
        error = _as_api_error(status, exc)
        if status == 500:
            _log.error("request handler failed: %s", type(exc).__name__, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the reply has begun; nothing else can be said")
        assert isinstance(request, FrontRequest)
        response = self._front.rejected(request, error)
        response.force_close()
        return response

    # -- slow readers

    def pause_writing(self) -> None:
        super().pause_writing()
        self.outlet.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.outlet.resume()


class FrontServer(Server):
    """Makes and counts the connections of the public port.

    Args:
        handler: Answers one request.
        rejected: Makes the reply for what never became a request.
        unparsed: Told the peer and the error of a head that was refused unread; gives a request id.
        stalled: Called for each reader that was cut because it stood still.
        crowded: Called for each that was cut because all readers together left too much; as
            *stalled* when not given.
        limits: See `ServerLimits`.
        trusted: Proxies in front of us, exempt from the bound for each address.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        rejected: Rejected,
        unparsed: Callable[[str, ApiError], str],
        stalled: Callable[[], None],
        limits: ServerLimits,
        crowded: Callable[[], None] | None = None,
        trusted: Container[str] = (),
    ) -> None:
        super().__init__(handler, request_factory=self._front_request, handler_cancellation=True)
        self.limits = limits
        self.rejected = rejected
        self._unparsed = unparsed
        self.crowd = Crowd(
            limits.stream_memory_bytes,
            self._loop,
            on_stalled=stalled,
            on_crowded=crowded or stalled,
        )
        self._trusted = trusted
        self._addresses: Counter[str] = Counter()
        self.open_connections = 0
        self.strangers = 0
        """Open connections on which no request has passed the key check yet."""
        self._options: dict[str, Any] = {
            "keepalive_timeout": limits.keepalive_s,
            "max_line_size": limits.request_line_bytes,
            "max_field_size": limits.header_line_bytes,
            "max_headers": limits.headers,
            "lingering_time": 1.0,
            "auto_decompress": False,
            "access_log": None,
        }

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return FrontProtocol(self, loop=self._loop, **self._options)

    def __repr__(self) -> str:
        return f"<FrontServer {self.open_connections} connections>"

    def admit(self, peer: str) -> bool:
        """Count a connection in; False when it is one too many."""
        self._addresses[peer] += 1
        self.open_connections += 1
        self.strangers += 1
        limits = self.limits
        if self.open_connections > limits.connections or self.strangers > limits.strangers:
            return False
        if peer in self._trusted:
            return True
        return self._addresses[peer] <= limits.connections_per_address

    def vouched(self) -> None:
        """A stranger has shown a key."""
        self.strangers -= 1

    def forget(self, peer: str, *, stranger: bool) -> None:
        """Count a connection out."""
        self.open_connections -= 1
        self.strangers -= stranger
        self._addresses[peer] -= 1
        if self._addresses[peer] <= 0:
            del self._addresses[peer]

    def close_idle(self) -> None:
        """Close connections that wait for a next request; the others get their reply.

        Each has a moment left: a request that is on its way just now is better refused in words
        than by a closed connection, which its sender cannot tell from a crash.

        Not aiohttp's ``pre_shutdown``: that makes busy connections deaf, and closes none.
        """
        self._loop.call_later(_LAST_WORD_S, self._close_idle_now)

    def _close_idle_now(self) -> None:
        for connection in self.connections:
            if isinstance(connection, FrontProtocol) and connection.is_idle:
                connection.force_close()

    def raw_refusal(self, peer: str, error: ApiError) -> bytes:
        """A whole reply for a head that was never parsed."""
        request_id = self._unparsed(peer, error)
        body = error.body()
        return (
            f"HTTP/1.1 {error.status} {error.code}\r\nContent-Type: application/json\r\n"
            f"x-request-id: {request_id}\r\nrequest-id: {request_id}\r\nx-api-version: v1\r\n"
            f"Cache-Control: no-store\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode() + body

    def _front_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> FrontRequest:
        request = FrontRequest(message, payload, protocol, writer, task, self._loop)
        if message.version > HttpVersion11:
            request._version = HttpVersion11  # or the refusal would be answered in kind
        return request


def _ends_with_message(data: bytes, body_bytes: int) -> bool:
    """Whether *data*, in which a whole request ended, holds nothing of the next one."""
    head_end = len(data) - body_bytes
    return head_end < 4 or data[head_end - 4 : head_end] == b"\r\n\r\n"


def _as_api_error(status: int, exc: BaseException | None) -> ApiError:
    if isinstance(exc, ApiError):
        return exc
    if status == 500:
        return ApiError("internal_error", close=True)
    if isinstance(exc, LineTooLong):
        line = exc.args[0] if exc.args else b""
        return ApiError("uri_too_long" if bytes(line[:1]) == b"/" else "headers_too_large")
    if exc is not None and "Too many headers" in str(exc):
        return ApiError("headers_too_large")
    return ApiError("invalid_http")
