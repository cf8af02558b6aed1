"""The engine's output -> our log: bounded in every direction.

A line may have no end, there may be a million of them, they may hold control characters, and in
theory the key. `OutputLines` is PURE and makes of raw bytes lines that are cut, cleaned, redacted
and few enough; `OutputReader` is the thin edge that empties the pipe. It reads raw: a stream reader
that raises on a long line stops reading, and the engine then blocks on its next write.
"""

import asyncio
import logging
import os
import re
from collections import deque
from collections.abc import Callable

LINE_LIMIT_BYTES = 4096
TAIL_LINES = 40
_READ_BYTES = 65536
# Reads of what is left in the pipe after the engine's death; a survivor could write for ever.
_LAST_READS = 64
_REDACTED = b"[engine key]"
# What llama-server writes once it can serve. It may be late by the time its log thread takes.
_LOADED = "llama_server: model loaded"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")

_LOG = logging.getLogger(__name__)


class OutputLines:
    """
    Splits, cuts, redacts and counts.

    Args:
        secret: Bytes that never come out.
        burst: Lines that may come at once.
        lines_per_s: Lines that may come in the long run; more are counted and dropped.
    """

    def __init__(self, secret: bytes, *, burst: int = 400, lines_per_s: float = 40.0) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._secret = secret
        # A secret that begins before the cut must be whole to be recognised.
        self._keep_bytes = LINE_LIMIT_BYTES + len(secret)
        self._line = bytearray()
        self._overlong = 0
        self._burst = float(burst)
        self._lines_per_s = lines_per_s
        self._allowance = float(burst)
        self._last_s: float | None = None
        self._dropped = 0
        self.loaded_s: float | None = None
        """When the engine said that its model is loaded, on the monotonic clock."""

    def feed(self, chunk: bytes, now: float) -> list[str]:
        """
        Take bytes as they come.

        Args:
            chunk: Any piece of output; lines may end or begin anywhere.
            now: Seconds on the monotonic clock.

        Returns:
            The lines to log, without line ends.
        """
        self._refill(now)
        out: list[str] = []
        pieces = chunk.split(b"\n")
        for piece in pieces[:-1]:
            self._extend(piece)
            self._emit(out, now)
        self._extend(pieces[-1])
        return out

    def close(self, now: float) -> list[str]:
        """Give out what is left when no more will come."""
        self._refill(now)
        out: list[str] = []
        if self._line or self._overlong:
            self._emit(out, now)
        if self._dropped:
            out.append(self._dropped_note())
        return out

    def _extend(self, piece: bytes) -> None:
        room = self._keep_bytes - len(self._line)
        self._line += piece[:room]
        self._overlong += max(0, len(piece) - room)

    def _emit(self, out: list[str], now: float) -> None:
        text = self._clean()
        self._line.clear()
        self._overlong = 0
        if not text:
            return
        self.tail.append(text)
        if self.loaded_s is None and text.endswith(_LOADED):
            self.loaded_s = now
        if self._allowance < 1.0:
            self._dropped += 1
            return
        self._allowance -= 1.0
        if self._dropped:
            out.append(self._dropped_note())
        out.append(text)

    def _clean(self) -> str:
        line = bytes(self._line)
        cut = self._overlong + max(0, len(line) - LINE_LIMIT_BYTES)
        if self._secret:
            line = line.replace(self._secret, _REDACTED)
        text = line[:LINE_LIMIT_BYTES].decode("utf-8", "replace").rstrip()
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
        return f"{text} [{cut} bytes cut]" if cut else text

    def _refill(self, now: float) -> None:
        if self._last_s is not None:
            grown = self._allowance + (now - self._last_s) * self._lines_per_s
            self._allowance = min(self._burst, grown)
        self._last_s = now

    def _dropped_note(self) -> str:
        note = f"[{self._dropped} lines dropped]"
        self._dropped = 0
        return note


def log_level(line: str, *, loading: bool) -> int:
    """
    Tell how loud a line of the engine is.

    llama.cpp writes ``0.00.016.121 I srv ...``: a time, a letter, a part of the program. While
    loading all of it interests an operator; later the eight lines about each request do not, and
    some of those are marked as warnings though nothing is wrong.
    """
    parts = line.split(maxsplit=3)
    letter, part = (parts[1], parts[2]) if len(parts) > 2 else ("", "")
    if letter == "E":
        return logging.ERROR
    if letter == "W":
        return logging.WARNING if loading or part != "slot" else logging.DEBUG
    if letter == "D":
        return logging.DEBUG
    return logging.INFO if loading or letter != "I" else logging.DEBUG


class OutputReader:
    """
    Empties one pipe into the log, on the loop, without ever waiting for it.

    Args:
        fd: The read end; owned from here on.
        lines: What makes lines of it.
        loading: Tells whether the engine is still loading.
        clock: The monotonic clock.
    """

    def __init__(
        self,
        fd: int,
        lines: OutputLines,
        *,
        loading: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._fd: int | None = fd
        self._lines = lines
        self._loading = loading
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read_some)

    def close(self) -> None:
        """
        Take what is in the pipe, then let go of it. Safe to call twice.

        Does not wait for the end of the pipe: a process that left the engine's group could hold the
        other end for ever.
        """
        if self._fd is None:
            return
        for _ in range(_LAST_READS):
            if not self._read_some():
                break
        self._log(self._lines.close(self._clock()))
        self._let_go()

    def _read_some(self) -> bool:
        """Read once; False when there is nothing (more) to read."""
        if self._fd is None:
            return False
        try:
            chunk = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            # The end of the pipe stays readable: without this the loop would spin.
            self._loop.remove_reader(self._fd)
            return False
        self._log(self._lines.feed(chunk, self._clock()))
        return True

    def _let_go(self) -> None:
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _log(self, lines: list[str]) -> None:
        loading = self._loading()
        for line in lines:
            _LOG.log(log_level(line, loading=loading), "engine: %s", line)
