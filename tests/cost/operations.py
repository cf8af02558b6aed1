"""What is counted: the operations of the hot path, each as a script that does it n times."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from backend.mock.wire import DONE, ChatWire, Counts
from tests.cost.script import Client, Engine, EngineConnection, Json, request
from tests.cost.subject import MODEL

__all__ = ["OPERATIONS", "Operation", "Wire", "open_stream"]

_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nX-Accel-Buffering: no\r\n"
    b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Keep-Alive: timeout=5, max=100\r\n\r\n"
)
_JSON_HEAD = (
    "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json; charset=utf-8\r\n"
    "Content-Length: %d\r\nKeep-Alive: timeout=5, max=100\r\n\r\n"
)
_VECTOR: Json = {
    "model": MODEL,
    "object": "list",
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
    "data": [{"embedding": [0.125] * 8, "index": 0, "object": "embedding"}],
}
_EVENTS = ChatWire("chatcmpl-0123456789abcdef0123456789abcdef", MODEL)
_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Wire:
    """Both sides of the gateway."""

    key: str
    port: int
    client: Client
    engine: Engine

    def post(self, path: str, body: Json) -> None:
        """Send a request of the client's."""
        self.client.send(request(path, self.key, body))


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of work."""

    name: str
    do: Callable[[Wire, int], None]
    """Does it so many times."""
    times: int
    """How often it is done to be counted; as often to warm up, at most twice as often in all."""


def _embeddings(wire: Wire, times: int) -> None:
    body = json.dumps(_VECTOR, separators=(",", ":"))
    answer = (_JSON_HEAD % len(body) + body).encode()
    for number in range(times):
        wire.post("/v1/embeddings", {"model": MODEL, "input": f"some words to embed {number}"})
        wire.engine.asked().send(answer)
        assert wire.client.reply().startswith(b"HTTP/1.1 200 ")


def _wrong_keys(wire: Wire, times: int) -> None:
    key = "sk-lg-" + "0" * 43
    asked = f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    for _ in range(times):
        wire.client.send(asked)
        assert wire.client.reply().startswith(b"HTTP/1.1 401 ")


def _passed_events(wire: Wire, times: int) -> None:
    """A chat whose events go on to the client as they came."""
    wire.post("/v1/chat/completions", {**_chat(), "stream": True})
    engine = wire.engine.asked()
    _begin(engine)
    for number in range(times):
        word = _word(number)
        engine.send(_chunk(_EVENTS.token(0, word)))
        wire.client.until(word.encode())
    _finish(engine, times)
    wire.client.until(_END)


def _short_streams(wire: Wire, times: int) -> None:
    """Whole chats of two words each: what a stream costs besides its events."""
    for _ in range(times):
        wire.post("/v1/chat/completions", {**_chat(), "stream": True})
        engine = wire.engine.asked()
        _begin(engine)
        for number in range(2):
            engine.send(_chunk(_EVENTS.token(0, _word(number))))
            wire.client.until(_word(number).encode())
        _finish(engine, 2)
        wire.client.until(_END)


def _assembled_events(wire: Wire, times: int) -> None:
    """A chat that the client wants in one piece, which the gateway makes of events."""
    wire.post("/v1/chat/completions", _chat())
    engine = wire.engine.asked()
    _begin(engine)
    for number in range(times):
        engine.send_and_see_it_read(_chunk(_EVENTS.token(0, _word(number))))
    _finish(engine, times)
    reply = wire.client.reply()
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert _word(times - 1).encode() in reply


def _translated_events(wire: Wire, times: int) -> None:
    """A stream of Responses, whose every event is made anew."""
    wire.post(
        "/v1/responses",
        {"model": MODEL, "input": "Tell me.", "stream": True, "max_output_tokens": 9999},
    )
    engine = wire.engine.asked()
    _begin(engine)
    for number in range(times):
        word = _word(number)
        engine.send(_chunk(_EVENTS.token(0, word)))
        wire.client.until(word.encode())
    _finish(engine, times)
    wire.client.until(_END)


def open_stream(wire: Wire) -> Client:
    """Begin a stream on a connection of its own and leave it open after its first words."""
    client = Client(wire.port)
    client.send(request("/v1/chat/completions", wire.key, {**_chat(), "stream": True}))
    engine = wire.engine.asked()
    _begin(engine)
    for number in range(4):
        engine.send(_chunk(_EVENTS.token(0, _word(number))))
        client.until(_word(number).encode())
    return client


def _chat() -> Json:
    return {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Tell me about the sea."},
        ],
        "max_tokens": 9999,
    }


def _word(number: int) -> str:
    return f" w{number:05d}."


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _begin(engine: EngineConnection) -> None:
    engine.send_and_see_it_read(_HEAD + _chunk(_EVENTS.role(0)))


def _finish(engine: EngineConnection, tokens: int) -> None:
    final = _EVENTS.final(0, "stop", Counts(20, 0, tokens), with_usage=True)
    engine.send_and_see_it_read(_chunk(final))
    engine.send(_chunk(DONE) + _END)


OPERATIONS = (
    Operation("a small embeddings request", _embeddings, 50),
    Operation("a refused key (401)", _wrong_keys, 50),
    Operation("an event passed on", _passed_events, 300),
    Operation("a whole short stream", _short_streams, 30),
    Operation("an event of an assembled chat", _assembled_events, 300),
    Operation("an event translated for Responses", _translated_events, 100),
)
