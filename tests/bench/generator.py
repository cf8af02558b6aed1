"""The load: a process of its own that does one job after another, as told on standard input.

A job is one line of JSON (`Job`), its outcome is one line of JSON on standard output. The CPU time
of all processes is read here, at the first and the last moment of what is measured, so that
starting and connecting cost nobody anything. Each answer is checked as far as cheap looks go: a
proxy that answers wrong must not look fast.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, cast

import uvloop

from tests.bench.cpu import cpu_ns
from tests.bench.figures import percentile
from tests.load.client import pause

__all__ = ["Job", "perform"]

_END = b"data: [DONE]\n\n\r\n0\r\n\r\n"
_PATIENCE_S = 90.0


@dataclass(slots=True)
class Job:
    """One measurement.

    Attributes:
        kind: ``closed`` (requests one after another for *seconds*), ``streams`` (*rounds* streams
            one after another on each connection) or ``idle`` (*connections* that do nothing for
            *seconds* after one request each).
        path: The Unix socket to connect to; None for *port* on 127.0.0.1.
        request: What is sent, as it is; Latin-1.
        status: What must be answered.
        mark: What a right answer has in its body.
        events: Events of a whole stream.
        over_s: Time over which the starts of the first streams are spread.
        watch: Process ids by name, whose CPU time is wanted.
    """

    kind: str
    request: str
    connections: int
    path: str | None = None
    port: int = 0
    status: int = 200
    mark: str = ""
    seconds: float = 0.0
    warm_s: float = 0.0
    rounds: int = 1
    events: int = 0
    over_s: float = 0.0
    watch: dict[str, list[int]] = field(default_factory=dict)


class Tally:
    """What came back while it was measured. Times in seconds."""

    def __init__(self) -> None:
        self.measuring = False
        self.answers = 0
        self.events = 0
        self.errors: list[str] = []
        self.failed = 0
        self.took_s = array("d")
        self.first_s = array("d")
        self.gaps_s = array("d")

    def wrong(self, what: str) -> None:
        self.failed += 1
        if len(self.errors) < 5:
            self.errors.append(what)


class _Caller(asyncio.Protocol):
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.stopped:
            self.stopped = True
            self.tally.wrong(f"the connection was closed ({exc})")
            self.over()

    def start(self) -> None:
        if self.transport is None:
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


class Asker(_Caller):
    """Asks for whole answers with a length, one after another."""

    def __init__(self, job: Job, data: bytes, tally: Tally, over: Callable[[], None]) -> None:
        super().__init__(job, data, tally, over)
        self.parts: list[bytes] = []
        self.missing = 0
        self.again = job.kind == "closed"

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
        self.got()

    def got(self) -> None:
        tally = self.tally
        if tally.measuring:
            tally.answers += 1
            tally.took_s.append(self.time() - self.asked_s)
        if self.again and not self.stopped:
            self.start()
        else:
            self.over()


def _length(head: bytes) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 : head.find(b"\r\n", at + 17)]) if at >= 0 else 1 << 62


class Reader(_Caller):
    """Reads streams one after another, and takes the time of each piece."""

    def __init__(self, job: Job, data: bytes, tally: Tally, over: Callable[[], None]) -> None:
        super().__init__(job, data, tally, over)
        self.left = job.rounds
        self.counts = False
        self.seen = 0
        self.last_s = 0.0
        self.tail = b""

    def start(self) -> None:
        self.left -= 1
        # Where there are several rounds, the first one's waits are those of a crowd that arrives.
        self.counts = self.left < self.job.rounds - 1 or self.job.rounds == 1
        self.seen, self.tail, self.last_s = 0, b"", 0.0
        super().start()

    def data_received(self, data: bytes) -> None:
        now_s = self.time()
        found = data.count(b"\n\n")
        if data[:1] == b"\n" and self.tail[-1:] == b"\n":
            found += 1
        if self.last_s:
            if found:
                self.tally.gaps_s.append(now_s - self.last_s)
                self.last_s = now_s
        elif not self._first(data, found, now_s):
            return
        self.seen += found
        self.tail = data[-32:] if len(data) >= 32 else (self.tail + data)[-32:]
        if self.tail.endswith(_END):
            self._end(now_s)

    def _first(self, data: bytes, found: int, now_s: float) -> bool:
        """Whether the reply has begun as it should."""
        if not self.tail and data[8 : 8 + len(self.status)] != self.status:
            self.give_up(f"answered {data[:400]!r}")
            return False
        if found:
            if self.counts:
                self.tally.first_s.append(now_s - self.asked_s)
            self.last_s = now_s
        return True

    def _end(self, now_s: float) -> None:
        tally = self.tally
        if self.seen != self.job.events:
            self.give_up(f"{self.seen} events of {self.job.events}")
            return
        tally.answers += 1
        tally.events += self.seen
        tally.took_s.append(now_s - self.asked_s)
        if self.left:
            self.start()
        else:
            self.over()


async def perform(job: Job) -> dict[str, Any]:
    """Do one job; what came of it, as JSON can hold it."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    ended: asyncio.Future[None] = loop.create_future()
    running = job.connections

    def over() -> None:
        nonlocal running
        running -= 1
        if not running and not ended.done():
            ended.set_result(None)

    callers = await _connect(job, tally, over)
    try:
        if job.kind == "closed":
            spent = await _closed(job, callers, tally, ended)
        elif job.kind == "streams":
            spent = await _streams(job, callers, tally, ended)
        else:
            spent = await _idle(job, callers, ended)
    finally:
        for caller in callers:
            caller.stop()
    return _outcome(tally, spent)


