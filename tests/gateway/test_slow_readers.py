"""Readers that lag harm neither the engine's slot nor our memory nor anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest

from gateway.front.listener import open_listener
from gateway.front.reply import Reply
from gateway.front.request import FrontRequest
from gateway.front.server import FrontServer, ServerLimits
from gateway.stream.reply import StreamReply
from tests.conftest import Serve
from tests.support.callers import CHAT, chat_body, new_caller
from tests.support.engine_stats import engine_stats
from tests.support.service import ServiceProcess

MIB = 1 << 20
END = b"data: [DONE]\n\n\r\n0\r\n\r\n"
LARGE = {"CTX": "1000000", "PARALLEL": "1", "USE_MOCK_MODEL": "true"}
SMALL_WINDOW_BYTES = 4096


def asked(service: ServiceProcess, tokens: int, **options: Any) -> bytes:
    """A chat request for so many tokens at once, as it goes over the wire."""
    script = f"mock: tokens={tokens} delay_ms=0"
    body = {"messages": [{"role": "user", "content": script}], "stream": True, **options}
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def caller(port: int) -> socket.socket:
    """A client whose kernel takes little on its behalf."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW_BYTES)
    peer.settimeout(20)
    peer.connect(("127.0.0.1", port))
    return peer


def first_byte_came(peer: socket.socket) -> bool:
    return peer.recv(1, socket.MSG_PEEK) == b"H"


def read_to(peer: socket.socket, end: bytes) -> bytes:
    got = bytearray()
    while not got.endswith(end):
        data = peer.recv(1 << 18)
        assert data, "the reply broke off"
        got += data
    return bytes(got)


def until(what: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Wait for something that nobody tells of."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not what():
        assert time.monotonic() < deadline_s, "it did not come about"
        pause.wait(0.02)


def in_flight(service: ServiceProcess) -> int:
    headers = {"Authorization": f"Bearer {service.key}"}
    reply = httpx.get(f"{service.url}/gpu/status", headers=headers, timeout=10)
    count = reply.json()["in_flight"]
    assert isinstance(count, int)
    return count


def stalls(service: ServiceProcess) -> float:
    text = httpx.get(f"{service.health_url}/metrics", timeout=10).text
    (line,) = [each for each in text.splitlines() if each.startswith("gateway_client_stalls_total")]
    return float(line.split()[-1])


# -- the whole service, on the mock


def test_slot_is_free_as_fast_as_the_engine_can_produce(serve: Serve) -> None:
    service = serve(**LARGE).ready()
    with caller(service.port) as idle, caller(service.port) as other:
        idle.sendall(asked(service, 10_000))
        assert first_byte_came(idle)
        engine_stats(service, active=0)
        until(lambda: in_flight(service) == 0, 2.0)
        other.sendall(asked(service, 5))  # there is one slot only
        assert read_to(other, END).count(b"data: ") >= 5
        reply = read_to(idle, END)
    assert 2 * MIB < len(reply) < 4 * MIB
    assert reply.count(b'"content":"') == 10_000
    assert stalls(service) == 0


def test_full_buffer_makes_the_engine_wait_and_memory_stays_bounded(serve: Serve) -> None:
    service = serve(**LARGE, STREAM_BUFFER_BYTES="1MiB").ready()
    gateway = psutil.Process(service.pid)
    with caller(service.port) as idle:
        before_bytes = gateway.memory_info().rss
        idle.sendall(asked(service, 100_000))
        assert first_byte_came(idle)
        # The mock never waits for its reader, so that it is done before anybody reads.
        engine_stats(service, active=0)
        assert in_flight(service) == 1
        assert gateway.memory_info().rss - before_bytes < 8 * MIB
        reply = read_to(idle, END)
    assert len(reply) > 20 * MIB
    assert reply.count(b'"content":"') == 100_000
    until(lambda: in_flight(service) == 0)
    assert stalls(service) == 0
    assert gateway.memory_info().rss - before_bytes < 8 * MIB


@pytest.mark.parametrize("trickle_bytes", [0, 2048], ids=["standing", "trickling"])
def test_reader_with_a_full_buffer_is_cut_and_its_slot_comes_back(
    serve: Serve, trickle_bytes: int
) -> None:
    service = serve(**LARGE, STREAM_BUFFER_BYTES="4MiB", CLIENT_STALL_TIMEOUT="0.5").ready()

    def cut() -> bool:
        if trickle_bytes and not stalls(service):
            idle.recv(trickle_bytes)
        return stalls(service) == 1

    with caller(service.port) as idle, caller(service.port) as other:
        idle.sendall(asked(service, 100_000))
        assert first_byte_came(idle)
        until(cut)
        other.sendall(asked(service, 5))
        assert read_to(other, END).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionResetError):
            read_to(idle, END)


