"""RunPod Serverless, load-balancing endpoint: the balancer and the life of its workers.

Where each rule is from ("docs": docs.runpod.io, "Load balancing: Overview"; "Flash": runpod/flash):

- docs: HEALTH_CHECK_PATH is polled on PORT_HEALTH; 200 healthy, 204 initialising, anything else
  unhealthy and out of the pool; the cold start is the time from the first 204 to the first 200;
- the poll's interval is not in the docs; Flash says 30 s, its time limit is our guess (5 s);
- docs: without a healthy worker a request is held for 2 min, then 400 "no workers available";
- docs: 5.5 min of processing, then 524. Whether a stream with steady bytes is spared is not said:
  here it is not, and is cut;
- docs: bodies of 30 MB either way; the status above it is not documented, 413 is our guess;
- docs: every request needs the caller's RunPod key as a bearer, else 401. Whether the worker sees
  it is not documented: ``forward_bearer`` has both;
- docs, "Worker affinity": replies carry X-Runpod-Worker-Id, a client may send it back;
- docs: no request of a client for the idle timeout (5 s) scales a worker down. Polls of the health
  port are no requests of a client; every path of the public URL is, /ping included;
- Flash: a worker that gives no response is replaced. Not modelled: none of ours may do that;
- signals and grace of a scale-down are not documented: TERM, then KILL after 0 s or 10 s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.fakes.journal import Journal
from tests.fakes.pod import Pod, end
from tests.fakes.server import FakeServer, copy, cut, head_of

HOLD_S = 120.0
PROCESSING_S = 330.0
BODY_BYTES = 30_000_000
POLL_S = 30.0
POLL_TIMEOUT_S = 5.0
HEALTHY, INITIALISING = 200, 204


@dataclass(eq=False)
class Worker:
    """One worker and what the balancer knows of it."""

    pod: Pod
    id: str
    statuses: list[int] = field(default_factory=list)
    """What each poll got, `NO_ANSWER` for none."""
    first_s: dict[int, float] = field(default_factory=dict)
    """Real monotonic time of the first poll with each status."""
    ending: bool = False
    exit_code: int | None = None
    killed: bool = False

    @property
    def healthy(self) -> bool:
        """Whether it is in the pool."""
        return not self.ending and self.statuses[-1:] == [HEALTHY]

    @property
    def cold_start_s(self) -> float:
        """Real seconds from the first 204 to the first 200."""
        return self.first_s[HEALTHY] - self.first_s[INITIALISING]


class RunpodLoadBalancer(FakeServer):
    """An endpoint with at most one worker, started by the first request (workers min 0, max 1).

    Args:
        make_worker: Makes the process of a worker, not started.
        scale: Real seconds for one of RunPod's.
        health_check_path: As in the endpoint's environment.
        forward_bearer: Whether workers see the caller's bearer.
        idle_timeout_s: Of the endpoint; RunPod's default is 5.
        grace_s: Between TERM and KILL.
        poll_s: Time between two polls.
    """

    def __init__(
        self,
        make_worker: Callable[[], Pod],
        scale: float,
        *,
        health_check_path: str = "/ping",
        forward_bearer: bool = True,
        idle_timeout_s: float = 5.0,
        grace_s: float = 10.0,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__(scale)
        self._make_worker = make_worker
        self._path = health_check_path
        self._dropped = frozenset(() if forward_bearer else ("authorization",))
        self._idle_timeout_s = idle_timeout_s
        self._grace_s = grace_s
        self._poll_s = poll_s
        self._in_flight = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self.workers: list[Worker] = []
        self.journal = Journal()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a client: the key, the size, a worker, its reply."""
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            return web.json_response({"error": "unauthorized"}, status=401)
        self._busy(+1)
        try:
            body = await request.read()
            if len(body) > BODY_BYTES:
                return web.json_response({"error": "body too large"}, status=413)
            worker = await self._healthy_worker(request.headers.get("X-Runpod-Worker-Id"))
            if worker is None:
                return web.json_response({"error": "no workers available"}, status=400)
            return await self._process(request, body, worker)
        finally:
            self._busy(-1)

    # -- requests

    async def _healthy_worker(self, wanted: str | None) -> Worker | None:
        """A worker of the pool, the *wanted* one if it can be; None after the hold."""
        if all(worker.ending for worker in self.workers):
            self.start_worker()
        try:
            async with asyncio.timeout(self.real(HOLD_S)):
                await self.journal.until(lambda: bool(self._pool()), guard_s=self.real(2 * HOLD_S))
        except TimeoutError:
            return None
        pool = self._pool()
        return next((worker for worker in pool if worker.id == wanted), pool[0])

    def _pool(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.healthy]

    async def _process(
        self, request: web.Request, body: bytes, worker: Worker
    ) -> web.StreamResponse:
        answer: web.StreamResponse | None = None
        try:
            async with (
                asyncio.timeout(self.real(PROCESSING_S)),
                self.ask(request, worker.pod.url, body, without=self._dropped) as reply,
            ):
                answer = head_of(reply, X_Runpod_Worker_Id=worker.id)
                await copy(reply, request, answer)
                return answer
        except TimeoutError:
            status, why = 524, "timeout"
        except aiohttp.ClientError:
            status, why = 502, "worker failed"
        if answer is not None and answer.prepared:
            cut(request)
            return answer
        return web.json_response({"error": why}, status=status)

    def _busy(self, change: int) -> None:
        """Keep the idle clock: it runs while no request of a client is in flight."""
        self._in_flight += change
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if not self._in_flight:
            self._idle_timer = asyncio.get_running_loop().call_later(
                self.real(self._idle_timeout_s), self._scale_to_zero
            )

    # -- workers

    def start_worker(self) -> Worker:
        """Start one, as the first request or a raised minimum does."""
        worker = Worker(self._make_worker(), id=f"worker-{len(self.workers)}")
        self.workers.append(worker)
        self.spawn(self._run(worker))
        return worker

    def scale_down(self, worker: Worker) -> None:
        """Take it out of the pool, TERM, then KILL after the grace."""
        worker.ending = True
        self.journal.note(f"scale down {worker.id}")
        self.spawn(self._end(worker))

    def _scale_to_zero(self) -> None:
        for worker in self.workers:
            if not worker.ending:
                self.scale_down(worker)

    async def _run(self, worker: Worker) -> None:
        await worker.pod.open()
        self.journal.note(f"start {worker.id}")
        while worker.exit_code is None:
            status = await self.poll(worker.pod.health_url + self._path, POLL_TIMEOUT_S)
            worker.first_s.setdefault(status, time.monotonic())
            worker.statuses.append(status)
            self.journal.wake()
            await self.pause(self._poll_s)

    async def _end(self, worker: Worker) -> None:
        worker.exit_code, worker.killed = await end(worker.pod, self.real(self._grace_s))
        self.journal.note(f"end {worker.id}")

    def closing(self) -> None:
        """No scale-down any more."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
