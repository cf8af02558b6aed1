"""PURE. What the line of a request says; it is safe to show and to parse.

Rules:
- nothing from outside is written as it came: control characters, line and paragraph separators,
  direction marks, quotes and bytes that are no UTF-8 are escaped, every value is cut, and what
  looks like a credential is masked, for people do put keys into paths, ids and model names;
- a query never gets in, and neither does a prompt or a completion: the record has no field for
  them;
- lines look like the rest of the log (see ``gateway.observe.logs``), under the name
  ``gateway.access``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import orjson

from gateway.observe.redaction import Redactor

__all__ = ["AccessRecord", "clean", "json_line", "text_line"]

_VALUE_MAX_CHARS = 256
_LOOKED_AT_CHARS = 1024
_NAME = "gateway.access"
_WORDS = ("path", "key", "model", "finish", "error", "limit")


@dataclass(slots=True)
class AccessRecord:
    """
    What is known about a request; filled in while it runs, by the task that answers it.

    Times are seconds, sizes bytes of bodies. ``route`` is a route's name or ``other``; ``path``
    is what the client asked for, shown only where there is no route.
    """

    request_id: str
    client: str
    method: str
    path: str = ""
    route: str = "other"
    status: int = 0
    key_id: str | None = None
    model: str | None = None
    stream: bool = False
    queue_s: float = 0.0
    ttft_s: float | None = None
    total_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    finish_reason: str | None = None
    error_code: str | None = None
    limit: str | None = None
    retry_count: int = 0
    replays: int = 0
    """How often it was sent to a fresh engine because the one before died under it."""


# Controls (C0, DEL, C1), quotes and the backslash, line and paragraph separators, marks that turn
# the direction of text around, and lone surrogates (how Python carries bytes that are no UTF-8).
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\"'\\\\\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def clean(value: str, limit_chars: int = _VALUE_MAX_CHARS) -> str:
    """*value*, cut at *limit_chars* and with everything escaped that could mislead a reader."""
    if len(value) > limit_chars:
        value = value[:limit_chars] + "..."
    return value if _UNSAFE.search(value) is None else _UNSAFE.sub(_escape, value)


_redact = Redactor()
_is_our_id = re.compile("req_[0-9a-f]{32}").fullmatch


def _outside(value: str) -> str:
    """A value from outside, fit to be shown."""
    return clean(_redact(value[:_LOOKED_AT_CHARS]))


# Most requests bring the same few values.
@lru_cache(maxsize=512)
def _in_json(value: str) -> str:
    return orjson.dumps(_outside(value)).decode()


@lru_cache(maxsize=512)
def _in_text(value: str) -> str:
    value = _outside(value)
    return f'"{value}"' if " " in value or "=" in value or not value else value


class _Form:
    """A format of lines.

    The names and words of a line are put together once for all requests that share them; what is
    left to do for each is to fill in the numbers.

    Args:
        shown: A value from outside, fit to be shown.
        begin: A line up to the first field, with a place for the time.
        field: What goes before a value, with a place for its name.
        quote: What goes around a request id that we made.
        end: The end of a line.
    """

    def __init__(
        self, shown: Callable[[str], str], *, begin: str, field: str, quote: str, end: str
    ) -> None:
        self._shown = shown
        self._begin = begin
        self._field = field
        self._quote = quote
        self._end = end
        self._template = lru_cache(maxsize=512)(self._make_template)

    def line(self, record: AccessRecord, stamp: str) -> bytes:
        """What is known of *record*."""
        path, route, model, ttft_s = None, record.route, record.model, record.ttft_s
        retry_count, replays = record.retry_count, record.replays
        tokens = record.prompt_tokens + record.completion_tokens
        if route == "other" and record.path:
            path = record.path.partition("?")[0][:_LOOKED_AT_CHARS]
        template = self._template(
            record.method,
            route,
            (path, record.key_id, model, record.finish_reason, record.error_code, record.limit),
            ttft_s is not None,
            tokens > 0,
            retry_count > 0,
            replays > 0,
        )
        request_id, quote = record.request_id, self._quote
        values: tuple[str | float, ...] = (
            stamp,
            quote + request_id + quote if _is_our_id(request_id) else self._shown(request_id),
            self._shown(record.client),
            record.status,
            record.total_s * 1000,
            record.bytes_in,
            record.bytes_out,
        )
        if model is not None:
            values += ("true" if record.stream else "false", record.queue_s * 1000)
        if ttft_s is not None:
            values += (ttft_s * 1000,)
        if tokens > 0:
            values += (record.prompt_tokens, record.cached_tokens, record.completion_tokens)
        if retry_count > 0:
            values += (retry_count,)
        if replays > 0:
            values += (replays,)
        return (template % values).encode()

    def _make_template(
        self,
        method: str,
        route: str,
        words: tuple[str | None, ...],
        ttft: bool,
        tokens: bool,
        retry: bool,
        replays: bool,
    ) -> str:
        """All fields there are, in their order; with the words, with places for the rest."""
        fields = {"request_id": "%s", "client": "%s"}
        fields |= {"method": self._word(method), "route": self._word(route)}
        fields |= {"status": "%d", "total_ms": "%.1f", "bytes_in": "%d", "bytes_out": "%d"}
        found = zip(_WORDS, words, strict=True)
        fields |= {name: self._word(value) for name, value in found if value is not None}
        if "model" in fields:
            fields |= {"stream": "%s", "queue_ms": "%.1f"}
        if ttft:
            fields["ttft_ms"] = "%.1f"
        if tokens:
            fields |= dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens"), "%d")
        if retry:
            fields["retry"] = "%d"
        if replays:
            fields["replays"] = "%d"
        told = (self._field % name + place for name, place in fields.items())
        return self._begin + "".join(told) + self._end

    def _word(self, value: str) -> str:
        return self._shown(value).replace("%", "%%")


_JSON = _Form(
    _in_json,
    begin=f'{{"ts":"%s","level":"info","logger":"{_NAME}","message":"request"',
    field=',"%s":',
    quote='"',
    end="}\n",
)
_TEXT = _Form(_in_text, begin=f"%s INFO    {_NAME}: request ", field=" %s=", quote="", end="\n")


json_line = _JSON.line
"""The record as one JSON object and a line feed."""
text_line = _TEXT.line
"""The record as ``name=value`` pairs; values with spaces are in double quotes."""
