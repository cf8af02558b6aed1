"""What goes back to a client: a reply in one piece, and the head of a streamed one.

Rules:
- the headers of the framing are made here and nowhere else: Content-Length or Transfer-Encoding,
  Content-Type, Date and Connection. No ``Server`` header;
- a head is put together in one pass and looked through once: a line break or a zero byte in a
  header would let its sender write headers, or replies, of his own;
- a reply to HEAD has the head that GET would have got, and no body; 204 and 304 have neither body
  nor length (RFC 9110 sections 8.6, 15.3.5 and 15.4.5);
- who speaks HTTP/1.0 is answered in HTTP/1.0: without chunks, and with a word when the connection
  stays.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from gateway.front.request import FrontRequest

__all__ = ["DateLine", "Reply", "stream_head"]

_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_STATUS_LINES = {n: f"HTTP/1.1 {n} {_PHRASES.get(n, '')}" for n in range(200, 600)}
_OLD_STATUS_LINES = {n: f"HTTP/1.0 {n} {_PHRASES.get(n, '')}" for n in range(200, 600)}
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
        status, size, framing = self.status, len(self.body), [date_line]
        if self.content_type is not None:
            framing.append("Content-Type: " + self.content_type)
        elif size and self.has_body(request):
            framing.append("Content-Type: application/octet-stream")
        if (size or request.method != "HEAD") and status not in _BODILESS:
            framing.append(f"Content-Length: {size}")
        stays = request.keep_alive and not self.closes
        return _head(request, status, self.headers, framing, stays=stays)

    def has_body(self, request: FrontRequest) -> bool:
        """Whether the body goes out behind the head."""
        return request.method != "HEAD" and self.status not in _BODILESS


def stream_head(request: FrontRequest, headers: dict[str, str], date_line: str) -> bytes:
    """The head of a streamed reply with status 200; *headers* tell its type.

    It goes on in chunks, or, in HTTP/1.0, to the end of the connection.

    Raises:
        ValueError: A header holds what no header may hold.
    """
    framing = [date_line, "Transfer-Encoding: chunked"] if request.chunks else [date_line]
    return _head(request, 200, headers, framing, stays=request.keep_alive and request.chunks)


def _head(
    request: FrontRequest, status: int, headers: dict[str, str], framing: list[str], *, stays: bool
) -> bytes:
    chunks = request.chunks
    if stays != chunks:  # what the version does not imply anyway
        framing.append("Connection: keep-alive" if stays else "Connection: close")
    status_line = (_STATUS_LINES if chunks else _OLD_STATUS_LINES)[status]
    lines = [status_line, *map(": ".join, headers.items()), *framing, "\r\n"]
    text = "\r\n".join(lines)
    breaks = len(lines)
    if text.count("\n") != breaks or text.count("\r") != breaks or "\0" in text:
        raise ValueError("a line break or a zero byte in a header of a reply")
    return text.encode()
