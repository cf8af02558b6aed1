"""One client connection, on a wire in the test's hand: replies, failures, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.errors import ApiError
from gateway.front.body import BodyBudget, BodyRules, read_body
from gateway.front.connection import FrontProtocol
from gateway.front.reply import Reply
from gateway.front.request import FrontRequest
from gateway.front.server import FrontServer, ServerLimits
from gateway.stream.reply import StreamReply

ASK = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
SOON_S = 0.05
LIMITS = ServerLimits()

Handler = Callable[[FrontRequest], Awaitable[Reply]]


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and tells when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = asyncio.Event()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert isinstance(data, bytes)
        self.written.append(data)

    def write_eof(self) -> None:
        self.closed.set()  # as far as its client can tell

    def close(self) -> None:
        self.closed.set()

    def abort(self) -> None:
        self.closed.set()


def refusal(request: FrontRequest, error: ApiError) -> Reply:
    return Reply(status=error.status, body=error.code.encode())


def front(handler: Handler, limits: ServerLimits = LIMITS) -> FrontServer:
    return FrontServer(
        handler,
        rejected=refusal,
        unparsed=lambda peer, error: "req_none",
        stalled=lambda: None,
        limits=limits,
    )


def connected(server: FrontServer) -> tuple[FrontProtocol, Wire]:
    connection, wire = server(), Wire()
    connection.connection_made(wire)
    return connection, wire


async def settled(connection: FrontProtocol) -> None:
    """Until nothing is being answered."""
    while connection.task is not None:
        await asyncio.wait([connection.task])


async def never() -> Reply:
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    return await future


async def ok(request: FrontRequest) -> Reply:
    return Reply(body=b"ok")


# -- replies


async def test_reply_is_one_write_and_the_connection_stays() -> None:
    connection, wire = connected(front(ok))
    for count in (1, 2, 3):
        connection.data_received(ASK)
        assert not connection.is_idle
        await settled(connection)
        assert connection.is_idle
        assert len(wire.written) == count
        assert wire.written[-1].startswith(b"HTTP/1.1 200 OK\r\n")
        assert wire.written[-1].endswith(b"\r\n\r\nok")
    assert not wire.closed.is_set()


async def test_large_body_is_not_copied() -> None:
    body = bytes(65537)

    async def handler(request: FrontRequest) -> Reply:
        return Reply(body=body)

    connection, wire = connected(front(handler))
    connection.data_received(ASK)
    await settled(connection)
    head, sent = wire.written
    assert head.endswith(b"Content-Length: 65537\r\n\r\n")
    assert sent is body


async def test_requests_that_came_together_are_answered_in_order() -> None:
    async def handler(request: FrontRequest) -> Reply:
        await asyncio.sleep(0)
        return Reply(body=request.raw_path.encode())

    connection, wire = connected(front(handler))
    connection.data_received(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(9)))
    await settled(connection)
    assert [each[-2:] for each in wire.written] == [b"/%d" % i for i in range(9)]


async def test_connection_ends_when_either_side_says_so() -> None:
    connection, wire = connected(front(ok))
    connection.data_received(ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    await settled(connection)
    assert wire.closed.is_set()

    async def closes(request: FrontRequest) -> Reply:
        reply = await ok(request)
        reply.force_close()
        return reply

    connection, wire = connected(front(closes))
    connection.data_received(ASK * 2)
    await settled(connection)
    assert wire.closed.is_set()
    assert len(wire.written) == 1


# -- failures


async def test_failed_handler_is_a_status_and_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: FrontRequest) -> Reply:
        raise LookupError("no such thing")

    connection, wire = connected(front(handler))
    connection.data_received(ASK)
    await settled(connection)
    assert wire.written[0].startswith(b"HTTP/1.1 500 ")
    assert wire.written[0].endswith(b"internal_error")
    assert wire.closed.is_set()
    assert "LookupError" in caplog.text


async def test_header_that_would_break_the_head_is_a_status() -> None:
    async def handler(request: FrontRequest) -> Reply:
        return Reply(body=b"ok", headers=CIMultiDict({"x-a": "1\r\nx-b: 2"}))

    connection, wire = connected(front(handler))
    connection.data_received(ASK)
    await settled(connection)
    (sent,) = wire.written
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert b"x-b" not in sent


async def test_nothing_is_told_after_a_stream_has_begun() -> None:
    async def handler(request: FrontRequest) -> Reply:
        await StreamReply(request, CIMultiDict()).commit()
        assert request.reply_begun
        raise LookupError("no such thing")

    connection, wire = connected(front(handler))
    connection.data_received(ASK)
    await settled(connection)
    (head,) = wire.written
    assert head.startswith(b"HTTP/1.1 200 ")
    assert wire.closed.is_set()


async def test_reader_of_a_body_hears_at_once_that_it_is_broken() -> None:
    failures: list[ApiError] = []

    async def handler(request: FrontRequest) -> Reply:
        with BodyBudget(1000).claim("a") as claim, pytest.raises(ApiError) as failed:
            await read_body(request, BodyRules(), claim)
        failures.append(failed.value)
        return refusal(request, failed.value)

    connection, wire = connected(front(handler))
    connection.data_received(POST + b"2\r\nab\r\n")
    await asyncio.sleep(0)
    connection.data_received(b"zz\r\n")
    await settled(connection)
    assert [each.code for each in failures] == ["invalid_http"]
    assert wire.closed.is_set()


# -- who leaves


async def test_client_that_leaves_ends_the_work_for_it() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: FrontRequest) -> Reply:
        begun.set()
        try:
            return await never()
        finally:
            ended.set()

    server = front(handler)
    connection, wire = connected(server)
    connection.data_received(ASK * 2)
    await begun.wait()
    connection.connection_lost(None)
    await ended.wait()
    await server.shutdown(1.0)
    assert wire.written == []


async def test_client_that_leaves_before_the_work_began_leaves_nothing_behind() -> None:
    async def handler(request: FrontRequest) -> Reply:
        raise AssertionError("nobody waits for it")

    server = front(handler)
    connection, _ = connected(server)
    connection.data_received(ASK)
    connection.connection_lost(None)
    await settled(connection)
    assert (server.open_connections, server.strangers) == (0, 0)
    await server.shutdown(1.0)


async def test_shutdown_lets_a_running_reply_out_and_gives_up_one_that_takes_too_long() -> None:
    go_on = asyncio.Event()

    async def handler(request: FrontRequest) -> Reply:
        if request.raw_path == "/a":
            await go_on.wait()
            return await ok(request)
        return await never()

    server = front(handler)
    idle, running, endless = connected(server), connected(server), connected(server)
    running[0].data_received(ASK)
    endless[0].data_received(ASK.replace(b"/a", b"/b"))
    await asyncio.sleep(0)
    go_on.set()
    await server.shutdown(SOON_S)
    for _, wire in (idle, running, endless):
        assert wire.closed.is_set()
    assert [len(wire.written) for _, wire in (idle, running, endless)] == [0, 1, 0]


# -- time


async def test_connection_that_sends_nothing_is_closed() -> None:
    _, wire = connected(front(ok, ServerLimits(header_timeout_s=SOON_S)))
    await wire.closed.wait()
    assert wire.written == []


async def test_connection_that_has_been_idle_for_long_is_closed() -> None:
    limits = ServerLimits(header_timeout_s=600.0, keepalive_s=SOON_S)
    connection, wire = connected(front(ok, limits))
    connection.data_received(ASK)
    await wire.closed.wait()
    assert len(wire.written) == 1


async def test_head_that_stops_is_refused_also_on_a_connection_that_may_idle_for_long() -> None:
    limits = ServerLimits(header_timeout_s=SOON_S, keepalive_s=600.0)
    connection, wire = connected(front(ok, limits))
    connection.data_received(ASK)
    await settled(connection)
    connection.data_received(ASK[:-1])
    await wire.closed.wait()
    assert wire.written[1].startswith(b"HTTP/1.1 408 ")


async def test_running_request_outlasts_the_time_for_heads() -> None:
    limits = ServerLimits(header_timeout_s=SOON_S, keepalive_s=SOON_S)

    async def handler(request: FrontRequest) -> Reply:
        loop = asyncio.get_running_loop()
        later = loop.create_future()
        loop.call_later(3 * SOON_S, later.set_result, None)
        await later
        return await ok(request)

    connection, wire = connected(front(handler, limits))
    connection.data_received(ASK + ASK[:-1])  # the next head has begun, too
    await settled(connection)
    assert wire.written[0].startswith(b"HTTP/1.1 200 ")
    assert not wire.closed.is_set()
    await wire.closed.wait()
    assert wire.written[1].startswith(b"HTTP/1.1 408 ")


async def test_nothing_follows_a_reply_that_ends_the_connection() -> None:
    """Not even a word about the next request's head, which will never be whole."""
    soon = ServerLimits(header_timeout_s=SOON_S)

    async def handler(request: FrontRequest) -> Reply:
        reply = Reply(body=b"last")
        reply.force_close()
        return reply

    connection, wire = connected(front(handler, soon))
    connection.data_received(ASK + ASK[:9])
    await settled(connection)
    assert wire.closed.is_set()
    await asyncio.wait([asyncio.Future()], timeout=2 * SOON_S)
    assert len(wire.written) == 1
