"""Sets up logging for the whole process: one sink, a line a record, no secrets, never in the way.

Rules:
- everything passes here, aiohttp's, asyncio's and Python's own warnings too; redaction works on
  the finished text, so that no logger and no traceback gets round it;
- one record is one line; the lines of a traceback are marked with a bar, so that text from
  outside cannot pose as a record;
- the sink never raises and never waits long: a closed or full stderr, or a reader that has
  stopped reading, costs lines (which are counted), not service.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

from gateway.observe.redaction import Redactor, escape_controls
from gateway.observe.repeats import Dropped, RepeatLimit

__all__ = ["JsonFormatter", "LogSink", "TextFormatter", "setup", "teardown"]

_MESSAGE_MAX_CHARS = 4096
_TRACE_MAX_CHARS = 16384
_RAW_MAX_CHARS = 65536
_PIPE_BUF_BYTES = 4096
"""A pipe that polls as writable takes this much without blocking (pipe(7))."""
_PATIENCE_S = 0.2

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _SafeFormatter(logging.Formatter):
    """What both formats share: the parts of a record, redacted and cut."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def safe_message(self, record: logging.LogRecord) -> str:
        """The message on one line."""
        try:
            text = record.getMessage()
        except Exception:  # a wrong placeholder must not cost the line
            text = f"{record.msg!s} [its values do not fit]"
        return _cut(escape_controls(self._redact(text[:_RAW_MAX_CHARS])), _MESSAGE_MAX_CHARS)

    def safe_trace(self, record: logging.LogRecord) -> str | None:
        """The traceback and stack, if any; of a long one the end, where the error stands."""
        parts = []
        if record.exc_info and record.exc_info[1] is not None:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(record.stack_info)
        if not parts:
            return None
        text = self._redact("\n".join(parts)[-_RAW_MAX_CHARS:])[-_TRACE_MAX_CHARS:]
        return "\n".join(escape_controls(line) for line in text.splitlines())

    def safe_fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Values given as ``extra``."""
        return {
            escape_controls(key): value
            if isinstance(value, bool | int | float | None)
            else _cut(escape_controls(self._redact(str(value)[:_RAW_MAX_CHARS])), 256)
            for key, value in vars(record).items()
            if key not in _STANDARD
        }


class TextFormatter(_SafeFormatter):
    """``2026-01-31T12:00:00.000Z INFO    gateway.lifecycle: draining  signal=SIGTERM``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback below it, each line behind a bar."""
        line = f"{_when(record)} {record.levelname:7} {record.name}: {self.safe_message(record)}"
        if fields := self.safe_fields(record):
            line += "  " + " ".join(f"{key}={value}" for key, value in fields.items())
        if trace := self.safe_trace(record):
            line += "".join(f"\n    | {part}" for part in trace.split("\n"))
        return line


class JsonFormatter(_SafeFormatter):
    """One JSON object a line: ``ts``, ``level``, ``logger``, ``message`` and further fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The object; a traceback is its ``exception``."""
        whole = {
            **self.safe_fields(record),
            "ts": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.safe_message(record),
        }
        if trace := self.safe_trace(record):
            whole["exception"] = trace
        return orjson.dumps(whole, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _when(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _cut(text: str, limit_chars: int) -> str:
    return text if len(text) <= limit_chars else text[:limit_chars] + "..."


class LogSink(logging.Handler):
    """
    Writes records to a file descriptor.

    Args:
        fd: Where to; not closed here.
        formatter: Makes the line.
        per_second: Lines of one kind (logger and message template) in a second.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        fd: int,
        formatter: logging.Formatter,
        *,
        per_second: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._fd = fd
        self._clock = clock
        self._limit: RepeatLimit[tuple[str, int, str]] = RepeatLimit(per_second)
        self._stuck = False
        self._lost = 0

    def __repr__(self) -> str:
        return f"<LogSink fd {self._fd}, {self.dropped} dropped>"

    @property
    def dropped(self) -> int:
        """Lines that were held back or could not be written, since the start."""
        return self._limit.dropped + self._lost

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*, unless there were too many of its kind just now."""
        try:
            now = self._clock()
            self._report(self._limit.settle(now))
            if self._limit.take(_kind(record), now):
                self._write(self.format(record))
        except Exception:  # a log line is never worth the request that wrote it
            self._lost += 1

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self) -> None:
        """Tell what was dropped and not told yet."""
        with self.lock or threading.RLock():
            self._report(self._limit.finish())
        super().close()

    def _report(self, dropped: list[Dropped[tuple[str, int, str]]]) -> None:
        for each in dropped:
            name, level, template = each.kind
            values = (each.count, template)
            text = "%d more lines like this were left out: %s"
            self._write(self.format(logging.LogRecord(name, level, "", 0, text, values, None)))

    def _write(self, line: str) -> None:
        data = (line + "\n").encode("utf-8", "backslashreplace")
        deadline_s = self._clock() + (0.0 if self._stuck else _PATIENCE_S)
        sent = 0
        while sent < len(data):
            if not self._writable(deadline_s):
                self._lost += 1
                self._stuck = True
                return
            try:
                sent += os.write(self._fd, data[sent : sent + _PIPE_BUF_BYTES])
            except BlockingIOError:
                continue
            except OSError:  # closed, or the disk is full
                self._lost += 1
                return
        self._stuck = False

    def _writable(self, deadline_s: float) -> bool:
        """Whether a write now would not block, waiting for it until *deadline_s*."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        left_s = max(deadline_s - self._clock(), 0.0)
        return bool(poll.poll(left_s * 1000))


def _kind(record: logging.LogRecord) -> tuple[str, int, str]:
    template = str(record.msg)
    # "%s" alone says nothing about the kind of line; then the text itself does.
    return (record.name, record.levelno, record.getMessage() if template == "%s" else template)


def setup(
    log_format: str = "text",
    level: str = "info",
    *,
    repeat_limit: float = 10.0,
    secrets: Iterable[str] = (),
    fd: int = 2,
) -> LogSink:
    """
    Send everything that is logged in this process to *fd*.

    Args:
        log_format: ``text`` or ``json``.
        level: The least level that is written: debug, info, warning or error.
        repeat_limit: Lines of one kind in a second; the rest are counted.
        secrets: Words that are masked wherever they stand.
        fd: File descriptor; stderr.

    Returns:
        The sink, for its count of dropped lines. `teardown` takes it out again.
    """
    _hold_descriptor(fd)
    redact = Redactor(secrets)
    formatter = JsonFormatter(redact) if log_format == "json" else TextFormatter(redact)
    sink = LogSink(fd, formatter, per_second=repeat_limit)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(sink)
    root.setLevel(level.upper())
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    return sink


def teardown(sink: LogSink) -> None:
    """Undo `setup`; the handlers that were there before are gone."""
    logging.getLogger().removeHandler(sink)
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    sys.excepthook = sys.__excepthook__
    threading.excepthook = threading.__excepthook__
    sink.close()


def _hold_descriptor(fd: int) -> None:
    """If *fd* is closed, put /dev/null there; else a socket gets its number, and our lines."""
    try:
        os.fstat(fd)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("gateway").critical("uncaught error", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or isinstance(args.exc_value, SystemExit):
        return
    name = args.thread.name if args.thread is not None else "?"
    info = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("gateway").critical("uncaught error in thread %s", name, exc_info=info)
