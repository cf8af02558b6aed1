"""How a job of RunPod's queue is told that the gateway is gone in the middle of a stream."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from gateway.runpod.handler import make_handler

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"begun":true}\n\n'


async def die_in_mid_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/v1/chat/completions", None, "server_error"),
        ("/v1/responses", None, "server_error"),
        ("/v1/messages", "error", "api_error"),
    ],
)
async def test_the_last_event_is_one_that_the_route_s_clients_see(
    path: str, name: str | None, kind: str
) -> None:
    """Anthropic's SDKs skip an event that is not named ``error``, and end as if nothing were."""
    server = await asyncio.start_server(die_in_mid_stream, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        handle = make_handler(f"http://127.0.0.1:{port}", "key", time.monotonic)
        job = {"input": {"openai_route": path, "openai_input": {"stream": True}}}
        first, last = [output async for output in handle(job)]
    assert first == EVENT.decode()
    lines = dict(line.split(": ", 1) for line in last.strip().splitlines())
    assert lines.get("event") == name
    told = json.loads(lines["data"])
    assert told.get("type") == name
    assert (told["error"]["code"], told["error"]["type"]) == ("gateway_unavailable", kind)
