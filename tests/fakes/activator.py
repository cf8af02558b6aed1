"""The thing in front of a deployment that may be at zero: Knative's activator, KEDA's interceptor.

- Knative ("scale to zero") and KEDA's HTTP add-on (0.16): a request is held until an endpoint is
  ready, which is what the readiness probe says, and then passed on; without a pod one is started;
- both count a request until its response *ends*: a stream keeps its pod;
- Knative ("Defaults ConfigMap"): response start within 300 s, all of it within 300 s (at most 600);
  KEDA: readiness as set (900 s in our example), response head within 300 s;
- a deadline before the head is a 504, one in mid-stream cuts the connection;
- KEDA: X-KEDA-HTTP-Cold-Start says whether the request had to wait for a pod;
- after ``idle_s`` without a request: zero (KEDA's cooldownPeriod 300 s, Knative's 60 s window);
- readiness is probed "very often" (Knative's queue-proxy); every second here;
- zero is TERM, then KILL after the pod's grace (30 s).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp import web

from tests.fakes.journal import Journal
from tests.fakes.pod import Pod, end
from tests.fakes.server import FakeServer, copy, cut, head_of

PROBE_PERIOD_S = 1.0
PROBE_TIMEOUT_S = 1.0
GRACE_S = 30.0


class Activator(FakeServer):
    """Zero pods or one, as requests come and go.

    Args:
        make_pod: Makes a pod, not started.
        scale: Real seconds for one of the platform's.
        readiness_s: How long a request is held for a pod.
        response_start_s: From passing on to the response's head.
        total_s: From passing on to the response's end.
        idle_s: Without a request, until the pod is ended.
    """

    def __init__(
        self,
        make_pod: Callable[[], Pod],
        scale: float,
        *,
        readiness_s: float = 900.0,
        response_start_s: float = 300.0,
        total_s: float = 600.0,
        idle_s: float = 300.0,
    ) -> None:
        super().__init__(scale)
        self._make_pod = make_pod
        self._readiness_s = readiness_s
        self._response_start_s = response_start_s
        self._total_s = total_s
        self._idle_s = idle_s
        self._idle_timer: asyncio.TimerHandle | None = None
        self._pod: Pod | None = None
        self._ready = False
        self.in_flight = 0
        self.journal = Journal()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Hold a client's request for a pod, pass it on, count it until its end."""
        self._count(+1)
        try:
            body = await request.read()
            cold = not self._ready
            try:
                async with asyncio.timeout(self.real(self._readiness_s)):
                    pod = await self._ready_pod()
            except TimeoutError:
                return web.Response(status=504, text="no endpoint became ready")
            return await self._pass_on(request, body, pod, cold)
        finally:
            self._count(-1)

    async def _ready_pod(self) -> Pod:
        if self._pod is None:
            self._pod = self._make_pod()
            self.spawn(self._bring_up(self._pod))
        guard_s = self.real(2 * self._readiness_s)
        await self.journal.until(lambda: self._ready, guard_s=guard_s)
        return self._pod

    async def _bring_up(self, pod: Pod) -> None:
        self.journal.note("start")
        await pod.open()
        while await self.poll(f"{pod.health_url}/readyz", PROBE_TIMEOUT_S) != 200:
            await self.pause(PROBE_PERIOD_S)
        self._ready = True
        self.journal.note("ready")

    async def _pass_on(
        self, request: web.Request, body: bytes, pod: Pod, cold: bool
    ) -> web.StreamResponse:
        answer: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(self.real(self._response_start_s)) as deadline:
                ends_s = asyncio.get_running_loop().time() + self.real(self._total_s)
                async with self.ask(request, pod.url, body) as reply:
                    deadline.reschedule(ends_s)
                    answer = head_of(reply, X_KEDA_HTTP_Cold_Start=str(cold).lower())
                    await copy(reply, request, answer)
                    return answer
        except TimeoutError:
            status = 504
        except aiohttp.ClientError:
            status = 502
        if answer is not None and answer.prepared:
            self.journal.note(f"cut {status}")
            cut(request)
            return answer
        return web.Response(status=status)

    # -- to zero

    def _count(self, change: int) -> None:
        self.in_flight += change
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if not self.in_flight:
            self._idle_timer = asyncio.get_running_loop().call_later(
                self.real(self._idle_s), self._to_zero
            )

    def _to_zero(self) -> None:
        if self._pod is not None and self._ready:
            self.spawn(self._end(self._pod))
            self._pod, self._ready = None, False
            self.journal.note("to zero")

    async def _end(self, pod: Pod) -> None:
        code, killed = await end(pod, self.real(GRACE_S))
        self.journal.note("killed" if killed else f"exit {code}")

    def closing(self) -> None:
        """No more scaling."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
