"""RunPod's queue as a worker sees it: hands out jobs, takes output, stops jobs, hears heartbeats.

Speaks what the SDK's worker speaks (1.12.0): job-take and job-take-batch are long polls that end
with 204, job-stop is one that names jobs to stop, job-stream and job-done take form-encoded posts
whose body is JSON. Nothing is checked that the platform does not document.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.server import FakeServer

POLL_S = 90.0
"""How long the platform keeps a long poll open (the SDK's own bound)."""


@dataclass(slots=True)
class Job:
    """What the platform knows of a job."""

    id: str
    input: Any
    pieces: list[Any] = field(default_factory=list)
    """Outputs that came while it ran, in order."""
    result: dict[str, Any] | None = None
    """What job-done brought."""

    @property
    def status(self) -> str:
        """As the platform would show it."""
        if self.result is None:
            return "IN_PROGRESS"
        return "FAILED" if "error" in self.result else "COMPLETED"


class RunpodQueue(FakeServer):
    """The platform's side of one worker.

    Args:
        scale: Real seconds that stand for one of the platform's.
    """

    def __init__(self, scale: float = 0.01) -> None:
        super().__init__(scale)
        self.jobs: dict[str, Job] = {}
        self.beats: list[str | None] = []
        """Ids that each heartbeat named."""
        self.asked_for: list[int] = []
        """How many jobs each question wanted."""
        self.kept_waiting: set[str] = set()
        """Jobs whose posts of pieces get no answer, until `answer_all`."""
        self.waiting_posts: set[str] = set()
        """Jobs that have such a post open now."""
        self._answer = asyncio.Event()
        self._waiting: deque[Job] = deque()
        self._stops: deque[str] = deque()
        self._news = asyncio.Condition()

    def environment(self) -> dict[str, str]:
        """What the platform gives a worker; the checks of its machines are off."""
        base = f"{self.url}/v2/endpoint"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=none",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_AI_API_KEY": "platform-secret",
            "RUNPOD_POD_ID": "worker-1",
            "RUNPOD_ENDPOINT_ID": "endpoint",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    async def submit(self, given: Any) -> Job:
        """Put a job into the queue."""
        job = Job(f"job-{len(self.jobs)}", given)
        self.jobs[job.id] = job
        self._waiting.append(job)
        await self._tell()
        return job

    async def stop(self, job: Job) -> None:
        """Cancel a job that runs."""
        self._stops.append(job.id)
        await self._tell()

    def answer_all(self) -> None:
        """Answer the posts that were kept waiting."""
        self._answer.set()
        self._answer = asyncio.Event()
        self.kept_waiting.clear()

    async def until(self, what: Any, limit_s: float = 20.0) -> None:
        """Wait until *what* holds; it is looked at after every request of the worker."""
        async with self._news, asyncio.timeout(limit_s):
            await self._news.wait_for(what)

    async def done(self, job: Job) -> dict[str, Any]:
        """What job-done brought for *job*, once it came."""
        await self.until(lambda: job.result is not None)
        assert job.result is not None
        return job.result

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One of the worker's calls."""
        match request.path.split("/")[3:]:
            case ["job-take", _]:
                return await self._take(1, as_list=False)
            case ["job-take-batch", _]:
                return await self._take(int(request.query["batch_size"]), as_list=True)
            case ["job-stop", _]:
                return await self._stop_signals()
            case ["job-stream", _, job_id]:
                self.jobs[job_id].pieces.append(json.loads(await request.text())["output"])
                await self._keep_waiting(job_id)
            case ["job-done", _, job_id]:
                self.jobs[job_id].result = json.loads(await request.text())
            case ["ping", _]:
                self.beats.append(request.query.get("job_id"))
        await self._tell()
        return web.Response()

    async def _take(self, wanted: int, *, as_list: bool) -> web.Response:
        self.asked_for.append(wanted)
        if not await self._poll(lambda: bool(self._waiting)):
            return web.Response(status=204)
        taken = [self._waiting.popleft() for _ in range(min(wanted, len(self._waiting)))]
        told = [{"id": job.id, "input": job.input} for job in taken]
        return web.json_response(told if as_list else told[0])

    async def _stop_signals(self) -> web.Response:
        if not await self._poll(lambda: bool(self._stops)):
            return web.Response(status=204)
        told = list(self._stops)
        self._stops.clear()
        return web.json_response({"jobsToStop": told})

    async def _poll(self, what: Any) -> bool:
        try:
            await self.until(what, self.real(POLL_S))
        except TimeoutError:
            return False
        return True

    async def _keep_waiting(self, job_id: str) -> None:
        if job_id not in self.kept_waiting:
            return
        self.waiting_posts.add(job_id)
        await self._tell()
        try:
            await self._answer.wait()
        finally:
            self.waiting_posts.discard(job_id)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()
