"""Every failure a client can see, made in one table.

A failure is named by its *code*; status, type, wording and whether a retry can help follow from
the table below and from nowhere else. The body is OpenAI's error object with two keys more:
``hint`` (what to change) and ``retryable``.

Rules:
- a client's fault is never a 5xx, because SDKs retry those;
- no stack trace, no file path, no prompt text and no part of a presented key ever gets in here;
- texts that SDKs recognise word for word (401, context length) are kept as those SDKs expect them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["ERRORS", "RETRY_AFTER_MAX_S", "ApiError", "ErrorKind", "sse_error_frame"]

RETRY_AFTER_MAX_S = 60.0
"""The longest wait that all OpenAI SDKs honour; 1.x takes a longer one for none at all."""


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the table: what a code means on the wire."""

    status: int
    type: str
    message: str
    retryable: bool = False
    hint: str | None = None
    close: bool = False
    """Whether the connection ends with the reply (the request was not read to its end)."""


_BAD = "invalid_request_error"
_SERVER = "server_error"

ERRORS: dict[str, ErrorKind] = {
    # -- the request head
    "invalid_http": ErrorKind(400, _BAD, "The request is not valid HTTP/1.1.", close=True),
    "http_version": ErrorKind(505, _BAD, "Only HTTP/1.0 and HTTP/1.1 are spoken.", close=True),
    "uri_too_long": ErrorKind(414, _BAD, "The request line is too long.", close=True),
    "headers_too_large": ErrorKind(431, _BAD, "The request headers are too large.", close=True),
    "expectation_failed": ErrorKind(417, _BAD, "Only 'Expect: 100-continue' is known.", close=True),
    "request_timeout": ErrorKind(
        408, _BAD, "The request did not arrive in time.", retryable=True, close=True
    ),
    "not_found": ErrorKind(404, _BAD, "There is no such path."),
    "method_not_allowed": ErrorKind(405, _BAD, "This path does not take that method."),
    # -- who is asking
    "invalid_api_key": ErrorKind(
        401,
        "authentication_error",
        "Incorrect API key provided.",
        hint="The key goes into 'Authorization: Bearer ...', or into 'X-API-Key'.",
    ),
    "permission_denied": ErrorKind(403, "permission_error", "This API key may not use this path."),
    "auth_unavailable": ErrorKind(
        503, _SERVER, "API keys cannot be checked right now.", retryable=True
    ),
    "auth_throttled": ErrorKind(
        429, "rate_limit_error", "Too many wrong API keys from this address.", close=True
    ),
    # -- the request body
    "payload_too_large": ErrorKind(413, _BAD, "The request body is too large.", close=True),
    "unsupported_media_type": ErrorKind(
        415,
        _BAD,
        "The request body must be JSON.",
        hint="Send the header 'Content-Type: application/json'.",
        close=True,
    ),
    "unsupported_content_encoding": ErrorKind(
        415, _BAD, "Compressed request bodies are not accepted.", close=True
    ),
    "invalid_json": ErrorKind(400, _BAD, "The request body is not valid JSON."),
    "missing_parameter": ErrorKind(400, _BAD, "A required parameter is missing."),
    "invalid_type": ErrorKind(400, _BAD, "A parameter has the wrong type."),
    "invalid_value": ErrorKind(400, _BAD, "A parameter has a value out of range."),
    "unknown_parameter": ErrorKind(400, _BAD, "A parameter is not known."),
    "unsupported_parameter": ErrorKind(400, _BAD, "A parameter is not supported here."),
    "remote_media_not_allowed": ErrorKind(
        400,
        _BAD,
        "Media must be sent inline, as a base64 data URL.",
        hint="Send the bytes as 'data:image/png;base64,...'; URLs are never fetched.",
    ),
    "context_length_exceeded": ErrorKind(
        400, _BAD, "This model's maximum context length is exceeded."
    ),
    "model_not_found": ErrorKind(404, _BAD, "The model does not exist."),
    "not_supported_by_model": ErrorKind(400, _BAD, "The model that is loaded cannot do this."),
    "memory_pressure": ErrorKind(
        503, _SERVER, "Too many large requests at once.", retryable=True, close=True
    ),
    # -- what a key may spend
    "rate_limit_exceeded": ErrorKind(
        429, "rate_limit_error", "Rate limit reached.", retryable=True
    ),
    "insufficient_quota": ErrorKind(
        429, "insufficient_quota", "The token quota of this API key is spent.", retryable=False
    ),
    # -- waiting for the engine
    "queue_wait_too_long": ErrorKind(
        429,
        "rate_limit_error",
        "The wait would be longer than this client has patience for.",
        hint="Raise X-Max-Queue-Seconds or the client's timeout, or ask for a stream.",
        retryable=True,
    ),
    "server_overloaded": ErrorKind(503, _SERVER, "The queue is full.", retryable=True),
    "queue_timeout": ErrorKind(503, _SERVER, "No slot became free in time.", retryable=True),
    "draining": ErrorKind(
        503, _SERVER, "The service is shutting down.", retryable=True, close=True
    ),
    "engine_unavailable": ErrorKind(503, _SERVER, "The engine is not running.", retryable=True),
    "key_revoked": ErrorKind(401, "authentication_error", "Incorrect API key provided."),
    # -- the engine
    "engine_error": ErrorKind(502, _SERVER, "The engine could not answer.", retryable=True),
    "engine_crashed": ErrorKind(
        502, _SERVER, "The engine stopped before the answer was complete.", retryable=True
    ),
    "engine_restarted": ErrorKind(
        502,
        _SERVER,
        "The engine was restarted before the answer was complete.",
        hint="With the header 'X-Continue-Stream: true' plain streams go on by themselves.",
        retryable=True,
    ),
    "request_quarantined": ErrorKind(
        400,
        _BAD,
        "The engine died twice while it worked on this request; it is refused for some minutes.",
        hint="Change the request. If it looks harmless, tell the operator of this service.",
    ),
    "key_suspended": ErrorKind(
        403,
        "permission_error",
        "Several requests of this API key stopped the engine; it is suspended for some minutes.",
        hint="Ask the operator of this service which requests those were.",
    ),
    "engine_timeout": ErrorKind(504, _SERVER, "The engine took too long.", retryable=True),
    "client_closed": ErrorKind(499, _BAD, "The client closed the connection."),
    "internal_error": ErrorKind(500, _SERVER, "Something went wrong here.", retryable=True),
}


