"""The engine client when as many wait for the engine as it lets wait, on the service's own loop."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop

from backend.address import UnixAddress
from backend.client import EngineClient
from backend.errors import ConnectFailed

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def crowded() -> Iterator[socket.socket]:
    """A listener that accepts nobody, and whose backlog is full."""
    with tempfile.TemporaryDirectory(prefix="lg-") as folder, ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(Path(folder) / "e.sock"))
        listener.listen(0)
        listener.setblocking(False)
        for _ in range(8):
            waits = opened.enter_context(socket.socket(socket.AF_UNIX))
            waits.setblocking(False)
            try:
                waits.connect(listener.getsockname())
                waits.shutdown(socket.SHUT_WR)  # and says nothing
            except BlockingIOError:
                yield listener
                return
        raise AssertionError("the backlog has no end")


def test_request_waits_until_the_engine_lets_it_in(crowded: socket.socket) -> None:
    async def ask() -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        client = EngineClient(UnixAddress(crowded.getsockname()), "k", connect_timeout_s=30)
        asked = asyncio.create_task(client.request("GET", "/x", timeout_s=30))
        for _ in range(20):  # it has been refused, and did not fail
            await asyncio.sleep(0)
        assert not asked.done()
        links: list[socket.socket] = []
        while not links or not (await loop.sock_recv(links[-1], 4096)):
            link, _ = await loop.sock_accept(crowded)  # those before it say nothing
            links.append(link)
        await loop.sock_sendall(links[-1], _ANSWER)
        answer = await asked
        client.close()
        for link in links:
            link.close()
        return answer

    assert uvloop.run(ask()) == (200, b"ok")


def test_engine_that_lets_nobody_in_is_a_failed_connect(crowded: socket.socket) -> None:
    async def ask() -> None:
        client = EngineClient(UnixAddress(crowded.getsockname()), "k", connect_timeout_s=0.02)
        with pytest.raises(ConnectFailed, match=r"no connection within 0\.02 s"):
            await client.request("GET", "/x", timeout_s=30)
        assert client.connections == 0

    uvloop.run(ask())


def test_whoever_leaves_while_it_waits_leaves_nothing_behind(crowded: socket.socket) -> None:
    async def ask() -> None:
        client = EngineClient(UnixAddress(crowded.getsockname()), "k", connect_timeout_s=30)
        asked = asyncio.create_task(client.request("GET", "/x", timeout_s=30))
        for _ in range(20):
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert client.connections == 0

    uvloop.run(ask())