async def _connect(job: Job, tally: Tally, over: Callable[[], None]) -> list[_Caller]:
    loop = asyncio.get_running_loop()
    kind = Reader if job.kind == "streams" else Asker
    data = job.request.encode("latin-1")

    def make() -> _Caller:
        return kind(job, data, tally, over)

    callers: list[_Caller] = []
    for _ in range(job.connections):
        if job.path is not None:
            _, caller = await loop.create_unix_connection(make, job.path)
        else:
            _, caller = await loop.create_connection(make, "127.0.0.1", job.port)
        callers.append(caller)
    return callers


async def _closed(
    job: Job, callers: list[_Caller], tally: Tally, ended: asyncio.Future[None]
) -> dict[str, float]:
    for caller in callers:
        caller.start()
    await pause(job.warm_s)
    meter = _Meter(job)
    tally.measuring = True
    await pause(job.seconds)
    tally.measuring = False
    return meter.spent()


async def _streams(
    job: Job, callers: list[_Caller], tally: Tally, ended: asyncio.Future[None]
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    meter = _Meter(job)
    for index, caller in enumerate(callers):
        loop.call_later(job.over_s * index / len(callers), caller.start)
    async with asyncio.timeout(_PATIENCE_S):
        await ended
    return meter.spent()


async def _idle(job: Job, callers: list[_Caller], ended: asyncio.Future[None]) -> dict[str, float]:
    for caller in callers:
        caller.start()
    async with asyncio.timeout(_PATIENCE_S):
        await ended
    await pause(job.warm_s)
    meter = _Meter(job)
    await pause(job.seconds)
    return meter.spent()


class _Meter:
    """CPU and wall time since it was made, in seconds."""

    def __init__(self, job: Job) -> None:
        self._watch = {**job.watch, "generator": [os.getpid()]}
        self._time = asyncio.get_running_loop().time
        self._from_ns = self._read()
        self._from_s = self._time()

    def spent(self) -> dict[str, float]:
        wall_s = self._time() - self._from_s
        now_ns = self._read()
        cpu = {name: (now_ns[name] - self._from_ns[name]) / 1e9 for name in now_ns}
        return {**cpu, "wall": wall_s}

    def _read(self) -> dict[str, int]:
        return {name: sum(map(cpu_ns, pids)) for name, pids in self._watch.items()}


def _outcome(tally: Tally, spent: dict[str, float]) -> dict[str, Any]:
    return {
        "answers": tally.answers,
        "events": tally.events,
        "failed": tally.failed,
        "errors": tally.errors,
        "spent_s": spent,
        "took_ms": _spread_ms(tally.took_s),
        "first_ms": _spread_ms(tally.first_s),
        "gap_ms": _spread_ms(tally.gaps_s),
    }


def _spread_ms(values_s: array[float]) -> dict[str, float]:
    return {f"p{percent}": 1000 * percentile(values_s, percent) for percent in (50, 99)}


def main() -> int:
    """Do what each line says."""
    gc.disable()  # a collection would be somebody's late event
    for line in sys.stdin:
        outcome = uvloop.run(perform(Job(**json.loads(line))))
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()
        gc.collect()
    return 0


def line_of(job: Job) -> str:
    """*job* as the process reads it."""
    return json.dumps(asdict(job)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
