"""One line per request, refused ones included; what it says is up to ``accessline``.

Rules:
- `AccessLog.write` makes the line and appends it to a buffer. A thread writes the buffer out, so
  a reader of our output that has stopped reading cannot stop the API loop;
- nothing here raises because of the sink: what cannot be written, or does not fit into the
  buffer, is dropped and counted.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from gateway.observe.accessline import AccessRecord, clean, json_line, text_line

__all__ = ["AccessLog", "AccessRecord", "clean", "json_line", "text_line"]

_BUFFER_MAX_BYTES = 4 << 20
_WRITE_PAUSE_S = 0.1
"""Lines are gathered for this long: one system call for many requests."""
_SINK_PATIENCE_S = 1.0
_CLOSE_TIMEOUT_S = 2.0
_MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1000))


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
        if record.route in self._quiet_routes:
            return
        now = self._clock()
        second = int(now)
        if second != self._second:  # all but the milliseconds is made once a second
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        stamp = self._second_text + _MILLISECONDS[int((now - second) * 1000)]
        self._writer.append(self._line(record, stamp))

    def close(self) -> None:
        """Write what is waiting, for at most two seconds; later lines are dropped."""
        self._writer.close()


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
            waiting_bytes = self.waiting_bytes + len(line)
            if waiting_bytes > self._max_bytes:
                self._refused += 1
                return
            first = not self._lines
            self._lines.append(line)
            self.waiting_bytes = waiting_bytes
        if first:  # the thread knows of the others: it takes all there is
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
                self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._max_bytes = -1
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
