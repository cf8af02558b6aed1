"""Connections that make the load: each asks again as soon as it has its answer.

They must cost far less than what is measured, so there is no HTTP library in them. Of an answer
they look at the status, the length, the number of events, the end, and one mark that every right
answer has: a proxy that answers wrong must not look fast.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import cast

from tests.bench.job import Job

__all__ = ["Asker", "Caller", "Paced", "Reader", "Tally"]

_END = b"data: [DONE]\n\n\r\n0\r\n\r\n"
_KEPT_ERRORS = 5


class Tally:
    """What came back while it was measured. Times in seconds."""

    def __init__(self) -> None:
        self.measuring = False
        self.ending = False
        """Whether nothing new is to be begun."""
        self.answers = 0
        self.events = 0
        self.errors: list[str] = []
        self.failed = 0
        self.took_s = array("d")
        self.first_s = array("d")
        self.gaps_s = array("d")

    def wrong(self, what: str) -> None:
        self.failed += 1
        if len(self.errors) < _KEPT_ERRORS:
            self.errors.append(what)


class Caller(asyncio.Protocol):
    """One connection, whatever it asks for."""

    def __init__(self, job: Job, data: bytes, tally: Tally, over: Callable[[], None]) -> None:
        self.job = job
        self.data = data
        self.tally = tally
        self.over = over
        self.status = b" %d " % job.status
        self.mark = job.mark.encode()
        self.time = perf_counter
        self.transport: asyncio.Transport | None = None
        self.asked_s = 0.0
        self.stopped = False
        self.told_to_close = False
        self.redial: Callable[[Caller], None] = lambda caller: None
        """Connects it again, where a connection may be closed after an answer: it was refused."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.told_to_close and not self.stopped:
            self.told_to_close = False
            self.redial(self)
        elif not self.stopped:
            self.stopped = True
            self.tally.wrong(f"the connection was closed ({exc})")
            self.over()

    def start(self) -> None:
        if self.transport is None or self.stopped:
            self.stop()
            return
        self.asked_s = self.time()
        self.transport.write(self.data)

    def stop(self) -> None:
        self.stopped = True
        if self.transport is not None:
            self.transport.abort()

    def give_up(self, what: str) -> None:
        if not self.stopped:
            self.tally.wrong(what)
            self.stop()
            self.over()


class Asker(Caller):
    """Asks for whole answers with a length, one after another."""

    def __init__(self, job: Job, data: bytes, tally: Tally, over: Callable[[], None]) -> None:
        super().__init__(job, data, tally, over)
        self.parts: list[bytes] = []
        self.missing = 0
        self.again = job.kind == "closed"
        self.may_close = job.status != 200

    def data_received(self, data: bytes) -> None:
        if self.parts:
            self.parts.append(data)
            self.missing -= len(data)
            if self.missing > 0:
                return
            data, self.parts = b"".join(self.parts), []
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self.parts, self.missing = [data], 1
            return
        missing = end + _length(data[:end]) - len(data)
        if missing > 0:
            self.parts, self.missing = [data], missing
            return
        if data[8 : 8 + len(self.status)] != self.status or data.find(self.mark, end) < 0:
            self.give_up(f"answered {data[:400]!r}")
            return
        if missing < 0:
            self.give_up("more was answered than asked for")
            return
        self.told_to_close = self.may_close and b"\r\nconnection: close" in data[:end].lower()
        self.got()

    def got(self) -> None:
        tally = self.tally
        if tally.measuring:
            tally.answers += 1
            tally.took_s.append(self.time() - self.asked_s)
        if self.told_to_close and self.transport is not None:
            self.transport.close()
        elif self.again and not self.stopped:
            self.start()
        else:
            self.over()


class Paced(Asker):
    """Asks when it is told to, or else as soon as it can: the time runs from when it was told."""

    def __init__(self, job: Job, data: bytes, tally: Tally, over: Callable[[], None]) -> None:
        super().__init__(job, data, tally, over)
        self.asking = False
        self.due_s: deque[float] = deque()

    def start(self) -> None:
        if self.asking:
            self.due_s.append(self.time())
            return
        self.asking = True
        super().start()

    def got(self) -> None:
        if self.tally.measuring:
            self.tally.answers += 1
            self.tally.took_s.append(self.time() - self.asked_s)
        self.asking = False
        if self.due_s:
            due_s = self.due_s.popleft()
            self.start()
            self.asked_s = due_s


def _length(head: bytes) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 : head.find(b"\r\n", at + 17)]) if at >= 0 else 1 << 62


class Reader(Caller):
    """Reads streams one after another, and takes the time of each piece."""

    def __init__(self, job: Job, data: bytes, tally: Tally, over: Callable[[], None]) -> None:
        super().__init__(job, data, tally, over)
        self.again = job.kind == "streams"
        self.seen = 0
        self.measured = 0
        self.last_s = 0.0
        self.tail = b""

    def start(self) -> None:
        if self.tally.ending:
            self._finish()
            return
        self.seen, self.measured, self.tail, self.last_s = 0, 0, b"", 0.0
        super().start()

    def data_received(self, data: bytes) -> None:
        now_s = self.time()
        found = data.count(b"\n\n")
        if data[:1] == b"\n" and self.tail[-1:] == b"\n":
            found += 1
        if self.last_s:
            if found:
                if self.tally.measuring:
                    self.tally.gaps_s.append(now_s - self.last_s)
                self.last_s = now_s
        elif not self._first(data, found, now_s):
            return
        self.seen += found
        if self.tally.measuring:
            self.measured += found
        self.tail = data[-32:] if len(data) >= 32 else (self.tail + data)[-32:]
        if self.tail.endswith(_END):
            self._end(now_s)

    def _first(self, data: bytes, found: int, now_s: float) -> bool:
        """Whether the reply has begun as it should."""
        if not self.tail and data[8 : 8 + len(self.status)] != self.status:
            self.give_up(f"answered {data[:400]!r}")
            return False
        if found:
            if self.tally.measuring:
                self.tally.first_s.append(now_s - self.asked_s)
            self.last_s = now_s
        return True

    def _end(self, now_s: float) -> None:
        tally = self.tally
        if self.seen != self.job.events:
            self.give_up(f"{self.seen} events of {self.job.events}")
            return
        # Those that came in the measured time, now that the whole is known to be right.
        tally.events += self.measured
        if tally.measuring:
            tally.answers += 1
            tally.took_s.append(now_s - self.asked_s)
        if not self.again or tally.ending:
            self._finish()
        elif self.job.closes:
            self.told_to_close = True  # its end follows, and then a new one begins
        else:
            self.start()

    def _finish(self) -> None:
        self.stopped = True
        self.over()