def test_reply_in_one_piece_that_nobody_takes_is_cut(serve: Serve) -> None:
    service = serve(**LARGE, CLIENT_STALL_TIMEOUT="0.5").ready()
    with caller(service.port) as idle:
        idle.sendall(asked(service, 200_000, stream=False))
        assert first_byte_came(idle)
        assert in_flight(service) == 0
        until(lambda: stalls(service) == 1)
        with pytest.raises(ConnectionResetError):
            read_to(idle, b"\n\n\n")


# -- the front alone


def not_one(request: FrontRequest, error: Exception) -> Reply:
    raise AssertionError("every request in here is well-formed")


class Front:
    """A listener of one's own, with readers that are counted when they are cut."""

    def __init__(self, handler: Callable[[Any], Any], limits: ServerLimits) -> None:
        self.stalled = self.crowded = 0
        self.server = FrontServer(
            handler,
            rejected=not_one,
            unparsed=lambda peer, error: "req_none",
            stalled=self._on_stalled,
            crowded=self._on_crowded,
            limits=limits,
        )
        self.port = 0

    def _on_stalled(self) -> None:
        self.stalled += 1

    def _on_crowded(self) -> None:
        self.crowded += 1

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Front]:
        loop = asyncio.get_running_loop()
        door = open_listener("127.0.0.1", 0, vanished_after_s=30.0)
        listener = await loop.create_server(self.server, sock=door)
        self.port = door.getsockname()[1]
        try:
            async with asyncio.timeout(20):
                yield self
        finally:
            listener.close()
            await self.server.shutdown(1.0)

    async def caller(self, request: bytes = b"") -> socket.socket:
        """A client that has sent *request*, and is answered."""
        loop = asyncio.get_running_loop()
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW_BYTES)
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", self.port))
        if request:
            await loop.sock_sendall(peer, request)
        return peer


async def drained(peer: socket.socket) -> bytes:
    """All that comes to *peer* before the end, or before a reset."""
    loop = asyncio.get_running_loop()
    got = bytearray()
    while data := await loop.sock_recv(peer, 1 << 18):
        got += data
        if got.endswith(b"0\r\n\r\n"):
            break
    return bytes(got)


async def test_above_the_bound_for_all_the_largest_is_cut_and_the_small_ones_live() -> None:
    written: asyncio.Queue[str] = asyncio.Queue()
    go_on = asyncio.Event()

    async def handler(request: FrontRequest) -> Reply:
        reply = StreamReply(request, {})
        await reply.commit(lambda full: None)
        kib = request.raw_path.removeprefix("/?kib=")
        for _ in range(int(kib)):
            reply.write(b"e" * 1024)
            await asyncio.sleep(0)
        written.put_nowait(kib)
        await go_on.wait()
        return await reply.finish()

    limits = ServerLimits(stream_buffer_bytes=64 * MIB, stream_memory_bytes=24 * MIB)
    async with Front(handler, limits).open() as front:
        peers = []
        for kib in (6_000, 18_000, 12_000):
            request = f"GET /?kib={kib} HTTP/1.1\r\nHost: x\r\n\r\n"
            peers.append(await front.caller(request.encode()))
            assert await written.get() == str(kib)
        assert (front.crowded, front.stalled) == (1, 0)
        assert front.server.crowd.total_bytes < 24 * MIB
        go_on.set()
        first, largest, last = peers
        with pytest.raises(ConnectionResetError):
            await drained(largest)
        for peer, kib in ((first, 6_000), (last, 12_000)):
            reply = await drained(peer)
            assert reply.count(b"e" * 1024) == kib
            assert reply.endswith(b"0\r\n\r\n")
            peer.close()
        largest.close()
        assert len(front.server.crowd) == 0


