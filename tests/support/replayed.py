"""A server that answers every request with a recorded stream, whole or cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

__all__ = ["replaying"]

Find = Callable[[str, str], tuple[bytes, bool]]
"""From a case and a path: the frames, and whether the connection breaks behind them."""

_PIECE = 700


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        case, _, path = urlsplit(self.path).path[1:].partition("/")
        assert isinstance(self.server, _Server)
        frames, broken = self.server.find(case, f"/{path}")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(frames), _PIECE):
            piece = frames[start : start + _PIECE]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if broken:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    find: Find

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has had enough hangs up."""


@contextmanager
def replaying(find: Find) -> Iterator[str]:
    """
    The address of a running server; the first part of a path is the case, the rest the route.

    Args:
        find: What to answer; called in other threads.
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    server.find = find
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
