"""Client and engine in one thread: each byte is sent when the one before has had its effect.

So the gateway in between takes the same steps in every run, whatever else the machine does.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import socket
import termios
import time
from pathlib import Path
from typing import Any

__all__ = ["Client", "Engine", "EngineConnection", "Json", "listen", "request"]

_HANGS_AFTER_S = 60.0

Json = dict[str, Any]


def listen(path: Path, patience_s: float = _HANGS_AFTER_S) -> socket.socket:
    """A Unix socket whose accept does not wait for ever."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(512)
    listener.settimeout(patience_s)
    return listener


class Client:
    """One connection to the gateway."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_HANGS_AFTER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """Send a request."""
        self._socket.sendall(data)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def until(self, mark: bytes) -> bytes:
        """What comes, up to and with the piece that ends *mark*."""
        seen = b""
        while mark not in seen:
            seen += _received(self._socket)
        return seen

    def reply(self) -> bytes:
        """A reply that tells its length."""
        return _message(self._socket)


class EngineConnection:
    """One connection of the gateway's to the engine."""

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        accepted.settimeout(_HANGS_AFTER_S)

    def send(self, data: bytes) -> None:
        """Send; does not wait until it is read."""
        self.socket.sendall(data)

    def send_and_see_it_read(self, data: bytes) -> None:
        """Send, and wait until the gateway has taken it out of the socket."""
        self.socket.sendall(data)
        ends_s = time.monotonic() + _HANGS_AFTER_S
        unread = array.array("i", (1,))
        while unread[0]:
            os.sched_yield()
            fcntl.ioctl(self.socket, termios.TIOCOUTQ, unread)
            assert time.monotonic() < ends_s, "the gateway does not read"


class Engine:
    """Waits where the gateway looks for its engine."""

    def __init__(self, path: Path) -> None:
        self._listener = listen(path)
        self._connections: list[EngineConnection] = []

    def close(self) -> None:
        """Hang up."""
        for each in (self._listener, *(connection.socket for connection in self._connections)):
            each.close()

    def asked(self) -> EngineConnection:
        """The connection on which the next request came, whole, on a new one or not."""
        while True:
            waiting = [self._listener, *(each.socket for each in self._connections)]
            ready, _, _ = select.select(waiting, [], [], _HANGS_AFTER_S)
            assert ready, "the gateway asks nothing"
            if self._listener in ready:
                self._connections.append(EngineConnection(self._listener.accept()[0]))
                continue
            for connection in tuple(self._connections):
                if connection.socket in ready:
                    if connection.socket.recv(1, socket.MSG_PEEK):
                        _message(connection.socket)
                        return connection
                    self._connections.remove(connection)
                    connection.socket.close()


def _received(source: socket.socket) -> bytes:
    data = source.recv(1 << 16)
    assert data, "the gateway hung up"
    return data


def _message(source: socket.socket) -> bytes:
    """One message, by its Content-Length."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += _received(source)
    head, _, body = seen.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += _received(source)
    return head + b"\r\n\r\n" + body


def request(path: str, key: str, body: Json) -> bytes:
    """A POST as an SDK sends it, more or less."""
    content = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAccept: application/json\r\n"
        f"Accept-Encoding: gzip, deflate\r\nUser-Agent: OpenAI/Python 2.0.0\r\n"
        f"X-Stainless-Retry-Count: 0\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode() + content
