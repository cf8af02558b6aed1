"""The load: streams at once over loopback, timed by a client that does next to nothing.

The same client asks both ways. It keeps what comes and looks into it when the round is over, so
that counting costs no time that is measured. Clocks are `time.perf_counter`: the loop's own is kept
in whole milliseconds by uvloop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

import httptools
import psutil
import uvloop

from tests.bench.gpu.figures import Wave
from tests.bench.gpu.replies import Load, begins_text, body_of, problem_of

__all__ = ["Target", "WrongReply", "ask", "run", "wave"]

_ROUND_LIMIT_S = 300.0

T = TypeVar("T")


class WrongReply(Exception):  # noqa: N818 (says what came)
    """A reply that is not what was asked for: nothing measured with it would mean anything."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask, and whose CPU to read meanwhile."""

    name: str
    port: int
    key: str = field(repr=False)
    pids: Mapping[str, int]


@dataclass(slots=True)
class _Reply:
    asked_s: float
    first_s: float = 0.0
    status: int = 0
    whole: bool = False
    pieces: list[bytes] = field(default_factory=list)


async def wave(target: Target, load: Load, streams: int, turns: int, number: int) -> Wave:
    """
    Have *streams* at once, each of them *turns* requests one after another.

    Args:
        number: Of the first request; the next ones follow.

    Raises:
        WrongReply: One was refused, broke off, or had another number of tokens.
    """
    processes = {name: psutil.Process(pid) for name, pid in target.pids.items()}
    processes["client"] = psutil.Process(os.getpid())
    before_s, started_s = _cpu_s(processes), perf_counter()
    numbers = [range(at, at + turns) for at in range(number, number + turns * streams, turns)]
    replies = await _together(target, load, numbers)
    wall_s, after_s = perf_counter() - started_s, _cpu_s(processes)
    for reply in replies:
        _check(target, load, reply)
    return Wave(
        tokens=load.tokens * len(replies),
        wall_s=wall_s,
        ttft_s=tuple(reply.first_s - reply.asked_s for reply in replies),
        cpu_s={name: after_s[name] - before_s[name] for name in processes},
    )


async def ask(target: Target, load: Load, number: int) -> float:
    """Ask once; returns when the first text came, on the clock of `perf_counter`."""
    reply = await _asked(target, _request(target, body_of(load, number)))
    _check(target, load, reply)
    return reply.first_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* on the loop that the gateway itself uses."""
    return uvloop.run(main)


async def _together(target: Target, load: Load, numbers: Sequence[range]) -> list[_Reply]:
    try:
        async with asyncio.timeout(_ROUND_LIMIT_S), asyncio.TaskGroup() as group:
            tasks = [group.create_task(_one_after_another(target, load, part)) for part in numbers]
    except TimeoutError:
        raise WrongReply(f"{target.name}: no end after {_ROUND_LIMIT_S:.0f} s") from None
    return [reply for task in tasks for reply in task.result()]


async def _one_after_another(target: Target, load: Load, numbers: range) -> list[_Reply]:
    requests = [_request(target, body_of(load, number)) for number in numbers]
    return [await _asked(target, request) for request in requests]


def _request(target: Target, body: bytes) -> bytes:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {target.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _asked(target: Target, request: bytes) -> _Reply:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    reply = _Reply(perf_counter())
    try:
        transport, _ = await loop.create_connection(
            lambda: _Listener(request, reply, ended), "127.0.0.1", target.port
        )
    except OSError:
        return reply
    try:
        await ended
    finally:
        transport.abort()
    return reply


def _check(target: Target, load: Load, reply: _Reply) -> None:
    problem = problem_of(reply.status, b"".join(reply.pieces), load)
    if not reply.whole:
        problem = f"the reply broke off; {problem or 'all events had come'}"
    if problem is not None:
        raise WrongReply(f"{target.name}: {problem}")


def _cpu_s(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}


class _Listener(asyncio.Protocol):
    def __init__(self, request: bytes, reply: _Reply, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._reply = reply
        self._ended = ended
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def on_headers_complete(self) -> None:
        self._reply.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        reply = self._reply
        reply.pieces.append(body)
        if not reply.first_s and begins_text(b"".join(reply.pieces)):
            reply.first_s = perf_counter()

    def on_message_complete(self) -> None:
        self._reply.whole = True
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