class ApiError(Exception):
    """A failure on its way to the client.

    Args:
        code: A key of `ERRORS`.
        message: Replaces the table's sentence. Never holds text of the request or of the engine.
        param: The JSON path of the offending field, such as ``messages[2].content``.
        hint: Replaces the table's hint.
        retry_after_s: Seconds until the same request may pass; sent in whole seconds (at least
            1, at most 60: OpenAI 1.x ignores longer waits) and in milliseconds. A longer wait is
            not worth an SDK's retry, which would come too early.
        limit: The limit of its key that was reached, for the log and the metrics.
        retryable: Replaces the table's answer to whether a wait can help.
        close: Replaces the table's choice of ending the connection.

    Raises:
        KeyError: *code* is not in the table, which is a bug here.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        param: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
        limit: str | None = None,
        retryable: bool | None = None,
        close: bool | None = None,
    ) -> None:
        kind = ERRORS[code]
        self.code = code
        self.kind = kind
        self.status = kind.status
        self.message = message or kind.message
        self.param = param
        self.hint = hint or kind.hint
        self.retry_after_s = retry_after_s
        self.limit = limit
        self.retryable = kind.retryable if retryable is None else retryable
        self.close = kind.close if close is None else close
        super().__init__(code)

    def __repr__(self) -> str:
        return f"ApiError({self.code!r}, param={self.param!r})"

    def error_object(self) -> dict[str, Any]:
        """The value of the body's ``error`` key."""
        return {
            "message": self.message,
            "type": self.kind.type,
            "param": self.param,
            "code": self.code,
            "hint": self.hint,
            "retryable": self.retryable,
        }

    def body(self) -> bytes:
        """The JSON body of a reply with this error."""
        return orjson.dumps({"error": self.error_object()})

    def headers(self) -> list[tuple[str, str]]:
        """Reply headers that belong to the error itself."""
        found: list[tuple[str, str]] = []
        if self.status == 401:
            found.append(("WWW-Authenticate", "Bearer"))
        if self.retry_after_s is not None:
            wait_s = min(max(self.retry_after_s, 0.0), RETRY_AFTER_MAX_S)
            found.append(("Retry-After", str(max(1, math.ceil(wait_s)))))
            found.append(("retry-after-ms", str(math.ceil(wait_s * 1000))))
        too_long = self.retry_after_s is not None and self.retry_after_s > RETRY_AFTER_MAX_S
        if too_long or not self.retryable:
            found.append(("x-should-retry", "false"))
        return found


def sse_error_frame(error: ApiError) -> bytes:
    """The event that ends a begun chat or completions stream.

    OpenAI's SDKs raise ``APIError`` from it; no ``[DONE]`` follows, because nothing is done.
    """
    return b"data: " + error.body() + b"\n\n"
