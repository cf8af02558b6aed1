"""Questions of several kinds, and a client that keeps the whole reply.

As cheap as `tests.load.client`, but every byte of the body is kept: how a reply ended is what is
looked at.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

import httptools

from tests.load.verdict import Reply, Verdict, judge

__all__ = ["KINDS", "Question", "ask", "question"]

KINDS = (
    *("chat stream", "chat stream", "chat stream", "chat", "chat", "two chats in a stream"),
    *("completion stream", "completion", "count", "vectors"),
)
"""By how often they are asked."""

_HANGS_AFTER_S = 60.0
_WORDS = ("day", "life", "of", "rain", "over", "hills", "and", "sea", "under", "old", "lights")


@dataclass(frozen=True, slots=True)
class Question:
    """A request, as it goes over the wire."""

    kind: str
    data: bytes


def question(
    secret: str, kind: str, chance: random.Random, *, tokens: int | None = None, script: str = ""
) -> Question:
    """Make one up.

    Args:
        secret: Who asks.
        kind: One of `KINDS`.
        chance: Decides its words and length.
        tokens: Most tokens of the answer; 4 to 20 when None.
        script: For the mock engine.
    """
    path, body = _body(kind, chance, script)
    if kind not in ("count", "vectors"):
        body["max_tokens"] = tokens or chance.randint(4, 20)
    if "stream" in kind:
        body["stream"] = True
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {secret}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return Question(kind, head.encode() + content)


def _body(kind: str, chance: random.Random, script: str) -> tuple[str, dict[str, Any]]:
    # Each is unlike all others, so none is taken for one that brought an engine down before.
    text = f"{chance.getrandbits(64)} " + " ".join(chance.choices(_WORDS, k=chance.randint(5, 60)))
    text += f"\nmock: {script}" if script else ""
    if kind == "vectors":
        return "/v1/embeddings", {"input": text}
    if kind.startswith("completion"):
        return "/v1/completions", {"prompt": text}
    messages = {"messages": [{"role": "user", "content": text}]}
    if kind == "count":
        return "/v1/chat/completions/input_tokens", messages
    return "/v1/chat/completions", {**messages, "n": 2 if kind.startswith("two") else 1}


async def ask(port: int, asked: Question) -> Verdict:
    """Send it over a connection of its own to 127.0.0.1, and judge what comes back."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    reply = _Reply(asked.data, ended)
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: reply, "127.0.0.1", port
        )
    except OSError:
        return judge(Reply())
    try:
        async with asyncio.timeout(_HANGS_AFTER_S):
            await ended
    except TimeoutError:
        return judge(None)
    finally:
        transport.abort()
    return judge(reply.seen())


class _Reply(asyncio.Protocol):
    def __init__(self, data: bytes, ended: asyncio.Future[None]) -> None:
        self._data = data
        self._ended = ended
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._streamed = False
        self._body = bytearray()
        self._whole = False

    def seen(self) -> Reply:
        return Reply(self._status, self._streamed, bytes(self._body), self._whole)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._streamed = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._whole = True
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
