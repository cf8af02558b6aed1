"""The HTTP side that all fakes share: a server on a free port of loopback, and passing requests on.

A handler is cancelled when its client leaves, as a proxy hangs up on the origin then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade", "te")
)
NO_ANSWER = 0
"""The status of a poll that got none: refused, reset or too late."""


class FakeServer:
    """``async with`` runs it. Subclasses answer in `handle`.

    Args:
        scale: Real seconds that stand for one second of the vendor's.
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._tasks: set[asyncio.Task[Any]] = set()
        self.url = ""
        self.session: aiohttp.ClientSession

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a client."""
        raise NotImplementedError

    def closing(self) -> None:
        """Called before the server goes: the place to cancel timers."""

    def real(self, vendor_s: float) -> float:
        """Real seconds for so many of the vendor's."""
        return vendor_s * self._scale

    async def pause(self, vendor_s: float) -> None:
        """Let the vendor's time pass."""
        over = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(self.real(vendor_s), over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something beside the requests; it is cancelled with the server."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        return task

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self.handle)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        # One connection a request, so that no request meets one that its origin is closing.
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing()
        for task in self._tasks:
            task.cancel()
        done = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        await self.session.close()
        # A fake that broke must not look like a service that passed.
        for result in done:
            if isinstance(result, Exception):
                raise result

    async def poll(self, url: str, timeout_vendor_s: float) -> int:
        """The status of a GET, or `NO_ANSWER`."""
        timeout = aiohttp.ClientTimeout(total=self.real(timeout_vendor_s))
        try:
            async with self.session.get(url, timeout=timeout, allow_redirects=False) as reply:
                return reply.status
        except (aiohttp.ClientError, TimeoutError):
            return NO_ANSWER

    def ask(
        self, request: web.Request, base: str, body: bytes, *, without: frozenset[str] = frozenset()
    ) -> Any:
        """The same request to *base*; a context manager that gives the origin's reply."""
        dropped = HOP_BY_HOP | without
        headers = [(n, v) for n, v in request.headers.items() if n.lower() not in dropped]
        return self.session.request(
            request.method, base + request.raw_path, headers=headers, data=body or None
        )


def head_of(reply: aiohttp.ClientResponse, **more: str) -> web.StreamResponse:
    """A reply to the client with the origin's status and headers, and *more* (X_Name as X-Name)."""
    headers = [(n, v) for n, v in reply.headers.items() if n.lower() not in HOP_BY_HOP]
    named = [(name.replace("_", "-"), value) for name, value in more.items()]
    return web.StreamResponse(status=reply.status, headers=[*headers, *named])


async def copy(
    reply: aiohttp.ClientResponse, request: web.Request, answer: web.StreamResponse
) -> None:
    """Send head and body of the origin on, each piece as it comes."""
    await answer.prepare(request)
    async for piece in reply.content.iter_any():
        await answer.write(piece)
    await answer.write_eof()


def cut(request: web.Request) -> None:
    """End the client's connection in the middle of what it is reading."""
    if request.transport is not None:
        request.transport.abort()
