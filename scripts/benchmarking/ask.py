"""Sends one request and says how it ended; waits where a refusal says so.

- A failure of the server is an outcome, never an exception: only cancellation leaves this module.
- A connection that had been used before may be closed by the server at the moment it is used
  again; the request is then sent over another, as every SDK does. llama-server closes its
  connection after each stream, and says in the stream's head that it will not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
import orjson

from .plan import Endpoint
from .samples import Failure, Refusals, Sample
from .stream import StreamWatch
from .trouble import connection_words

__all__ = ["Asker", "open_session", "said"]

_CONNECT_S = 10.0
_IDLE_S = 4.0
"""Idle connections are closed before the first server does it (llama-server: 5 s)."""
_TRIES = 10
_WAIT_S = 1.0
"""Before the next try, if the server does not say when."""
_LONGEST_WAIT_S = 60.0
_END_S = 1.0
"""How long the connection of an answer may take to end after ``[DONE]``, to be used again."""


@dataclass(slots=True)
class _Connection:
    """What is known of the connection that carries a request."""

    used_before: bool = False


def open_session(timeout_s: float) -> aiohttp.ClientSession:
    """As many connections as are asked for, each opened within *timeout_s* and 10 seconds."""

    async def note(session: object, context: SimpleNamespace, params: object) -> None:
        if isinstance(context.trace_request_ctx, _Connection):
            context.trace_request_ctx.used_before = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
        # Each request has its own bound; aiohttp's would only be a second one.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(_CONNECT_S, timeout_s)),
        trace_configs=[trace],
    )


class Asker:
    """Asks one endpoint.

    Args:
        session: From `open_session`, shared by all streams.
        endpoint: Which.
        timeout_s: Seconds that one request may take, its refusals and waits included.
        refused: Told of each refusal for now before it is waited for: which, and how long.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: Endpoint,
        timeout_s: float,
        refused: Callable[[Failure, float], None] = lambda failure, wait_s: None,
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._refused = refused
        self._url = endpoint.base_url + "/chat/completions"
        self._headers = endpoint.headers | {"Content-Type": "application/json"}

    async def ask(self, body: bytes, refusals: Refusals) -> Sample | Failure:
        """One request, sent again when the server says when to come back."""
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = await self._try(body)
                tries = 1
                while isinstance(outcome, _ComeBack) and tries < _TRIES:
                    refusals.count += 1
                    refusals.waited_s += outcome.after_s
                    self._refused(self._told(outcome.failure), outcome.after_s)
                    await asyncio.sleep(outcome.after_s)
                    outcome = await self._try(body)
                    tries += 1
        except TimeoutError:
            return Failure("timeout", f"no whole answer within {self._timeout_s:g} s")
        if isinstance(outcome, _ComeBack):
            outcome = outcome.failure
        return self._told(outcome) if isinstance(outcome, Failure) else outcome

    def _told(self, failure: Failure) -> Failure:
        """*failure* as people may see it."""
        return Failure(failure.kind, _shorten(self._endpoint.hide(failure.detail)))

    async def _try(self, body: bytes) -> Sample | Failure | _ComeBack:
        while True:
            connection = _Connection()
            outcome = await self._send(body, connection)
            lost = isinstance(outcome, Failure) and outcome.kind == "connection"
            if not (lost and connection.used_before):
                return outcome

    async def _send(self, body: bytes, connection: _Connection) -> Sample | Failure | _ComeBack:
        watch = StreamWatch(time.perf_counter())
        begun = False
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers=self._headers,
                allow_redirects=False,
                trace_request_ctx=connection,
            ) as reply:
                begun = True
                if reply.status != 200:
                    return _refused(reply.status, reply.headers, await reply.read())
                if reply.content_type != "text/event-stream":
                    return Failure("no stream", f"the reply is {reply.content_type}")
                return await _read(reply, watch)
        except (aiohttp.ClientError, OSError) as error:
            kind = "broken stream" if begun else "connection"
            return Failure(kind, connection_words(error))


class _ComeBack:
    """A refusal that a wait can cure."""

    def __init__(self, after_s: float, failure: Failure) -> None:
        self.after_s = after_s
        self.failure = failure


async def _read(reply: aiohttp.ClientResponse, watch: StreamWatch) -> Sample | Failure:
    async for piece in reply.content.iter_any():
        watch.feed(piece, time.perf_counter())
        if watch.over:
            break
    ended_s = time.perf_counter()
    if watch.error is not None:
        return Failure("broken stream", watch.error)
    if (missing := watch.missing()) is not None:
        return Failure("truncated", missing)
    await _end(reply)
    if watch.first_s is None:
        return Failure("empty", "the answer has no text")
    return Sample.of(watch, ended_s)


async def _end(reply: aiohttp.ClientResponse) -> None:
    """Read what comes after ``[DONE]``, so that the connection can be used again."""
    try:
        async with asyncio.timeout(_END_S):
            await reply.content.read()
    except (TimeoutError, aiohttp.ClientError, OSError):
        reply.close()


def _refused(status: int, headers: Mapping[str, str], body: bytes) -> Failure | _ComeBack:
    failure = Failure(f"http {status}", said(body))
    if status not in (429, 503) or headers.get("x-should-retry") == "false":
        return failure
    told = _retry_after_s(headers)
    if status == 503 and told is None:
        return failure
    return _ComeBack(min(_WAIT_S if told is None else told, _LONGEST_WAIT_S), failure)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    for name, unit_s in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            told_s = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if told_s >= 0:
            return told_s
    return None


def said(body: bytes) -> str:
    """What an error body says, in whatever shape it is."""
    try:
        error = orjson.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
    for name in ("error", "message", "detail"):
        if isinstance(error, dict) and error.get(name):
            error = error[name]
    return error if isinstance(error, str) else orjson.dumps(error).decode()


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."
