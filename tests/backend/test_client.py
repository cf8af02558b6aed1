"""The engine client against a scripted peer on a real Unix socket."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from backend.address import UnixAddress
from backend.client import EngineClient
from backend.errors import BackendError, ConnectFailed, EngineGone, EngineTimeout

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """Accepts connections and lets a script play the engine on each."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.scripts: list[Script] = []
        self.accepted = 0
        self.hung_up = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.accepted, len(self.scripts) - 1)]
        self.accepted += 1
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.hung_up.set()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    with tempfile.TemporaryDirectory(prefix="lg-") as folder:
        peer = Peer(str(Path(folder) / "e.sock"))
        await peer.start()
        yield peer
        await peer.stop()


@pytest.fixture
async def client(peer: Peer) -> AsyncIterator[EngineClient]:
    client = EngineClient(
        UnixAddress(peer.path), "engine-key", connect_timeout_s=5, stale_after_s=0.0
    )
    yield client
    client.close()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


def json_reply(body: bytes, *, extra: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        + extra
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )


def answering(reply: bytes, times: int = 100) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            await read_request(reader)
            writer.write(reply)

    return script


class Collect:
    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.over: asyncio.Future[BackendError | None] = asyncio.get_running_loop().create_future()

    def data(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def end(self, rest: bytes) -> None:
        self.chunks.append(rest)
        self.over.set_result(None)

    def lost(self, error: BackendError) -> None:
        self.over.set_result(error)


async def test_connection_serves_one_request_after_another(
    peer: Peer, client: EngineClient
) -> None:
    peer.scripts = [answering(json_reply(b'{"a":1}'))]
    for _ in range(5):
        assert await client.request("GET", "/props", timeout_s=5) == (200, b'{"a":1}')
    assert peer.accepted == 1
    assert client.connections == 1


async def test_request_carries_key_and_nothing_unasked(peer: Peer, client: EngineClient) -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await read_request(reader)
        seen.extend((head, body))
        writer.write(json_reply(b"{}"))

    peer.scripts = [script]
    exchange = await client.send("POST", "/v1/x", b'{"q":1}', request_id="req_1")
    await exchange.read(1000)
    names = {line.split(b":")[0].lower() for line in seen[0].split(b"\r\n")[1:] if line}
    assert names == {
        b"host",
        b"authorization",
        b"accept",
        b"x-request-id",
        b"content-type",
        b"content-length",
    }
    assert b"Bearer engine-key" in seen[0]
    assert seen[1] == b'{"q":1}'
    assert "engine-key" not in repr(client)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(json_reply(b"{}", extra=b"Connection: close\r\n"), id="close"),
        pytest.param(json_reply(b"{}") + b"H", id="one stray byte"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            id="a stream, behind which llama-server closes",
        ),
        pytest.param(json_reply(b"{}") + json_reply(b"{}"), id="a second response"),
    ],
)
async def test_connection_with_a_doubtful_end_is_not_used_again(
    peer: Peer, client: EngineClient, reply: bytes
) -> None:
    peer.scripts = [answering(reply)]
    for _ in range(3):
        assert await client.request("GET", "/x", timeout_s=5) == (200, b"{}")
    assert peer.accepted == 3


async def test_request_on_a_connection_that_was_just_closed_is_sent_once_more(
    peer: Peer, client: EngineClient
) -> None:
    async def then_slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(json_reply(b'"first"'))
        await read_request(reader)  # the next request is read, and never answered

    peer.scripts = [then_slam, answering(json_reply(b'"second"'))]
    assert await client.request("GET", "/x", timeout_s=5) == (200, b'"first"')
    assert await client.request("POST", "/x", b"{}", timeout_s=5) == (200, b'"second"')
    assert peer.accepted == 2


async def test_fresh_connection_that_breaks_is_not_retried(
    peer: Peer, client: EngineClient
) -> None:
    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    peer.scripts = [slam]
    with pytest.raises(EngineGone):
        await client.request("POST", "/x", b"{}", timeout_s=5)
    assert peer.accepted == 1
    assert client.connections == 0


