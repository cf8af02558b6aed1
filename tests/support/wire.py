"""A client at the level of bytes: sends what it is given, reads replies exactly as framed.

Nothing here is lenient: a reply that breaks its own framing, or brings a byte too many, fails.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keys import create_first_key
from tests.support.service import ServiceProcess

__all__ = ["Peer", "Received", "chat", "head", "page", "service_with", "until"]

CHAT = b"/v1/chat/completions"
_PATIENCE_S = 20.0
_SOCK_DIAG, _BY_FAMILY = 4, 20
_NO_BODY = frozenset((204, 304))


@contextmanager
def service_with(folder: Path, **env: str) -> Iterator[ServiceProcess]:
    """A ready service with a key of its own; on the mock engine unless *env* says otherwise."""
    secret = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    assert secret is not None
    engine = {} if "LLAMA_SERVER" in env else {"USE_MOCK_MODEL": "true"}
    with ServiceProcess(folder, {**engine, **env}) as running:
        running.key = secret
        yield running.ready()


def head(start: bytes, *lines: bytes) -> bytes:
    """A request's head; *start* is its first line, Host comes by itself."""
    return b"\r\n".join((start, b"Host: x", *lines)) + b"\r\n\r\n"


def chat(key: str, text: str, *lines: bytes, version: bytes = b"1.1", **fields: Any) -> bytes:
    """A whole chat request; *fields* go into its body."""
    content = json.dumps(
        {"messages": [{"role": "user", "content": text}], "max_tokens": 9, **fields}
    ).encode()
    return (
        head(
            b"POST %b HTTP/%b" % (CHAT, version),
            b"Authorization: Bearer " + key.encode(),
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(content),
            *lines,
        )
        + content
    )


def page(port: int, path: bytes, key: str = "") -> bytes:
    """The body of a page that must be there, over a connection of its own."""
    lines = (b"X-API-Key: " + key.encode(),) if key else ()
    with Peer(port) as asker:
        asker.send(head(b"GET " + path + b" HTTP/1.1", *lines))
        reply = asker.reply()
    assert reply.status == 200
    return reply.body


@dataclass(frozen=True, slots=True)
class Received:
    """One reply, its framing checked and removed."""

    version: bytes
    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, in order."""
    body: bytes
    pieces: tuple[bytes, ...] = ()
    """The chunks of a chunked body."""

    def header(self, name: str) -> str | None:
        """The value of a header that comes once or never; *name* in lower case."""
        values = [value for known, value in self.headers if known == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def chunked(self) -> bool:
        """Whether it came in chunks."""
        return self.header("transfer-encoding") is not None

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it, or stays open by no word of its own."""
        said = (self.header("connection") or "").lower()
        return said == "close" if self.version == b"HTTP/1.1" else said != "keep-alive"

    @property
    def code(self) -> str:
        """The code of an error reply."""
        code = json.loads(self.body)["error"]["code"]
        assert isinstance(code, str)
        return code


