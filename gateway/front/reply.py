"""What goes back to a client: a reply in one piece, and the head of a streamed one.

Rules:
- the headers of the framing are made here and nowhere else: Content-Length or Transfer-Encoding,
  Content-Type, Date and Connection. No ``Server`` header;
- a head is put together in one pass and looked through once: a line break or a zero byte in a
  header would let its sender write headers, or replies, of his own. What many replies share is
  put together, and looked through, for the first of them;
- a reply to HEAD has the head that GET would have got, and no body; 204 and 304 have neither body
  nor length (RFC 9110 sections 8.6, 15.3.5 and 15.4.5);
- who speaks HTTP/1.0 is answered in HTTP/1.0: without chunks, and with a word when the connection
  stays.
"""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from gateway.front.request import FrontRequest

__all__ = ["DateLine", "Reply", "stream_head"]

_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_BODILESS = frozenset((204, 304))


class DateLine:
    """The Date header; made anew once a second, by a clock that only goes forward."""

    __slots__ = ("_line", "_until_s")

    def __init__(self) -> None:
        self._line = ""
        self._until_s = float("-inf")

    def __repr__(self) -> str:
        return f"<{self._line}>"

    def at(self, now_s: float) -> str:
        """The whole line; *now_s* is the loop's time."""
        if now_s >= self._until_s:
            self._line = "Date: " + formatdate(usegmt=True)
            self._until_s = now_s + 1.0
        return self._line


class Reply:
    """A reply in one piece, or what is left to say of a stream that is over (`sent`).

    Args:
        status: A final one, from 200 on.
        body: As it goes out; there is none for HEAD, 204 and 304.
        headers: Besides those of the framing, each name spelled in one way only; read when the
            reply goes out, never changed.
        content_type: Value of that header.
    """

    __slots__ = ("body", "closes", "content_type", "headers", "sent", "status")

    def __init__(
        self,
        *,
        status: int = 200,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
        sent: bool = False,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = {} if headers is None else headers
        self.content_type = content_type
        self.sent = sent
        """All of it is out already: it was streamed."""
        self.closes = False
        """The connection ends behind it, whatever its client would like."""

    def __repr__(self) -> str:
        return f"<Reply {self.status} {len(self.body)} bytes{', closes' if self.closes else ''}>"

    def force_close(self) -> None:
        """End the connection behind this reply."""
        self.closes = True

    def head(self, request: FrontRequest, date_line: str) -> bytes:
        """The head, down to its empty line.

        Raises:
            ValueError: A header holds what no header may hold.
        """
        status, size, content_type = self.status, len(self.body), self.content_type
        if content_type is None and size and self.has_body(request):
            content_type = "application/octet-stream"
        stays = request.keep_alive and not self.closes
        begin = _begin(status, content_type, request.chunks, stays)
        lines = [date_line, *map(": ".join, self.headers.items())]
        if (size or request.method != "HEAD") and status not in _BODILESS:
            lines.append(f"Content-Length: {size}")
        return (begin + _checked(lines)).encode()

    def has_body(self, request: FrontRequest) -> bool:
        """Whether the body goes out behind the head."""
        return request.method != "HEAD" and self.status not in _BODILESS


def stream_head(request: FrontRequest, headers: dict[str, str], date_line: str) -> bytes:
    """The head of a streamed reply with status 200; *headers* tell its type.

    It goes on in chunks, or, in HTTP/1.0, to the end of the connection.

    Raises:
        ValueError: A header holds what no header may hold.
    """
    chunks = request.chunks
    lines = [date_line, *map(": ".join, headers.items())]
    if chunks:
        lines.append("Transfer-Encoding: chunked")
    begin = _begin(200, None, chunks, request.keep_alive and chunks)
    return (begin + _checked(lines)).encode()


@lru_cache(maxsize=256)
def _begin(status: int, content_type: str | None, chunks: bool, stays: bool) -> str:
    """The lines that replies of one kind share, up to where the next one begins."""
    assert 200 <= status < 600, "a final status"
    lines = [f"HTTP/1.{1 if chunks else 0} {status} {_PHRASES.get(status, '')}"]
    if content_type is not None:
        lines.append("Content-Type: " + content_type)
    if stays != chunks:  # what the version does not imply anyway
        lines.append("Connection: keep-alive" if stays else "Connection: close")
    return _checked(lines)[:-2]


def _checked(lines: list[str]) -> str:
    """The lines, and an empty one behind them."""
    # To find nothing takes far less than to count the line breaks that belong there.
    plain = "".join(lines)
    if "\n" in plain or "\r" in plain or "\0" in plain:
        raise ValueError("a line break or a zero byte in a header of a reply")
    lines.append("\r\n")
    return "\r\n".join(lines)
