"""A TCP tap between two processes: passes bytes on and keeps what went each way."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(slots=True)
class Exchange:
    """One connection: all that was asked and all that was answered, as bytes on the wire."""

    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)

    @property
    def request_line(self) -> str:
        """Such as ``POST /v1/completions HTTP/1.1``."""
        return self.asked.partition(b"\r\n")[0].decode("latin-1")

    @property
    def head(self) -> str:
        """The request's head in lower case."""
        return self.asked.partition(b"\r\n\r\n")[0].decode("latin-1").lower()

    @property
    def body(self) -> bytes:
        """The reply's body, without the marks of chunked coding."""
        head, _, body = bytes(self.answered).partition(b"\r\n\r\n")
        return _unchunked(body) if b"chunked" in head.lower() else body


class Tap:
    """Listens on a port of its own; until `target` is set, connections are closed at once."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.target = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def seen(self, start: str) -> list[Exchange]:
        """The exchanges whose request line begins with *start*, oldest first."""
        return [each for each in self.exchanges if each.request_line.startswith(start)]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._join(near)

    def _join(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            near.close()
            return
        exchange = Exchange()
        self.exchanges.append(exchange)
        threading.Thread(target=_relay, args=(near, far, exchange), daemon=True).start()


def _relay(near: socket.socket, far: socket.socket, exchange: Exchange) -> None:
    """Pass on both ways until both have ended."""
    with near, far:
        there = threading.Thread(target=_pass_on, args=(near, far, exchange.asked), daemon=True)
        there.start()
        _pass_on(far, near, exchange.answered)
        there.join()


def _pass_on(one: socket.socket, other: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            kept += data
            other.sendall(data)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _unchunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        found, body = found + rest[:length], rest[length + 2 :]
        if length == 0:
            break
    return found
