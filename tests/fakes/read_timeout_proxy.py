"""A proxy that gives up on an origin that is silent: Cloudflare, nginx, an Ingress.

- Cloudflare ("Connection limits"): 100 s between two reads from the origin, then 524. RunPod Pods
  are behind it. The client's own body does not count;
- nginx: ``proxy_read_timeout`` 60 s, between two reads as well. It says 504; this proxy says 524
  for both;
- after the head there is no status left: the client's connection is cut;
- nginx: ``proxy_buffering`` (on by default) holds the response back; ``X-Accel-Buffering: no`` of
  the origin turns it off, unless ``proxy_ignore_headers`` names it. Here a buffered response is
  held until its end, the worst that a buffer does.
"""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from tests.fakes.journal import Journal
from tests.fakes.server import FakeServer, cut, head_of

CLOUDFLARE_S = 100.0
NGINX_S = 60.0


class ReadTimeoutProxy(FakeServer):
    """In front of one origin; `journal` tells what it did to each response.

    Args:
        origin: Base of the origin.
        scale: Real seconds for one of the vendor's.
        read_timeout_s: The longest gap between two reads.
        buffering: Whether responses are held back.
        obeys_origin: Whether ``X-Accel-Buffering: no`` is obeyed.
    """

    def __init__(
        self,
        origin: str,
        scale: float,
        *,
        read_timeout_s: float = CLOUDFLARE_S,
        buffering: bool = False,
        obeys_origin: bool = True,
    ) -> None:
        super().__init__(scale)
        self._origin = origin
        self._limit_s = self.real(read_timeout_s)
        self._buffering = buffering
        self._obeys_origin = obeys_origin
        self.journal = Journal()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass the request on, and the response for as long as it does not pause too long."""
        body = await request.read()
        answer: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(self._limit_s) as gap:
                async with self.ask(request, self._origin, body) as reply:
                    answer = head_of(reply)
                    await self._copy(request, reply, answer, gap)
                    self.journal.note("passed")
                    return answer
        except TimeoutError:
            status = 524
        except aiohttp.ClientError:
            status = 502
        if answer is not None and answer.prepared:
            self.journal.note("cut")
            cut(request)
            return answer
        self.journal.note(str(status))
        return web.Response(status=status)

    async def _copy(
        self,
        request: web.Request,
        reply: aiohttp.ClientResponse,
        answer: web.StreamResponse,
        gap: asyncio.Timeout,
    ) -> None:
        """Send what comes; each read begins a new gap."""
        held: list[bytes] | None = [] if self._holds_back(reply) else None
        if held is None:
            await answer.prepare(request)
        while True:
            gap.reschedule(asyncio.get_running_loop().time() + self._limit_s)
            piece = await reply.content.readany()
            if not piece:
                break
            if held is None:
                await answer.write(piece)
            else:
                held.append(piece)
        if held is not None:
            await answer.prepare(request)
            await answer.write(b"".join(held))
        await answer.write_eof()

    def _holds_back(self, reply: aiohttp.ClientResponse) -> bool:
        told_not_to = reply.headers.get("X-Accel-Buffering", "").lower() == "no"
        return self._buffering and not (told_not_to and self._obeys_origin)
