"""A fixed piece of work of the gateway's kind: what every cost is divided by.

One Python needs more machine instructions for the same line than another, by its version and by
how it was built. The work here needs more in the same measure, give or take a few per cent (up to 8
between CPython 3.11 and 3.13, plain and Debian's): it is made of what the gateway is made of
(calls, attributes, dicts, strings and bytes, JSON texts, parsed request heads, a step of a task, a
write and a read of a socket). Never change it: all that is recorded would be worth nothing.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httptools
import orjson

__all__ = ["Yardstick"]

_HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer 0123456789abcdef\r\nContent-Length: 0\r\n\r\n"
)
_EVENT = (
    b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" word"}}],'
    b'"created":1700000000,"id":"chatcmpl-0","model":"m","object":"chat.completion.chunk"}'
)
_HEADS = 3
_EVENTS = 2


class _Account:
    """State behind methods, as most of the gateway is."""

    __slots__ = ("left", "names", "used")

    def __init__(self) -> None:
        self.left = 1 << 60
        self.used = 0
        self.names: dict[str, int] = {}

    def take(self, name: str, cost: int) -> bool:
        """Spend."""
        if self.left < cost:
            return False
        self.left -= cost
        self.used += cost
        self.names[name] = self.names.get(name, 0) + cost
        return True


class _Head:
    """What the parser of a request head calls."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of them."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")


class _End(asyncio.Protocol):
    """One end of the connection; tells what came."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.came: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.came is not None:
            self.came.set_result(data)


class Yardstick:
    """Does the work as often as asked."""

    def __init__(self) -> None:
        self._account = _Account()
        self._near = _End()
        self._far = _End()

    async def connect(self) -> None:
        """Must be called once, in the loop."""
        loop = asyncio.get_running_loop()
        for end, pipe in zip((self._near, self._far), socket.socketpair(), strict=True):
            await loop.create_connection(lambda end=end: end, sock=pipe)  # type: ignore[misc]

    async def work(self, times: int) -> None:
        """Do it."""
        for number in range(times):
            text = self._of_the_cpu(number)
            self._far.came = asyncio.get_running_loop().create_future()
            self._near.transport.write(text)
            await self._far.came

    def _of_the_cpu(self, number: int) -> bytes:
        lines: list[str] = []
        for _ in range(_HEADS):
            head = _Head()
            httptools.HttpRequestParser(head).feed_data(_HEAD)
            lines += [f"{name}: {value}" for name, value in head.headers.items()]
        for turn in range(_EVENTS):
            event = orjson.loads(_EVENT)
            for choice in event["choices"]:
                kept = {**choice["delta"], "index": choice["index"], "number": number}
                lines.append(f"{turn}-{kept['content'].strip()}")
            if not self._account.take(lines[-1], len(lines)):
                raise OverflowError
        whole = "\r\n".join(lines).encode()
        name, _, rest = whole.partition(b": ")
        assert rest.startswith(b"gateway")
        return name + orjson.dumps({"lines": len(lines), "used": self._account.used})
