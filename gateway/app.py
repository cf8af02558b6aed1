"""The public port: from a request head to the one place that answers it.

The order of steps is the order of `App._endpoint`: cheap refusals first, the body last. Paths match
our table exactly, spelled as they stand there; nothing is normalised, so no spelling can mean one
thing to the key check and another to the dispatch. Whatever goes wrong becomes a reply here and
nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from multidict import istr

from gateway.access.auth import Authenticator
from gateway.call import Call
from gateway.clocks import Clocks
from gateway.dialects.base import ErrorBody, ReplyHead, openai_body
from gateway.errors import ApiError
from gateway.front.cors import CorsPolicy
from gateway.front.headers import check_head, safe_request_id
from gateway.front.paths import not_found
from gateway.front.proxies import TrustedProxies
from gateway.front.reply import Reply
from gateway.front.request import FrontRequest
from gateway.observe.accesslog import AccessLog, AccessRecord
from gateway.observe.metrics import Metrics

__all__ = ["App", "Endpoint", "Route"]

_log = logging.getLogger(__name__)

Endpoint = Callable[[Call], Awaitable[Reply]]

_KEY_PREFIX = "sk-lg-"
_REQUEST_ID = istr("X-Request-Id")
_FORWARDED_FOR = istr("X-Forwarded-For")
_RETRY_COUNT = istr("X-Stainless-Retry-Count")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))


@dataclass(frozen=True, slots=True)
class Route:
    """What a path answers to."""

    name: str
    """The label in logs and metrics: the path, or its template."""
    endpoints: Mapping[str, Endpoint]
    """By method; HEAD is answered by GET."""
    scope: str | None = None
    """The scope a key needs; None: any valid key will do."""
    open: bool = False
    """Whether it is answered without a key, and while draining: health routes."""
    error_body: ErrorBody = openai_body
    """How its errors are written."""

    def endpoint(self, method: str) -> Endpoint | None:
        """What answers *method*, or None."""
        return self.endpoints.get("GET" if method == "HEAD" else method)

    @property
    def allow(self) -> str:
        """The value of an Allow header."""
        methods = set(self.endpoints)
        if "GET" in methods:
            methods.add("HEAD")
        return ", ".join(sorted(methods))


@dataclass(slots=True)
class App:
    """Answers every request of the public port.

    Args:
        routes: By exact path.
        patterns: Tried in order when no exact path fits: a prefix, and its route.
    """

    routes: Mapping[str, Route]
    patterns: tuple[tuple[str, Route], ...]
    auth: Authenticator
    cors: CorsPolicy
    proxies: TrustedProxies
    access_log: AccessLog
    metrics: Metrics
    clocks: Clocks
    head_block_bytes: int
    draining: bool = False
    """New work is refused while this is set."""
    calls: set[Call] = field(default_factory=set)
    """Calls that are being answered."""
    on_quiet: Callable[[], None] | None = None
    """Told each time when the last of them has ended."""

    async def handle(self, request: FrontRequest) -> Reply:
        """Answer one request; what the listener calls."""
        monotonic, calls = self.clocks.monotonic, self.calls
        now, wall = monotonic(), self.clocks.wall()
        call = self._open_call(request, wall)
        record = call.record
        calls.add(call)
        try:
            try:
                reply = await self._endpoint(call, now, wall)(call)
                if self.draining or not request.content.at_eof():
                    reply.force_close()
            except BaseException as exc:
                told = self._told(call, exc)
                if told is None:  # nobody is left
                    raise
                reply = told
            record.status = reply.status
            if reply.body:
                record.bytes_out = len(reply.body)
            return reply
        except (asyncio.CancelledError, ConnectionError):
            record.status, record.error_code = 499, record.error_code or "client_closed"
            raise
        finally:
            call.end()
            calls.discard(call)
            record.total_s = monotonic() - now
            self._write_down(record)
            if not calls and self.on_quiet is not None:
                self.on_quiet()

    def rejected(self, request: FrontRequest, error: ApiError) -> Reply:
        """The reply to what never became a request: the parser refused it."""
        call = self._open_call(request, self.clocks.wall())
        call.record.status = error.status
        reply = self._refusal(call, error)
        self._write_down(call.record)
        return reply

    def unparsed(self, peer: str, error: ApiError) -> str:
        """Write down a head that was refused before it could be parsed; gives it a request id."""
        record = AccessRecord(f"req_{_new_id()}", peer, "", status=error.status)
        record.error_code = error.code
        self._write_down(record)
        return record.request_id

    # -- from head to answer

    def _told(self, call: Call, exc: BaseException) -> Reply | None:
        """What to tell the client of a call that ended with *exc*; None when nobody is left.

        The exception is not raised again here, and forgets where it was raised: whoever still has
        it would keep all that the request held alive, its body first, until the next search for
        cycles of garbage.

        Raises:
            asyncio.CancelledError: A reply has begun, and nothing more can be said.
        """
        error = self._why(call, exc)
        return None if error is None else self._only_word(call, error.with_traceback(None))

    def _why(self, call: Call, exc: BaseException) -> ApiError | None:
        if isinstance(exc, ApiError):
            return exc
        if isinstance(exc, asyncio.CancelledError):
            return call.why_cancelled()
        if isinstance(exc, ConnectionError) or not isinstance(exc, Exception):
            return None
        _log.error("request %s failed", call.record.request_id, exc_info=exc)
        return ApiError("internal_error", close=True)

    def _endpoint(self, call: Call, now: float, wall: float) -> Endpoint:
        """What answers the call, once all is checked that can be told from its head."""
        request = call.request
        target = request.raw_path
        check_head(
            request.spoken_version,
            target,
            request.raw_headers,
            block_limit_bytes=self.head_block_bytes,
        )
        path, _, query = target.partition("?")
        route = self.routes.get(path) or self._pattern(path)
        if route is None:
            call.record.route = "other"
        else:
            call.record.route, call.error_body = route.name, route.error_body
        if query and _KEY_PREFIX in query:
            raise ApiError("invalid_http", "An API key does not belong into the URL.")
        if request.method == "OPTIONS" and self.cors.enabled:
            return self._preflight
        if request.method not in _METHODS:
            raise ApiError("method_not_allowed")
        if route is None:
            raise not_found(path)
        endpoint = route.endpoints.get(request.method) or route.endpoint(request.method)
        if endpoint is None:
            call.headers["Allow"] = route.allow
            raise ApiError("method_not_allowed")
        if not route.open:
            self._authorise(call, route, now, wall)
            if self.draining:
                raise ApiError("draining", retry_after_s=1.0)
        return endpoint

    def _pattern(self, path: str) -> Route | None:
        for prefix, candidate in self.patterns:
            if path.startswith(prefix) and len(path) > len(prefix):
                return candidate
        return None

    def _authorise(self, call: Call, route: Route, now: float, wall: float) -> None:
        request = call.request
        principal = self.auth.identify(request.headers, call.record.client, now=now, wall_now=wall)
        request.front.note_authenticated()
        call.principal = principal
        call.record.key_id = principal.key_id
        if route.scope is not None and route.scope not in principal.scopes:
            raise ApiError("permission_denied", f"This API key lacks the scope '{route.scope}'.")

    async def _preflight(self, call: Call) -> Reply:
        headers = call.request.headers
        for name, value in self.cors.preflight_headers(
            headers.get("Origin"), headers.get("Access-Control-Request-Headers")
        ):
            call.headers[name] = value
        return Reply(status=204, headers=call.headers)

    # -- around it

    def _open_call(self, request: FrontRequest, wall: float) -> Call:
        headers, client = request.headers, request.remote or "local"
        reply_id = _new_id()
        request_id = safe_request_id(headers.get(_REQUEST_ID)) or "req_" + reply_id
        forwarded = headers.get(_FORWARDED_FOR)
        if forwarded is not None:
            client = self.proxies.client(client, forwarded)
        record = AccessRecord(request_id, client, request.method, request.raw_path)
        retries = headers.get(_RETRY_COUNT)
        if retries is not None and retries.isdecimal() and len(retries) < 4:
            record.retry_count = int(retries)
        reply_headers = {
            "x-request-id": request_id,
            "request-id": request_id,
            "x-api-version": "v1",
            "Cache-Control": "no-store",
        }
        if self.cors.enabled:
            reply_headers.update(self.cors.reply_headers(headers.get("Origin")))
        head = ReplyHead(request_id, reply_id, int(wall))
        return Call(request, record, reply_headers, head)

    def _only_word(self, call: Call, error: ApiError) -> Reply:
        """The reply to a request that failed, unless a reply has begun.

        A second status line inside a reply would be taken for the next reply.
        """
        if call.request.reply_begun:
            call.record.error_code = error.code
            call.request.front.cut()
            raise asyncio.CancelledError
        return self._refusal(call, error)

    def _refusal(self, call: Call, error: ApiError) -> Reply:
        call.record.error_code, call.record.limit = error.code, error.limit
        for name, value in error.headers():
            call.headers[name] = value
        reply = Reply(
            status=error.status,
            body=call.error_body(error, call.head),
            headers=call.headers,
            content_type="application/json",
        )
        if error.close or self.draining or not call.request.content.at_eof():
            reply.force_close()
        return reply

    def _write_down(self, record: AccessRecord) -> None:
        self.metrics.observe(record)
        self.access_log.write(record)


def _new_id() -> str:
    """Unlike all others; nothing depends on whether it can be guessed."""
    return f"{random.getrandbits(128):032x}"
