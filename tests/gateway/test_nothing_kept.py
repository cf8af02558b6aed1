"""What a request held is gone when it ends, however that was: not at some later collection.

Bodies are megabytes, and their memory counts as free once their request has ended.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
import weakref
from collections.abc import Iterator

import pytest

from gateway.access.auth import Authenticator, open_principal
from gateway.access.throttle import WrongKeyThrottle
from gateway.app import App, Route
from gateway.call import Call
from gateway.clocks import Clocks
from gateway.errors import ApiError
from gateway.front.cors import CorsPolicy
from gateway.front.proxies import TrustedProxies
from gateway.front.reply import Reply
from gateway.front.server import FrontServer, ServerLimits
from gateway.observe.accesslog import AccessLog
from gateway.observe.metrics import Metrics
from keys import Keyring

ASK = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"


class Body:
    """Something large."""


class Service:
    """An app with endpoints that end in different ways, each with a body in hand."""

    def __init__(self) -> None:
        self.bodies: list[weakref.ref[Body]] = []
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def waits(self, call: Call) -> Reply:
        body = self._body()
        self.begun.set()
        await asyncio.get_running_loop().create_future()
        return Reply(body=repr(body).encode())

    async def refuses(self, call: Call) -> Reply:
        body = self._body()
        over: asyncio.Future[ApiError | None] = asyncio.get_running_loop().create_future()
        over.set_result(ApiError("engine_error"))
        error = await over
        if error is not None:
            raise error  # which is kept here, too
        return Reply(body=repr(body).encode())

    async def killed(self, call: Call) -> Reply:
        body = self._body()
        call.kill(ApiError("key_revoked"))
        await asyncio.get_running_loop().create_future()
        return Reply(body=repr(body).encode())

    def _body(self) -> Body:
        body = Body()
        self.bodies.append(weakref.ref(body))
        return body

    @property
    def kept(self) -> int:
        return sum(body() is not None for body in self.bodies)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def app(service: Service) -> App:
    endpoints = {
        "waits": service.waits,
        "refuses": service.refuses,
        "killed": service.killed,
    }
    return App(
        routes={f"/{name}": Route(name, {"GET": each}) for name, each in endpoints.items()},
        patterns=(),
        auth=Authenticator(
            lambda: Keyring(()),
            WrongKeyThrottle(20),
            everybody=open_principal("everybody"),
            on_refused=lambda reason: None,
        ),
        cors=CorsPolicy(),
        proxies=TrustedProxies(),
        access_log=AccessLog(os.open(os.devnull, os.O_WRONLY), line_format="json", clock=time.time),
        metrics=Metrics(process=False),
        clocks=Clocks(time.monotonic, time.time),
        head_block_bytes=1 << 15,
        on_quiet=service.ended.set,
    )


async def ask(service: Service, name: bytes, times: int = 3) -> None:
    """Ask so often, each time on a connection that is closed behind the answer, or before it."""
    the_app = app(service)
    front = FrontServer(
        the_app.handle,
        rejected=the_app.rejected,
        unparsed=the_app.unparsed,
        stalled=lambda: None,
        limits=ServerLimits(),
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(front, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(times):
        service.begun.clear()
        service.ended.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK % name)
        await (service.begun.wait() if name == b"waits" else reader.readuntil(b"\r\n\r\n"))
        writer.close()
        await service.ended.wait()
    server.close()
    await front.shutdown(1.0)
    await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["waits", "refuses", "killed"])
async def test_what_a_request_held_is_gone_when_it_ends(name: str, no_collector: None) -> None:
    service = Service()
    await ask(service, name.encode())
    assert len(service.bodies) == 3
    assert service.kept == 0
