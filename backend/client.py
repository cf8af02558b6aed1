"""A small keep-alive HTTP/1.1 client for one engine.

It exists because the engine side is the larger half of a request's cost: a general client spends
about 85 us more per request than this one. What makes it small: one peer, one scheme, bodies
that are already bytes, and bytes handed on from the read callback without a task in between.

Rules:
- one exchange at a time on a connection;
- a connection is used again only after a response that ended exactly where its framing says, with
  nothing after it; an aborted exchange, a stray byte or ``Connection: close`` ends it;
- nor after a chunked response: llama-server closes the connection behind a stream without saying
  so, after one or two of them (measured), and the next request would be lost in that gap;
- llama-server (cpp-httplib) closes idle connections after 5 s and after 100 requests, so idle
  ones are dropped here after 4 s and the newest is used first. A request that meets a connection
  which the engine closes in that very moment is sent once more, on a new one: only if the
  connection had been idle for so long that this can be the reason, and no response byte came;
- a connection to a Unix socket is made or refused at once. It is tried again for a while when it is
  refused because too many wait to be let in: the engine's backlog is short, and streams may begin
  together;
- the engine's key is written into requests and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from backend.address import Address, TcpAddress, UnixAddress
from backend.errors import BackendError, ConnectFailed, EngineGone, EngineTimeout

__all__ = ["EngineClient", "Exchange", "Sink"]

_EARLY_LIMIT_BYTES = 1 << 20
_HEADS_KEPT = 64
_OF_NO_MATTER = frozenset(
    (b"Content-Length", b"Content-Type", b"Server", b"Keep-Alive", b"Access-Control-Allow-Origin")
)
"""Headers of llama-server's that the parser reads for itself, or nobody does."""
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05
"""Between attempts to connect while the engine's backlog is full."""


class Sink(Protocol):
    """Takes what follows the head of a response, called once for each read."""

    def data(self, chunk: bytes) -> None:
        """Body bytes, transfer coding removed; more will come, or the end."""

    def end(self, rest: bytes) -> None:
        """The response ended where its framing says; *rest* is the last of the body."""

    def lost(self, error: BackendError) -> None:
        """The connection broke first; the body is incomplete."""


