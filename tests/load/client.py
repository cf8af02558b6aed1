"""A cheap client: one connection for each request, one callback for each piece of the reply.

It must cost far less than the gateway, or it would be measured instead. So there is no HTTP
library in it: heads are sent as made once, replies are read by the gateway's own C parser, and of
a body only what decides whether it is whole is looked at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import httptools

__all__ = ["Answer", "ask", "pause", "request"]

_DONE = b"data: [DONE]\n\n"
_CUT = 0


@dataclass(slots=True)
class Answer:
    """What came back. Times are the loop's, in seconds."""

    asked_s: float
    ended_s: float = 0.0
    status: int = _CUT
    headers: dict[bytes, bytes] = field(default_factory=dict)
    tail: bytes = b""
    whole: bool = False

    @property
    def took_s(self) -> float:
        return self.ended_s - self.asked_s

    @property
    def streamed(self) -> bool:
        return self.headers.get(b"content-type", b"").startswith(b"text/event-stream")

    @property
    def good(self) -> bool:
        """Whether it is an answer, and all of it came."""
        ended_well = self.tail.endswith(_DONE) if self.streamed else True
        return self.status == 200 and self.whole and ended_well

    @property
    def refused(self) -> bool:
        """Whether it was sent away in due form: told when to come back."""
        told = b"retry-after" in self.headers and b"retry-after-ms" in self.headers
        return self.status in (429, 503) and self.whole and told

    @property
    def retry_after_s(self) -> float:
        return int(self.headers[b"retry-after-ms"]) / 1000


def request(secret: str, script: str, *, stream: bool) -> bytes:
    """The bytes of a chat completion; *script* is for the mock engine."""
    message = {"role": "user", "content": f"mock: {script}"}
    body = json.dumps({"model": "mock", "messages": [message], "stream": stream}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {secret}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(port: int, data: bytes, *, since_s: float | None = None) -> Answer:
    """Send *data* over a connection of its own and wait for the end of the reply.

    Args:
        port: On 127.0.0.1.
        data: From `request`.
        since_s: When it should have been sent, if that was earlier: lateness counts as waiting.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    answer = Answer(loop.time() if since_s is None else since_s)
    try:
        transport, _ = await loop.create_connection(
            lambda: _Reply(data, answer, ended), "127.0.0.1", port
        )
    except OSError:
        answer.ended_s = loop.time()
        return answer
    try:
        await ended
    finally:
        transport.abort()
    return answer


class _Reply(asyncio.Protocol):
    def __init__(self, data: bytes, answer: Answer, ended: asyncio.Future[None]) -> None:
        self._data = data
        self._answer = answer
        self._ended = ended
        self._parser = httptools.HttpResponseParser(self)
        self._time: Callable[[], float] = ended.get_loop().time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._answer.tail = body[-len(_DONE) :]

    def on_message_complete(self) -> None:
        self._answer.whole = True
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._answer.ended_s = self._time()
            self._ended.set_result(None)


async def pause(seconds: float) -> None:
    """Let the time of a load pass: what these programs measure happens in time."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(max(seconds, 0.0), over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()
