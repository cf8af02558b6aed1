"""Raw HTTP over a socket, for what no HTTP library would send."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What came back before the peer closed, or up to the end of the first reply."""

    raw: bytes

    @property
    def status(self) -> int:
        """The first status code; 0 when the connection was closed without a word."""
        return int(self.raw.split(b" ", 2)[1]) if self.raw.startswith(b"HTTP/1.") else 0

    @property
    def replies(self) -> int:
        """How many status lines came."""
        return len(re.findall(rb"HTTP/1\.[01] [0-9]{3} ", self.raw))

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a JSON reply."""
        body = self.raw.partition(b"\r\n\r\n")[2]
        value = json.loads(body)["error"]
        assert isinstance(value, dict)
        return value


def talk(port: int, *pieces: bytes, close_after: bool = True, timeout_s: float = 20.0) -> Reply:
    """Send *pieces* one after another and read until the peer closes.

    Args:
        port: On 127.0.0.1.
        pieces: Each is one send.
        close_after: Whether our side is shut down after sending, so that a peer that keeps the
            connection alive closes it, too.
        timeout_s: Guards against a peer that neither answers nor closes.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as peer:
        raw = b""
        try:
            for piece in pieces:
                peer.sendall(piece)
            if close_after:
                raw = _one_reply(peer)
                peer.shutdown(socket.SHUT_WR)
            while data := peer.recv(65536):
                raw += data
        except (ConnectionResetError, BrokenPipeError):
            pass
        return Reply(raw)


@contextmanager
def unfinished_request(port: int, key: str) -> Iterator[None]:
    """A chat request whose body never comes whole: work in progress that needs no engine."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-API-Key: {key}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
        peer.sendall(f'{head}Content-Length: 100\r\n\r\n{{"messages"'.encode())
        yield


def _one_reply(peer: socket.socket) -> bytes:
    """Read one reply with a Content-Length, or up to the peer's end."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        data = peer.recv(65536)
        if not data:
            return raw
        raw += data
    head, _, body = raw.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        data = peer.recv(65536)
        if not data:
            break
        raw += data
        body += data
    return raw