async def test_nothing_is_written_behind_the_end_of_a_stream() -> None:
    replies: asyncio.Queue[StreamReply] = asyncio.Queue()

    async def handler(request: FrontRequest) -> Reply:
        reply = StreamReply(request, {})
        await reply.commit(lambda full: None)
        reply.write(b"e" * (4 * MIB))
        replies.put_nowait(reply)
        return await reply.finish()

    async with Front(handler, ServerLimits()).open() as front:
        peer = await front.caller(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        reply = await replies.get()
        reply.comment(b": keep-alive\n\n")  # a timer that fires while the end waits
        got = await drained(peer)
        assert b"keep-alive" not in got
        assert got.count(b"e") > 4 * MIB
        await asyncio.get_running_loop().sock_sendall(peer, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await drained(peer)).startswith(b"HTTP/1.1 200 OK\r\n")
        peer.close()


async def test_kernel_does_not_cut_a_reader_that_is_merely_slow() -> None:
    connections: asyncio.Queue[tuple[FrontRequest, socket.socket]] = asyncio.Queue()
    go_on = asyncio.Event()

    def kernel_patience_ms(own: socket.socket) -> int:
        return own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    async def handler(request: FrontRequest) -> Reply:
        reply = StreamReply(request, {})
        await reply.commit(lambda full: None)
        assert request.transport is not None
        own = request.transport.get_extra_info("socket")
        assert kernel_patience_ms(own) == 30_000
        reply.write(b"e" * (4 * MIB))
        connections.put_nowait((request, own))
        await go_on.wait()
        return await reply.finish()

    async with Front(handler, ServerLimits()).open() as front:
        peer = await front.caller(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        request, own = await connections.get()
        assert request.front.outlet.slow
        assert kernel_patience_ms(own) == 0
        go_on.set()
        await drained(peer)
        assert not request.front.outlet.slow
        assert kernel_patience_ms(own) == 30_000
        peer.close()


async def test_strangers_hold_at_most_half_of_the_connections() -> None:
    async def handler(request: FrontRequest) -> Reply:
        if "key" in request.raw_path:
            request.front.note_authenticated()
            request.front.note_authenticated()
        return Reply(body=b"ok")

    async def answered(peer: socket.socket, target: str = "/") -> bool:
        """Whether the connection was let in."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(peer, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return (await loop.sock_recv(peer, 65536)).endswith(b"ok")
        except OSError:
            return False

    async with Front(handler, ServerLimits(connections=8)).open() as front:
        strangers = [await front.caller() for _ in range(4)]
        assert [await answered(peer) for peer in strangers] == [True] * 4
        refused = await front.caller()
        assert not await answered(refused)
        assert [await answered(peer, "/?key=1") for peer in strangers] == [True] * 4
        more = [await front.caller() for _ in range(4)]
        assert [await answered(peer) for peer in more] == [True] * 4
        one_too_many = await front.caller()
        assert not await answered(one_too_many)
        assert front.server.strangers == 4
        for peer in (*strangers, *more, refused, one_too_many):
            peer.close()
        while front.server.open_connections:
            await asyncio.sleep(0)
        assert front.server.strangers == 0


def test_stream_whose_end_waits_for_its_reader_gets_no_second_reply(
    serve: Serve, key_tool: Callable[..., str]
) -> None:
    """Nothing can be told behind the end: not that the key was revoked, not anything."""
    service = serve(USE_MOCK_MODEL="true", PARALLEL="1", CTX="400000").ready()
    who = new_caller(service, key_tool, "bob")
    body = json.dumps(chat_body("mock: tokens=12000 delay_ms=0", max_tokens=12000, stream=True))
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {who.secret}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(20)
        peer.connect(("127.0.0.1", service.port))
        peer.sendall((head + body).encode())
        engine_stats(service, finished=1, active=0)
        keys = str(service.folder / "keys.yaml")
        key_tool("--file", keys, "--quiet", "disable", "bob")
        service.wait_for("1 calls ended")
        received = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while piece := peer.recv(1 << 20):
                received += piece
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"[DONE]" not in received or received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