class Peer:
    """One connection to a service, as bytes.

    Args:
        port: On 127.0.0.1.
        window_bytes: What the kernel takes on our behalf; None leaves it to the kernel.
    """

    def __init__(self, port: int, *, window_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if window_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(_PATIENCE_S)
        self.socket.connect(("127.0.0.1", port))
        self._far = port
        self._near: int = self.socket.getsockname()[1]
        self._unread = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    # -- sending

    def send(self, *pieces: bytes) -> None:
        """Send *pieces*; the service has read each of them before the next goes out."""
        for place, piece in enumerate(pieces):
            if place:
                self.until_read()
            self.socket.sendall(piece)

    def until_read(self) -> None:
        """Wait until the service's process has taken all that was sent."""
        until(lambda: _waiting_bytes(near=self._far, far=self._near) == 0)

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    # -- receiving

    def reply(self, *, to: str = "GET") -> Received:
        """The next reply, whole, interim ones left out; *to* is the method that it answers."""
        while True:
            version, status, headers = self._head()
            if status >= 200:
                break
        fields = dict(headers)
        if to == "HEAD" or status in _NO_BODY:
            return Received(version, status, headers, b"")
        if "transfer-encoding" in fields:
            assert version == b"HTTP/1.1", "an older client cannot read chunks"
            assert "content-length" not in fields
            assert fields["transfer-encoding"].lower() == "chunked"
            pieces = tuple(self._chunks())
            return Received(version, status, headers, b"".join(pieces), pieces)
        if "content-length" in fields:
            body = self._exactly(int(fields["content-length"]))
        else:
            body = self.rest()
        return Received(version, status, headers, body)

    def begun(self) -> bytes:
        """The head of the next reply, as bytes; its body is left."""
        return self._to(b"\r\n\r\n")

    def chunk(self) -> bytes:
        """The next chunk of a body; empty for the last."""
        size = int(self._to(b"\r\n")[:-2], 16)
        piece = self._exactly(size)
        assert self._exactly(2) == b"\r\n"
        return piece

    def take(self, data: bytes) -> None:
        """Put back what was read past this class; it comes next."""
        self._unread[:0] = data

    def rest(self) -> bytes:
        """All that comes before the connection ends, cleanly."""
        while self._more():
            pass
        rest = bytes(self._unread)
        self._unread.clear()
        return rest

    def ended(self) -> bool:
        """Whether the connection ends now without another byte; waits for the one or the other."""
        try:
            return not self._unread and not self._more()
        except ConnectionResetError:
            return True

    def lives(self) -> bool:
        """Whether a request on this connection is answered, by a reply of its own."""
        self.send(head(b"GET /version HTTP/1.1"))
        reply = self.reply()
        return reply.status == 200 and b'"api_version"' in reply.body

    def _head(self) -> tuple[bytes, int, tuple[tuple[str, str], ...]]:
        start, *lines = self._to(b"\r\n\r\n")[:-4].split(b"\r\n")
        version, status, _ = start.split(b" ", 2)
        assert version in (b"HTTP/1.1", b"HTTP/1.0"), start
        headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            assert colon
            assert name.strip() == name != b""
            headers.append((name.decode().lower(), value.strip().decode()))
        return version, int(status), tuple(headers)

    def _chunks(self) -> Iterator[bytes]:
        while piece := self.chunk():
            yield piece

    def _to(self, end: bytes) -> bytes:
        while (found := self._unread.find(end)) < 0:
            assert self._more(), f"the connection ended in {bytes(self._unread)!r}"
        return self._exactly(found + len(end))

    def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            assert self._more(), f"the connection ended in {bytes(self._unread)!r}"
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    def _more(self) -> bool:
        data = self.socket.recv(1 << 16)
        self._unread += data
        return bool(data)


def until(what: Callable[[], bool], timeout_s: float = _PATIENCE_S) -> None:
    """Wait for something that nobody tells of; looks often, for it is about to be so."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not what():
        assert time.monotonic() < deadline_s, "it did not come about"
        pause.wait(0.0005)


def _waiting_bytes(*, near: int, far: int) -> int:
    """What the kernel holds for the owner of a loopback connection; 0 when it is gone."""
    told = _told_by_kernel(near, far)
    return _found_in_list(near, far) if told is None else told


def _told_by_kernel(near: int, far: int) -> int | None:
    """The same, asked for one connection (sock_diag(7)); None where that is not to be had."""
    here = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    ports = struct.pack("!HH", near, far)
    which = ports + here + here + struct.pack("=I2I", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    asked = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + which
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.send(struct.pack("=IHHII", 16 + len(asked), _BY_FAMILY, 1, 0, 0) + asked)
            answer = kernel.recv(4096)
    except OSError:
        return None
    _, kind = struct.unpack_from("=IH", answer)
    if kind == _BY_FAMILY:
        waiting: int = struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0]
        return waiting
    (error,) = struct.unpack_from("=i", answer, 16)
    return 0 if -error == errno.ENOENT else None


def _found_in_list(near: int, far: int) -> int:
    ours, other = b"0100007F:%04X" % near, b"0100007F:%04X" % far
    for line in Path("/proc/net/tcp").read_bytes().splitlines():
        fields = line.split()
        if fields[1] == ours and fields[2] == other:
            return int(fields[4].partition(b":")[2], 16)
    return 0
