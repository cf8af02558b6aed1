"""Asking an engine how many slots are busy: the mock's answers, the real one's, and nonsense."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from backend import (
    BackendError,
    EngineClient,
    EngineError,
    EngineSettings,
    EngineTimeout,
    UnixAddress,
    busy_slots,
)
from tests.support.engine_process import KEY, running_engine

TIMEOUT_S = 10.0
CHAT = "/v1/chat/completions"


@asynccontextmanager
async def peer_saying(reply: bytes, folder: Path) -> AsyncIterator[EngineClient]:
    """A client of a peer that answers whatever it is asked with *reply*."""
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            if reply:
                writer.write(reply)
            await reader.read()
        finally:
            writer.close()

    path = str(folder / "peer.sock")
    server = await asyncio.start_unix_server(serve, path)
    client = EngineClient(UnixAddress(path), KEY)
    yield client
    client.close()
    server.close()
    assert (await asked.get()).startswith(b"GET /slots HTTP/1.1\r\n")


def reply_of(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("slots", "busy"),
    [
        ([{"id": 0, "is_processing": False}], 0),
        ([{"id": 0, "is_processing": True}], 1),
        ([{"is_processing": True}, {"is_processing": False}, {"is_processing": True}], 2),
    ],
)
async def test_busy_slots_are_counted(short_dir: Path, slots: list[object], busy: int) -> None:
    async with peer_saying(reply_of(orjson.dumps(slots)), short_dir) as client:
        assert await busy_slots(client, TIMEOUT_S) == busy


@pytest.mark.parametrize(
    "reply",
    [
        reply_of(b"{}", b"501 Not Implemented"),
        reply_of(b'{"error":{}}', b"503 Service Unavailable"),
        reply_of(b"nonsense"),
        reply_of(b""),
        reply_of(b"{}"),
        reply_of(b"[]"),
        reply_of(b"[1]"),
        reply_of(b"[null]"),
        reply_of(b"[{}]"),
        reply_of(b'[{"is_processing":1}]'),
        reply_of(b'[{"is_processing":true},{"is_processing":"no"}]'),
        b"not http at all\r\n\r\n",
        reply_of(b"[" + b" " * (5 << 20) + b"]"),
    ],
    ids=lambda reply: repr(reply[:60]),
)
async def test_any_other_answer_is_the_engines_fault(short_dir: Path, reply: bytes) -> None:
    async with peer_saying(reply, short_dir) as client:
        with pytest.raises(EngineError):
            await busy_slots(client, TIMEOUT_S)


async def test_silence_ends_in_time(short_dir: Path) -> None:
    async with peer_saying(b"", short_dir) as client:
        with pytest.raises(EngineTimeout):
            await busy_slots(client, 0.05)


async def test_nobody_there_is_said_at_once(short_dir: Path) -> None:
    client = EngineClient(UnixAddress(str(short_dir / "none.sock")), KEY)
    with pytest.raises(BackendError):
        await busy_slots(client, TIMEOUT_S)


def streaming(text: str) -> bytes:
    body = {"messages": [{"role": "user", "content": text}], "stream": True}
    return orjson.dumps({**body, "return_progress": True})


async def test_mock_says_busy_while_a_slot_lingers(short_dir: Path) -> None:
    path = str(short_dir / "m.sock")
    argv = [sys.executable, "-m", "backend.mock", "--host", path, "--parallel", "2"]
    root = Path(__file__).parents[2]
    env = {"LLAMA_API_KEY": KEY}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stderr=pipe, env=env, cwd=root)
    assert process.stderr is not None
    client = EngineClient(UnixAddress(path), KEY)
    try:
        async with asyncio.timeout(20):
            while b"listening on" not in await process.stderr.readline():
                pass
            assert await busy_slots(client, TIMEOUT_S) == 0
            text = "mock: hang_after=0 linger_ms=60000"
            exchange = await client.send("POST", CHAT, streaming(text))
            assert await busy_slots(client, TIMEOUT_S) == 1
            exchange.abort()
            await client.request("GET", "/mock/stats?abandoned=1", timeout_s=TIMEOUT_S)
            assert await busy_slots(client, TIMEOUT_S) == 1
    finally:
        client.close()
        process.kill()
        await process.communicate()


async def test_real_engine_tells_its_busy_slots(
    short_dir: Path, llama_server: Path, models: Path
) -> None:
    settings = EngineSettings(
        kind="llama-server",
        binary=llama_server,
        model=models / "tiny.gguf",
        alias="tiny",
        parallel=2,
        ctx=8192,
    )
    with running_engine(settings, short_dir):
        client = EngineClient(UnixAddress(str(short_dir / "own.sock")), KEY)
        async with asyncio.timeout(20):
            assert await busy_slots(client, TIMEOUT_S) == 0
            exchange = await client.send("POST", CHAT, streaming("hi"))
            exchange.pause()
            assert await busy_slots(client, TIMEOUT_S) == 1
            exchange.abort()
            while await busy_slots(client, TIMEOUT_S):
                pass
        client.close()
