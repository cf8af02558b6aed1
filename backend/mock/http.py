"""The mock's HTTP/1.1 side: one connection, its requests in turn, its replies' framing."""

import asyncio
from typing import Protocol, cast

import httptools

_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}
_JSON = b"application/json; charset=utf-8"


class Request:
    """One request, complete with its body."""

    __slots__ = ("body", "headers", "method", "path", "query")

    def __init__(self, method: str, target: bytes, headers: list[tuple[str, str]], body: bytes):
        path, _, query = target.decode("latin-1").partition("?")
        self.method = method
        self.path = path
        self.query = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        """The first value of a header; *name* in lower case."""
        return next((value for known, value in self.headers if known == name), None)


class Host(Protocol):
    """What serves the requests of all connections."""

    keepalive_s: float
    keepalive_max: int

    def opened(self, connection: "Connection") -> None:
        """A client connected."""

    def closed(self, connection: "Connection") -> None:
        """A client is gone."""

    def serve(self, connection: "Connection", request: Request) -> None:
        """Answer *request*, now or later, with one of the connection's reply methods."""


class Connection(asyncio.Protocol):
    """One client. A reply starts the next pipelined request when it ends."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: list[Request] = []
        self._served = 0
        self._idle: asyncio.TimerHandle | None = None
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self.busy = False
        self.job: asyncio.Task[None] | None = None
        self.body_bytes = 0
        self.cut_after: int | None = None
        self.split: int | None = None

    # --- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        # A cast, not a check: uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._host.opened(self)
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop; ends what was being done for this client."""
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()
        if self.job is not None:
            self.job.cancel()
        self._host.closed(self)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self.abort()

    # --- parser

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._target, self._headers, self._body = b"", [], []

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        method = self._parser.get_method().decode()
        self._waiting.append(Request(method, self._target, self._headers, b"".join(self._body)))
        if not self.busy:
            self._next()

    def _next(self) -> None:
        if not self._waiting:
            self._rest()
            return
        if self._idle is not None:
            self._idle.cancel()
        self.busy = True
        self._served += 1
        self.body_bytes, self.cut_after, self.split, self.job = 0, None, None, None
        self._host.serve(self, self._waiting.pop(0))

    def _rest(self) -> None:
        self._idle = self._loop.call_later(self._host.keepalive_s, self.close)

    # --- replies

    @property
    def gone(self) -> bool:
        """Nobody is there to read."""
        return self._transport is None

    def _keep_alive_line(self, *, last: bool) -> bytes:
        if last or self._served >= self._host.keepalive_max:
            return b"Connection: close\r\n"
        keep, most = self._host.keepalive_s, self._host.keepalive_max
        return b"Keep-Alive: timeout=%d, max=%d\r\n" % (int(keep), most)

    def reply(self, status: int, body: bytes, *, head_only: bool = False) -> None:
        """Send a whole JSON reply. Errors close the connection, as the real server's do."""
        last = status >= 400
        self._write(
            b"HTTP/1.1 %d %s\r\nServer: llama.cpp\r\nContent-Type: %s\r\n"
            b"Content-Length: %d\r\n%s\r\n"
            % (status, _REASONS[status], _JSON, len(body), self._keep_alive_line(last=last))
        )
        if not head_only:
            self._write_body(body)
        self.finish(last=last)

    def start_stream(self) -> None:
        """Send the head of an event stream."""
        self._write(
            b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nX-Accel-Buffering: no\r\n"
            b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            + self._keep_alive_line(last=False)
            + b"\r\n"
        )

    def chunk(self, data: bytes) -> None:
        """Send *data* as one HTTP chunk; as several when the request asked for pieces."""
        if self.split is None:
            self._write_body(b"%x\r\n%b\r\n" % (len(data), data), len(data))
            return
        for at in range(0, len(data), self.split):
            piece = data[at : at + self.split]
            self._write_body(b"%x\r\n%b\r\n" % (len(piece), piece), len(piece))

    def end_stream(self) -> None:
        """Send the closing chunk."""
        self._write(b"0\r\n\r\n")
        self.finish()

    def finish(self, *, last: bool = False) -> None:
        """Go on to the next request, or close."""
        self.busy = False
        if last or self._served >= self._host.keepalive_max:
            self.close()
        elif not self.gone:
            self._next()

    def _write_body(self, data: bytes, payload: int | None = None) -> None:
        self.body_bytes += len(data) if payload is None else payload
        if self.cut_after is not None and self.body_bytes > self.cut_after:
            over = self.body_bytes - self.cut_after
            self._write(data[: max(0, len(data) - over - 2)])
            self.close()
            self.cut_after = None
            return
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Send what is waiting to be sent, then hang up."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()