class Exchange:
    """One request and its response, while it lasts.

    The head is there when `EngineClient.send` returns it. The body goes to the sink given to
    `attach`; what came before that is kept and handed over first.
    """

    __slots__ = ("_connection", "_early", "_finished", "_sink", "status")

    def __init__(self, connection: _Connection, status: int) -> None:
        self.status = status
        self._connection: _Connection | None = connection
        self._sink: Sink | None = None
        self._early: list[bytes] = []
        self._finished: BackendError | bool = False

    def __repr__(self) -> str:
        return f"<Exchange {self.status} {'open' if self._connection else 'over'}>"

    def attach(self, sink: Sink) -> None:
        """Hand the body to *sink* from here on."""
        self._sink = sink
        early, self._early = self._early, []
        if self._finished is True:
            sink.end(b"".join(early))
            return
        for chunk in early:
            sink.data(chunk)
        if self._finished:
            sink.lost(self._finished)
        else:
            self.resume()

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            EngineGone: The connection broke, or the body is larger than *limit_bytes*.
        """
        if self._finished is True:  # small replies come in one piece with their head
            body = b"".join(self._early)
            if len(body) <= limit_bytes:
                return body
        collector = _Collector(asyncio.get_running_loop().create_future(), limit_bytes, self)
        self.attach(collector)
        try:
            return await collector.done
        finally:
            self.abort()

    def pause(self) -> None:
        """Stop reading from the engine: its socket fills up, and then it waits."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume_reading()

    def abort(self) -> None:
        """Drop the connection now, which stops the engine's work. Nothing to do once over."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    # -- called by the connection

    def _keep(self, chunk: bytes) -> None:
        self._early.append(chunk)
        if sum(map(len, self._early)) > _EARLY_LIMIT_BYTES:
            self.pause()

    def _end(self, rest: bytes) -> None:
        self._connection = None
        self._finished = True
        if self._sink is not None:
            self._sink.end(rest)
        elif rest:
            self._early.append(rest)

    def _lost(self, error: BackendError) -> None:
        if self._connection is None:
            return
        self._connection = None
        self._finished = error
        if self._sink is not None:
            self._sink.lost(error)


class _Collector:
    """A sink that makes one bytes object of a body."""

    def __init__(self, done: asyncio.Future[bytes], limit_bytes: int, exchange: Exchange) -> None:
        self.done = done
        self._exchange = exchange
        self._left = limit_bytes
        self._chunks: list[bytes] = []

    def data(self, chunk: bytes) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            self.lost(EngineGone("the response is too large"))
            self._exchange.abort()
        else:
            self._chunks.append(chunk)

    def end(self, rest: bytes) -> None:
        self.data(rest)
        if not self.done.done():
            self.done.set_result(b"".join(self._chunks))

    def lost(self, error: BackendError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Connection(asyncio.Protocol):
    """One socket to the engine. httptools calls the ``on_*`` methods while it parses.

    What it finds of a body in one read is handed on as one piece when the read has been parsed.
    """

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._body: list[bytes] = []  # of this read
        self._body_ends = 0  # pieces of it that belong to the response that `_ended`
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._head: asyncio.Future[Exchange] | None = None
        self._exchange: Exchange | None = None
        self._reusable = True
        self._paused = False
        self._ended = False
        self.used = 0
        self.idle_since_s = 0.0
        self.idle_s = 0.0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._exchange is None and self._head is None:
            self.abort()  # a byte nobody asked for: never let it meet the next request
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._hand_on(self._taken_body())
            self._fail(EngineGone("the engine's answer is not HTTP"))
            return
        body = self._body
        if self._ended:
            self._finish()
        elif body:
            self._hand_on(body.pop() if len(body) == 1 else self._taken_body())

    def _hand_on(self, chunk: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if exchange._sink is not None:  # once for each event of a stream
            exchange._sink.data(chunk)
        else:
            exchange._keep(chunk)

    def _taken_body(self) -> bytes:
        chunk = b"".join(self._body)
        self._body.clear()
        return chunk

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._client._forget(self)
        self._fail(EngineGone("the engine closed the connection"))

    # -- httptools

    def on_message_begin(self) -> None:
        if self._ended:  # bytes after the end of the response: not even one is tolerated
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name in _OF_NO_MATTER:
            return
        lower = name.lower()
        if lower == b"transfer-encoding" or (lower == b"connection" and value.lower() == b"close"):
            self._reusable = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._head is None:  # an interim response, or one nobody asked for
            self._reusable = False
            return
        self._exchange = Exchange(self, status)
        head, self._head = self._head, None
        if not head.done():
            head.set_result(self._exchange)

    def on_message_complete(self) -> None:
        if self._ended:
            self._reusable = False
        elif self._exchange is not None:
            self._ended = True
            self._body_ends = len(self._body)
            # Asked here, because the parser forgets the answer when the callback returns.
            self._reusable = self._reusable and self._parser.should_keep_alive()

    # -- used by Exchange and EngineClient

    @property
    def reused(self) -> bool:
        """Whether an earlier exchange went over this connection."""
        return self.used > 1

    def start(self, request: bytes, head: asyncio.Future[Exchange]) -> None:
        assert self._transport is not None
        self.used += 1
        self._head = head
        self._ended = False
        self._transport.write(request)

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def pause_reading(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        self._exchange = None
        if self._transport is not None:
            self._client._forget(self)
            self._transport.abort()

    def _finish(self) -> None:
        exchange, self._exchange = self._exchange, None
        del self._body[self._body_ends :]
        rest = self._taken_body()
        if self._reusable:
            self.resume_reading()
            self._client._release(self)
        else:
            self.abort()
        if exchange is not None:
            exchange._end(rest)

    def _fail(self, error: BackendError) -> None:
        head, self._head = self._head, None
        exchange, self._exchange = self._exchange, None
        self.abort()
        if head is not None and not head.done():
            head.set_exception(error)
        if exchange is not None:
            exchange._lost(error)


class EngineClient:
    """Sends requests to one engine over a pool of connections.

    Owned by the event loop that it is made in. Connections are as many as there are exchanges at a
    time; the caller bounds those (the engine's slots).

    Args:
        address: Where the engine listens.
        key: The engine's own key; never logged.
        connect_timeout_s: Seconds a connection attempt may take.
        idle_s: Seconds an unused connection is kept; less than the engine's 5.
        stale_after_s: Idle time from which on the engine may be closing it at this moment.
        on_use: Told for each request whether its connection was used before.
    """

    def __init__(
        self,
        address: Address,
        key: str,
        *,
        connect_timeout_s: float = 5.0,
        idle_s: float = 4.0,
        stale_after_s: float = 1.0,
        on_use: Callable[[bool], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._common = f"Host: engine\r\nAuthorization: Bearer {key}\r\nAccept: */*\r\n"
        self._heads: dict[tuple[str, str], bytes] = {}
        """What all requests of one method and path begin with."""
        self._stale_after_s = stale_after_s
        self._closed = False
        self._on_use = on_use

    def __repr__(self) -> str:
        return f"<EngineClient {self._address} {len(self._all)} open, {len(self._idle)} idle>"

    @property
    def connections(self) -> int:
        """Open connections, busy ones included."""
        return len(self._all)

    async def send(
        self, method: str, path: str, body: bytes | None = None, *, request_id: str = ""
    ) -> Exchange:
        """Send a request and wait for the head of its response.

        Args:
            method: An HTTP method in capitals.
            path: A path from our own table, never one that a client sent.
            body: JSON, already encoded.
            request_id: A well-formed id (``[A-Za-z0-9._-]``) for the engine's log, or nothing.

        Raises:
            ConnectFailed: Nobody listens, or the attempt took too long.
            EngineGone: The connection broke before a head came.
        """
        request = self._encode(method, path, body, request_id)
        connection = self._newest_idle() or await self._connect()
        idle_s = connection.idle_s
        try:
            return await self._begin(connection, request)
        except EngineGone as exc:
            if self._closed or not connection.reused or idle_s < self._stale_after_s:
                raise
            gone = exc
        except asyncio.CancelledError:
            connection.abort()
            raise
        try:
            connection = await self._connect()
        except ConnectFailed:
            raise gone from None
        try:
            return await self._begin(connection, request)
        except asyncio.CancelledError:
            connection.abort()
            raise

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout_s: float,
        limit_bytes: int = 64 << 20,
    ) -> tuple[int, bytes]:
        """Send a request and read the whole response: its status and its body.

        Raises:
            EngineTimeout: It took longer than *timeout_s* seconds in all.
            ConnectFailed, EngineGone: As `send`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                exchange = await self.send(method, path, body)
                return exchange.status, await exchange.read(limit_bytes)
        except TimeoutError:
            raise EngineTimeout(f"no answer within {timeout_s:g} s") from None

    def close(self) -> None:
        """Drop every connection, busy ones included; their exchanges end as lost."""
        self._closed = True
        for connection in tuple(self._all):
            connection._fail(EngineGone("the connection was closed here"))
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None

    # -- the pool

    def _begin(self, connection: _Connection, request: bytes) -> asyncio.Future[Exchange]:
        """Send *request*; done when the head of its response is there."""
        head: asyncio.Future[Exchange] = self._loop.create_future()
        connection.start(request, head)
        if self._on_use is not None:
            self._on_use(connection.reused)
        return head

    def _newest_idle(self) -> _Connection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            connection.idle_s = now - connection.idle_since_s
            if connection.idle_s < self._idle_s and connection.open:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        connection = _Connection(self)
        try:
            if isinstance(self._address, UnixAddress):
                await self._dial_unix(connection, self._address.path)
            else:
                async with asyncio.timeout(self._connect_timeout_s):
                    await self._dial_tcp(connection, self._address)
        except TimeoutError:
            raise ConnectFailed(f"no connection within {self._connect_timeout_s:g} s") from None
        except OSError as exc:
            raise ConnectFailed(exc.strerror or "the connection was refused") from exc
        self._all.add(connection)
        return connection

    async def _dial_unix(self, connection: _Connection, path: str) -> None:
        """Connect; that takes no time, unless as many wait for the engine as it lets wait."""
        pause_s, ends_s = _FIRST_PAUSE_S, self._loop.time() + self._connect_timeout_s
        while True:
            try:
                await self._loop.create_unix_connection(lambda: connection, path)
                return
            except BlockingIOError:
                if self._loop.time() + pause_s > ends_s:
                    raise TimeoutError from None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _dial_tcp(self, connection: _Connection, address: TcpAddress) -> None:
        await self._loop.create_connection(lambda: connection, address.host, address.port)

    def _release(self, connection: _Connection) -> None:
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = self._loop.call_later(self._idle_s, self._reap)

    def _reap(self) -> None:
        cutoff_s = self._loop.time() - self._idle_s
        while self._idle and self._idle[0].idle_since_s <= cutoff_s:
            self._idle.pop(0).abort()
        again = bool(self._idle)
        self._reaper = self._loop.call_later(self._idle_s, self._reap) if again else None

    def _forget(self, connection: _Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _encode(self, method: str, path: str, body: bytes | None, request_id: str) -> bytes:
        head = self._heads.get((method, path)) or self._begin_head(method, path)
        named = f"X-Request-Id: {request_id}\r\n".encode() if request_id else b""
        if body is None:
            return b"%b%b\r\n" % (head, named)
        return b"%b%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            head,
            named,
            len(body),
            body,
        )

    def _begin_head(self, method: str, path: str) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\n{self._common}".encode()
        if len(self._heads) < _HEADS_KEPT:  # paths with a query may be many
            self._heads[method, path] = head
        return head
