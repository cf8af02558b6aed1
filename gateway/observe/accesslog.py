"""One line per request, refused ones included; what leaves here is safe to show and to parse.

Rules:
- nothing from outside is written as it came: control characters, line and paragraph separators,
  direction marks, quotes and bytes that are no UTF-8 are escaped, every value is cut, and what
  looks like a credential is masked, for people do put keys into paths, ids and model names;
- a query never gets in, and neither does a prompt or a completion: the record has no field for
  them;
- lines look like the rest of the log (see ``gateway.observe.logs``), under the name
  ``gateway.access``;
- `AccessLog.write` makes the line and appends it to a buffer. A thread writes the buffer out, so
  a reader of our output that has stopped reading cannot stop the API loop;
- nothing here raises because of the sink: what cannot be written, or does not fit into the
  buffer, is dropped and counted.
"""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import orjson

from gateway.observe.redaction import Redactor

__all__ = ["AccessLog", "AccessRecord", "clean", "json_line", "text_line"]

_VALUE_MAX_CHARS = 256
_LOOKED_AT_CHARS = 1024
_NAME = "gateway.access"
_BUFFER_MAX_BYTES = 4 << 20
_WRITE_PAUSE_S = 0.1
"""Lines are gathered for this long: one system call for many requests."""
_SINK_PATIENCE_S = 1.0
_CLOSE_TIMEOUT_S = 2.0


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
_OUR_ID = re.compile("req_[0-9a-f]{32}")


@lru_cache(maxsize=512)
def _outside(value: str) -> str:
    """A value from outside, fit to be shown. Most requests bring the same few values."""
    return clean(_redact(value[:_LOOKED_AT_CHARS]))


def _fields(record: AccessRecord) -> dict[str, Any]:
    """What is known of *record*, in the order in which it is shown."""
    request_id = record.request_id
    fields: dict[str, Any] = {
        "request_id": request_id if _OUR_ID.fullmatch(request_id) else _outside(request_id),
        "client": _outside(record.client),
        "method": _outside(record.method),
        "route": _outside(record.route),
        "status": record.status,
        "total_ms": round(record.total_s * 1000, 1),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
    }
    if record.route == "other" and record.path:
        fields["path"] = _outside(record.path.partition("?")[0])
    for name, value in (
        ("key", record.key_id),
        ("model", record.model),
        ("finish", record.finish_reason),
        ("error", record.error_code),
        ("limit", record.limit),
    ):
        if value is not None:
            fields[name] = _outside(value)
    if record.model is not None:
        fields["stream"] = record.stream
        fields["queue_ms"] = round(record.queue_s * 1000, 1)
    if record.ttft_s is not None:
        fields["ttft_ms"] = round(record.ttft_s * 1000, 1)
    if record.prompt_tokens or record.completion_tokens:
        fields["prompt_tokens"] = record.prompt_tokens
        fields["cached_tokens"] = record.cached_tokens
        fields["completion_tokens"] = record.completion_tokens
    if record.retry_count:
        fields["retry"] = record.retry_count
    if record.replays:
        fields["replays"] = record.replays
    return fields


def json_line(record: AccessRecord, stamp: str) -> bytes:
    """The record as one JSON object and a line feed."""
    head = {"ts": stamp, "level": "info", "logger": _NAME, "message": "request"}
    return orjson.dumps(head | _fields(record), option=orjson.OPT_APPEND_NEWLINE)


def text_line(record: AccessRecord, stamp: str) -> bytes:
    """The record as ``name=value`` pairs; values with spaces are in double quotes."""
    parts = [f"{stamp} INFO    {_NAME}: request "]
    for name, value in _fields(record).items():
        if isinstance(value, str) and (" " in value or "=" in value or not value):
            value = f'"{value}"'
        elif isinstance(value, bool):
            value = "true" if value else "false"
        parts.append(f"{name}={value}")
    return (" ".join(parts) + "\n").encode()


class AccessLog:
    """
    Writes access lines to a file descriptor, in batches.

    Args:
        descriptor: Where lines go; stays open, and stays the caller's.
        line_format: ``text`` or ``json``.
        clock: Seconds since the epoch.
        quiet_routes: Route names that get no line, such as those of probes.
        buffer_max_bytes: Lines beyond this are dropped while the sink does not take them.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        line_format: Literal["text", "json"],
        clock: Callable[[], float],
        quiet_routes: frozenset[str] = frozenset(),
        buffer_max_bytes: int = _BUFFER_MAX_BYTES,
    ) -> None:
        self._line = json_line if line_format == "json" else text_line
        self._clock = clock
        self._quiet_routes = quiet_routes
        self._writer = _Writer(descriptor, buffer_max_bytes)
        self._second = -1
        self._second_text = ""

    def __repr__(self) -> str:
        return f"<AccessLog {self._writer.waiting_bytes} bytes waiting, {self.dropped} dropped>"

    @property
    def dropped(self) -> int:
        """Lines that could not be written since the start."""
        return self._writer.dropped

    def write(self, record: AccessRecord) -> None:
        """Take the line of a request that has ended; returns at once and never raises."""
        if record.route not in self._quiet_routes:
            self._writer.append(self._line(record, self._stamp()))

    def close(self) -> None:
        """Write what is waiting, for at most two seconds; later lines are dropped."""
        self._writer.close()

    def _stamp(self) -> str:
        """The time of now; all but the milliseconds is made once a second."""
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((now - second) * 1000):03d}Z"


class _Writer:
    """The buffer and the thread that empties it. The thread starts with the first line."""

    def __init__(self, descriptor: int, buffer_max_bytes: int) -> None:
        self._descriptor = descriptor
        self._max_bytes = buffer_max_bytes
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._refused = 0
        self._failed = 0
        self.waiting_bytes = 0

    @property
    def dropped(self) -> int:
        return self._refused + self._failed

    def append(self, line: bytes) -> None:
        with self._lock:
            if self._closed.is_set() or self.waiting_bytes + len(line) > self._max_bytes:
                self._refused += 1
                return
            self._lines.append(line)
            self.waiting_bytes += len(line)
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait()
            self._closed.wait(_WRITE_PAUSE_S)
            self._wake.clear()
            self._write_out()
        self._write_out()

    def _write_out(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            # What is being written no longer counts, so the bound is on this and the next batch.
            self.waiting_bytes = 0
        if not lines:
            return
        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except OSError:
            self._failed += bytes(rest).count(b"\n")

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Somebody else set the shared descriptor to non-blocking.
            if not select.select([], [self._descriptor], [], _SINK_PATIENCE_S)[1]:
                raise
            return 0