@pytest.mark.parametrize("cut", range(0, 60, 7))
async def test_body_is_the_same_however_the_bytes_are_split(
    peer: Peer, client: EngineClient, cut: int
) -> None:
    wire = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"7\r\ndata: 1\r\n4\r\n\n\nda\r\n5\r\nta: 2\r\n2\r\n\n\n\r\n0\r\n\r\n"
    )
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(wire[: 80 + cut])
        await writer.drain()
        await go_on.wait()
        writer.write(wire[80 + cut :])
        await read_request(reader)

    peer.scripts = [script]
    exchange = await asyncio.wait_for(_start(client, go_on), 5)
    sink = Collect()
    exchange.attach(sink)
    go_on.set()
    assert await sink.over is None
    assert b"".join(sink.chunks) == b"data: 1\n\ndata: 2\n\n"


async def _start(client: EngineClient, go_on: asyncio.Event):  # type: ignore[no-untyped-def]
    sending = asyncio.ensure_future(client.send("POST", "/x", b"{}"))
    _, pending = await asyncio.wait({sending}, timeout=0.05)
    if pending:
        go_on.set()
    return await sending


async def test_lost_connection_is_told_and_not_taken_for_an_end(
    peer: Peer, client: EngineClient
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n")

    peer.scripts = [script]
    sink = Collect()
    (await client.send("POST", "/x", b"{}")).attach(sink)
    assert isinstance(await sink.over, EngineGone)
    assert client.connections == 0


async def test_abort_closes_the_connection_at_once(peer: Peer, client: EngineClient) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.read()  # ends when the other side hangs up

    peer.scripts = [endless]
    exchange = await client.send("POST", "/x", b"{}")
    exchange.attach(Collect())
    exchange.abort()
    exchange.abort()
    async with asyncio.timeout(5):
        await peer.hung_up.wait()
    assert client.connections == 0


async def test_cancelled_sender_closes_the_connection(peer: Peer, client: EngineClient) -> None:
    got_it = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        got_it.set()
        await reader.read()

    peer.scripts = [silent]
    sending = asyncio.ensure_future(client.send("POST", "/x", b"{}"))
    await got_it.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    async with asyncio.timeout(5):
        await peer.hung_up.wait()
    assert client.connections == 0


async def test_silence_is_a_timeout_and_nobody_listening_a_failed_connect(
    peer: Peer, client: EngineClient
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    peer.scripts = [silent]
    with pytest.raises(EngineTimeout):
        await client.request("GET", "/x", timeout_s=0.05)
    nobody = EngineClient(UnixAddress(peer.path + "x"), "k")
    with pytest.raises(ConnectFailed):
        await nobody.request("GET", "/x", timeout_s=5)


async def test_body_over_the_limit_is_refused(peer: Peer, client: EngineClient) -> None:
    peer.scripts = [answering(json_reply(b"x" * 2000))]
    exchange = await client.send("GET", "/x")
    with pytest.raises(EngineGone):
        await exchange.read(1000)


async def test_closing_the_client_ends_what_runs(peer: Peer, client: EngineClient) -> None:
    peer.scripts = [
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n")
    ]
    sink = Collect()
    (await client.send("POST", "/x", b"{}")).attach(sink)
    client.close()
    assert isinstance(await sink.over, EngineGone)
    assert client.connections == 0


async def test_what_comes_in_one_read_is_handed_on_in_one_piece(
    peer: Peer, client: EngineClient
) -> None:
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        writer.write(b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n")
        await reader.read()

    peer.scripts = [script]
    exchange = await client.send("GET", "/x")
    sink = Collect()
    exchange.attach(sink)
    go_on.set()
    async with asyncio.timeout(5):
        while not sink.chunks:
            await asyncio.sleep(0)
    assert sink.chunks == [b"onetwothree"]
    exchange.abort()


async def test_body_of_a_response_that_nobody_asked_for_is_nobodys(
    peer: Peer, client: EngineClient
) -> None:
    peer.scripts = [answering(json_reply(b"mine") + json_reply(b"stray"))]
    assert await client.request("GET", "/x", timeout_s=5) == (200, b"mine")
    assert client.connections == 0
