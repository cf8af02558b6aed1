"""One request as its connection hands it on: the parsed head, and its body as it comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

if TYPE_CHECKING:
    from gateway.front.connection import FrontProtocol

__all__ = ["FrontRequest", "unreadable"]


class FrontRequest:
    """What is known of a request.

    Args:
        message: The parsed head.
        content: The body.
        whole: Whether the body is complete.
        front: The connection it came over.
        remote: Address of the peer.
    """

    __slots__ = (
        "chunks",
        "content",
        "front",
        "headers",
        "keep_alive",
        "method",
        "raw_headers",
        "raw_path",
        "remote",
        "reply_begun",
        "spoken_version",
        "whole",
    )

    def __init__(
        self,
        message: RawRequestMessage,
        content: StreamReader,
        whole: bool,
        front: FrontProtocol,
        remote: str,
    ) -> None:
        self.method: str = message.method
        self.raw_path: str = message.path
        """The target, as it was spelled."""
        self.headers: CIMultiDictProxy[str] = message.headers
        self.raw_headers: tuple[tuple[bytes, bytes], ...] = message.raw_headers
        version: tuple[int, int] = message.version
        self.spoken_version = version
        """The version in the request line; replies never claim more than HTTP/1.1."""
        self.chunks = version >= HttpVersion11
        """Whether the client understands a reply in chunks; one that does not speaks HTTP/1.0."""
        self.keep_alive = not message.should_close
        """Whether the client wants to send another request after this one."""
        self.content = content
        self.whole = whole
        """All of the body had come when the request was handed on; small ones come with it."""
        self.front = front
        self.remote = remote
        self.reply_begun = False
        """Some of its reply is out: nothing but the rest of it can follow."""

    def __repr__(self) -> str:
        return f"<FrontRequest {self.method} {self.raw_path.partition('?')[0]}>"

    def take_body(self) -> bytes:
        """The body, once; only when all of it is here.

        It is taken from where the reader keeps it: the reader's own way looks for limits, for
        pieces and for somebody who waits, none of which there is any more.
        """
        if self.content is EMPTY_PAYLOAD:
            return b""
        pieces = self.content._buffer
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What answers it; None when it was refused before there was anything to do."""
        return self.front.task

    @property
    def transport(self) -> asyncio.Transport | None:
        """What its client is written to; None when it has left."""
        return self.front.transport


_UNREADABLE = RawRequestMessage(
    "UNKNOWN",
    "/",
    HttpVersion10,
    CIMultiDictProxy(CIMultiDict()),
    (),
    True,
    None,
    False,
    False,
    URL("/"),
)


def unreadable(front: FrontProtocol, remote: str) -> FrontRequest:
    """Stands for a request that the parser refused; nothing of it is known."""
    return FrontRequest(_UNREADABLE, EMPTY_PAYLOAD, True, front, remote)
