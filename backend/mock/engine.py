"""The mock's routes, its life from loading to SIGTERM, and the books it keeps."""

import asyncio
import hmac
import math
import struct
from base64 import b64encode
from collections.abc import Callable

import orjson

from backend.mock import wire
from backend.mock.answer import (
    Refused,
    chat_answer,
    count_chat,
    digest,
    text_answer,
    text_tokens,
)
from backend.mock.generate import Generation
from backend.mock.held import HeldSlots, parsed
from backend.mock.http import Connection, Request
from backend.mock.options import MockOptions
from backend.mock.slots import Slots
from backend.mock.stats import Stats
from backend.mock.wire import Json

_EMBEDDING_SIZE = 64
_BAD_JSON = (
    "[json.exception.parse_error.101] parse error at line 1, column 1: syntax error while parsing "
    "value - invalid literal"
)


class MockEngine:
    """Serves all connections; see the package for what it promises."""

    def __init__(self, options: MockOptions, key: str | None, on_empty: Callable[[], None]) -> None:
        self.keepalive_s = options.keepalive_s
        self.keepalive_max = options.keepalive_max
        self.loading = True
        self.stopping = False
        self._options = options
        self._key = key
        self._on_empty = on_empty
        self._stats = Stats()
        self._slots = Slots(options.parallel, self._stats.changed)
        self._stats.slots = self._slots
        self._held = HeldSlots(options.parallel, options.slot_save_path)
        self._routes: dict[str, Callable[[Connection, Json], None]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._text,
            "/v1/embeddings": self._embeddings,
            "/v1/rerank": self._rerank,
            "/v1/reranking": self._rerank,
            "/v1/chat/completions/input_tokens": self._count,
            "/tokenize": self._tokenize,
        }

    # --- connections

    def opened(self, connection: Connection) -> None:
        """A client connected."""
        stats = self._stats
        stats.connections.add(connection)
        stats.seen_connections += 1
        stats.most_open = max(stats.most_open, len(stats.connections))
        stats.changed()

    def closed(self, connection: Connection) -> None:
        """A client is gone."""
        stats = self._stats
        stats.connections.discard(connection)
        stats.inspectors.discard(connection)
        stats.changed()
        if self.stopping and not self.busy:
            self._on_empty()

    @property
    def busy(self) -> bool:
        """Some client has not had its whole answer yet."""
        return any(each.busy for each in self._stats.connections)

    def stop(self) -> None:
        """
        Do what SIGTERM does to the real server: idle clients are closed, generation ends where it
        is, and who waits for an answer goes on waiting.
        """
        self.stopping = True
        for connection in [*self._stats.connections, *self._stats.inspectors]:
            if connection.job is not None:
                connection.job.cancel()
            if not connection.busy or connection in self._stats.inspectors:
                connection.close()
        if not self.busy:
            self._on_empty()

    def drop_all(self) -> None:
        """Hang up on everybody."""
        for connection in list(self._stats.connections):
            connection.abort()

    # --- requests

    def serve(self, connection: Connection, request: Request) -> None:
        """Route one request. Order as in the real server: loading, open routes, key, path."""
        if request.path.startswith("/mock/"):
            self._inspect(connection, request)
            return
        self._stats.note(request)
        if request.method == "OPTIONS":
            connection.reply(200, b"")
        elif self.loading:
            self._error(connection, wire.LOADING)
        elif request.path in ("/health", "/v1/health") and request.method in ("GET", "HEAD"):
            connection.reply(200, wire.OK, head_only=request.method == "HEAD")
        elif not self._knows_key(request):
            self._error(connection, wire.BAD_KEY)
        elif request.method == "GET":
            self._get(connection, request.path)
        elif request.method == "POST" and request.path in self._routes:
            self._post(connection, request)
        elif request.method == "POST" and request.path.startswith("/slots/"):
            self._act(connection, request)
        else:
            self._error(connection, wire.NOT_FOUND)

    def _act(self, connection: Connection, request: Request) -> None:
        slot, action = request.path.removeprefix("/slots/"), request.query.get("action", "")
        try:
            payload = self._held.act(slot, action, parsed(request.body))
        except Refused as refusal:
            self._error(connection, refusal.payload)
        else:
            connection.reply(200, orjson.dumps(payload))

    def _knows_key(self, request: Request) -> bool:
        if not self._key:
            return True
        given = request.header("authorization")
        given = request.header("x-api-key") if given is None else given.removeprefix("Bearer ")
        return given is not None and hmac.compare_digest(given.encode(), self._key.encode())

    def _get(self, connection: Connection, path: str) -> None:
        options, context = self._options, self._options.slot_context
        if path == "/props":
            payload: object = wire.props(options.alias, options.parallel, context)
        elif path in ("/v1/models", "/models"):
            payload = wire.models(options.alias, context)
        elif path == "/slots":
            payload = [
                {
                    "id": number,
                    "n_ctx": context,
                    "speculative": False,
                    "is_processing": number < self._slots.used,
                    **self._held.facts(number),
                }
                for number in range(options.parallel)
            ]
        else:
            self._error(connection, wire.NOT_FOUND)
            return
        connection.reply(200, orjson.dumps(payload))

    def _post(self, connection: Connection, request: Request) -> None:
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            # The vendored llama.cpp answers 500 here although the caller is wrong.
            self._error(connection, wire.error(500, _BAD_JSON))
            return
        try:
            self._routes[request.path](connection, body if isinstance(body, dict) else {})
        except Refused as refusal:
            self._error(connection, refusal.payload)

    def _error(self, connection: Connection, payload: Json) -> None:
        connection.reply(int(payload["code"]), orjson.dumps({"error": payload}))

    # --- generation

    def _chat(self, connection: Connection, body: Json) -> None:
        answer = chat_answer(body, self._options)
        generation = Generation(connection, answer, self._options, self._stats, chat=True)
        self._begin(connection, generation, len(answer.choices))

    def _text(self, connection: Connection, body: Json) -> None:
        answer = text_answer(body, self._options)
        generation = Generation(connection, answer, self._options, self._stats, chat=False)
        self._begin(connection, generation, len(answer.choices))

    def _begin(self, connection: Connection, generation: Generation, choices: int) -> None:
        job = self._generate(generation, min(choices, self._options.parallel))
        connection.job = asyncio.get_running_loop().create_task(job)

    async def _generate(self, generation: Generation, slots: int) -> None:
        try:
            if await generation.before_slot():
                return
            async with self._slots.hold(slots, generation.linger_s):
                await generation.run()
            self._held.note(generation.prompt_tokens)
            self._stats.finished += 1
        except asyncio.CancelledError:
            self._stats.abandoned += 1
            raise
        finally:
            self._stats.changed()

    # --- the rest

    def _count(self, connection: Connection, body: Json) -> None:
        payload = {"input_tokens": count_chat(body), "object": "response.input_tokens"}
        connection.reply(200, orjson.dumps(payload))

    def _tokenize(self, connection: Connection, body: Json) -> None:
        tokens = text_tokens(body["content"]) if "content" in body else []
        connection.reply(200, orjson.dumps({"tokens": tokens}))

    def _embeddings(self, connection: Connection, body: Json) -> None:
        if not self._options.embeddings:
            message = "This server does not support embeddings. Start it with `--embeddings`"
            raise Refused(wire.error(501, message))
        if "input" not in body and "content" not in body:
            raise Refused(wire.error(400, '"input" or "content" must be provided'))
        given = body.get("input", body.get("content"))
        many = isinstance(given, list) and given and isinstance(given[0], (str, list))
        inputs = given if many and isinstance(given, list) else [given]
        base64 = body.get("encoding_format") == "base64"
        tokens = sum(_input_tokens(each) for each in inputs)
        payload = {
            "model": body.get("model", self._options.alias),
            "object": "list",
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "data": [_embedding(each, index, base64=base64) for index, each in enumerate(inputs)],
        }
        connection.reply(200, orjson.dumps(payload))

    def _rerank(self, connection: Connection, body: Json) -> None:
        if not self._options.reranking:
            message = "This server does not support reranking. Start it with `--reranking`"
            raise Refused(wire.error(501, message))
        query = body.get("query")
        if not isinstance(query, str):
            raise Refused(wire.error(400, '"query" must be provided'))
        documents = body.get("documents") or body.get("texts")
        if not isinstance(documents, list) or not documents:
            raise Refused(wire.error(400, '"documents" must be a non-empty string array'))
        scores = [(_score(query, text), index) for index, text in enumerate(documents)]
        best = sorted(scores, key=lambda pair: (-pair[0], pair[1]))[: body.get("top_n")]
        tokens = sum(_input_tokens(query) + _input_tokens(each) for each in documents)
        payload = {
            "model": self._options.alias,
            "object": "list",
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": [{"index": index, "relevance_score": score} for score, index in best],
        }
        connection.reply(200, orjson.dumps(payload))

    # --- inspection

    def _inspect(self, connection: Connection, request: Request) -> None:
        self._stats.connections.discard(connection)
        self._stats.inspectors.add(connection)
        self._stats.changed()
        if request.path != "/mock/stats":
            self._error(connection, wire.NOT_FOUND)
            return
        connection.job = asyncio.get_running_loop().create_task(self._tell(connection, request))

    async def _tell(self, connection: Connection, request: Request) -> None:
        await self._stats.until(request.query)
        connection.reply(200, self._stats.page())


def _input_tokens(given: object) -> int:
    if isinstance(given, str):
        return max(1, len(given.split()))
    return len(given) if isinstance(given, list) else 1


def _embedding(given: object, index: int, *, base64: bool) -> Json:
    raw = bytes.fromhex(digest(given)) * (_EMBEDDING_SIZE // 32)
    values = [byte - 127.5 + place / 7 for place, byte in enumerate(raw)]
    length = math.sqrt(sum(value * value for value in values))
    packed = struct.pack(f"<{_EMBEDDING_SIZE}f", *(value / length for value in values))
    if base64:
        text = b64encode(packed).decode()
        return {
            "embedding": text,
            "index": index,
            "object": "embedding",
            "encoding_format": "base64",
        }
    vector = list(struct.unpack(f"<{_EMBEDDING_SIZE}f", packed))
    return _entry(vector, index)


def _entry(embedding: object, index: int) -> Json:
    return {"embedding": embedding, "index": index, "object": "embedding"}


def _score(query: str, document: object) -> float:
    """Share of the query's words that the document holds, and a little of its own."""
    words = set(query.lower().split())
    found = words & set(str(document).lower().split())
    return len(found) / max(1, len(words)) + int(digest(document)[:4], 16) / 0xFFFFF
