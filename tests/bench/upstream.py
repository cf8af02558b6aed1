"""A stand-in for llama-server that costs next to nothing: what is behind every proxy of the bench.

The gateway starts it as its engine, with llama-server's own arguments; nginx and the load
generator talk to the same process over the same socket. So there is no HTTP library in it: of a
request only the path, the length and a marker in the body are looked at, and answers are made
beforehand.

- ``POST /v1/embeddings``: one vector, about 1 kB, with a length;
- ``POST /v1/chat/completions``: the marker ``bench: events=100 pace_ms=10`` in the body says how
  many tokens and how far apart, 0 for all at once. A stream has one chunk for each event, as
  llama-server sends them; without ``"stream":true`` the whole reply comes when the last token
  would have;
- what the gateway asks an engine besides (`/health`, `/props`, `/v1/models`, `/slots`).

It ends connections as llama-server does (measured at a raw socket): it closes its side right behind
every stream, without a word of it in the head, and the whole connection 0.1 s later unless the
caller was first. Those of replies with a length it keeps without bound; the real one closes them
after 5 s of silence and after 100 requests. It checks no key and has any number of slots.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import socket
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import orjson
import uvloop

from backend.mock import wire

__all__ = ["EMBEDDING_MARK", "EXTRA_EVENTS", "REPLY_MARK", "main"]

EXTRA_EVENTS = 4
"""Events of a stream besides its tokens: the role, the end, the usage and ``[DONE]``."""
REPLY_MARK = b'"finish_reason":"stop"'
"""In every whole chat reply."""
EMBEDDING_MARK = b'"embedding":['
"""In every embedding."""

_BACKLOG = 4096
_LINGER_S = 0.1
_VALUES = 48
_MARKER = b"bench: events="
_HEAD = b"HTTP/1.1 %s\r\nServer: llama.cpp\r\nContent-Type: %s\r\n"
_JSON = b"application/json; charset=utf-8"
_WORDS = (" red", " fox", " ran", " over", " a", " low", " hill", " and", " saw", " the", " sea")
_ID = "chatcmpl-Zq0hX1kVbN8sW3tYp6LmRd4cJf7GuEaB"
_PROMPT_TOKENS = 24


def _whole(status: bytes, body: bytes) -> bytes:
    return (_HEAD % (status, _JSON)) + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def _embedding() -> bytes:
    vector = [round(((index * 37) % 97 - 48) / 97, 12) for index in range(_VALUES)]
    return orjson.dumps(
        {
            "model": "bench",
            "object": "list",
            "usage": {"prompt_tokens": _PROMPT_TOKENS, "total_tokens": _PROMPT_TOKENS},
            "data": [{"embedding": vector, "index": 0, "object": "embedding"}],
        }
    )


_EMBEDDING = _whole(b"200 OK", _embedding())
_NOT_FOUND = _whole(b"404 Not Found", orjson.dumps({"error": wire.NOT_FOUND}))
_STREAM_HEAD = (_HEAD % (b"200 OK", b"text/event-stream")) + b"Transfer-Encoding: chunked\r\n\r\n"


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


@lru_cache(maxsize=64)
def _stream(events: int, model: str, *, usage: bool) -> tuple[bytes, ...]:
    """The pieces of a stream as they are written: the first has the head, the last the end."""
    shapes = wire.ChatWire(_ID, model)
    counts = wire.Counts(_PROMPT_TOKENS, 0, events)
    tokens = [_chunk(shapes.token(0, _WORDS[n % len(_WORDS)])) for n in range(events)]
    tokens[0] = _STREAM_HEAD + _chunk(shapes.role(0)) + tokens[0]
    ends = shapes.final(0, "stop", counts, with_usage=usage).split(b"\n\n")[:-1]
    # The real one sends its last events and the end of the body in separate, but prompt writes.
    tail = b"".join(_chunk(end + b"\n\n") for end in ends)
    return (*tokens, tail + _chunk(wire.DONE) + b"0\r\n\r\n")


@lru_cache(maxsize=64)
def _reply(events: int, model: str) -> bytes:
    text = "".join(_WORDS[n % len(_WORDS)] for n in range(events))
    message = {"role": "assistant", "content": text}
    choice = {"finish_reason": "stop", "index": 0, "message": message}
    counts = wire.Counts(_PROMPT_TOKENS, 0, events)
    return _whole(b"200 OK", orjson.dumps(wire.ChatWire(_ID, model).whole([choice], counts)))


class Connection(asyncio.Protocol):
    """One caller. A request that comes before the answer to the last one is not expected."""

    def __init__(self, pages: dict[bytes, bytes], model: str) -> None:
        self._pages = pages
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._missing = 0
        self._streams = False
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data, self._parts = b"".join(self._parts), []
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._wait_for(data, 1)
            return
        missing = end + _length(data[:end]) - len(data)
        if missing > 0:
            self._wait_for(data, missing)
            return
        self._answer(data[: data.find(b" HTTP/1.")], data, end)

    def _wait_for(self, data: bytes, missing: int) -> None:
        self._parts, self._missing = [data], missing

    def _answer(self, line: bytes, data: bytes, end: int) -> None:
        assert self._transport is not None
        if line == b"POST /v1/embeddings":
            self._transport.write(_EMBEDDING)
        elif line == b"POST /v1/chat/completions":
            self._chat(data, end)
        else:
            page = self._pages.get(line, _NOT_FOUND)
            if page is _NOT_FOUND:
                sys.stderr.write(f"not found: {line.decode('latin-1')}\n")
            self._transport.write(page)

    def _chat(self, data: bytes, end: int) -> None:
        events, pace_ms = _script(data, end)
        usage = data.find(b'"include_usage":true', end) > 0
        self._streams = data.find(b'"stream":true', end) > 0
        if self._streams:
            pieces: Sequence[bytes] = _stream(events, self._model, usage=usage)
            begins_s = 0.0
        else:
            pieces = (_reply(events, self._model),)
            begins_s = max(events - 1, 0) * pace_ms / 1000  # when a stream would end
        self._later(pieces, 0, self._loop.time() + begins_s, pace_ms / 1000)

    def _later(self, pieces: Sequence[bytes], index: int, due_s: float, pace_s: float) -> None:
        """Write what is due by now, and come back for the rest: late events do not add up."""
        now_s = self._loop.time()
        while index < len(pieces) and due_s <= now_s:
            if self._transport is None:
                return
            self._transport.write(pieces[index])
            index += 1
            # The end of a stream follows its last token at once.
            due_s += pace_s if index < len(pieces) - 1 else 0.0
        if index < len(pieces):
            self._timer = self._loop.call_at(due_s, self._later, pieces, index, due_s, pace_s)
        elif self._streams:
            self._hang_up()

    def _hang_up(self) -> None:
        assert self._transport is not None
        self._ended = True
        self._transport.write_eof()
        self._timer = self._loop.call_later(_LINGER_S, self._transport.abort)


def _length(head: bytes) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 : head.find(b"\r\n", at + 17)]) if at >= 0 else 0


def _script(data: bytes, end: int) -> tuple[int, float]:
    """Tokens, and milliseconds between two; one token at once where nothing is told."""
    at = data.find(_MARKER, end)
    if at < 0:
        return 1, 0.0
    words = data[at + len(_MARKER) : at + len(_MARKER) + 64].split(b" ", 1)
    pace = words[1].removeprefix(b"pace_ms=")
    digits = pace[: next((n for n, c in enumerate(pace) if c not in b"0123456789."), len(pace))]
    return int(words[0]), float(digits)


def _pages(alias: str, slots: int, context: int) -> dict[bytes, bytes]:
    """Answers to what the gateway asks its engine besides."""
    facts = [
        {"id": number, "n_ctx": context, "speculative": False, "is_processing": False}
        for number in range(slots)
    ]
    told = {
        b"GET /health": {"status": "ok"},
        b"GET /props": wire.props(alias, slots, context),
        b"GET /v1/models": wire.models(alias, context),
        b"GET /slots": facts,
        b"POST /tokenize": {"tokens": [1] * _PROMPT_TOKENS},
        b"POST /v1/chat/completions/input_tokens": {
            "input_tokens": _PROMPT_TOKENS,
            "object": "response.input_tokens",
        },
    }
    return {line: _whole(b"200 OK", orjson.dumps(page)) for line, page in told.items()}


async def _serve(listener: socket.socket, pages: dict[bytes, bytes], model: str) -> None:
    loop = asyncio.get_running_loop()
    # The loop listens once more, with a backlog of its own choosing where none is given.
    await loop.create_unix_server(lambda: Connection(pages, model), sock=listener, backlog=_BACKLOG)
    sys.stderr.write("srv  llama_server: model loaded\n")
    sys.stderr.flush()
    await loop.create_future()


def main(argv: Sequence[str]) -> int:
    """Serve until a signal ends the process.

    Args:
        argv: llama-server's; all but the socket, the alias, the slots and the context is ignored.
    """
    if "--version" in argv:
        sys.stdout.write("version: 1 (bench)\n")
        return 0
    parser = argparse.ArgumentParser(prog="upstream", allow_abbrev=False)
    parser.add_argument("--host", required=True)
    parser.add_argument("--alias", default="bench")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--ctx-size", type=int, default=0)
    options, _ = parser.parse_known_args(argv)
    context = options.ctx_size // options.parallel or 8192
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(options.host)
    listener.setblocking(False)
    gc.disable()  # nothing here makes cycles, and a collection would be a late event
    uvloop.run(_serve(listener, _pages(options.alias, options.parallel, context), options.alias))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
