"""An engine whose every byte, and every close, is decided by the test.

The service starts a program that looks like llama-server, opens the engine's socket, hands it over
to the test and sleeps. From then on the test's own process is the engine: it answers probes by
itself, and each POST is a `Turn` that the test takes and plays.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import queue
import socket
import sys
import termios
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from backend.mock import wire as mock_wire
from tests.support.wire import until

__all__ = ["STREAM_HEAD", "HandEngine", "Turn"]

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n"
)
"""How llama-server begins a stream."""

_PATIENCE_S = 20.0
_CONTEXT = 4096
_PROGRAM = """\
#!{python} -IS
import signal, socket, sys
if "--version" in sys.argv:
    print("version: 1 (hand)")
    sys.exit()
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("--host") + 1])
listener.listen(100)
with socket.socket(socket.AF_UNIX) as door:
    door.connect({door!r})
    socket.send_fds(door, [b"x"], [listener.fileno()])
listener.close()
signal.pause()
"""


class Turn:
    """One POST of the gateway, and the connection that it came over."""

    def __init__(self, link: socket.socket, request_head: bytes, body: bytes) -> None:
        self._link = link
        self.head = request_head
        self.body = body
        self.over = threading.Event()
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over.set()

    @property
    def path(self) -> bytes:
        """What was asked for."""
        return self.head.split(b" ", 2)[1]

    @property
    def asked(self) -> dict[str, object]:
        """The body, read."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    def send(self, *pieces: bytes) -> None:
        """Send *pieces*; the gateway has read each before the next goes out, and the last."""
        for piece in pieces:
            self._link.sendall(piece)
            until(lambda: _unread_bytes(self._link) == 0)

    def stream(self, *pieces: bytes) -> None:
        """A whole streamed response: each piece is a chunk, and a read."""
        self.send(STREAM_HEAD, *(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces))
        self.send(b"0\r\n\r\n")

    def reply(self, body: bytes, *lines: bytes, status: bytes = b"200 OK") -> None:
        """A response in one piece."""
        lines = (b"Content-Type: application/json", b"Content-Length: %d" % len(body), *lines)
        self.send(b"\r\n".join((b"HTTP/1.1 " + status, *lines)) + b"\r\n\r\n" + body)

    def close(self) -> None:
        """Hang up; the gateway may not have noticed yet when this returns."""
        self.closed = True
        with contextlib.suppress(OSError):  # it has hung up itself
            self._link.shutdown(socket.SHUT_RDWR)  # whoever reads from it closes it
        self.over.set()

    def left(self) -> bool:
        """Wait until the gateway hangs up; False when it sends something instead."""
        try:
            return self._link.recv(1) == b""
        except ConnectionResetError:
            return True


class HandEngine:
    """The engine's side; ``with`` it while the service runs.

    Args:
        folder: For its program and its door; a short path.
    """

    def __init__(self, folder: Path) -> None:
        self.program = folder / "llama-server"
        """What LLAMA_SERVER must name."""
        self.links: list[socket.socket] = []
        """Connections of the gateway that are open on our side."""
        self.accepted = 0
        door = folder / "door.sock"
        self.program.write_text(_PROGRAM.format(python=sys.executable, door=str(door)))
        self.program.chmod(0o700)
        self._turns: queue.Queue[Turn] = queue.Queue()
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(door))
        self._door.listen()
        self._listeners: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._open, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in (self._door, *self._listeners, *tuple(self.links)):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def turn(self) -> Turn:
        """The next POST; waits for it."""
        return self._turns.get(timeout=_PATIENCE_S)

    @property
    def idle(self) -> bool:
        """Whether no POST waits to be played."""
        return self._turns.empty()

    def _open(self) -> None:
        """Take over the socket of each program that is started."""
        while True:
            try:
                door, _ = self._door.accept()
                _, (number, *_), _, _ = socket.recv_fds(door, 1, 1)
            except (OSError, ValueError):
                return
            door.close()
            listener = socket.socket(fileno=number)
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.links.append(link)
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            while (asked := _read_request(link)) is not None:
                turn = Turn(link, *asked)
                if asked[0].startswith(b"POST "):
                    self._turns.put(turn)
                    turn.over.wait(_PATIENCE_S)
                    if turn.closed:
                        break
                else:
                    turn.reply(_told(turn.path))
        except (OSError, AssertionError):
            pass
        finally:
            link.close()
            self.links.remove(link)


def _told(path: bytes) -> bytes:
    """What the gateway is told when it asks how things are."""
    if path == b"/props":
        return json.dumps(mock_wire.props("hand", 2, _CONTEXT)).encode()
    if path == b"/v1/models":
        return json.dumps(mock_wire.models("hand", _CONTEXT)).encode()
    if path == b"/slots":
        free = [{"id": n, "n_ctx": _CONTEXT, "is_processing": False} for n in range(2)]
        return json.dumps(free).encode()
    return b'{"status":"ok"}'


def _read_request(link: socket.socket) -> tuple[bytes, bytes] | None:
    got = bytearray()
    while (end := got.find(b"\r\n\r\n")) < 0:
        data = link.recv(1 << 16)
        if not data:
            return None
        got += data
    request_head, body = bytes(got[: end + 4]), got[end + 4 :]
    length = 0
    for line in request_head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        data = link.recv(1 << 16)
        if not data:
            return None
        body += data
    assert len(body) == length, "the gateway never pipelines"
    return request_head, bytes(body)


def _unread_bytes(link: socket.socket) -> int:
    """What the other side has not read yet; 0 once the connection is gone."""
    size = array.array("i", [0])
    try:
        fcntl.ioctl(link, termios.TIOCOUTQ, size)
    except (OSError, ValueError):  # closed by the one who reads from it
        return 0
    return size[0]
