"""The load: a process of its own that does one job after another, as told on standard input.

A job is one line of JSON (`Job`), its outcome is one line of JSON on standard output. The CPU time
of all processes is read here, at the first and the last moment of what is measured, so that
starting and connecting cost nobody anything.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from array import array
from collections.abc import Callable
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import uvloop

from tests.bench.callers import Asker, Caller, Paced, Reader, Tally
from tests.bench.cpu import cpu_ns, rss_bytes, stolen_ns, waited_ns
from tests.bench.figures import spread
from tests.bench.job import Job
from tests.load.client import pause

__all__ = ["perform"]

_PATIENCE_S = 20.0
_AT_A_TIME = 64
_TICK_S = 0.001

_Spent = tuple[dict[str, float], int]
"""Seconds by process, and the proxy's memory in bytes while it was busy."""


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

    before = _memory(job)
    callers = await _connect(job, tally, over)
    try:
        spent, during = await _KINDS[job.kind](job, callers, tally, ended)
    finally:
        for caller in callers:
            caller.stop()
    firsts_ms = [round(1000 * first_s, 3) for first_s in tally.first_s] if job.keep else []
    return {
        **_outcome(tally, spent),
        "firsts_ms": firsts_ms,
        "rss_before": before,
        "rss_during": during,
    }


async def _connect(job: Job, tally: Tally, over: Callable[[], None]) -> list[Caller]:
    loop = asyncio.get_running_loop()
    kind = Reader if job.events else Paced if job.rate else Asker
    data = job.request.encode("latin-1")
    dialling: set[asyncio.Task[None]] = set()

    def redial(caller: Caller) -> None:
        task = loop.create_task(_dial_again(job, caller))
        dialling.add(task)
        task.add_done_callback(dialling.discard)

    callers = [kind(job, data, tally, over) for _ in range(job.connections)]
    for caller in callers:
        caller.redial = redial
        await _dial(job, caller)
    return list(callers)


async def _dial(job: Job, caller: Caller) -> None:
    loop = asyncio.get_running_loop()
    if job.path is not None:
        await loop.create_unix_connection(lambda: caller, job.path)
    else:
        await loop.create_connection(lambda: caller, "127.0.0.1", job.port)


async def _dial_again(job: Job, caller: Caller) -> None:
    try:
        await _dial(job, caller)
    except OSError as exc:
        caller.give_up(f"no connection ({exc})")
    else:
        caller.start()


async def _closed(
    job: Job, callers: list[Caller], tally: Tally, ended: asyncio.Future[None]
) -> _Spent:
    _spread(job, callers)
    await pause(job.over_s + job.warm_s)
    return await _measured(job, tally)


async def _measured(job: Job, tally: Tally) -> _Spent:
    meter = _Meter(job)
    tally.measuring = True
    await pause(job.seconds)
    tally.measuring = False
    return meter.spent(), _memory(job)


async def _streams(
    job: Job, callers: list[Caller], tally: Tally, ended: asyncio.Future[None]
) -> _Spent:
    """The steady state: a stream begins where another one ends, so many are always open."""
    outcome = await _closed(job, callers, tally, ended)
    tally.ending = True
    await _until(ended, tally)
    return outcome


async def _stampede(
    job: Job, callers: list[Caller], tally: Tally, ended: asyncio.Future[None]
) -> _Spent:
    await pause(job.warm_s)
    meter = _Meter(job)
    tally.measuring = True
    for caller in callers:
        caller.start()
    await _until(ended, tally)
    return meter.spent(), _memory(job)


async def _idle(
    job: Job, callers: list[Caller], tally: Tally, ended: asyncio.Future[None]
) -> _Spent:
    if callers:
        _in_turn(callers, _AT_A_TIME)
        await _until(ended, tally)
    await pause(job.warm_s)
    meter = _Meter(job)
    await pause(job.seconds)
    return meter.spent(), _memory(job)


async def _paced(
    job: Job, callers: list[Caller], tally: Tally, ended: asyncio.Future[None]
) -> _Spent:
    """An open loop: requests come when they are due, however long answers take."""
    asking = asyncio.create_task(_at_rate(job, callers))
    try:
        await pause(job.warm_s)
        return await _measured(job, tally)
    finally:
        asking.cancel()


async def _at_rate(job: Job, callers: list[Caller]) -> None:
    """Let the connections ask in turn: once in a millisecond those that are due by then."""
    from_s = perf_counter()
    for number, caller in enumerate(cycle(callers)):
        while (early_s := from_s + number / job.rate - perf_counter()) > 0:
            await pause(max(early_s, _TICK_S))  # uvloop makes a shorter one none at all
        caller.start()


_KINDS = {
    "closed": _closed,
    "paced": _paced,
    "streams": _streams,
    "stampede": _stampede,
    "idle": _idle,
}


def _spread(job: Job, callers: list[Caller]) -> None:
    """Let the connections start one by one, so that they do not go in step."""
    loop = asyncio.get_running_loop()
    for index, caller in enumerate(callers):
        loop.call_later(job.over_s * index / len(callers), caller.start)


def _in_turn(callers: list[Caller], width: int) -> None:
    """Let each connection have its one answer, *width* at a time."""
    waiting = iter(callers)
    tell = callers[0].over

    def over() -> None:
        tell()
        following = next(waiting, None)
        if following is not None:
            following.start()

    for caller in callers:
        caller.over = over
    for caller in islice(waiting, width):
        caller.start()


async def _until(ended: asyncio.Future[None], tally: Tally) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await ended
    except TimeoutError:
        tally.wrong(f"not all had ended after {_PATIENCE_S:g} s")


def _memory(job: Job) -> int:
    return sum(map(rss_bytes, job.watch.get("proxy", ())))


class _Meter:
    """CPU and wall time since it was made, in seconds."""

    def __init__(self, job: Job) -> None:
        self._watch = {**job.watch, "generator": [os.getpid()]}
        self._from_ns = self._read()
        self._cores = job.cores
        self._waited_ns = self._waited()
        self._stolen_ns = stolen_ns(self._cores)
        self._from_s = perf_counter()

    def spent(self) -> dict[str, float]:
        wall_s = perf_counter() - self._from_s
        now_ns = self._read()
        cpu = {name: (now_ns[name] - self._from_ns[name]) / 1e9 for name in now_ns}
        waited_s = (self._waited() - self._waited_ns) / 1e9
        stolen_s = (stolen_ns(self._cores) - self._stolen_ns) / 1e9
        return {**cpu, "wall": wall_s, "waited": waited_s, "stolen": stolen_s}

    def _waited(self) -> int:
        return sum(map(waited_ns, self._watch.get("proxy", ())))

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
    return spread([1000 * value_s for value_s in values_s])


def main() -> int:
    """Do what each line says."""
    gc.disable()  # a collection would be somebody's late event
    for line in sys.stdin:
        outcome = uvloop.run(perform(Job(**json.loads(line))))
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
