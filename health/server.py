"""The health port: small and dull, first up and last down.

It lives in a thread of its own with an event loop of its own, so a busy or blocked API loop
cannot fail a probe. It answers from what it is handed and never asks the engine or the API loop.

Rules:
- *snapshot* and *metrics* are called from this thread; they must be safe to call from it and
  must not block;
- without file descriptors it still answers, a few at a time, see `health.door`;
- one request per connection, and every connection ends within `CONNECTION_LIFE_S`, whatever the
  peer does; when too many are open the oldest is dropped, so slow peers cannot keep a probe out;
- GET and HEAD only, and no bodies;
- the thread takes no signals: they belong to the main thread, and a system call there must be
  the one that is interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable
from errno import EACCES, EADDRINUSE
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from health.door import Door
from health.verdict import Answer, Snapshot, VerdictOptions, answer

__all__ = ["CONNECTION_LIFE_S", "METRICS_CONTENT_TYPE", "HealthPortError", "HealthServer"]

_log = logging.getLogger(__name__)

CONNECTION_LIFE_S = 5.0
"""Seconds from accept to the end of a connection: longer than any probe waits for a reply."""
CONNECTIONS_MAX = 128
METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HEAD_LINE_BYTES = 4096
_HEADERS_MAX = 64
_STOP_TIMEOUT_S = 5.0
_DROP_ROUNDS = 50


class HealthPortError(OSError):
    """The health port cannot be opened; the text says which and what to change."""


class HealthServer:
    """
    Serves the probes and ``/metrics`` from a thread of its own.

    Args:
        host: Address to bind.
        port: Port to bind; 0 takes a free one, see `port`.
        snapshot: Gives the newest snapshot.
        metrics: Gives the Prometheus text.
        clock: The monotonic clock that `Snapshot.loop_seen_s` was read from.
        options: The operator's choices about the probes.
        connection_life_s: Seconds until an open connection is ended.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        snapshot: Callable[[], Snapshot],
        metrics: Callable[[], bytes],
        clock: Callable[[], float],
        options: VerdictOptions | None = None,
        connection_life_s: float = CONNECTION_LIFE_S,
    ) -> None:
        self._host = host
        self._port = port
        self._snapshot = snapshot
        self._metrics = metrics
        self._clock = clock
        self._options = options or VerdictOptions()
        self._connection_life_s = connection_life_s
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_asked: asyncio.Event | None = None
        self._last_error: type[BaseException] | None = None

    def __repr__(self) -> str:
        state = "serving" if self._thread is not None else "stopped"
        return f"<HealthServer {self._host}:{self._port} {state}>"

    @property
    def port(self) -> int:
        """The bound port; the asked one before `start`."""
        return self._port

    def start(self) -> None:
        """
        Open the port; returns once probes are answered.

        Raises:
            HealthPortError: The port is taken, not allowed, or the host is not an address here.
            RuntimeError: Started twice.
        """
        if self._thread is not None:
            raise RuntimeError("the health server is already running")
        sock = _listen(self._host, self._port)
        self._port = int(sock.getsockname()[1])
        serving = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(sock, serving), name="health", daemon=True
        )
        self._thread.start()
        serving.wait()

    def stop(self) -> None:
        """Close the port and end the thread; safe to call twice, and before `start`."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        loop, stop_asked = self._loop, self._stop_asked
        if loop is not None and stop_asked is not None and thread.is_alive():
            loop.call_soon_threadsafe(stop_asked.set)
        thread.join(_STOP_TIMEOUT_S)

    def _run(self, sock: socket.socket, serving: threading.Event) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            # A selector loop on purpose: nothing here needs speed, and a policy that the API loop
            # installs must not reach this thread.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve(sock, serving))
        except Exception:
            _log.exception("the health port has stopped")
        finally:
            sock.close()
            serving.set()

    async def _serve(self, sock: socket.socket, serving: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        self._loop, self._stop_asked = loop, asyncio.Event()
        protocols = _Protocols(self._handle, self._connection_life_s)
        door = Door(sock, protocols, protocols.drop_oldest)
        protocols.on_closed = door.connection_ended
        door.open()
        serving.set()
        await self._stop_asked.wait()
        door.close()
        await _drop(protocols)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return self._reply(request)
        except Exception as error:
            # One line per kind of failure: a probe comes every few seconds.
            if type(error) is not self._last_error:
                self._last_error = type(error)
                _log.exception("a health probe could not be answered")
            return _failure(500, "internal_error", "Something went wrong here.")

    def _reply(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        found = self._look_up(path)
        if found is None:
            return _failure(404, "not_found", "There is no such path.")
        if request.method not in ("GET", "HEAD"):
            reply = _failure(405, "method_not_allowed", "This path does not take that method.")
            reply.headers[hdrs.ALLOW] = "GET, HEAD"
            return reply
        if request.body_exists:
            return _failure(413, "payload_too_large", "The request body is too large.")
        return _Reply(found)

    def _look_up(self, path: str) -> Answer | None:
        if path == "/metrics":
            return Answer(200, METRICS_CONTENT_TYPE, self._metrics())
        return answer(path, self._snapshot(), self._clock(), self._options)


class _Reply(web.Response):
    """A whole reply that ends its connection and does not say what software made it."""

    def __init__(self, found: Answer) -> None:
        super().__init__(
            status=found.status,
            body=found.body or None,
            headers={"x-api-version": "v1", hdrs.CACHE_CONTROL: "no-store"},
        )
        if found.content_type is not None:
            self.headers[hdrs.CONTENT_TYPE] = found.content_type
        self.force_close()

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.pop(hdrs.SERVER, None)


def _failure(status: int, code: str, message: str) -> _Reply:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = {"error": error | {"hint": None, "retryable": status >= 500}}
    return _Reply(Answer(status, "application/json", orjson.dumps(body)))


class _Protocols(web.Server):
    """Makes one protocol per connection and knows the open ones, oldest first."""

    def __init__(self, handler: Callable[[web.BaseRequest], Any], connection_life_s: float) -> None:
        super().__init__(
            handler,
            access_log=None,
            max_line_size=_HEAD_LINE_BYTES,
            max_field_size=_HEAD_LINE_BYTES,
            max_headers=_HEADERS_MAX,
            keepalive_timeout=connection_life_s,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._life_s = connection_life_s
        self._open: dict[_Connection, None] = {}
        self.on_closed: Callable[[], None] = _nothing

    def __call__(self) -> RequestHandler:
        return _Connection(self, self._loop, self._life_s, self._kwargs)

    def opened(self, connection: _Connection) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            self.drop_oldest()
        self._open[connection] = None

    def closed(self, connection: _Connection) -> None:
        self._open.pop(connection, None)
        self.on_closed()

    def drop_oldest(self) -> None:
        """End the connection that has been open longest, if there is one."""
        for connection in self._open:
            connection.drop()
            return

    def drop_all(self) -> None:
        for connection in list(self._open):
            connection.drop()


class _Connection(RequestHandler):
    """aiohttp's connection, with an end that its peer cannot put off."""

    def __init__(
        self,
        protocols: _Protocols,
        loop: asyncio.AbstractEventLoop,
        life_s: float,
        settings: dict[str, Any],
    ) -> None:
        super().__init__(protocols, loop=loop, **settings)
        self._protocols = protocols
        self._life_s = life_s
        self._end: asyncio.TimerHandle | None = None
        self._raw: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._raw = transport
        self._end = self._loop.call_later(self._life_s, self.drop)
        self._protocols.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._end is not None:
            self._end.cancel()
        self._protocols.closed(self)
        super().connection_lost(exc)

    def drop(self) -> None:
        """End the connection now, whatever is still unsent."""
        self._protocols.closed(self)
        if isinstance(self._raw, asyncio.Transport):
            self._raw.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.Response:
        # aiohttp's own text quotes the request and is not JSON.
        if status >= 500:
            return _failure(500, "internal_error", "Something went wrong here.")
        return _failure(400, "invalid_http", "The request is not valid HTTP/1.1.")


def _nothing() -> None:
    pass


async def _drop(protocols: _Protocols) -> None:
    """End every connection, those that are just being accepted included."""
    for _ in range(_DROP_ROUNDS):
        protocols.drop_all()
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if not others:
            break
        await asyncio.wait(others, timeout=0.02)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, or a `HealthPortError` that says what is wrong with the address."""
    sock: socket.socket | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(CONNECTIONS_MAX)
    except OSError as error:
        if sock is not None:
            sock.close()
        why = error.strerror or "unknown reason"
        setting = "PORT_HEALTH" if error.errno in (EADDRINUSE, EACCES) else "HOST"
        message = f"cannot open the health port {port} on {host} ({why}); set {setting}"
        raise HealthPortError(error.errno, message) from error
    sock.setblocking(False)
    return sock
