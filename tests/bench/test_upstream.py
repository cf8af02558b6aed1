"""The mock ends connections as llama-server does: what is measured in front of it depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.bench.upstream import REPLY_MARK, Connection
from tests.bench.workloads import Workload, request_of


@pytest.fixture
async def engine(short_dir: Path) -> AsyncIterator[str]:
    path = str(short_dir / "engine.sock")
    loop = asyncio.get_running_loop()
    async with await loop.create_unix_server(lambda: Connection({}, "bench"), path):
        yield path


def chat(*, stream: bool, pace_ms: float) -> bytes:
    workload = Workload("x", "x", "chat", "closed", "event", 1, 3, pace_ms, stream=stream)
    return request_of(workload, "sk-x").encode()


@pytest.mark.parametrize("pace_ms", [0.0, 1.0])
async def test_connection_ends_behind_a_stream_and_its_head_does_not_say_so(
    engine: str, pace_ms: float
) -> None:
    reader, writer = await asyncio.open_unix_connection(engine)
    writer.write(chat(stream=True, pace_ms=pace_ms))
    reply = await reader.read()
    assert reply.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert b"connection:" not in reply.partition(b"\r\n\r\n")[0].lower()
    writer.close()


async def test_request_behind_a_stream_is_read_and_never_answered(engine: str) -> None:
    reader, writer = await asyncio.open_unix_connection(engine)
    writer.write(chat(stream=True, pace_ms=0.0))
    reply = await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.write(chat(stream=False, pace_ms=0.0))
    assert b"[DONE]" in reply
    assert await reader.read() == b""
    writer.close()


async def test_connection_of_a_whole_reply_is_kept(engine: str) -> None:
    reader, writer = await asyncio.open_unix_connection(engine)
    for _ in range(200):
        writer.write(chat(stream=False, pace_ms=0.0))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        assert REPLY_MARK in await reader.readexactly(length)
    writer.close()


class Clock:
    """A loop that is at the time that it is asked to wait for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waiting: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, due_s: float, callback: Callable[..., None], *args: object) -> None:
        def fire() -> None:
            self.now_s = due_s
            callback(*args)

        self.waiting.append(fire)

    def call_later(self, delay_s: float, callback: Callable[..., None]) -> None:
        """The connection's end: nobody waits for it here."""


async def test_whole_reply_comes_when_its_stream_would_have_ended() -> None:
    ends_s = []
    for stream in (True, False):
        connection, clock = Connection({}, "bench"), Clock()
        connection._loop = clock  # type: ignore[assignment]
        connection.connection_made(Mock(spec=asyncio.Transport))
        connection.data_received(chat(stream=stream, pace_ms=1000.0))
        while clock.waiting:
            clock.waiting.pop()()
        ends_s.append(clock.now_s)
    assert ends_s == [2.0, 2.0]  # three tokens, a second apart
